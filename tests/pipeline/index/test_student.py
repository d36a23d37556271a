"""A student's embeddings as a third index: exact across, joined to the audit's neighbourhoods."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cusa.errors import BusyError, ConfigError, DataError, StaleError
from cusa.manifests import lock, schemas, tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.features import FeatureTable
from cusa.models.preprocess import decode
from cusa.pipeline import audit, calibrate
from cusa.pipeline.config import AuditConfig, CalibrateConfig, IndexConfig
from cusa.pipeline.index import search
from cusa.pipeline.index import student as student_index
from cusa.pipeline.index.exact import flat_index
from cusa.pipeline.index.files import write_index
from cusa.pipeline.pairs.neighbourhoods import Encoders
from tests.eval.seers import Seer
from tests.pipeline.audited import make_taught
from tests.pipeline.calibrate.conftest import write_truth


def _load(name: str) -> Any:
    return Seer(noise=0.5)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student_index, "_A_BATCH", 7)
    monkeypatch.setattr(student_index, "_ROWS_A_BLOCK", 5)


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


@pytest.mark.parametrize("depth", [4, 12, 13, 100])
def test_run__the_tables_hold_the_nearest_of_the_other_modality(split: Split, depth: int) -> None:
    """As many as were asked for or as there are: 12 images, 60 captions."""
    events: list[tuple[str, int, int]] = []
    done = student_index.run(
        IndexConfig(neighbours=depth),
        split=split,
        student="runs/seer",
        load=_load,
        on_event=lambda *event: events.append(event),
    )
    assert done.counts == {"images": 12, "captions": 60, "width": 8}
    assert [(done, total) for _, done, total in events] == [(n, 72) for n in (7, 12, *range(19, 72, 7), 72)]
    assert {what for what, _, _ in events} == {"embed train with seer"}
    index = student_index.read_student(split, "runs/seer")
    scores = index.cross.images.astype(float) @ index.cross.captions.astype(float).T
    for name, key, keys, others, of in (
        ("images", "key", split.image_keys, split.caption_keys, scores),
        ("captions", "caption_key", split.caption_keys, split.image_keys, scores.T),
    ):
        table = pq.read_table(split.folder / f"index/cross-seer-{name}.parquet")
        assert table.schema.remove_metadata() == schemas.neighbour_table(key)
        assert table[key].to_pylist() == keys
        for row, values in zip(table.to_pylist(), of, strict=True):
            ids = row["neighbours"]["ids"]
            assert len(ids) == len(set(ids)) == min(depth, len(others))
            assert row["neighbour_keys"] == [others[one] for one in ids]
            np.testing.assert_allclose(row["similarities"], values[ids], atol=1e-5)
            np.testing.assert_allclose(row["similarities"], np.sort(values)[::-1][: len(ids)], atol=1e-5)
            np.testing.assert_allclose(np.add(row["similarities"], row["neighbours"]["distances"]), 1, atol=1e-6)
    cut = index.neighbourhoods(3)
    assert cut.near_captions.tolist() == index.cross.near_captions[:, :3].tolist()
    assert cut.near_images.tolist() == index.cross.near_images[:, :3].tolist()


def test_run__each_thing_that_it_is_made_of_makes_it_due(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def why(depth: int = 6, student: str = "runs/seer") -> str:
        return student_index.run(IndexConfig(neighbours=depth), split=split, student=student, load=_load).why

    assert why() == ""
    assert why(7) == "neighbours was 6 and is now 7"
    assert why(7, "other/seer") == "student changed", "two of one name share a file"
    assert why(7, "runs/twin") == "never finished"
    shard_again = split.folder / "captions.parquet"
    pq.write_table(pq.read_table(shard_again), shard_again, compression="none")
    assert (
        student_index.run(
            IndexConfig(neighbours=7), split=Split(split.work, "train"), student="runs/twin", load=_load
        ).why
        == "split changed"
    )


def test_run__the_weights_of_a_hub_are_known_once_they_are_here(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, its name stands for them; what was written must not be stale at once."""
    here: list[str] = []
    monkeypatch.setattr(student_index.source, "weights_digest", lambda name: "of the commit" if here else str(name))

    def download(name: str) -> Any:
        here.append(name)
        return Seer(noise=0.5)

    first = student_index.run(IndexConfig(neighbours=3), split=split, student="hub/seer2", load=download)
    assert first.fresh
    assert not student_index.run(IndexConfig(neighbours=3), split=split, student="hub/seer2", load=download).fresh
    assert student_index.read_student(split, "hub/seer2").provenance == {
        "teacher": "seer2",
        "weights_sha256": "of the commit",
    }


def test_run__nobody_else_may_write_the_split_meanwhile(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = lock.Holder("there", 1, "cusa shard", "now")
    monkeypatch.setattr(lock, "holder", lambda path: holder if path in split.locks else None)
    with pytest.raises(BusyError, match="cusa shard"):
        student_index.run(IndexConfig(neighbours=3), split=split, student="runs/seer", load=_load)


class _Reads(Seer):
    """A student that reads rows of tables in place of pictures and texts, each by a map of its own."""

    features = {"image": FeatureTable("colours", 3, {}), "text": FeatureTable("words", 5, {})}

    def image_array(self, image: Any) -> np.ndarray:
        raise AssertionError("no picture is decoded")

    def tokenize(self, texts: Any) -> Any:
        raise AssertionError("no text is read")

    def pixels(self, arrays: torch.Tensor) -> torch.Tensor:
        return arrays.float()

    def encode_image(self, pixels_BCHW: torch.Tensor, space: Any = "cross") -> torch.Tensor:
        return self._seen(pixels_BCHW, 1)

    def encode_text(self, tokens: Any, space: Any = "cross") -> torch.Tensor:
        return self._seen(tokens["features"].float(), 2)

    def _seen(self, rows: torch.Tensor, seed: int) -> torch.Tensor:
        mix = torch.randn(rows.shape[1], self.width, generator=torch.Generator().manual_seed(seed))
        return torch.nn.functional.normalize(rows @ mix, dim=1)


def test_run__rows_of_tables_stand_for_pictures_and_texts(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cusa.models.features.is_there", lambda *_: True)
    student_index.run(IndexConfig(neighbours=4), split=split, student="reads", load=lambda name: _Reads())
    cross, student = student_index.read_student(split, "reads").cross, _Reads()
    images, texts = (
        torch.from_numpy(tables.read_teacher(split, name).embeddings.astype(np.float32))
        for name in ("colours", "words")
    )
    np.testing.assert_allclose(cross.images, student.encode_image(images).numpy(), atol=1e-6)
    np.testing.assert_allclose(cross.captions, student.encode_text({"features": texts}).numpy(), atol=1e-6)


def test_run__a_student_that_scores_pairs_or_a_picture_that_does_not_decode(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Seer()
    scores.scores_pairs = True  # type: ignore[misc]
    with pytest.raises(DataError, match="pairs scores pairs and has no trained embedding"):
        student_index.run(IndexConfig(), split=split, student="pairs", load=lambda name: scores)
    images = Split.image_bytes
    monkeypatch.setattr(Split, "image_bytes", lambda self, row: b"none" if row == 9 else images(self, row))
    with pytest.raises(DataError, match=rf"{split.image_keys[9]} does not decode"):
        student_index.run(IndexConfig(), split=split, student="other", load=_load)

    def damaged(self: Split, row: int) -> bytes:
        raise DataError("the tar ends early")

    monkeypatch.setattr(Split, "image_bytes", damaged)
    with pytest.raises(DataError, match="^the tar ends early"):
        student_index.run(IndexConfig(), split=split, student="other", load=_load)


class _Moody(Seer):
    """Gives other rows in training."""

    def _unit(self, colour_B3: torch.Tensor, pinch_B3: torch.Tensor, space: Any) -> torch.Tensor:
        rows = super()._unit(colour_B3, pinch_B3, space)
        return -rows if self.training else rows


def test_run__and_search__see_with_the_student_as_it_is_used(split: Split) -> None:
    def moody(name: str) -> Any:
        return _Moody(noise=0.5).train()

    before = student_index.read_student(split, "runs/seer").cross
    student_index.run(IndexConfig(neighbours=4), split=split, student="moody", load=moody)
    np.testing.assert_allclose(student_index.read_student(split, "moody").cross.images, before.images, atol=1e-6)
    row = student_index.embed_one(split.texts[2], "moody", moody)
    np.testing.assert_allclose(row, before.captions[2], atol=1e-6)


@pytest.mark.parametrize("change", ["negative", "too large", "fewer"])
@pytest.mark.parametrize("name", ["images", "captions"])
def test_read_student__neighbours_that_are_no_rows_are_refused(split: Split, name: str, change: str) -> None:
    path = split.folder / f"index/cross-seer-{name}.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    others = {"images": 60, "captions": 12}[name]
    ids = rows[2]["neighbours"]["ids"]
    if change == "fewer":
        rows[2]["neighbours"] = {"ids": ids[1:], "distances": rows[2]["neighbours"]["distances"][1:]}
    else:
        ids[1] = -1 if change == "negative" else others
    store.write_table(path, pa.Table.from_pylist(rows, schema=table.schema))
    with pytest.raises(DataError, match="has not one whole row for each"):
        student_index.read_student(split, "runs/seer")
    if change == "too large":
        ids[1] = others - 1
        store.write_table(path, pa.Table.from_pylist(rows, schema=table.schema))
        student_index.read_student(split, "runs/seer")


def test_read_student__rows_of_another_length_are_refused(split: Split) -> None:
    """Both files whole by their checksum, and no unit rows in them."""
    path = split.folder / "index/cross-seer-images.parquet"
    rows = student_index.read_student(split, "runs/seer").cross.images * 0.5
    stamp = {k.decode(): v.decode() for k, v in pq.read_schema(path).metadata.items() if k != b"ARROW:schema"}
    stamp |= write_index(split.folder / "index/seer-images.faiss", flat_index(rows))
    store.write_table(path, pq.read_table(path).replace_schema_metadata(stamp))
    with pytest.raises(DataError, match=rf"the embedding of '{split.image_keys[0]}' has the length 0\.5"):
        student_index.read_student(split, "runs/seer")
