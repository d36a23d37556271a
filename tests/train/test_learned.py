"""A checkpoint holds what learns."""

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
