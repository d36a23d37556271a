"""`cusa demo`: both options reach it."""

from pathlib import Path

import pytest

from cusa.workflow import demo as demos
from tests.cli import calls


def test_demo__every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "report.html"
    page.touch()
    done = calls.record(monkeypatch, demos, "demo", demos.Demo(page, "the numbers"))
    printed = calls.every_option("demo", "--out", tmp_path, "--seed", 7)
    calls.plain("demo")
    assert [(one["out"], one["seed"]) for one in done] == [(tmp_path, 7), (Path("work/demo"), 0)]
    shown = {name: told for name, told in calls.CALLBACKS.items() if name != "should_stop"}
    assert shown.items() <= done[0]["callbacks"].items()
    assert printed == f"the numbers\n\nopen: {page}\n"
