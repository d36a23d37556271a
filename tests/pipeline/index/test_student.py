"""A student's embeddings as a third index: exact across, joined to the audit's neighbourhoods."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests.samples import Split
from cusa.models.preprocess import decode
from cusa.pipeline import audit, calibrate
from cusa.pipeline.config import AuditConfig, CalibrateConfig, IndexConfig
from cusa.pipeline.index import search
from cusa.pipeline.index import student as student_index
from cusa.pipeline.pairs.neighbourhoods import Encoders
from tests.eval.seers import Seer
from tests.pipeline.audited import make_taught
from tests.pipeline.calibrate.conftest import write_truth


def _load(name: str) -> Any:
    return Seer(noise=0.5)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    work = make_taught(tmp_path, images=12)
    split = Split(work, "train")
    student_index.run(IndexConfig(neighbours=6), split=split, student="runs/seer", load=_load)
    return split


def test_run__rows_and_neighbours_across_are_exact(split: Split) -> None:
    cross = student_index.read_student(split, "runs/seer").cross
    seer = Seer(noise=0.5)
    arrays = np.stack([seer.image_array(decode(split.image_bytes(row))) for row in range(split.num_images)])  # type: ignore[arg-type]
    with torch.inference_mode():
        images = seer.encode_image(seer.pixels(torch.from_numpy(arrays))).numpy()
        captions = seer.encode_text(seer.tokenize(split.texts)).numpy()
    np.testing.assert_allclose(cross.images, images, atol=1e-6)
    np.testing.assert_allclose(cross.captions, captions, atol=1e-6)
    scores = images.astype(float) @ captions.astype(float).T
    for row, near in enumerate(cross.near_captions):
        np.testing.assert_allclose(scores[row, near], np.sort(scores[row])[::-1][:6], atol=1e-5)
    for row, near in enumerate(cross.near_images):
        np.testing.assert_allclose(scores[near, row], np.sort(scores[:, row])[::-1][:6], atol=1e-5)
    again = student_index.run(IndexConfig(neighbours=6), split=split, student="runs/seer", load=_load)
    assert not again.fresh


def test_audit__a_students_neighbourhoods_join_the_teachers(split: Split) -> None:
    audit.run(AuditConfig(neighbours=2, gallery=0), split=split)
    columns = ["image_key", "caption_key"]
    table = pq.read_table(split.folder / "audit/candidates.parquet")
    alone = set(zip(*table.select(columns).to_pydict().values(), strict=True))
    audit.run(AuditConfig(neighbours=2, gallery=0), split=split, encoders=Encoders(student="runs/seer"))
    table = pq.read_table(split.folder / "audit/candidates.parquet")
    rows = dict(zip(zip(*table.select(columns).to_pydict().values(), strict=True), table.to_pylist(), strict=True))
    cross = student_index.read_student(split, "runs/seer").cross
    across = {
        (split.image_keys[image], split.caption_keys[caption])
        for image in range(split.num_images)
        for caption in range(split.num_captions)
        if split.caption_owner[caption] != image
        and (caption in cross.near_captions[image, :2] or image in cross.near_images[caption, :2])
    }
    assert set(rows) == alone | across
    assert across - alone
    image_row = {key: row for row, key in enumerate(split.image_keys)}
    caption_row = {key: row for row, key in enumerate(split.caption_keys)}
    for (image, caption), row in rows.items():
        cosine = cross.images[image_row[image]] @ cross.captions[caption_row[caption]]
        assert row["cross_similarity"] == pytest.approx(float(cosine), abs=1e-5)
    assert audit.read_summary(split)["student"] == "runs/seer"


def test_calibrate__a_students_similarity_is_a_feature_and_the_file_names_it(split: Split, tmp_path: Path) -> None:
    write_truth(split.work, "train")
    out = tmp_path / "calibration.json"
    config = CalibrateConfig(neighbours=4, pairs=300, background=50)
    calibrate.run(config, split=split, out=out, encoders=Encoders(student="runs/seer"))
    audit.run(AuditConfig(neighbours=4, gallery=0), split=split, encoders=Encoders(student="runs/seer"), calibrated=out)
    with pytest.raises(StaleError, match=r"the calibration has a student teacher, 'seer', the audit has none"):
        audit.run(AuditConfig(neighbours=4, gallery=0), split=split, calibrated=out)


def test_read_student__missing_broken_and_stale(split: Split, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"cross-other-images\.parquet does not exist\. Run `cusa index .*--student other"
    ):
        student_index.read_student(split, "other")
    path = split.folder / "index/seer-images.faiss"
    whole = path.read_bytes()
    path.write_bytes(whole[:30])
    with pytest.raises(DataError, match=r"seer-images\.faiss is not the index that was written"):
        student_index.read_student(split, "runs/seer")
    path.write_bytes(whole)
    other = Split(make_taught(tmp_path / "other", images=5), "train")
    student_index.run(IndexConfig(neighbours=2), split=other, student="seer", load=_load)
    for file in (other.folder / "index").glob("*seer*"):
        (split.folder / "index" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(StaleError, match="another state of the split"):
        student_index.read_student(split, "runs/seer")


def test_search__a_student_goes_across(split: Split, tmp_path: Path) -> None:
    cross, seer = student_index.read_student(split, "runs/seer").cross, Seer(noise=0.5)
    asked = split.texts[3]
    hits = search.run([split], words=asked, student="runs/seer", number=4, load_student=_load)
    with torch.inference_mode():
        query = seer.encode_text(seer.tokenize([asked])).numpy()[0]
    scores = cross.images.astype(float) @ query
    assert [hit.image_key for hit in hits] == [split.image_keys[row] for row in np.argsort(-scores)[:4]]
    assert [hit.similarity for hit in hits] == pytest.approx(np.sort(scores)[::-1][:4], abs=1e-5)

    picture = tmp_path / "asked.jpg"
    picture.write_bytes(split.image_bytes(2))
    hits = search.run([split], image=picture, student="runs/seer", number=3, load_student=_load)
    scores = cross.captions.astype(float) @ cross.images[2]
    best = {int(image): float(scores[split.caption_owner == image].max()) for image in range(split.num_images)}
    assert [hit.similarity for hit in hits] == pytest.approx(sorted(best.values(), reverse=True)[:3], abs=1e-5)
    assert all(split.texts[split.caption_keys.index(hit.caption_key)] == hit.caption for hit in hits)


def test_search__a_student_that_was_not_indexed_is_named(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"cross-other-images\.parquet does not exist. Run `cusa index .* --student"):
        search.run([split], words="a wall", student="runs/other", load_student=_load)
    with pytest.raises(ConfigError, match="not by both"):
        search.run([split], words="a wall", student="runs/seer", teacher="words", load_student=_load)
    monkeypatch.setattr(student_index.source, "weights_digest", lambda student: "others")
    with pytest.raises(StaleError, match=r"seer-images\.faiss were made from another state of the student"):
        search.run([split], words="a wall", student="runs/seer", load_student=_load)


class _Broken(Seer):
    """A student whose text tower gives no numbers."""

    def encode_text(self, tokens: Any) -> Any:
        return super().encode_text(tokens) * float("nan")


def test_run__a_student_that_gives_no_numbers_is_refused_by_key(split: Split) -> None:
    with pytest.raises(DataError, match=r"the embedding of 'mini/.*#0' has the length nan instead of 1 \(60 such rows"):
        student_index.run(IndexConfig(neighbours=6), split=split, student="nan", load=lambda name: _Broken())
    assert not list((split.folder / "index").glob("*nan*.faiss"))
    with pytest.raises(DataError, match="gave no usable vector"):
        search.run([split], words="a wall", student="runs/seer", load_student=lambda name: _Broken())


def test_read_student__files_of_another_student_or_another_training_are_refused(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = split.folder / "index"
    for file in [*folder.glob("*seer*")]:
        (folder / file.name.replace("seer", "other")).write_bytes(file.read_bytes())
    with pytest.raises(StaleError, match=r"cross-other-images\.parquet and other-images\.faiss were made from another"):
        student_index.read_student(split, "other")
    assert student_index.read_student(split, "runs/seer").provenance["weights_sha256"] == "runs/seer"
    monkeypatch.setattr(student_index.source, "weights_digest", lambda student: "trained again")
    with pytest.raises(StaleError, match="another state of the student"):
        student_index.read_student(split, "runs/seer")


def test_audit__a_students_changed_table_is_no_longer_up_to_date(split: Split) -> None:
    config, encoders = AuditConfig(neighbours=2, gallery=0), Encoders(student="runs/seer")
    audit.run(config, split=split, encoders=encoders)
    assert not audit.run(config, split=split, encoders=encoders).fresh
    before = (split.folder / "index/cross-seer-images.parquet").read_bytes()
    student_index.run(IndexConfig(neighbours=5), split=split, student="runs/seer", load=_load)
    assert (split.folder / "index/cross-seer-images.parquet").read_bytes() != before
    assert audit.run(config, split=split, encoders=encoders).why == "student runs/seer changed"
