"""`cusa search`: what is looked for, by whom, and how the hits are shown."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cusa.models import student as students
from cusa.pipeline.index import search
from tests.cli import calls

HIT = search.Hit("val", "mini/3", "mini/3#0", "A red wall.", 0.75)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    return calls.record(monkeypatch, search, "run", [HIT])


def test_search__every_option_arrives(
    small: Path, tmp_path: Path, asked: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = calls.record(monkeypatch, search, "write_html")
    loaded = calls.record(monkeypatch, students, "load", "the student")
    printed = calls.every_option(
        *("search", small, "--image", tmp_path / "a.jpg", "--split", "val", "--split", "test", "--teacher", "eyes"),
        *("--student", "pupil", "--number", 3, "--html", tmp_path / "a.html", "--trust", "mine:Mean"),
    )
    (one,) = asked
    assert one == {
        "splits": [(small, "val"), (small, "test")],
        "words": "",
        "image": tmp_path / "a.jpg",
        "teacher": "eyes",
        "student": "pupil",
        "number": 3,
        "load_student": one["load_student"],
    }
    assert one["load_student"]("pupil") == "the student"
    assert loaded == [{"name": "pupil", "trust": ["mine:Mean"]}]
    assert drawn == [
        {"path": tmp_path / "a.html", "splits": one["splits"], "hits": [HIT], "asked": str(tmp_path / "a.jpg")}
    ]
    assert printed == f"search: {tmp_path}/a.html: 1 hit\n"


def test_search__words_in_every_split_ten_hits_as_a_table_or_json(
    small: Path, asked: list[Mapping[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = calls.plain("search", small, "a red wall")
    (one,) = asked
    assert one["splits"] == [(small, name) for name in ("train", "val", "test")]
    assert (one["words"], one["image"], one["teacher"], one["student"], one["number"]) == (
        "a red wall",
        None,
        "",
        "",
        10,
    )
    assert "A red wall." in printed
    (hit,) = json.loads(calls.plain("search", small, "a red wall", "--json"))
    assert hit == vars(HIT)
    drawn = calls.record(monkeypatch, search, "write_html")
    calls.plain("search", small, "a red wall", "--html", tmp_path / "a.html")
    assert drawn[0]["asked"] == "a red wall"
