"""`cusa index`: every option reaches the stages that it is of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cusa.manifests import tables
from cusa.manifests.stage import Outcome
from cusa.models import source
from cusa.models import student as students
from cusa.pipeline.config import IndexConfig
from cusa.pipeline.engine import Engine, Workers
from cusa.pipeline.index import stage, student
from cusa.pipeline.units import sharing
from cusa.pipeline.units.sharing import Sharing, UnitRange
from tests.cli import calls


@pytest.fixture(autouse=True)
def _teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two teachers in every split, each found by its name of its own modality."""
    kinds = {"eyes": "image", "ears": "text"}
    monkeypatch.setattr(tables, "teachers", lambda split, **more: kinds)
    monkeypatch.setattr(tables, "find_teacher", lambda split, kind, word: word if kinds.get(word) == kind else "")


def _recorded(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Sharing], list[Mapping[str, Any]]]:
    """Return how the units of each call are shared, and the calls of the stage."""
    shared: list[Sharing] = []

    def run(**more: object) -> Outcome:
        shared.append(sharing.current())
        return calls.outcome("index")

    return shared, calls.record(monkeypatch, stage, "run", run)


def test_index__every_option_arrives(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, taught = _recorded(monkeypatch)
    learned = calls.record(monkeypatch, student, "run", calls.outcome("index"))
    asked = calls.record(monkeypatch, source, "refuse_missing")
    loaded = calls.record(monkeypatch, students, "load", "the student")
    printed = calls.every_option(
        *("index", small, "--split", "val", "--teacher", "ears", "--teacher", "eyes", "--student", "pupil"),
        *("--neighbours", 7, "--method", "hnsw", "--memory", 2.5, "--latency", 3.5, "--recall", 0.75),
        *("--trust", "mine:Mean", "--workers", 4, "--engine", "ray", "--address", "auto", "--unit-range", "merge"),
        "--force",
    )
    config = IndexConfig(neighbours=7, method="hnsw", memory=2.5, latency=3.5, recall=0.75)
    common = {"config": config, "split": (small, "val"), "force": True, "on_event": "Console.event"}
    assert taught == [{**common, "teacher": name} for name in ("ears", "eyes")]
    (one,) = learned
    assert one == {**common, "student": "pupil", "load": one["load"]}
    assert one["load"]("pupil") == "the student"
    assert loaded == [{"name": "pupil", "trust": ["mine:Mean"]}]
    assert asked == [{"name": "pupil"}]
    assert shared == [Sharing(Workers(4, Engine("ray", "auto")), UnitRange("merge"))] * 2
    assert printed.splitlines()[-1] == f'next: cusa search {small} "WORDS" --student pupil'


def test_index__without_options_every_teacher_of_every_split(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, taught = _recorded(monkeypatch)
    printed = calls.plain("index", small)
    splits, teachers = ("train", "val", "test"), ("eyes", "ears")
    assert [(one["split"], one["teacher"]) for one in taught] == [
        ((small, split), teacher) for split in splits for teacher in teachers
    ]
    assert [one["config"] for one in taught] == [IndexConfig()] * 6
    assert not any(one["force"] for one in taught)
    assert shared == [Sharing(Workers(1, Engine()), None)] * 6
    assert printed.splitlines()[-1] == f"next: cusa audit {small}"
    calls.plain("index", small, "--engine", "ray")
    assert shared[-1] == Sharing(Workers(0, Engine("ray")), None), "on a cluster, all cores"
    assert "next:" not in calls.plain("index", small, "--unit-range", "0:1")
    assert "has no teacher 'nose'. " in calls.refused("index", small, "--teacher", "nose")
