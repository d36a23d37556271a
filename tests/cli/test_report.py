"""`cusa report`: every option reaches the report."""

import json
from pathlib import Path

import pytest

from cusa.workflow import report as reporting
from tests.cli import calls


def test_report__every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.html"
    page.touch()
    done = calls.record(monkeypatch, reporting, "report", calls.outcome("report", page))
    words = ("report", tmp_path / "a", tmp_path / "b")
    printed = calls.every_option(
        *(*words, "--data", tmp_path / "w", "--out", page, "--sweep", tmp_path / "s", "--force"),
    )
    runs = [tmp_path / "a", tmp_path / "b"]
    assert done == [{"runs": runs, "work": tmp_path / "w", "out": page, "sweep": tmp_path / "s", "force": True}]
    assert printed.splitlines()[-2:] == [
        f"open: {page}",
        f"next: cusa index {tmp_path}/w --student {tmp_path}/b",
    ]
    told = json.loads(calls.plain(*words, "--json"))
    assert done[1] == {"runs": runs, "work": None, "out": None, "sweep": None, "force": False}
    assert told == {"page": str(page), "markdown": str(tmp_path / "page.md"), "fresh": True}
    assert calls.plain(*words).splitlines()[-1] == f"next: cusa index WORK --student {tmp_path}/b"
