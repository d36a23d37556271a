"""Calibrating random pairs: on a complete truth it tells the truth, on judgements what was judged."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from cusa.errors import ConfigError, DataError
from cusa.manifests import batch_calibration, tables
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.pipeline.calibrate import in_batch
from cusa.pipeline.pairs.neighbourhoods import Encoders
from cusa.pipeline.pairs.ratings import PairRatings, RatedSplit, read_ratings
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


def _spread(values: np.ndarray) -> np.ndarray:
    """Return the standard deviations; a feature that never changes says nothing."""
    spread = values.std(0)
    return np.where(spread < 1e-9, 1.0, spread)


def _logistic(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


@pytest.mark.parametrize("complete", [True, False])
def test_run__the_fit_and_its_figures_are_scikit_learns_on_the_pairs_that_it_names(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: bool
) -> None:
    val, test, out = Split(work, "val"), Split(work, "test"), tmp_path / "batch.json"
    monkeypatch.setattr(in_batch, "_RANDOM", 3000)
    if not complete:  # every second pair of the truth and as many others, as if people had judged them
        read = read_ratings
        monkeypatch.setattr(in_batch, "read_ratings", lambda split, source: _judged(read(split, source), split))
    outcome = in_batch.run(CONFIG, split=val, test=RatedSplit(test), out=out)
    made = batch_calibration.read(out)
    ratings = in_batch.read_ratings(val, None)
    pairs = in_batch._pairs(val, ratings, CONFIG)
    true = {
        pair
        for pair, match in zip(zip(ratings.images, ratings.captions, strict=True), ratings.match, strict=True)
        if match
    }
    owner = val.caption_owner
    assert (owner[pairs.captions] == pairs.image).all()
    assert (owner[pairs.others] != pairs.image).all()
    assert pairs.match.tolist() == [pair in true for pair in zip(pairs.image, pairs.others, strict=True)]
    if complete:
        assert (pairs.weight == 1).all()
        assert 2000 < len(pairs.match) <= 3000

    names = ("image", "text")
    values = in_batch.Items.read(val, Encoders("colours", "words")).values(pairs.captions, pairs.others)
    scaled = (values - values.mean(0)) / _spread(values)
    model = LogisticRegression(C=1.0, max_iter=2000).fit(scaled, pairs.match, sample_weight=pairs.weight)
    slopes = model.coef_[0] / _spread(values)
    got = [*(made.cosines[name] for name in names), *(made.levels[name] for name in names), made.intercept]
    np.testing.assert_allclose(got, [*slopes, model.intercept_[0] - slopes @ values.mean(0)], rtol=2e-3)
    held_out = np.empty(len(values))
    for train, held in GroupKFold(5).split(values, pairs.match, pairs.image):
        mean, spread = values[train].mean(0), _spread(values[train])
        fold = LogisticRegression(C=1.0, max_iter=2000).fit(
            (values[train] - mean) / spread, pairs.match[train], sample_weight=pairs.weight[train]
        )
        held_out[held] = fold.predict_proba((values[held] - mean) / spread)[:, 1]
    about = made.about
    assert about["out_of_fold"]["pairs"] == len(values)
    assert about["out_of_fold"]["brier"] == pytest.approx(np.mean((held_out - pairs.match) ** 2), rel=1e-2)
    judged = (len(set(zip(pairs.image, pairs.others, strict=True))), len(ratings.images))
    matches = {pair for pair in zip(pairs.image.tolist(), pairs.others.tolist(), strict=True) if pair in true}
    assert about["fitted"] == {
        "split": "val",
        "ratings": ratings.source,
        "pairs": len(pairs.match) if complete else judged[1],
        "matches": len(matches),
        "caveat": ratings.caveat,
    }
    assert outcome.counts == {"pairs": about["fitted"]["pairs"], "matches": len(matches)}
    there = in_batch._pairs(test, in_batch.read_ratings(test, None), CONFIG)
    features = in_batch.Items.read(test, Encoders("colours", "words")).values(there.captions, there.others)
    p = _logistic(features @ np.array(got[:4]) + made.intercept)
    assert about["tested"]["split"] == "test"
    assert about["tested"]["ratings"] == in_batch.read_ratings(test, None).source
    assert about["tested"]["pairs"] == len(p)
    assert about["tested"]["brier"] == pytest.approx(np.mean((p - there.match) ** 2), rel=1e-6)
    share = about["random_pairs"]
    assert outcome.notes[1] == (
        f"Of random pairs it expects {100 * share:.3g} % to match: {share * 127:.2g} false negatives a row in a batch "
        "of 128."
    )
    assert outcome.notes[0] == (
        f"Logistic regression over the cosines and levels of colours and words; fitted on {about['fitted']['pairs']:,} "
        f"pairs of val ({len(matches):,} matches; {ratings.source})."
    )
    for note, name in zip(outcome.notes[2:4], ("out_of_fold", "tested"), strict=True):
        assert f"Brier score {about[name]['brier']:.3f}" in note
        assert f"{about[name]['expected_calibration_error']:.3f}" in note


def _judged(rated: PairRatings, split: Split) -> PairRatings:
    """Keep every second match, with as many pairs of different colours that people called none."""
    keep = np.arange(len(rated.images)) % 2 == 0
    true = set(zip(rated.images.tolist(), rated.captions.tolist(), strict=True))
    others = [
        (image, caption)
        for image in range(split.num_images)
        for caption in range(split.num_captions)
        if split.caption_owner[caption] != image and (image, caption) not in true
    ][::7]
    images, captions = (np.array([pair[k] for pair in others]) for k in (0, 1))
    return PairRatings(
        np.concatenate([rated.images[keep], images]),
        np.concatenate([rated.captions[keep], captions]),
        np.arange(keep.sum() + len(others)) < keep.sum(),
        complete=False,
        source="people",
    )


def test_pairs__a_judged_pair_stands_with_each_caption_of_its_image_and_random_ones_are_others() -> None:
    owner = np.array([1, 0, 1, 2, 0, 1])  # in no order
    split: Any = SimpleNamespace(num_captions=6, num_images=3, caption_owner=owner)
    ratings = PairRatings(np.array([1, 0, 2]), np.array([3, 3, 1]), np.array([True, False, True]), False, "people")
    pairs = in_batch._pairs(split, ratings, CONFIG.model_copy(update={"background": 400}))
    judged = {(0, 3): 1, (2, 3): 1, (5, 3): 1, (1, 3): 0, (4, 3): 0, (3, 1): 1}
    rows = list(zip(pairs.captions.tolist(), pairs.others.tolist(), pairs.match.tolist(), strict=True))
    assert {row[:2]: int(row[2]) for row in rows[:6]} == judged
    assert dict(zip([row[:2] for row in rows[:6]], pairs.weight[:6].tolist(), strict=True)) == pytest.approx(
        {(0, 3): 1 / 3, (2, 3): 1 / 3, (5, 3): 1 / 3, (1, 3): 1 / 2, (4, 3): 1 / 2, (3, 1): 1.0}
    )
    assert (pairs.weight[6:] == 1).all()
    assert not pairs.match[6:].any()
    open_pairs = {(a, b) for a in range(6) for b in range(6) if owner[a] != owner[b]}
    known = {(1, 3), (0, 3), (2, 1)}
    assert {row[:2] for row in rows[6:]} == {(a, b) for a, b in open_pairs if (owner[a], b) not in known}
    assert pairs.image.tolist() == owner[pairs.captions].tolist()
    assert len(pairs.match_of_pair()) == 2, "an image and a caption, however many captions the image has"
