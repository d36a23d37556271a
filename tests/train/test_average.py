"""The moving average of the weights, against a plain loop."""

from pathlib import Path

import pytest
import torch

from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.train.average import Average
from tests.train.conftest import STUDENT, Train
from tests.train.test_step import take
from tests.train.test_survival import same, state


def test_average_equals_a_plain_loop() -> None:
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average = Average(model, 0.95)
    expected = model.weight.detach().clone()
    for step in range(300):
        with torch.no_grad():
            model.weight += torch.randn(2, 3)
        average.update(step)
        decay = min(0.95, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.state_dict()["weight"], expected)
    assert list(average.state_dict()) == ["weight"]
    own = model.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight.detach(), own)
    with pytest.raises(RuntimeError, match="other parameters"):
        average.load_state_dict({})


def test_the_average_is_validated_and_saved_and_training_is_as_without(train: Train, tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def validate(student: students.Student) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in student.state_dict().items()})
        return {"rsum": float(len(seen))}

    train(tmp_path / "plain", validate=lambda student: {"rsum": 0.0})
    train(tmp_path / "run", validate=validate, train={"ema": 0.5})
    got = state(tmp_path / "run")
    assert same(got["student"], state(tmp_path / "plain")["student"])
    name = "heads.uni.image.linear.weight"
    assert torch.equal(seen[-1][name], got["average"][name])
    assert not torch.equal(got["average"][name], got["student"][name])
    assert torch.equal(students.load(tmp_path / "run").state_dict()[name], got["average"][name])


def test_update__counts_steps_from_zero(world: Path, tmp_path: Path) -> None:
    name = "heads.uni.image.linear.weight"
    student = students.create(STUDENT, captions=Split(world, "train").texts, uni=True, seed=0)
    first = student.state_dict()[name].clone()
    session, _ = take(world, tmp_path, ema=0.5)
    assert session.average is not None
    expected = first / 10 + session.student.state_dict()[name] * 9 / 10  # decay (1 + 0) / (10 + 0)
    torch.testing.assert_close(session.average.state_dict()[name], expected)
