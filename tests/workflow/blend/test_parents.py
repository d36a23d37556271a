"""The two models of a blend: digests of what points follow from, and how a run's start is made anew."""

from pathlib import Path
from typing import Any

import pytest

from cusa import recipe as recipes
from cusa.errors import ConfigError
from cusa.eval.config import EvalConfig
from cusa.manifests.storage import store
from cusa.models import source
from cusa.models import student as students
from cusa.workflow.blend import BlendRequest, interpolation, parents
from cusa.workflow.blend.parents import Parents
from cusa.workflow.evaluated.model import EvaluatedModel
from tests.cli import calls

RECIPE = recipes.load("tiny", ["student.name=org/model", "loss.beta=0.5", "train.seed=7"]).model_dump(mode="json")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Describe every run by the same recipe; weights have their names as digests."""
    monkeypatch.setattr(source, "refuse_missing", lambda name: None)
    monkeypatch.setattr(source, "weights_digest", lambda name: f"weights of {name}")

    def open_model(name: str, settings: Any, trust: Any) -> EvaluatedModel:
        recipe = {} if name == "plain" else {**RECIPE, "parts": []}
        return EvaluatedModel(name, Path(name), recipe, EvalConfig(top=1 + len(settings)), f"weights of {name}", trust)

    return calls.record(monkeypatch, parents, "open_model", open_model)


def _open(**more: Any) -> Parents:
    asked = {"base": "a/base", "run": "b/run", "out": Path("out"), "settings": ["top=3"], "trust": ("m:C",), **more}
    return Parents.open(BlendRequest(**asked))


def test_open__who_they_are_and_what_each_point_follows_from(opened: list[Any]) -> None:
    both = _open()
    assert opened == [{"name": "b/run", "settings": ["top=3"], "trust": ("m:C",)}]
    assert (both.base_digest, both.model.digest) == ("weights of a/base", "weights of b/run")
    assert both.identities == {
        **{"base": "a/base", "base_digest": "weights of a/base", "run": "b/run", "run_digest": "weights of b/run"},
    }
    folders = _open(base="/home/anna/base", run="/home/anna/run").identities
    assert (folders["base"], folders["run"]) == ("base", "run"), "whose folders they lie in is nobody's business"
    digests = {
        store.digest([made.digest(alpha)]) for made in (both, _open(base="c"), _open(run="d")) for alpha in (0.0, 0.5)
    }
    assert len(digests) == 6
    assert both.digest(0.5) == _open(settings=[]).digest(0.5), "how it is measured is no part of a point's weights"


@pytest.mark.parametrize(
    "other", ["student.name=org/other", "loss.beta=0", "train.seed=8", "student.width=64", "student.uni_head=always"]
)
def test_open__a_start_is_known_by_what_makes_it(
    opened: list[Any], monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    start = _open(base="start")
    assert start.identities["base"] == "the start of run"
    assert _open(base="start").base_digest == start.base_digest
    told = recipes.load("tiny", ["student.name=org/model", "loss.beta=0.5", "train.seed=7", other])
    monkeypatch.setitem(globals(), "RECIPE", told.model_dump(mode="json"))
    assert _open(base="start").base_digest != start.base_digest


def test_open__what_started_from_nothing_has_no_start(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="plain is no run and does not say what it started from"):
        _open(base="start", run="plain")
    monkeypatch.setitem(globals(), "RECIPE", recipes.load("tiny").model_dump(mode="json"))
    with pytest.raises(ConfigError, match="started from random weights"):
        _open(base="start")


def test_load__both_or_the_start_made_as_the_run_s_training_made_it(
    opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Student:
        features = {"image": "a table"}

        def __init__(self, name: str) -> None:
            self.name = name

        def eval(self) -> str:
            return f"{self.name}, evaluating"

    loaded = calls.record(monkeypatch, students, "load", lambda name, trust: Student(name))
    made = calls.record(monkeypatch, students, "create", lambda **told: Student("made"))
    monkeypatch.setattr(interpolation, "Blend", lambda base, run: (getattr(base, "name", base), run.name))
    assert _open().load() == ("a/base", "b/run")
    assert loaded == [{"name": "b/run", "trust": ("m:C",)}, {"name": "a/base", "trust": ("m:C",)}]
    assert _open(base="start").load() == ("made, evaluating", "b/run")
    told = recipes.load("tiny", ["student.name=org/model"]).student
    assert made == [{"config": told, "captions": (), "uni": True, "seed": 7, "features": {"image": "a table"}}]
