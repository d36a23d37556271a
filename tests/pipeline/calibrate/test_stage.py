"""Calibrating: fitted on one split and tested on another, on the pairs that it says, up to date until one changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.manifests.samples import CocoIds, Split
from cusa.pipeline import audit, calibrate
from cusa.pipeline.calibrate import calibration, stage
from cusa.pipeline.config import AuditConfig, CalibrateConfig
from cusa.pipeline.pairs.features import Compared, PairFeatures
from cusa.pipeline.pairs.neighbourhoods import Encoders, choose, open_neighbourhoods
from cusa.pipeline.pairs.ratings import PairRatings, RatedSplit, read_ratings
from tests.pipeline.audited import make_taught
from tests.pipeline.calibrate.conftest import CONFIG, write_truth


def test_run__fits_on_one_split_and_tests_on_another(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"
    options: dict[str, Any] = {"split": Split(work, "val"), "test": RatedSplit(Split(work, "test")), "out": out}
    outcome = calibrate.run(CONFIG, **options)
    made = calibration.read(out)
    assert made.about["fitted"]["split"] == "val"
    assert made.about["tested"]["split"] == "test"
    assert outcome.counts["pairs"] == made.about["fitted"]["pairs"] > 100
    assert made.teachers["image"]["teacher"] == "colours"
    assert made.teachers["text"]["transform"] == "clean"
    assert any("Brier score" in note for note in outcome.notes)
    assert not calibrate.run(CONFIG, **options).fresh
    assert calibrate.run(CONFIG.model_copy(update={"seed": 1}), **options).why == "seed was 0 and is now 1"


def test_run__the_audit_ranks_by_it_and_the_table_holds_it(work: Path, out: Path) -> None:
    split = Split(work, "test")
    outcome = audit.run(AuditConfig(neighbours=4, gallery=2), split=split, calibrated=out)
    table = pq.read_table(split.folder / "audit/candidates.parquet")
    p = table["p_positive"].to_numpy()
    assert ((p > 0) & (p < 1)).all()
    assert (np.diff(p) <= 0).all(), "the best first"
    summary = audit.read_summary(split)
    expected = summary["calibration"]["expected"]
    assert expected["false_negatives"] == pytest.approx(p.sum(), rel=1e-5)
    couples = 5 * p.sum()  # every image has five captions, each of which meets the candidate
    assert expected["batch"]["false_negatives"] == pytest.approx(couples * 60 * 59 / (60 * 59), rel=1e-5)
    assert summary["calibration"]["reliability"]["pairs"] == table.num_rows
    assert list(summary["truth"]["rankings"])
    assert "p_positive" in summary["truth"]["rankings"]
    assert any("By p_positive" in note for note in outcome.notes)
    assert "by p_positive" in (split.folder / "audit/gallery.html").read_text()


def test_run__one_modality_and_too_few_judgements(work: Path, tmp_path: Path, out: Path) -> None:
    out = tmp_path / "calibration.json"
    calibrate.run(CONFIG, split=Split(work, "val"), out=out, encoders=Encoders(image="none"))
    made = calibration.read(out)
    assert set(made.teachers) == {"text"}
    assert not [name for name in made.features if name.startswith("image_") and name != "image_level"]
    small = make_taught(tmp_path / "small", images=3)
    write_truth(small, "train")
    with pytest.raises(DataError, match=r"at least 10 of each are needed"):
        calibrate.run(CalibrateConfig(neighbours=4, background=0), split=Split(small, "train"), out=out)
    (small / "train/truth.parquet").unlink()
    with pytest.raises(DataError, match="neither verdicts nor a truth"):
        calibrate.run(CONFIG, split=Split(small, "train"), out=out)


def test_run__features_or_probabilities_that_are_no_numbers_are_refused(
    work: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = PairFeatures.compare

    def broken(self: PairFeatures, image: int | np.ndarray, captions: np.ndarray) -> Compared:
        compared = compare(self, image, captions)
        compared.features[np.broadcast_to(image, captions.shape) == 3, 1] = np.nan
        return compared

    monkeypatch.setattr(PairFeatures, "compare", broken)
    with pytest.raises(DataError, match=rf"{Split(work, 'val').image_keys[3]} with mini/\S+ has the text_two nan"):
        calibrate.run(CONFIG, split=Split(work, "val"), out=tmp_path / "p.json")
    assert not (tmp_path / "p.json").exists()
    with pytest.raises(DataError, match=r"the probability nan, which cannot be ranked"):
        audit.run(AuditConfig(neighbours=4, gallery=0), split=Split(work, "test"), calibrated=out, force=True)


def test_pairs__random_ones_are_neither_judged_nor_the_data_sets_own(work: Path) -> None:
    split = Split(work, "val")
    width = split.num_captions
    every = np.array([c for c in range(12 * width) if split.caption_owner[c % width] != c // width])
    rng = np.random.default_rng(0)
    judged = np.sort(rng.permutation(every)[:400])
    match = rng.random(400) < 0.5
    rated = PairRatings(judged // width, judged % width, match, complete=False, source="people")
    opened = open_neighbourhoods(split, choose(split, Encoders()), depth=4)
    pairs = stage._pairs(split, rated, opened, CONFIG.model_copy(update={"background": 250}))
    codes = pairs.images * width + pairs.captions
    assert len(set(codes.tolist())) == len(codes), "no pair twice"
    assert dict(zip(codes[pairs.judged].tolist(), pairs.match[pairs.judged].tolist(), strict=True)) == dict(
        zip(judged.tolist(), match.tolist(), strict=True)
    )
    random = codes[~pairs.judged]
    assert not pairs.match[~pairs.judged].any()
    assert not set(random.tolist()) & set(judged.tolist()), "what people judged a match is no random non-match"
    assert set(random.tolist()) <= set(every.tolist())
    assert len(random) > 50


def test_pairs__with_a_complete_truth_random_ones_have_their_true_answer(work: Path) -> None:
    split = Split(work, "val")
    rated = read_ratings(split, None)
    assert rated.complete
    width = split.num_captions
    true = set((rated.images * width + rated.captions).tolist())
    opened = open_neighbourhoods(split, choose(split, Encoders()), depth=4)
    pairs = stage._pairs(split, rated, opened, CONFIG.model_copy(update={"background": 500}))
    codes = (pairs.images * width + pairs.captions).tolist()
    assert pairs.judged.all()
    assert pairs.match.tolist() == [code in true for code in codes]
    assert 0 < pairs.match.sum() < len(codes)
    assert (split.caption_owner[pairs.captions] != pairs.images).all()


def test_run__a_verdict_that_is_turned_makes_calibration_and_audit_due(work: Path, tmp_path: Path) -> None:
    split, out, csv = Split(work, "val"), tmp_path / "calibration.json", tmp_path / "sits_val.csv"
    captions = split.captions["caption_id"].to_pylist()
    number = [f"{row + 1000:012d}" for row in range(12)]
    split.coco_ids = CocoIds([int(each) for each in number], [int(each) for each in captions])
    pairs = [(image, caption) for image in range(12) for caption in range(60) if caption // 5 != image][::8]
    scores = [4.0 if image % 4 == caption // 5 % 4 else 1.0 for image, caption in pairs]

    def write() -> None:
        lines = [
            f"COCO_val2014:sentid:{captions[caption]},COCO_val2014_{number[image]}.jpg,{score},c2i"
            for (image, caption), score in zip(pairs, scores, strict=True)
        ]
        csv.write_text("caption,image,agg_score,sampling_method\n" + "\n".join(lines))

    write()
    config = AuditConfig(neighbours=4, gallery=0)
    calibrate.run(CONFIG, split=split, out=out, ratings=csv)
    audit.run(config, split=split, ratings=csv)
    assert not calibrate.run(CONFIG, split=split, out=out, ratings=csv).fresh
    assert not audit.run(config, split=split, ratings=csv).fresh
    scores[0] = 5.0 - scores[0]  # the same pairs, one of them judged the other way round
    write()
    assert calibrate.run(CONFIG, split=split, out=out, ratings=csv).why == "ratings of val changed"
    assert audit.run(config, split=split, ratings=csv).why == "judgements changed"


def _measured(probability: np.ndarray, match: np.ndarray) -> dict[str, Any]:
    """Return what is said of probabilities, by plain loops."""
    order = np.argsort(-probability, kind="stable")
    found, precisions = 0, []
    for rank, pair in enumerate(order, 1):
        if match[pair]:
            found += 1
            precisions.append(found / rank)
    return {
        "pairs": len(match),
        "matches": found,
        "brier": pytest.approx(sum((p - m) ** 2 for p, m in zip(probability, match, strict=True)) / len(match)),
        "average_precision": pytest.approx(sum(precisions) / found, abs=0.02),  # ties aside
    }


@pytest.mark.parametrize("complete", [True, False])
def test_run__every_figure_is_of_the_pairs_that_it_names(work: Path, tmp_path: Path, complete: bool) -> None:
    """Fitted on one split, measured on the other: the numbers written down, worked out from the file's model."""
    val, test = Split(work, "val"), Split(work, "test")
    ratings: dict[str, Path | None] = {"val": None, "test": None}
    if not complete:
        for split in (val, test):
            split.coco_ids = CocoIds(list(range(split.num_images)), list(range(split.num_captions)))
            ratings[split.name] = tmp_path / f"sits_{split.name}.csv"
            truth = read_ratings(split, None)
            true = set(zip(truth.images.tolist(), truth.captions.tolist(), strict=True))
            pairs = [
                (image, caption)
                for image in range(split.num_images)
                for caption in range(split.num_captions)
                if split.caption_owner[caption] != image
            ]
            rows = [
                f"COCO:sentid:{caption},COCO_val2014_{image:012d}.jpg,{4.5 if (image, caption) in true else 0.5},c2i"
                for image, caption in pairs[:: 5 if split is val else 7]
            ]
            path = ratings[split.name]
            assert path is not None
            path.write_text("\n".join(["caption,image,agg_score,sampling_method", *rows]))
    out = tmp_path / "calibration.json"
    outcome = calibrate.run(CONFIG, split=val, out=out, ratings=ratings["val"], test=RatedSplit(test, ratings["test"]))
    made = calibration.read(out)
    tested, judged = made.about["tested"], read_ratings(test, ratings["test"])
    opened = open_neighbourhoods(test, choose(test, Encoders()), depth=4)
    if complete:
        images = np.repeat(np.arange(test.num_images), [len(opened.finder.captions_near(n)) for n in range(12)])
        captions = np.concatenate([opened.finder.captions_near(n) for n in range(12)])
    else:
        images, captions = judged.images, judged.captions
    true = {
        pair
        for pair, match in zip(zip(judged.images, judged.captions, strict=True), judged.match, strict=True)
        if match
    }
    match = np.array([pair in true for pair in zip(images, captions, strict=True)])
    probability = made.probability(opened.features(test).matrix(images, captions))
    assert {**tested, **_measured(probability, match)} == tested
    assert (tested["split"], tested["complete"], tested["ratings"]) == ("test", complete, judged.source)
    fitted, mine = made.about["fitted"], read_ratings(val, ratings["val"])
    if not complete:
        assert (fitted["pairs"], fitted["matches"]) == (len(mine.match), int(mine.match.sum()))
        assert 25 < fitted["background"] <= 50
        assert made.about["out_of_fold"]["pairs"] == len(mine.match), "random pairs are no judgement to be measured by"
        assert made.about["out_of_fold"]["matches"] == int(mine.match.sum())
    else:
        assert fitted["background"] == 0
        assert fitted["pairs"] == made.about["out_of_fold"]["pairs"] > 100
    assert {name: fitted[name] for name in ("pairs", "matches", "background")} == outcome.counts
    assert (fitted["split"], fitted["ratings"], fitted["caveat"]) == ("val", mine.source, mine.caveat)
    words = "\n".join(outcome.notes)
    for number in (
        f"{fitted['pairs']:,} judged pairs",
        f"({fitted['matches']:,} matches",
        f"{fitted['background']:,} unlike pairs",
    ):
        assert number in words
    assert f"On test ({judged.source}): Brier score {tested['brier']:.3f}" in words
