"""`cusa doctor`: the disk of the named folder, and the data sets of the named recipe."""

import json
from pathlib import Path

import pytest

from cusa import doctor, recipe
from cusa.doctor import Finding
from cusa.workflow.mixture import training_data
from tests.cli import calls


def test_doctor__every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = calls.record(monkeypatch, doctor, "look", lambda **told: [Finding("disk", "full", "Make room.")])
    of_data = calls.record(monkeypatch, training_data, "look", [("data set a", "here", "")])
    printed = calls.every_option("doctor", "--out", tmp_path / "o", "--recipe", "tiny", "--data", tmp_path / "w")
    assert looked == [{"out": tmp_path / "o"}]
    assert of_data == [{"recipe": recipe.load("tiny"), "work": tmp_path / "w"}]
    assert printed.splitlines() == ["what        found", "disk        full", "data set a  here", "", "disk: Make room."]
    told = json.loads(calls.plain("doctor", "--json"))
    assert told == [{"what": "disk", "found": "full", "hint": "Make room."}]
    assert (looked[1], len(of_data)) == ({"out": Path()}, 1)
