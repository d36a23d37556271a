"""`cusa list`: what is asked for reaches the catalogue."""

import json
from pathlib import Path

import pytest

from cusa.workflow import catalogue
from tests.cli import calls


def test_list__every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, catalogue, "catalogue", (("name", "rows"), [("a", "1"), ("b", "22")]))
    assert calls.every_option("list", "teachers", "--data", tmp_path) == "name  rows\na     1\nb     22\n"
    told = json.loads(calls.plain("list", "drop-reasons", "--json"))
    assert told == [{"name": "a", "rows": "1"}, {"name": "b", "rows": "22"}]
    assert done == [{"what": "teachers", "work": tmp_path}, {"what": "drop-reasons", "work": None}]
