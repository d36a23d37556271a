"""Frozen parts, recomputed layers, compilation."""

from pathlib import Path

import pytest
import torch

from cusa.errors import ConfigError
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.train.config import LossConfig, TrainConfig
from cusa.train.prepare import freeze, prepare
from cusa.train.terms import make_loss
from tests import towers
from tests.train.conftest import LOSS, STUDENT, Train
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


@pytest.mark.filterwarnings("ignore")  # torch's own about itself, as it traces
def test_compile_is_asked_of_the_student(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train(tmp_path / "plain", train={"steps": 3})
    compiled = torch.nn.Module.compile
    # Kernels are a C++ compiler's work; here only the tracing of the graph is tried.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled(module, backend="eager"))
    traced = train(tmp_path / "traced", train={"steps": 3, "compile": True})
    assert traced.last["loss"] == pytest.approx(plain.last["loss"], rel=1e-5)
    assert students.load(tmp_path / "traced").name == "scratch"


@pytest.mark.filterwarnings("ignore")  # torch's own about itself, as it traces
@pytest.mark.parametrize(("impl", "broken_in"), [("plain", set()), ("streamed", {"streamed"})])
def test_compile__finds_no_break_in_student_and_loss(world: Path, impl: str, broken_in: set[str]) -> None:
    """But for the one where the streamed losses begin, which stay as they are."""
    student = _student(world).train()
    torch._dynamo.reset()
    if impl == "plain":
        pixels, tokens = torch.randn(4, 3, 16, 16), student.tokenize(["a red ball", "two", "a dog", "a cat on a mat"])
        found = torch._dynamo.explain(student.forward)(pixels, tokens)
        assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons
    loss = make_loss(LOSS.model_copy(update={"impl": impl})).train()
    names = ("image", "text", "image_uni", "text_uni", "teacher_image", "teacher_text")
    inputs = {name: torch.randn(4, 6, requires_grad=not name.startswith("teacher")) for name in names}
    found = torch._dynamo.explain(loss.forward)(**inputs, image_ids=torch.arange(4))
    assert {reason.user_stack[-1].name for reason in found.break_reasons} == broken_in, found.break_reasons
    assert bool(found.graph_break_count) == bool(broken_in)
    for treatment in ("hardness", "thresholds") if impl == "plain" else ():
        loss = make_loss(LossConfig(alpha=0, beta=0, false_negatives=treatment, impl="plain"), rows=(4, 4)).train()
        given = {name: inputs[name] for name in ("image", "text")}
        found = torch._dynamo.explain(loss.forward)(**given, image_ids=torch.arange(4), text_ids=torch.arange(4))
        assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons
    torch._dynamo.reset()


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
