"""Frozen parts, recomputed layers, compilation."""

from pathlib import Path

import pytest
import torch

from cusa.errors import ConfigError
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.train.config import TrainConfig
from cusa.train.prepare import freeze, prepare
from tests import towers
from tests.train.conftest import STUDENT, Train
from tests.train.test_survival import same, state


def _student(world: Path) -> students.Student:
    return students.create(STUDENT, captions=Split(world, "train").texts, uni=True, seed=0)


def test_frozen_parts_stand_still(world: Path, train: Train, tmp_path: Path) -> None:
    before = _student(world).state_dict()
    train(tmp_path / "run", train={"freeze": ("backbone.vision_model", "backbone.visual_projection"), "steps": 3})
    after = state(tmp_path / "run", 3)["student"]
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("backbone.vis") for name in moved)
    assert {"backbone.text_projection.weight", "heads.uni.image.linear.weight"} <= moved


def test_names_to_freeze_are_checked(world: Path) -> None:
    with pytest.raises(ConfigError, match=r"'backbone\.vision', which begins no parameter's name.*vision_model"):
        freeze(_student(world), ["backbone.vision"])
    with pytest.raises(ConfigError, match="leaves nothing to learn"):
        freeze(_student(world), ["backbone", "heads"])


def test_layers_computed_again_give_the_same_bits(train: Train, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    again = train(tmp_path / "again", train={"gradient_checkpointing": True})
    assert again.last["loss"] == plain.last["loss"]
    assert same(state(tmp_path / "plain")["student"], state(tmp_path / "again")["student"])


def test_compile_is_asked_of_the_student(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train(tmp_path / "plain", train={"steps": 3})
    compiled = torch.nn.Module.compile
    # Kernels are a C++ compiler's work; here only the tracing of the graph is tried.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled(module, backend="eager"))
    traced = train(tmp_path / "traced", train={"steps": 3, "compile": True})
    assert traced.last["loss"] == pytest.approx(plain.last["loss"], rel=1e-5)
    assert students.load(tmp_path / "traced").name == "scratch"


def test_layers_computed_again__in_both_towers(tmp_path: Path) -> None:
    named = {
        "image": {"name": str(towers.write_image("vit", tmp_path / "vit")), "mode": "learn"},
        "text": {"name": str(towers.write_sentences(tmp_path / "words")), "mode": "learn"},
    }
    config = StudentConfig.model_validate({"kind": "two-tower", "towers": named})
    student = students.create(config, captions=[], uni=False, seed=0)
    prepare(student, TrainConfig(gradient_checkpointing=True))
    again = {n for n, module in student.named_modules() if getattr(module, "gradient_checkpointing", False)}
    assert {n.split(".")[1] for n in again} == {"image", "text"}
