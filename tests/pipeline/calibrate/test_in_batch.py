"""Calibrating random pairs: on a complete truth it tells the truth, on judgements what was judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests import batch_calibration, tables
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.pipeline.calibrate import in_batch
from cusa.pipeline.pairs.neighbourhoods import Encoders
from cusa.pipeline.pairs.ratings import RatedSplit, read_ratings
from tests.manifests.judgements.test_verdicts import make
from tests.pipeline.audited import make_taught
from tests.pipeline.calibrate.conftest import CONFIG


def test_run__of_a_complete_truth_the_mean_probability_is_the_share_of_matches(work: Path, tmp_path: Path) -> None:
    split, out = Split(work, "val"), tmp_path / "batch.json"
    options = {"split": split, "test": RatedSplit(Split(work, "test")), "out": out}
    outcome = in_batch.run(CONFIG, **options)  # type: ignore[arg-type]
    made = batch_calibration.read(out)
    truth = read_ratings(split, None)
    matches = np.zeros((split.num_images, split.num_captions), dtype=bool)
    matches[truth.images, truth.captions] = True
    one, other = np.meshgrid(np.arange(split.num_captions), np.arange(split.num_captions), indexing="ij")
    foreign = split.caption_owner[one] != split.caption_owner[other]
    share = matches[split.caption_owner[one[foreign]], other[foreign]].mean()
    items = in_batch.Items.read(split, Encoders("colours", "words"))
    found = items.probability(made, one[foreign], other[foreign])
    assert found.mean() == pytest.approx(share, abs=0.01)
    assert made.about["random_pairs"] == pytest.approx(share, abs=0.02)
    assert made.about["tested"]["split"] == "test"
    assert any("false negatives a row in a batch of 128" in note for note in outcome.notes)
    assert not in_batch.run(CONFIG, **options).fresh  # type: ignore[arg-type]


def test_values__equal_plain_loops(work: Path) -> None:
    split = Split(work, "val")
    items = in_batch.Items.read(split, Encoders("colours", "words"))
    captions, others = np.array([0, 5, 17]), np.array([9, 3, 30])
    values = items.values(captions, others)
    for place, (modality, name) in enumerate((("image", "colours"), ("text", "words"))):
        rows = tables.read_teacher(split, name).embeddings.astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        mean = sum(rows) / len(rows)
        for pair, (one, other) in enumerate(zip(captions, others, strict=True)):
            if modality == "image":
                one, other = split.caption_owner[one], split.caption_owner[other]
            cosine = sum(a * b for a, b in zip(rows[one], rows[other], strict=True))
            level = sum(a * m for a, m in zip(rows[one] + rows[other], mean, strict=True)) - 2 * mean @ mean
            assert values[pair, place] == pytest.approx(cosine, abs=1e-5)
            assert values[pair, 2 + place] == pytest.approx(level, abs=1e-5)


def test_run__on_verdicts_with_random_pairs_beside_them(tmp_path: Path) -> None:
    work = make_taught(tmp_path / "world", images=16)
    split, out = Split(work, "train"), tmp_path / "batch.json"
    with pytest.raises(DataError, match="neither verdicts nor a truth"):
        in_batch.run(CONFIG, split=split, out=out)
    (split.folder / "audit").mkdir(exist_ok=True)
    with Journal(split.folder / "audit") as journal:
        for number in range(24):  # the same colour comes again after four images
            image, caption = number % 16, (number + (16 if number % 2 else 12)) % split.num_captions
            word = "match" if number % 2 else "no match"
            row = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
            if split.caption_owner[caption] != image:
                journal.append(make(number, word, **row))
    outcome = in_batch.run(CONFIG, split=split, out=out)
    made = batch_calibration.read(out)
    judged = read_ratings(split, None)
    assert outcome.counts["pairs"] == len(judged.images)
    assert outcome.counts["matches"] == judged.match.sum()
    assert 0 < made.about["random_pairs"] < judged.match.mean()
    pairs = in_batch._pairs(split, judged, CONFIG)
    for image, caption in zip(judged.images, judged.captions, strict=True):
        of_pair = (pairs.image == image) & (pairs.others == caption)
        assert of_pair.sum() == (split.caption_owner == image).sum()
        assert pairs.weight[of_pair].sum() == pytest.approx(1), (
            "a judged pair counts once, whatever its image's captions"
        )
    turned = replace(judged, match=~judged.match)
    assert turned.digest != judged.digest, "the same pairs, judged otherwise, are another input"


def test_run__refuses_a_student(work: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Leave --student out"):
        in_batch.run(CONFIG, split=Split(work, "val"), out=tmp_path / "b.json", encoders=Encoders(student="clip"))


def test_shipped__each_can_be_read_and_knows_its_teachers() -> None:
    paths = sorted(in_batch.FOLDER.glob("*.json"))
    assert len(paths) == 6
    for path in paths:
        made = batch_calibration.read(path)
        assert in_batch.choose_shipped(made.teachers) == made
        low, high = made.about["random_pairs_between"]
        assert low < made.about["random_pairs"] < high < 0.01
        assert all(slope > 0 for slope in made.cosines.values())
    both = batch_calibration.read(in_batch.FOLDER / "all-mpnet-base-v2+lite2.json")
    alone = in_batch.choose_shipped({"text": both.teachers["text"], "image": {"teacher": "another"}})
    assert alone is not None
    assert set(alone.teachers) == {"text"}
    assert in_batch.choose_shipped({"text": {"teacher": "all-mpnet-base-v2"}}) is None
