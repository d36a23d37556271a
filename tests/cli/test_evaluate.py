"""`cusa eval`: every option reaches the evaluation, what failed is an error, and every number is shown as it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from cusa.cli import judged
from cusa.eval import paper
from cusa.pipeline.engine import Engine, Workers
from cusa.pipeline.units import sharing
from cusa.pipeline.units.sharing import Sharing, UnitRange
from cusa.workflow import evaluate as scoring
from tests.cli import calls
from tests.cli.test_cli import cusa_here


def _result(data: Path, **more: Any) -> dict[str, Any]:
    summary = {
        "queries": 1,
        "space": "cross",
        "protocol": "own pairs",
        "metrics": {"image-to-text/r@5": 60.06, "image-to-text/r@1": 50.04, "rsum": 110.1, "text-to-image/r@1": None},
        "intervals": {"image-to-text/r@1": [40.0, 60.16]},
        "chance": {"image-to-text/r@1": 12.54},
        "by_source": {
            "human": {"captions": 1234, "metrics": {"image-to-text/r@1": 51.0, "rsum": None}, "protocol": "per source"},
            "web": {"captions": 2, "metrics": {"image-to-text/r@1": 49.0, "rsum": 98.0}, "protocol": "per source"},
        },
    }
    return {
        **{"data": str(data), "out": "eval", "fresh": True, "student": "pupil", "dataset": "mini", "split": "test"},
        **{"images": 1, "captions": 1234, "ties": "worst", "remarks": ["A remark."]},
        "tasks": {"cross-modal": summary, "cxc": {"unavailable": "no ratings"}, "sts": {"unavailable": "no ratings"}},
        **more,
    }


def test_eval__every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[Sharing] = []

    def evaluate(**told: object) -> list[dict[str, Any]]:
        shared.append(sharing.current())
        return [_result(tmp_path)]

    done = calls.record(monkeypatch, scoring, "evaluate", evaluate)
    calls.every_option(
        *(
            "eval",
            "pupil",
            "--data",
            tmp_path / "a",
            "--data",
            tmp_path / "b",
            "--tasks",
            "sts, cxc,",
            "--tasks",
            "coco",
        ),
        *(
            "--split",
            "val",
            "--out",
            tmp_path / "o",
            "--ids",
            tmp_path / "ids",
            "--set",
            "top=3",
            "--trust",
            "mine:Mean",
        ),
        *("--workers", 3, "--engine", "ray", "--address", "head:1", "--unit-range", "merge", "--force"),
        but={"--judged"},
    )
    request = scoring.EvalRequest(
        data=[tmp_path / "a", tmp_path / "b"],
        tasks=["sts", "cxc", "coco"],
        split="val",
        output_folder=tmp_path / "o",
        ids=tmp_path / "ids",
        settings=["top=3"],
        trust=["mine:Mean"],
        force=True,
    )
    assert done == [{"name": "pupil", "request": request, "on_event": "Console.event"}]
    calls.plain("eval", "pupil", "--data", tmp_path)
    assert done[1]["request"] == scoring.EvalRequest(data=[tmp_path], tasks=[], settings=(), trust=())
    assert shared == [
        Sharing(Workers(3, Engine("ray", "head:1")), UnitRange("merge")),
        Sharing(Workers(1, Engine()), None),
    ]


def test_eval__every_number_with_its_interval_and_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls.record(monkeypatch, scoring, "evaluate", [_result(tmp_path)])
    (tmp_path / "run.json").touch()
    lines = calls.plain("eval", tmp_path, "--data", tmp_path).splitlines()
    assert lines == [
        "eval: eval: pupil on mini test, 1 image, 1,234 captions; ties: worst",
        "note: A remark.",
        "",
        "cross-modal (cross space, 1 query): own pairs",
        "metric              value  95 % interval  chance",
        "RSUM                110.1",
        "image to text: R@1  50.0   40.0 to 60.2   12.5",
        "image to text: R@5  60.1",
        "cross-modal by the source of the caption: per source",
        "source  captions  RSUM  image to text: R@1",
        "human   1,234           51.0",
        "web     2         98.0  49.0",
        "",
        "Not available here:",
        "  cxc, sts: no ratings",
        "",
        f"next: cusa report {tmp_path}",
    ]


def test_eval__pairs_and_what_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = _result(tmp_path, pairs=1, out=None, fresh=False, remarks=())
    calls.record(monkeypatch, scoring, "evaluate", [result])
    first = calls.plain("eval", "pupil", "--data", tmp_path).splitlines()[0]
    assert first == "eval: not kept, for want of --out (up to date): pupil on mini 1 pair"
    assert json.loads(calls.plain("eval", "pupil", "--data", tmp_path, "--json")) == {**result, "remarks": []}


def test_eval__of_several_folders_one_that_failed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [
        _result(tmp_path),
        {"data": "there", "failed": "its captions are gone"},
        {"missing": {"cub": "bring it"}},
    ]
    calls.record(monkeypatch, scoring, "evaluate", results)
    monkeypatch.setattr(paper, "rows", lambda found: [_Row()] if found == [results[0]] else [])
    words = ("eval", "pupil", "--data", tmp_path, "--data", tmp_path)
    done = cusa_here(*words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: there: its captions are gone"
    assert "not given: cub: bring it.\n" in done.stdout
    assert done.stdout.count(" on mini test") == 1
    assert (
        "In the form of the paper's tables:\ntable  metric  value  measured on\nT2     R@1     50.0   5 images\n"
        in (done.stdout)
    )
    told = cusa_here(*words, "--json")
    assert (told.returncode, len(json.loads(told.stdout))) == (1, 3)
    results.pop()
    assert "In the form of the paper's tables" in cusa_here(*words).stdout
    results.pop()
    assert "In the form of the paper's tables" not in cusa_here(*words).stdout, (
        "one folder's numbers stand there already"
    )
    results.append({"data": "there", "failed": "its captions are gone"})
    monkeypatch.setenv("RANK", "1")
    quiet = cusa_here(*words)
    assert (quiet.returncode, quiet.stdout) == (0, ""), "the first rank speaks"


class _Row:
    """A row of the paper's tables."""

    table, column, value, size = "T2", "R@1", 50.04, "5 images"


def test_eval__two_runs_are_compared_by_what_people_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = calls.record(monkeypatch, judged, "compare")
    scored = calls.record(monkeypatch, scoring, "evaluate", [])
    words = ("eval", "one", "two", "--judged", "--data", tmp_path)
    calls.plain(*words, "--split", "val", "--force", "--json")
    calls.plain(*words)
    common = {"runs": ("one", "two"), "work": tmp_path}
    assert compared == [
        {**common, "split": "val", "force": True, "as_json": True},
        {**common, "split": "", "force": False, "as_json": False},
    ]
    assert scored == []
    for option, value in (
        *(("--tasks", "sts"), ("--out", "o"), ("--ids", "i"), ("--set", "top=3"), ("--trust", "m:C")),
        *(("--workers", 2), ("--engine", "ray"), ("--address", "auto"), ("--unit-range", "0/2")),
    ):
        assert f"{option} has no meaning with --judged" in calls.refused(*words, option, value)
    assert "give --data once" in calls.refused(*words, "--data", tmp_path)


def test_eval__units_of_an_array_are_said_and_no_report_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").touch()
    made = {"data": str(tmp_path), "out": "eval", "units_made": "2 units made"}
    calls.record(monkeypatch, scoring, "evaluate", [made])
    printed = calls.plain("eval", tmp_path, "--data", tmp_path, "--unit-range", "0/2")
    assert printed == "eval: eval: 2 units made\n"
    calls.record(monkeypatch, scoring, "evaluate", [_result(tmp_path)])
    merged = calls.plain("eval", tmp_path, "--data", tmp_path, "--unit-range", "merge")
    assert merged.endswith(f"next: cusa report {tmp_path}\n")
