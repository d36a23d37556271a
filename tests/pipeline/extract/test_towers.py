"""Frozen towers, encoded once: the same training as with towers that run in every step."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cusa import recipe as recipes
from cusa.errors import ConfigError
from cusa.manifests import tables
from cusa.manifests.events import Callbacks
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig
from cusa.workflow import train as training
from tests import towers, worlds

FEW = [
    *("student.kind=two-tower", "student.heads.width=8", "student.heads.hidden=12", "student.uni_head=auto"),
    *("train.steps=8", "train.batch=8", "train.validate_every=4", "train.lr=0.01", "train.warmup_steps=2"),
    *("train.log_every=1", "eval.bootstrap=0"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = worlds.make_work(tmp_path_factory.mktemp("world"), images=8, captions=2, splits=("train", "val"))
    for name in ("train", "val"):
        for teacher, modality in ((worlds.Colours(), "image"), (worlds.Words(), "text")):
            extract.run(
                ExtractConfig(transform="none"),
                split=Split(work, name),
                teacher=teacher.name,
                modality=modality,
                load=lambda name, modality, teacher=teacher: teacher,
            )
    return work


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("towers")
    return [
        f"student.towers.image.name={towers.write_image('vit', root / 'vit')}",
        f"student.towers.text.name={towers.write_sentences(root / 'words')}",
    ]


def _train(work: Path, out: Path, named: list[str], *settings: str) -> list[str]:
    said: list[str] = []
    callbacks = Callbacks(on_message=said.append)
    training.train(recipes.load("tiny", [*FEW, *named, *settings]), work=work, out=out, callbacks=callbacks)
    return said


def _losses(out: Path) -> np.ndarray:
    rows = pq.read_table(out / "metrics.parquet").to_pylist()
    return np.array([row["value"] for row in rows if row["name"] in ("loss", "val.rsum")])


def test_encoded_once_is_the_same_training(work: Path, named: list[str], tmp_path: Path) -> None:
    said = _train(work, tmp_path / "once", named)
    assert any("image and text towers are frozen: encoded once" in line for line in said)
    assert not any("frozen" in line for line in _train(work, tmp_path / "always", named, "train.encode_once=false"))
    np.testing.assert_allclose(_losses(tmp_path / "once"), _losses(tmp_path / "always"), rtol=1e-4)
    one, other = (students.load(tmp_path / run).state_dict() for run in ("once", "always"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=2e-4)  # AdamW makes much of small gradients


def test_tables_belong_to_the_tower_and_are_nobodys_teachers(work: Path, named: list[str], tmp_path: Path) -> None:
    _train(work, tmp_path / "one", named)
    split = Split(work, "train")
    made = {
        path.parent.name: path.stat().st_mtime_ns for path in (work / "train/teachers").glob("tower-*/00000.parquet")
    }
    assert len(made) == 2
    assert not set(made) & set(tables.teachers(split))
    assert tables.choose_teacher(split, "image") == "colours"
    student = students.load(tmp_path / "one")
    (name,) = (name for name in made if name.startswith("tower-text"))
    with torch.inference_mode():
        rows = torch.nn.functional.normalize(student.tower_features(student.tokenize(split.texts), "text"), dim=1)
    np.testing.assert_allclose(tables.read_teacher(split, name).embeddings, rows.numpy(), atol=1e-6)
    # Other heads and another seed, the same towers.
    _train(work, tmp_path / "two", named, "student.heads.width=4", "train.seed=1")
    after = {
        path.parent.name: path.stat().st_mtime_ns for path in (work / "train/teachers").glob("tower-*/00000.parquet")
    }
    assert after == made


def test_a_tower_that_learns_is_not_encoded_ahead(work: Path, named: list[str], tmp_path: Path) -> None:
    said = _train(work, tmp_path / "run", named, "student.towers.text.mode=learn")
    assert any("image tower is frozen" in line for line in said)


def test_a_work_folder_that_cannot_be_written_is_read_the_slow_way(
    work: Path, named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not any("frozen" in line for line in _train(work, tmp_path / "run", named))


def test_a_run_goes_on_with_the_switch_turned(work: Path, named: list[str], tmp_path: Path) -> None:
    from cusa.errors import StoppedError

    steps: list[int] = []

    def stop() -> bool:
        steps.append(1)
        return len(steps) == 5

    recipe = recipes.load("tiny", [*FEW, *named])
    with pytest.raises(StoppedError):
        training.train(recipe, work=work, out=tmp_path / "run", callbacks=Callbacks(should_stop=stop))
    other = recipes.load("tiny", [*FEW, *named, "train.encode_once=false"])
    assert training.train(other, work=work, out=tmp_path / "run", resume="must").counts["steps_done_now"] == 3
    assert store.read_json(tmp_path / "run/model/student.json")["kind"] == "two-tower"


def test_pictures_that_change_leave_the_image_towers_cache(work: Path, named: list[str], tmp_path: Path) -> None:
    said = _train(work, tmp_path / "run", named, "train.augment.crop=0.5", "train.augment.patches=0.5")
    assert any(line.startswith("The image tower is frozen, and train.augment changes its pictures") for line in said)
    assert any("The text tower is frozen: encoded once" in line for line in said)
    assert any(line.startswith("Pictures change from epoch to epoch: crops of at least 50%") for line in said)
    plain = _train(work, tmp_path / "plain", named)
    assert any("image and text towers are frozen: encoded once" in line for line in plain)
    assert not np.allclose(_losses(tmp_path / "run"), _losses(tmp_path / "plain"), rtol=1e-4)


def test_rows_of_a_table_cannot_change(work: Path, tmp_path: Path) -> None:
    heads = ["student.kind=heads", "student.heads.image_table=colours", "student.heads.text_table=words"]
    with pytest.raises(ConfigError, match=r"train\.augment\.flip is 0\.5, and EmbeddingHeads reads rows of the table"):
        _train(work, tmp_path / "run", heads, "train.augment.flip=0.5")
    assert not (tmp_path / "run").exists()
