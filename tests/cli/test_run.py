"""`cusa run`: every option reaches the stages of the recipe, and the figures stand beside the published ones."""

import json
from pathlib import Path

import pytest

from cusa.workflow import run as runs
from tests.cli import calls


def _ran(report: Path, expected: dict[str, float]) -> runs.Ran:
    figures = {"cross-modal/rsum": 432.1, "cross-modal/image-to-text/r@5": 51.25, "cross-modal/text-to-image/r@5": 9.0}
    return runs.Ran([calls.outcome("train"), calls.outcome("eval", rows=3)], figures, expected, report, ("a note",))


def test_run__every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = tmp_path / "report.html"
    report.touch()
    done = calls.record(monkeypatch, runs, "run", _ran(report, {"cross-modal/image-to-text/r@5": 60.0}))
    printed = calls.every_option(
        *("run", "tiny", "--out", tmp_path / "p", "--data", tmp_path / "w", "--name", "mine", "--set", "train.steps=7"),
        *("--smoke", "--force"),
    )
    assert done == [
        {
            "recipe": "tiny",
            "out": tmp_path / "p",
            "work": tmp_path / "w",
            "name": "mine",
            "settings": ["train.steps=7"],
            "smoke": True,
            "force": True,
            "callbacks": calls.CALLBACKS,
        }
    ]
    rows = [line.split() for line in printed.splitlines()]
    assert ["metric", "here", "published"] in rows
    assert ["cross-modal/image-to-text/r@5", "51.2", "60.0"] in rows
    assert not [row for row in rows if row[:1] == ["cross-modal/rsum"]], "nobody published it"
    assert printed.endswith(f"\na note\n\nopen: {report}\n")


def test_run__without_options_in_work_by_the_recipe_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, runs, "run", _ran(tmp_path / "none", {}))
    printed = calls.plain("run", "tiny")
    assert done == [
        {
            "recipe": "tiny",
            "out": Path("work"),
            "work": None,
            "name": "",
            "settings": (),
            "smoke": False,
            "force": False,
            "callbacks": calls.CALLBACKS,
        }
    ]
    assert ["cross-modal/rsum", "432.1"] in [line.split() for line in printed.splitlines()]
    assert "published" not in printed
    told = json.loads(calls.plain("run", "tiny", "--json"))
    assert told["figures"]["cross-modal/rsum"] == 432.1
    assert [(one["stage"], one["counts"]) for one in told["outcomes"]] == [("train", {}), ("eval", {"rows": 3})]
