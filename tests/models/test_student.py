"""Students of someone else's: the adapter of docs/students.md, trained, saved, loaded and scored from outside."""

import re
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from cusa import recipe
from cusa.errors import ConfigError, DataError
from cusa.manifests.storage import store
from cusa.models import export as exporting
from cusa.models import student as students
from cusa.models.config import STUDENT_KINDS, StudentConfig
from cusa.workflow import evaluate as scoring
from cusa.workflow import train as training
from tests import worlds
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "students.md"


def _adapter() -> str:
    (code,) = re.findall(r"```python\n((?:(?!```).)*class Mean.*?)```", PAGE.read_text(), re.S)
    return code


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine.py").write_text(_adapter())
    monkeypatch.syspath_prepend(tmp_path / "outside")
    yield
    sys.modules.pop("mine", None)


def test_the_pages_adapter_trains_and_is_evaluated(mine: None, tmp_path: Path) -> None:
    work = worlds.make_work(tmp_path / "world", images=12, captions=3)
    settings = ["student.kind=mine:Mean", "train.batch=8", "train.steps=30", "train.lr=0.01", "loss.alpha=0"]
    loaded = recipe.load("tiny", [*settings, "loss.beta=0", "eval.bootstrap=0", "train.device=cpu"])
    training.train(loaded, work=work, out=tmp_path / "run")
    rows = store.read_table(tmp_path / "run" / "metrics.parquet").to_pylist()
    losses = [row["value"] for row in rows if row["name"] == "loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert store.read_json(tmp_path / "run" / "model" / "student.json")["kind"] == "mine:Mean"
    (report,) = scoring.evaluate(str(tmp_path / "run"), scoring.EvalRequest(data=[work], trust=["mine:Mean"]))
    assert report["student"] == "mean"
    assert report["tasks"]["cross-modal"]["queries"] == 12 + 36
    with pytest.raises(DataError, match="not part of cusa.*--trust mine:Mean"):
        scoring.evaluate(str(tmp_path / "run"), scoring.EvalRequest(data=[work], force=True))
    again = students.load(tmp_path / "run", trust=["mine:Mean"])
    assert type(again).__name__ == "Mean"


def test_the_pages_adapter_is_short() -> None:
    body = _adapter()[_adapter().index("class Mean") :]
    assert sum(bool(line.strip()) for line in body.splitlines()) <= 42


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nowhere:Mean", "No module named 'nowhere'"),
        ("mine:Median", "has no attribute 'Median'"),
        ("mine:np", "has no method create"),
        ("sun-dial", "There is no kind of student 'sun-dial'"),
    ],
)
def test_classes_that_are_not_there(mine: None, kind: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        students.create(StudentConfig(kind=kind), captions=["a"], uni=False, seed=0)


def test_a_folder_of_a_class_that_is_gone(mine: None, tmp_path: Path) -> None:
    student = students.create(StudentConfig(kind="mine:Mean"), captions=["a red wall"], uni=False, seed=0)
    student.save(tmp_path / "model")
    card = store.read_json(tmp_path / "model" / students.CARD)
    store.write_json(tmp_path / "model" / students.CARD, {**card, "kind": "gone:Mean"})
    with pytest.raises(DataError, match="kind 'gone:Mean'"):
        students.load(tmp_path / "model", trust=["gone:Mean"])


@pytest.mark.parametrize("name", ["clip-vit-b-32", "sgr", "saf", "x2vlm-base"])
def test_recipes_of_the_papers_students_hold_its_weights(name: str) -> None:
    loaded = recipe.load(f"{name}/coco/cusa")
    expected = {"clip-vit-b-32": (0.1, 0.5), "sgr": (0.6, 0.75), "saf": (1.0, 0.75), "x2vlm-base": (0.3, 0.75)}
    assert (loaded.loss.alpha, loaded.loss.beta) == expected[name]
    assert students.kind_class(loaded.student.kind)


def test_a_foreign_class_is_imported_only_if_it_is_named(mine: None, tmp_path: Path) -> None:
    """Even the import must not happen: it runs the module."""
    student = students.create(StudentConfig(kind="mine:Mean"), captions=["a red wall"], uni=False, seed=0)
    student.save(tmp_path / "model")
    (tmp_path / "outside" / "evil.py").write_text("raise SystemExit('code ran')")
    card = store.read_json(tmp_path / "model" / students.CARD)
    store.write_json(tmp_path / "model" / students.CARD, {**card, "kind": "evil:Mean"})
    for trust in ([], ["mine:Mean"], ["evil"]):
        with pytest.raises(DataError, match="'evil:Mean', which is not part of cusa.*trust=\\['evil:Mean'\\]"):
            students.load(tmp_path / "model", trust=trust)
    store.write_json(tmp_path / "model" / students.CARD, card)
    assert type(students.load(tmp_path / "model", trust=["mine:Mean"])).__name__ == "Mean"


def test_an_export_of_a_foreign_class_is_loaded_only_where_it_is_named(mine: None, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    student = students.create(StudentConfig(kind="mine:Mean"), captions=["a red wall"], uni=False, seed=0).eval()
    exporting.run(student, "sentence-transformers", tmp_path / "st")
    assert "model_kwargs={'trust': ['mine:Mean']}" in (tmp_path / "st" / "README.md").read_text()
    with pytest.raises(DataError, match="not part of cusa"):
        SentenceTransformer(str(tmp_path / "st"), device="cpu", trust_remote_code=True)
    exporting.run(student, "folder", tmp_path / "own")
    assert "student.load(FOLDER, trust=['mine:Mean'])" in (tmp_path / "own" / "README.md").read_text()


@pytest.mark.parametrize(
    ("uni_head", "loss_needs_them", "has_them"),
    [("auto", False, False), ("auto", True, True), ("always", False, True), ("never", False, False)],
)
def test_create__uni_modal_heads_where_the_loss_needs_them_or_always(
    uni_head: Literal["auto", "always", "never"], loss_needs_them: bool, has_them: bool
) -> None:
    sizes = {"image_size": 16, "patch_size": 8, "image_width": 16, "text_width": 16, "head_width": 8, "width": 12}
    config = StudentConfig(image_layers=1, text_layers=1, uni_head=uni_head, **sizes)
    assert students.create(config, captions=["a red wall"], uni=loss_needs_them, seed=0).has_uni == has_them


def test_kinds__are_those_that_a_recipe_may_name() -> None:
    assert tuple(students.KINDS) == STUDENT_KINDS
