"""A checkpoint holds what learns."""

import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from cusa.errors import StaleError, StoppedError
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.models.config import LoraConfig
from cusa.train.learned import frozen_digest, learned_state, load_learned
from cusa.train.prepare import freeze
from tests.train.conftest import STUDENT, Train
from tests.train.test_survival import same, state


def _student(world: Path) -> students.Student:
    return students.create(STUDENT, captions=Split(world, "train").texts, uni=True, seed=0)


@pytest.mark.parametrize("told", [{"lora": LoraConfig(rank=2)}, {}])
def test_checkpoints_hold_what_learns_and_resume_to_the_same_bits(
    world: Path, train: Train, tmp_path: Path, told: dict[str, Any]
) -> None:
    config, options = STUDENT.model_copy(update=told), {"steps": 6, "freeze": () if told else ("text",)}

    def fresh(seed: int = 0) -> students.Student:
        return students.create(config, captions=Split(world, "train").texts, uni=True, seed=seed)

    whole = fresh()
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    train(tmp_path / "whole", student=whole, train=options)
    moved = {name for name, value in whole.state_dict().items() if not torch.equal(value, before[name])}
    kept = state(tmp_path / "whole", 6)["student"]
    assert moved == {name for name in kept if not name.endswith("position_ids")}
    assert all(("lora_" in name or name.startswith("heads.")) if told else "text_model" not in name for name in moved)
    stops = iter([False, False, False, True])
    with pytest.raises(StoppedError):
        train(tmp_path / "cut", student=fresh(), train=options, should_stop=lambda: next(stops, False))
    with pytest.raises(StaleError, match="goes with other frozen weights"):
        train(tmp_path / "cut", student=fresh(seed=1), train=options)
    cut = fresh()
    train(tmp_path / "cut", student=cut, train=options)
    assert same(cut.state_dict(), whole.state_dict())


def test_a_checkpoint_of_other_frozen_parts_is_refused(world: Path) -> None:
    student = _student(world)
    freeze(student, ["text"])
    kept = learned_state(student)
    with pytest.raises(RuntimeError, match="do not learn in both, the first 'backbone.text_model"):
        load_learned(_student(world), kept)
    load_learned(student, kept)


def test_frozen_digest__knows_names_and_bytes() -> None:
    def frozen(**values: list[float]) -> str:
        module = torch.nn.Module()
        for name, numbers in values.items():
            module.register_parameter(name, torch.nn.Parameter(torch.tensor(numbers), requires_grad=False))
        module.register_parameter("learned", torch.nn.Parameter(torch.rand(2)))
        return frozen_digest(module)

    digests = [frozen(a=[1, 2], b=[3]), frozen(a=[1, 2], c=[3]), frozen(a=[1, 2], b=[4]), frozen(a=[1], b=[2, 3])]
    assert len({*digests}) == 4
    assert frozen(b=[3], a=[1, 2]) == digests[0]
    assert frozen() == ""


def _tied() -> torch.nn.Module:
    """Return a module of which one frozen table bears two names, as tied embeddings do, and one learned likewise."""
    module = torch.nn.Module()
    module.table, module.head = torch.nn.Embedding(3, 2), torch.nn.Linear(2, 3, bias=False)
    module.head.weight = module.table.weight
    module.table.weight.requires_grad_(False)
    module.learned, module.again = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    module.again.weight = module.learned.weight
    module.register_buffer("seen", torch.zeros(1))
    return module


def test_learned_state__what_is_frozen_is_left_out_under_each_of_its_names() -> None:
    module = _tied()
    state = learned_state(module)
    assert {*state} == {"learned.weight", "learned.bias", "again.weight", "again.bias", "seen"}
    other = _tied()
    frozen = other.table.weight.clone()
    load_learned(other, state)
    assert torch.equal(other.learned.weight, module.learned.weight)
    assert torch.equal(other.table.weight, frozen), "frozen parameters stay as they are"
    assert frozen_digest(module) != frozen_digest(other)
    other.table.weight.data.copy_(module.table.weight)
    assert frozen_digest(module) == frozen_digest(other)


@pytest.mark.parametrize("change", ["more", "less", "frozen too"])
def test_load_learned__other_names_are_refused(change: str) -> None:
    module = _tied()
    state = learned_state(module)
    if change == "more":
        state["unknown"] = torch.zeros(1)
        words = "1 parameters do not learn in both, the first 'unknown'"
    elif change == "less":
        del state["seen"], state["learned.bias"]
        words = "2 parameters do not learn in both, the first 'learned.bias'"
    else:
        state["table.weight"] = module.table.weight
        words = "1 parameters do not learn in both, the first 'table.weight'"
    with pytest.raises(RuntimeError, match=words):
        load_learned(_tied(), state)


def test_frozen_digest__is_over_names_and_bytes_in_the_order_of_names() -> None:
    module = torch.nn.Module()
    values = {"b": torch.tensor([[1.5, 2.0], [3.0, 4.0]]).T, "a": torch.tensor([7.0], dtype=torch.float64)}
    for name, value in values.items():
        module.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))
    total = hashlib.sha256(b"a" + struct.pack("<d", 7) + b"b" + struct.pack("<4f", 1.5, 3, 2, 4))
    assert frozen_digest(module) == total.hexdigest()
