"""From a drawn sample to verdicts to what is missing: the audit's estimate, its calibration and its refusals."""

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.manifests.judgements import pair_judgements, verdicts
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import audit, calibrate
from cusa.pipeline.audit import missing, sample
from cusa.pipeline.config import AuditConfig, CalibrateConfig
from cusa.pipeline.pairs import ratings
from cusa.pipeline.pairs.candidates import Candidates
from cusa.pipeline.pairs.ratings import PairRatings
from tests.pipeline.audited import make_taught
from tests.worlds import COLOURS

SAMPLED = AuditConfig(neighbours=8, gallery=0, sample=150)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(make_taught(tmp_path, images=24, neighbours=8), "train")


def _true(split: Split, image: str, caption: str) -> bool:
    """Tell whether a caption names the colour of an image, which is what the world is made of."""
    colour = list(COLOURS)[split.image_keys.index(image) % len(COLOURS)]
    return colour in split.texts[split.caption_keys.index(caption)]


def _judge(split: Split, pairs: list[tuple[str, str]], *, wrong: int = 0) -> None:
    """Write a verdict on each pair, the first `wrong` of them the wrong way round."""
    with verdicts.Journal(split.folder / "audit") as journal:
        for number, (image, caption) in enumerate(pairs):
            word = "match" if _true(split, image, caption) != (number < wrong) else "no match"
            journal.append(verdicts.Verdict(f"verdict-{number}", image, caption, word, "Ada", verdicts.now()))
    verdicts.publish(split.folder / "audit")


def _open_pairs(split: Split) -> list[tuple[str, str]]:
    return [
        (image, caption)
        for row, image in enumerate(split.image_keys)
        for place, caption in enumerate(split.caption_keys)
        if split.caption_owner[place] != row
    ]


def test_sample__verdicts_on_it_estimate_what_is_missing(split: Split) -> None:
    audit.run(SAMPLED, split=split)
    sample = pq.read_table(split.folder / "audit/sample.parquet").to_pylist()
    assert 147 <= len(sample) <= 150, "each stratum rounds down"
    every = _open_pairs(split)
    assert {(row["image_key"], row["caption_key"]) for row in sample} <= set(every)
    assert sum(row["weight"] for row in sample) == pytest.approx(len(every)), "each stands for its share of all pairs"
    _judge(split, [(row["image_key"], row["caption_key"]) for row in sample])
    audit.run(SAMPLED, split=split)
    estimate = store.read_json(split.folder / "audit/summary.json")["missing"]
    missing = sum(_true(split, *pair) for pair in every)
    assert estimate["judged"] == len(sample)
    assert estimate["source"] == "verdicts"
    assert estimate["interval"][0] <= missing <= estimate["interval"][1]
    assert estimate["total"] == pytest.approx(missing, rel=0.25)
    # Six images share a colour: the best a perfect model can do by own pairs alone is one in six.
    for way in estimate["ceiling"]["estimate"].values():
        assert 0.1 < way < 0.4


def test_sample__the_same_seed_draws_the_same_pairs(split: Split) -> None:
    drawn = []
    for seed in (0, 0, 1):
        audit.run(SAMPLED.model_copy(update={"seed": seed}), split=split, force=True)
        table = pq.read_table(split.folder / "audit/sample.parquet").select(["image_key", "caption_key"])
        drawn.append(table.to_pylist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_read_ratings__verdicts_are_ratings_until_disputed(split: Split, tmp_path: Path) -> None:
    audit.run(SAMPLED.model_copy(update={"sample": 0}), split=split)
    assert ratings.from_judgements(split, pair_judgements.read(split)) is None
    pairs = _open_pairs(split)[:40]
    _judge(split, pairs)
    with verdicts.Journal(split.folder / "audit") as journal:
        for number, ((image, caption), word) in enumerate(
            zip(pairs[:3], ("skip", "no match", "related"), strict=True), 100
        ):
            journal.append(verdicts.Verdict(f"verdict-{number}", image, caption, word, "Bo", verdicts.now()))
        journal.append(verdicts.Verdict("verdict-200", "mini/gone", "mini/gone#0", "match", "Bo", verdicts.now()))
    said = ratings.from_judgements(split, pair_judgements.read(split))
    assert said is not None
    rated = {
        (split.image_keys[image], split.caption_keys[caption]): match
        for image, caption, match in zip(said.images.tolist(), said.captions.tolist(), said.match.tolist(), strict=True)
    }
    expected = {pair: _true(split, *pair) for pair in pairs}
    for pair, word in zip(pairs[:3], ("skip", "no match", "related"), strict=True):
        if word != "skip" and (expected[pair] or word == "related"):
            del expected[pair]  # two reviewers, two answers
    assert rated == expected
    assert said.unknown == 1
    assert not said.complete


def test_calibrate__on_verdicts_alone(split: Split, tmp_path: Path) -> None:
    audit.run(SAMPLED.model_copy(update={"sample": 0}), split=split)
    with pytest.raises(DataError, match="neither verdicts nor a truth"):
        calibrate.run(CalibrateConfig(neighbours=8), split=split, out=tmp_path / "p.json")
    rng = np.random.default_rng(0)
    pairs = [_open_pairs(split)[row] for row in rng.permutation(len(_open_pairs(split)))[:300]]
    _judge(split, pairs)
    done = calibrate.run(CalibrateConfig(neighbours=8, background=100), split=split, out=tmp_path / "p.json")
    assert done.fresh
    assert json.loads((tmp_path / "p.json").read_text())["about"]["fitted"]["ratings"] == "verdicts"
    every = SAMPLED.model_copy(update={"sample": 0, "floor": 0.0})
    audit.run(every, split=split, calibrated=tmp_path / "p.json")
    table = pq.read_table(split.folder / "audit/candidates.parquet").to_pylist()
    judged = [(row["p_positive"], _true(split, row["image_key"], row["caption_key"])) for row in table]
    right, wrong = ([p for p, match in judged if match is said] for said in (True, False))
    assert min(right) > 0.5 > np.median(wrong)


def test_run__a_folder_that_cannot_be_written_is_named(split: Split) -> None:
    (split.folder / "audit").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"audit.*cannot be written"):
        audit.run(SAMPLED, split=split)
    assert (split.folder / "audit").read_text() == "a file where the folder should be"


def _drawn(split: Any, p: np.ndarray) -> Candidates:
    """Every second open pair as a candidate, of a given probability."""
    owner, width = split.caption_owner, split.num_captions
    codes = [code for code in range(split.num_images * width) if owner[code % width] != code // width][::2]
    names = [field.name for field in fields(Candidates)]
    known = {"image": np.array(codes) // width, "caption": np.array(codes) % width, "p_positive": p[: len(codes)]}
    return Candidates(**{name: known.get(name, np.zeros(len(codes))) for name in names})


def test_judge__counts_every_judged_pair_in_its_stratum() -> None:
    """Judged pairs that are no candidates stand for those; the ceiling knows what matches elsewhere."""
    rng = np.random.default_rng(0)
    split: Any = SimpleNamespace(num_images=12, num_captions=36, caption_owner=np.repeat(np.arange(12), 3))
    p = rng.random(400)
    candidates = _drawn(split, p)
    open_codes = [code for code in range(12 * 36) if (code % 36) // 3 != code // 36]
    judged = rng.permutation(open_codes)[:150]
    match = rng.random(150) < 0.3
    rated = PairRatings(judged // 36, judged % 36, match, complete=False, source="people")
    got = sample.judge(split, candidates, AuditConfig(seed=4), rated)
    assert got is not None
    place = {
        int(i) * 36 + int(c): row for row, (i, c) in enumerate(zip(candidates.image, candidates.caption, strict=True))
    }
    edges = (0.02, 0.1, 0.3, 0.6)
    stratum = [1 + sum(p[place[code]] >= edge for edge in edges) if code in place else 0 for code in judged.tolist()]
    numbers = np.bincount(stratum, minlength=6)
    matches = np.bincount(stratum, match, minlength=6).astype(int)
    of_candidates = np.array([1 + sum(one >= edge for edge in edges) for one in p[: len(place)]])
    sizes = np.bincount(of_candidates, minlength=6)
    sizes[0] = 12 * 36 - 36 - len(place)
    estimated = missing.estimate(sizes, numbers, matches, seed=4)
    assert (got["total"], got["interval"]) == (estimated.total, [estimated.low, estimated.high])
    assert (got["judged"], got["source"]) == (150, "people")
    few = (numbers < np.minimum(5, sizes)) | (numbers == 0)
    assert got["left_out"] == sizes[few].sum()
    assert "not drawn for this estimate" in got["caveat"]
    assert [{**row, "stratum": ""} for row in got["strata"]] == [
        {"stratum": "", "pairs": sizes[n], "judged": numbers[n], "matches": matches[n], "share": estimated.rates[0][n]}
        for n in range(6)
    ]
    for name, rates in zip(("estimate", "low", "high"), estimated.rates, strict=True):
        assert got["ceiling"][name] == missing.ceilings(
            candidates.image,
            candidates.caption,
            rates[of_candidates],
            split.caption_owner,
            num_images=12,
            elsewhere=rates[0] * sizes[0],
        )
    assert sample.judge(split, candidates, AuditConfig(), None) is None
    nobody = PairRatings(judged[:0], judged[:0], match[:0], complete=False, source="people")
    assert sample.judge(split, candidates, AuditConfig(), nobody) is None


def test_judge__with_a_sample_only_its_own_pairs_count_and_a_whole_truth_answers_all_of_them() -> None:
    rng = np.random.default_rng(1)
    split: Any = SimpleNamespace(num_images=12, num_captions=36, caption_owner=np.repeat(np.arange(12), 3))
    candidates = _drawn(split, rng.random(400))
    config = AuditConfig(sample=60, seed=2)
    _, drawn, _ = sample._sample(split, candidates, config)
    every = np.array([code for code in range(12 * 36) if (code % 36) // 3 != code // 36])
    match = every % 5 == 0
    rated = PairRatings(every // 36, every % 36, match, complete=False, source="people")
    some = sample.judge(split, candidates, config, rated)
    truth = PairRatings(every[match] // 36, every[match] % 36, match[match], complete=True, source="people")
    whole = sample.judge(split, candidates, config, truth)
    assert some is not None
    assert some == whole
    assert some["judged"] == len(drawn)
    assert sum(row["matches"] for row in some["strata"]) == (drawn % 5 == 0).sum()
    assert some["caveat"] == ""


def test_write_sample__no_sample_leaves_none(split: Split) -> None:
    audit.run(SAMPLED, split=split)
    path = split.folder / "audit" / sample.FILE
    assert path.is_file()
    audit.run(SAMPLED.model_copy(update={"sample": 0}), split=split)
    assert not path.exists()
