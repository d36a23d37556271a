"""The summary of an audit: every figure by hand on a split of three images, and every sentence that says it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cusa.manifests.judgements.truth import KnownTruth
from cusa.pipeline.audit.summary import sentences, summarise
from cusa.pipeline.calibrate.calibration import Calibration
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.pairs.candidates import Candidates

OWNER = np.array([0, 0, 1, 2, 2, 2])
CONFIG = AuditConfig(neighbours=7, minimum_score=0.1, batch_size=4)
FITTED = {"pairs": 99, "caveat": "A caveat."}


def _split(**sources: list[int]) -> Any:
    rows = {name: np.array(captions) for name, captions in sources.items()}
    return SimpleNamespace(name="val", num_images=3, num_captions=6, caption_owner=OWNER, source_rows=rows)


def _candidates(p: list[float] | None) -> Candidates:
    """Four candidates, the best first: (0, 2), (1, 0), (2, 1), (1, 5)."""
    nothing = np.full(4, np.nan)
    return Candidates(
        image=np.array([0, 1, 2, 1], dtype=np.int32),
        caption=np.array([2, 0, 1, 5], dtype=np.int32),
        image_similarity=np.array([0.2, 0.9, 0.5, 0.4]),
        text_similarity=np.array([0.9, 0.8, 0.1, 0.7]),
        image_rank=np.array([1, 1, 2, 0]),
        text_rank=np.array([0, 1, 2, 1]),
        cross_similarity=nothing,
        score=np.array([0.9, 0.8, 0.5, 0.4]),
        p_positive=nothing if p is None else np.array(p),
        duplicate_image=np.array([True, False, False, False]),
        duplicate_caption=np.array([True, True, False, True]),
    )


def _truth(complete: bool = True) -> KnownTruth:
    """Three known matches beside an own pair; (0, 5) is no candidate."""
    return KnownTruth(np.array([0, 0, 1, 0]), np.array([0, 2, 5, 5]), complete=complete, source="a truth", unknown=2)


def _model(**about: Any) -> Calibration:
    return Calibration({}, (), (), (), False, (), 0.0, (), (), (), (), {"fitted": FITTED, **about})


def test_summarise__without_truth_and_calibration() -> None:
    teachers = {"image": "", "text": "words"}
    got = summarise(_split(), _candidates(None), config=CONFIG, teachers=teachers, truth=None)
    assert got == {
        "split": "val",
        "images": 3,
        "captions": 6,
        "open_pairs": 12,
        "teachers": {"image": None, "text": "words"},
        "neighbours": 7,
        "minimum_score": 0.1,
        "candidates": 4,
        "duplicate_image_candidates": 1,
        "duplicate_caption_candidates": 3,
        "calibration": None,
        "truth": None,
    }


@pytest.mark.parametrize("complete", [True, False])
def test_summarise__known_matches(complete: bool) -> None:
    got = summarise(_split(), _candidates(None), config=CONFIG, teachers={}, truth=_truth(complete))["truth"]
    # Couples in the whole split: image 0 has two captions and two foreign matches, image 1 one and one.
    batch = (2 + 2 + 1) * 4 * 3 / (6 * 5)
    assert {name: got[name] for name in got if name not in ("rankings", "ceiling")} == {
        "source": "a truth",
        "complete": complete,
        "pairs_of_other_splits": 2,
        "false_negatives": 3,
        "among_candidates": 2,
        "chance": 3 / 12,
        "batch": {"size": 4, "false_negatives": pytest.approx(batch), "per_row": pytest.approx(batch / 4)},
        "per_query": {"image": 1.0, "caption": 0.5},
    }
    # By score the matches are first and fourth; by the images' similarity (0.2 and 0.4) fourth and third.
    places = {"score": (1, 4), "image_similarity": (3, 4), "text_similarity": (1, 3)}
    assert set(got["rankings"]) == set(places), "what nobody gave ranks nothing"
    for name, (first, second) in places.items():
        figures = got["rankings"][name]
        assert figures["average_precision"] == pytest.approx((1 / first + 2 / second) / 3), name
        assert figures["median_rank"] == second, "the one that is no candidate counts as last of all open pairs"
        assert figures["recall"] == {"100": 2 / 3, "1000": 2 / 3, "10000": 2 / 3}
        assert figures["precision"] == {}
    assert ("ceiling" in got) == complete
    if complete:
        # Images list 2, 1 and 3 captions and have 2, 1 and 0 further ones; captions 2 and 5 have one and two further.
        by_image, by_caption = (2 / 4 + 1 / 2 + 1) / 3, (1 + 1 + 1 / 2 + 1 + 1 + 1 / 3) / 6
        assert got["ceiling"] == {
            "image-to-text": pytest.approx(by_image),
            "text-to-image": pytest.approx(by_caption),
        }


def test_summarise__sums_of_probabilities() -> None:
    p = [0.9, 0.5, 0.25, 0.05]
    model = _model(tested={"pairs": 5}, out_of_fold={"pairs": 6})
    got = summarise(_split(), _candidates(p), config=CONFIG, teachers={}, truth=_truth(), calibration=model)
    calibrated = got["calibration"]
    batch = (0.9 * 2 + 0.5 * 1 + 0.25 * 3 + 0.05 * 1) * 4 * 3 / (6 * 5)
    assert calibrated["fitted"] is FITTED
    assert (calibrated["tested"], calibrated["out_of_fold"]) == ({"pairs": 5}, {"pairs": 6})
    assert calibrated["expected"] == {
        "false_negatives": pytest.approx(1.7),
        "per_image": pytest.approx(1.7 / 3),
        "per_caption": pytest.approx(1.7 / 6),
        "batch": {"size": 4, "false_negatives": pytest.approx(batch), "per_row": pytest.approx(batch / 4)},
    }
    # An image with k listed captions and M others that match is answered right with k / (k + M).
    image_0 = 0.9 * 2 / 3 + 0.1
    image_1 = sum((0.5 if a else 0.5) * (0.05 if b else 0.95) / (1 + a + b) for a in (0, 1) for b in (0, 1))
    image_2 = 0.25 * 3 / 4 + 0.75
    captions = [0.5 / 2 + 0.5, 0.25 / 2 + 0.75, 0.9 / 2 + 0.1, 1, 1, 0.05 / 2 + 0.95]
    assert calibrated["ceiling"] == {
        "image-to-text": pytest.approx((image_0 + image_1 + image_2) / 3),
        "text-to-image": pytest.approx(sum(captions) / 6),
    }
    match = [1, 0, 0, 1]
    assert calibrated["reliability"]["pairs"] == 4
    assert calibrated["reliability"]["brier"] == pytest.approx(
        sum((a - b) ** 2 for a, b in zip(p, match, strict=True)) / 4
    )
    assert set(got["truth"]["rankings"]) == {"p_positive", "score", "image_similarity", "text_similarity"}
    for truth in (None, _truth(complete=False)):
        other = summarise(_split(), _candidates(p), config=CONFIG, teachers={}, truth=truth, calibration=model)
        assert other["calibration"]["reliability"] is None, "nobody knows of the other pairs whether they match"


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_summarise__by_the_source_of_the_caption(calibrated: bool, known: bool) -> None:
    """Candidates are captions 2, 0, 1 and 5; the known matches 2, 5 and 5."""
    model, p = (_model(), [0.9, 0.5, 0.25, 0.05]) if calibrated else (None, None)
    truth = _truth(complete=False) if known else None
    split = _split(human=[0, 2, 3], synthetic=[1, 4, 5])
    got = summarise(split, _candidates(p), config=CONFIG, teachers={}, truth=truth, calibration=model)
    expected = {"human": (0.9 + 0.5, 1), "synthetic": (0.25 + 0.05, 2)}
    assert got["by_source"] == {
        source: {
            "captions": 3,
            "candidates": 2,
            "expected_false_negatives": pytest.approx(total) if calibrated else None,
            "per_caption": pytest.approx(total / 3) if calibrated else None,
            "known_false_negatives": matches if known else None,
        }
        for source, (total, matches) in expected.items()
    }
    alone = summarise(_split(human=[0, 1]), _candidates(p), config=CONFIG, teachers={}, truth=truth, calibration=model)
    assert "by_source" not in alone


def _told(**changes: Any) -> dict[str, Any]:
    """Return a summary as the stage completes it."""
    duplicates = {"groups": 0, "rows": 0, "exact_groups": 0, "exact_rows": 0}
    base = summarise(_split(), _candidates(None), config=CONFIG, teachers={"image": "a", "text": "b"}, truth=None)
    base |= {
        "likely": None,
        "calibration_choice": {"name": "", "why": "None fits."},
        "score": "0.30 image_similarity + 0.70 text_similarity",
        "duplicates": {"images": duplicates, "captions": duplicates},
        "leaks": None,
    }
    return base | changes


LOOK = "Look at W/val/audit/gallery.html; judge with `cusa review W --split val`."


def test_sentences__without_a_calibration() -> None:
    assert sentences(_told(), Path("W")) == (
        "No probability: None fits. 4 candidates among 12 pairs that the data set does not make are ranked by the "
        "score, 0.30 image_similarity + 0.70 text_similarity; how many of them match is not known.",
        LOOK,
        "1 candidates are between images with the same bytes, 3 have a caption that the image has too.",
    )
    quiet = _told(candidates=0, duplicate_image_candidates=0, duplicate_caption_candidates=0)
    assert len(sentences(quiet, Path("W"))) == 1


def test_sentences__what_was_left_out_judged_copied_and_leaked() -> None:
    duplicates = {"groups": 2, "rows": 5, "exact_groups": 1, "exact_rows": 2}
    none = {"groups": 0, "rows": 0, "exact_groups": 0, "exact_rows": 0}
    got = sentences(
        _told(
            teachers={"image": None, "text": "b"},
            judged_candidates=1234,
            duplicates={"images": duplicates, "captions": none},
            leaks={"exact_images": 1, "near_images": 2, "captions": 3},
        ),
        Path("W"),
    )
    assert got[2:] == (
        "No image teacher was used: the image similarity is missing and the score does without it.",
        "1,234 candidates are judged already: the gallery leaves them out, and `cusa review` asks about the others.",
        "1 candidates are between images with the same bytes, 3 have a caption that the image has too.",
        "5 images are in 2 groups of duplicates, 2 of them with the same content as another (1 group).",
        "Leaks: 1 image with the same bytes in another split, 2 near ones, 3 captions with the same words.",
    )
    none_leaked = {"exact_images": 0, "near_images": 0, "captions": 0}
    assert not any("Leaks" in one for one in sentences(_told(leaks=none_leaked), Path("W")))
    one = {"exact_images": 0, "near_images": 0, "captions": 1}
    assert any("0 images with the same bytes" in said for said in sentences(_told(leaks=one), Path("W")))


LIKELY = {
    "total": 1500.0,
    "at_least": 600.0,
    "interval": [500.0, 1800.0],
    "written": 1400.0,
    "outside": 0.0667,
    "scored": "whole",
    "neighbours": 20,
    "deepest": 20,
    "beyond": None,
    "floor": 0.005,
    "histogram": [
        {"from": 0.005, "pairs": 1000},
        {"from": 0.3, "pairs": 300},
        {"from": 0.5, "pairs": 40},
        {"from": 0.9, "pairs": 7},
    ],
}
CALIBRATED = {
    "fitted": {"caveat": ""},
    "reliability": None,
    "expected": {
        "false_negatives": 1400.0,
        "per_image": 2.5,
        "batch": {"size": 128, "false_negatives": 12.34, "per_row": 0.0964},
    },
    "ceiling": {"image-to-text": 0.5, "text-to-image": 0.25},
}
COUNTS = (
    "p_positive is 0.9 or more for 7 pairs, 0.5 or more for 47; it sums to 1,500 over 12 pairs that the data set does "
    "not make."
)


def _likely(**changes: Any) -> dict[str, Any]:
    choice = {"name": "mine", "why": "it knows the text teacher"}
    return _told(
        likely=LIKELY | changes,
        calibration=CALIBRATED,
        calibration_choice=choice,
        duplicate_image_candidates=0,
        duplicate_caption_candidates=0,
    )


def test_sentences__what_is_likely() -> None:
    assert sentences(_likely(), Path("W")) == (
        f"Between 500 and 1,800 matches are probably missing. {COUNTS} The larger number is by the standard "
        "of people who forgave minor mistakes, the smaller by that of a stricter reader. To know it of this data, "
        "judge a random sample: `cusa audit W --split val --sample 300`, `cusa review`, and audit again.",
        LOOK,
        "p_positive is by the calibration mine: it knows the text teacher.",
        "Every pair was scored; 4 are written, those of 0.005 and more. The others hold 6.7% of the probability.",
        "Beside p_positive there is a score: 0.30 image_similarity + 0.70 text_similarity.",
        "By p_positive 1,400 of the candidates match, 2.50 an image; a random batch of 128 holds 12.3 "
        "of them, 0.10 a row; R@1 ceiling 0.500 image to text and 0.250 text to image.",
    )


@pytest.mark.parametrize(
    ("changes", "deeper"),
    [
        ({"beyond": 0.0049}, ""),
        (
            {"beyond": 0.0123},
            " The next pairs are still expected to match with 0.012: `cusa index W --split val --neighbours 40` and "
            "`cusa audit --neighbours 40` find more.",
        ),
        ({"beyond": 0.005, "neighbours": 10}, " The budget of rows ended the search (`--rows`)."),
        ({"beyond": None}, ""),
    ],
)
def test_sentences__how_deep_a_large_split_was_searched(changes: dict[str, Any], deeper: str) -> None:
    got = sentences(_likely(scored="neighbourhoods", at_least=1500.0, **changes), Path("W"))
    assert got[0] == f"About 1,500 matches are probably missing, 95 % interval 500 to 1,800. {COUNTS}"
    number = changes.get("neighbours", 20)
    assert got[3] == (
        f"{number} neighbours a row were joined; 4 pairs of 0.005 and more are written. Pairs that are not hold about "
        f"6.7% of the probability, by images drawn at random.{deeper}"
    )
    assert got[5].startswith("By p_positive 1,400 of the candidates match")


def test_sentences__reliability_caveat_and_estimate() -> None:
    summary = _likely()
    curve = {"brier": 0.12345, "expected_calibration_error": 0.0456}
    summary["calibration"] = CALIBRATED | {"reliability": curve, "fitted": {"caveat": "Mind this."}}
    ceiling = {"image-to-text": 0.5, "text-to-image": 0.25}
    summary["missing"] = {
        "judged": 1200,
        "source": "verdicts",
        "total": 345.6,
        "interval": [300.4, 400.6],
        "ceiling": {"estimate": ceiling, "low": ceiling | {"text-to-image": 0.75}, "high": ceiling},
        "left_out": 17,
        "caveat": "Not drawn.",
    }
    assert sentences(summary, Path("W"))[6:] == (
        "p_positive on all candidates against the truth: Brier score 0.123, expected calibration error 0.046.",
        "Mind this.",
        "Estimated missing positives, from 1,200 judged pairs (verdicts): 346, 95 % interval 300 to 401. R@1 ceiling "
        "0.500 image to text and 0.250 text to image; at the interval's ends 0.500 image to text and 0.750 text to "
        "image, and 0.500 image to text and 0.250 text to image.",
        "Not in that estimate: 17 pairs of strata of which too few were judged.",
        "Not drawn.",
    )
    summary["missing"] |= {"left_out": 0, "caveat": ""}
    assert len(sentences(summary, Path("W"))) == 9


@pytest.mark.parametrize("complete", [True, False])
def test_sentences__known_matches(complete: bool) -> None:
    figures = {
        "average_precision": 0.456,
        "median_rank": 1234.0,
        "recall": {"100": 0.1, "1000": 0.25},
        "precision": {"100": 0.5},
    }
    truth = {
        "source": "a truth",
        "complete": complete,
        "false_negatives": 1500,
        "among_candidates": 1400,
        "rankings": {"score": figures, "text_similarity": figures | {"precision": {}}},
        "batch": {"size": 128, "false_negatives": 3.21, "per_row": 0.0351},
    }
    if complete:
        truth["ceiling"] = {"image-to-text": 0.5, "text-to-image": 0.25}
    bound = "" if complete else "at least "
    ranked = "median rank 1,234; recall 0.100 in the top 100, 0.250 in the top 1,000; average precision"
    assert sentences(_told(truth=truth), Path("W"))[3:] == (
        "Known false negatives (a truth): 1,500, of which 1,400 are candidates and 100 are not (counted as ranked "
        "last).",
        f"By score: {ranked} {bound}0.456; precision {bound}0.500 at 100.",
        f"By text_similarity: {ranked} {bound}0.456.",
        f"A random batch of 128 pairs holds {bound}3.2 false negatives on average, 0.04 a row.",
        "A model that ranks every true match first can be expected to reach an R@1 of no more than 0.500 image to text "
        "and 0.250 text to image under the data set's own pairs."
        if complete
        else "Most pairs were never judged: what is not known to match may match all the same.",
    )
