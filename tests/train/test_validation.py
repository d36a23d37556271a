import math
from pathlib import Path

import pytest
import torch

from cusa.errors import ConfigError, DataError
from cusa.models import student as students
from cusa.train.validation import Best, measure
from tests.train.conftest import Train


class _Student(torch.nn.Module):
    """Writes a number where a model is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "number").write_text(str(self.number))


def _consider(folder: Path, values: list[float]) -> Best:
    student, best = _Student(), Best(folder, monitor="rsum")
    for step, value in enumerate(values, 1):
        student.number = step
        best.consider(student, step, {"rsum": value, "other": -value})  # type: ignore[arg-type]
    return best


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([1.0, 3.0, 2.0], 2),
        ([3.0, 3.0], 1),
        ([-5.0, -4.0], 2),
        ([math.nan, 1.0], 2),
        ([math.nan, 2.0, math.nan, 1.0], 2),
        ([1.0, math.inf, 2.0], 3),
        ([-math.inf, -9.0], 2),
    ],
)
def test_best__is_the_first_of_the_highest_finite_values(tmp_path: Path, values: list[float], step: int) -> None:
    best = _consider(tmp_path, values)
    assert (best.step, best.values["rsum"]) == (step, values[step - 1])
    assert (tmp_path / "model" / "number").read_text() == str(step)
    assert best.passed_over == [at for at, value in enumerate(values, 1) if not math.isfinite(value)]


def test_best__a_value_that_is_none_saves_nothing(tmp_path: Path) -> None:
    best = _consider(tmp_path, [math.nan, math.inf])
    assert (best.step, best.values) == (0, {})
    assert not (tmp_path / "model").exists()


def test_best__another_metric_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.monitor is 'rsums'.*Did you mean 'rsum'"):
        Best(tmp_path, monitor="rsums").consider(_Student(), 1, {"rsum": 1.0})  # type: ignore[arg-type]


def test_measure__leaves_the_random_numbers_alone() -> None:
    student = torch.nn.Dropout().train()
    torch.manual_seed(3)
    expected = torch.rand(2)

    def validate(model: students.Student) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"rsum": float(torch.rand(()) > 2)}

    torch.manual_seed(3)
    assert measure(student, validate) == {"rsum": 0.0}  # type: ignore[arg-type]
    assert torch.equal(torch.rand(2), expected)


def test_a_run__without_a_finite_validation_is_refused_and_with_one_says_which_were_not(
    train: Train, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"No validation gave a finite rsum, so no model was saved"):
        train(tmp_path / "never", validate=lambda student: {"rsum": math.nan})
    assert not (tmp_path / "never" / "model").exists()
    values = iter([math.nan, 2.0, math.nan])
    done = train(tmp_path / "run", validate=lambda student: {"rsum": next(values)})
    assert (done.best_step, done.best) == (8, {"rsum": 2.0})
    assert any("no finite rsum at step 4, 10" in note for note in done.notes)
