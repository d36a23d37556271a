"""`cusa export`: from trained runs to folders, up to date when run again, wrong use explained."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cusa import cli, recipe
from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.models.students.sgraf import Sgraf
from cusa.workflow import evaluate as scoring
from cusa.workflow import export as exporting
from cusa.workflow import train as training
from tests import worlds

SMALL = [
    "student.image_size=16",
    "student.patch_size=8",
    "student.image_width=16",
    "student.image_layers=1",
    "student.text_width=16",
    "student.text_layers=1",
    "student.head_width=8",
    "student.width=12",
    "student.sgraf.regions_from=patches",
    "student.sgraf.regions=4",
    "student.sgraf.width=12",
    "student.sgraf.similarity_width=6",
    "train.batch=8",
    "train.steps=2",
    "train.warmup_steps=0",
    "train.device=cpu",
    "loss.alpha=0",
    "loss.beta=0",
    "eval.bootstrap=0",
    "eval.device=cpu",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    work = worlds.make_work(folder, images=8, captions=2)
    for name, told in (
        ("clip", ["student.uni_head=always"]),
        ("sgr", ["student.kind=sgraf"]),
        ("saf", ["student.kind=sgraf", "student.sgraf.module=saf"]),
    ):
        training.train(recipe.load("tiny", [*SMALL, *told]), work=work, out=folder / name)
    scoring.evaluate(str(folder / "clip"), scoring.EvalRequest(data=[work]))
    return folder


def _call(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_export__writes_once_and_is_up_to_date(runs: Path, tmp_path: Path) -> None:
    command = ("export", runs / "clip", "--to", "sentence-transformers", "--space", "uni", "--out", tmp_path / "st")
    first = _call(*command, "--json")
    assert first.exit_code == 0, first.output
    (told,) = json.loads(first.stdout)
    assert told["fresh"]
    assert "is up to date" in _call(*command).output
    assert "recall" not in (tmp_path / "st" / "README.md").read_text()[:200]
    card = (tmp_path / "st" / "README.md").read_text()
    assert "| cross-modal | rsum |" in card
    assert "Data: work." in card
    assert store.read_json(tmp_path / "st" / "ledger.json")["stage"] == "export"


def test_export__an_sgr_and_an_saf_become_sgraf(runs: Path, tmp_path: Path) -> None:
    done = _call("export", runs / "sgr", "--ensemble", runs / "saf", "--to", "folder", "--out", tmp_path / "sgraf")
    assert done.exit_code == 0, done.output
    student = students.load(tmp_path / "sgraf")
    assert isinstance(student, Sgraf)
    assert sorted(student.networks) == ["saf", "sgr"]
    (found,) = scoring.evaluate(
        str(tmp_path / "sgraf"),
        scoring.EvalRequest(data=[runs / "work"], output_folder=tmp_path / "eval", settings=["bootstrap=0"]),
    )
    assert found["tasks"]["cross-modal"]["space"] == "pairs"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("clip", "--to", "onxx"), "There is no export to 'onxx'"),
        (("clip", "--to", "hf", "--space", "unni"), "Did you mean 'uni'"),
        (("sgr", "--to", "hf"), "--to hf takes dual encoders"),
        (("nothing", "--to", "hf"), "nothing"),
        (("clip", "--to", "folder", "--ensemble", "saf"), "two runs of kind sgraf"),
    ],
)
def test_export__wrong_use_names_the_way_out(
    runs: Path, tmp_path: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    with pytest.raises(ValueError, match=words):
        name, _, to, *more = arguments
        options = dict(zip(more[::2], more[1::2], strict=True))
        exporting.export(
            name,
            to=to,
            out=tmp_path / "x",
            space=options.get("--space", "cross"),
            ensemble=options.get("--ensemble", ""),
        )
    assert not (tmp_path / "x").exists()


def test_export__never_replaces_what_is_no_earlier_export(runs: Path, tmp_path: Path) -> None:
    for place in (runs / "clip", runs / "clip" / "model"):
        before = store.sha256_folder(place)
        with pytest.raises(DataError, match="an export replaces its folder whole"):
            exporting.export(str(runs / "clip"), to="folder", out=place)
        assert store.sha256_folder(place) == before
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("precious")
    with pytest.raises(DataError, match="holds notes.txt"):
        exporting.export(str(runs / "clip"), to="folder", out=tmp_path / "own", force=True)
    (tmp_path / "model").mkdir()
    exporting.export(str(runs / "clip"), to="folder", out=tmp_path / "model")
    (tmp_path / "model" / "ledger.json").unlink()  # killed before it was written
    assert exporting.export(str(runs / "clip"), to="hf", out=tmp_path / "model").fresh
    with pytest.raises(DataError, match="no earlier export of another model"):
        exporting.export(str(tmp_path / "model"), to="onnx", out=tmp_path / "model")
