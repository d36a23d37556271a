"""`cusa eval A B --judged`: what is handed on and refused, and what the numbers are called."""

import json
from pathlib import Path
from typing import Any

import pytest

from cusa.workflow import judged
from tests.cli import calls


def _estimate(value: float, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def _score(difference: dict[str, float | None], further: int | None, **more: Any) -> dict[str, Any]:
    return {
        **{"direction": "image-to-text", "score": "r@1", "first": _estimate(60.04, 50.0, 70.0)},
        **{"second": _estimate(40.0), "difference": difference, "judge_alone": [1.0, 2.0, -3.04]},
        **{"answered": 1234, "units": 5678, "weight": 0.756, "further": further, **more},
    }


RESULT = {
    **{"runs": ["one", "two"], "split": "test", "interval": "95 % intervals", "depth": 10, "expected_outside": 1234.56},
    "calibrated": False,
    "scores": [
        _score(_estimate(20.0, 5.0, 35.0), 0),
        _score(_estimate(-20.0, -35.0, -5.0), 0),
        _score(_estimate(0.0, 0.0, 0.0), 0),
        _score(_estimate(1.0), None),
        _score(_estimate(1.0, 1.0, 1.0), None),
        _score(_estimate(1.0, -3.0, 5.0), 2345),
    ],
    "samples": [
        {"scores": "r@1", "pairs": 9, "answered_pairs": 9, "passed_units": 0},
        {"scores": "at-r", "pairs": 1000, "answered_pairs": 999, "passed_units": 1234},
    ],
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return calls.record(
        monkeypatch, judged, "compare", lambda **told: (calls.outcome("judged"), RESULT, Path("judged/one-vs-two"))
    )


def test_compare__hands_on_and_says_what_each_number_is(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("eval", "one", "two", "--judged", "--data", "work")
    lines = calls.plain(*words, "--split", "test", "--force").splitlines()
    common = {"names": ("one", "two"), "work": Path("work"), "on_event": "Console.event"}
    assert asked == [{**common, "split": "test", "force": True}]
    assert lines[:2] == ["eval: judged/one-vs-two: A = one, B = two on test, every true match", "95 % intervals."]
    assert "at depth 10 (`--set eval.top`). By the judge 1,234.6 matches lie outside." in lines[2]
    assert "The judge is the audit's similarity" in lines[3]
    assert lines[4] == (
        "note: For R-Precision and mAP@R 999 of 1,000 pairs are answered: "
        "`cusa review work --split test --for-eval one two --scores at-r`."
    )
    assert lines[5].startswith("note: 1,234 were skipped or are disputed")
    rows = [line.split("  ") for line in lines[7:]]
    told = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    head = ["image to text: R@1", "60.0 (50.0 to 70.0)", "40.0 (no interval)"]
    assert [row[:3] for row in told] == [head] * 6
    assert [row[3] for row in told] == [
        *("20.0 (5.0 to 35.0)", "-20.0 (-35.0 to -5.0)", "0.0 (0.0 to 0.0)"),
        *("1.0 (no interval)", "1.0 (1.0 to 1.0)", "1.0 (-3.0 to 5.0)"),
    ]
    assert [row[4:7] for row in told] == [["-3.0", "1,234 of 5,678", "0.76"]] * 6
    assert [row[7] for row in told] == [
        *("A is better", "B is better", "told", "unknown yet", "all is known", "some 2,345 more verdicts"),
    ]
    monkeypatch.setitem(RESULT["samples"][0], "answered_pairs", 3)  # type: ignore[index]
    shown = calls.plain(*words)
    assert "note: For R@1 3 of 9 pairs are answered: `cusa review work --split test --for-eval one two`." in shown
    stale = calls.outcome("judged", fresh=False)
    monkeypatch.setattr(judged, "compare", lambda *names, **told: (stale, RESULT, Path("j")))
    assert calls.plain(*words).startswith("eval: j (up to date): A = one, B = two")
    monkeypatch.undo()


def test_compare__as_json(asked: list[Any]) -> None:
    words = ("eval", "one", "two", "--judged", "--data", "work")
    common = {"names": ("one", "two"), "work": Path("work"), "on_event": "Console.event"}
    told_json = json.loads(calls.plain(*words, "--json"))
    assert asked == [{**common, "split": "", "force": False}]
    assert told_json == {**RESULT, "out": "judged/one-vs-two", "fresh": True}


@pytest.mark.parametrize(
    "words",
    [
        ("--tasks", "coco"),
        ("--out", "o"),
        ("--ids", "ids"),
        ("--set", "top=3"),
        ("--trust", "mine:Mean"),
    ],
)
def test_compare__what_has_no_meaning_is_refused(asked: list[Any], words: tuple[str, ...]) -> None:
    line = ("eval", "one", "two", "--judged", "--data", "work")
    assert f"{words[0]} has no meaning with --judged." in calls.refused(*line, *words)
    assert "--judged needs one work folder" in calls.refused(*line, "--data", "more")
    assert "--judged compares two runs" in calls.refused("eval", "one", "--judged", "--data", "work")
    assert "are compared with --judged" in calls.refused("eval", "one", "two", "--data", "work")
    assert asked == []
