"""Validation during training, without side effects on training; the best model is saved."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from cusa.errors import ConfigError, nearest
from cusa.models.students.base import Student
from cusa.train import checkpoint, ranks

Validate = Callable[[Student], Mapping[str, float]]
"""Validates a student, which is in evaluation mode on its device; returns metric name -> value."""

MODEL_FOLDER = "model"


class Best:
    """The best model so far, in the run's `model` folder.

    Args:
        out: the run's folder.
        monitor: validation number whose highest value marks the best.
    """

    def __init__(self, out: Path, *, monitor: str) -> None:
        self.step = 0
        self.values: dict[str, float] = {}
        self.folder = out / MODEL_FOLDER
        """Where the model is saved."""
        self.passed_over: list[int] = []
        """Steps of which the monitored metric was not finite."""
        self._monitor = monitor

    def consider(self, student: Student, step: int, values: Mapping[str, float]) -> None:
        """Save the model if its validation is the best so far; one whose monitored metric is not finite never is.

        Raises:
            ConfigError: if the validation has no metric of the monitored name.
        """
        if self._monitor not in values:
            raise ConfigError(
                f"train.monitor is {self._monitor!r}, and validation has no such metric. "
                f"{nearest(self._monitor, values)}.",
                key="train.monitor",
            )
        value, best = values[self._monitor], self.values.get(self._monitor, math.nan)
        if not math.isfinite(value):
            self.passed_over.append(step)
        elif not (math.isfinite(best) and value <= best):
            self.values = dict(values)
            self.keep(student, step)

    def keep(self, student: Student, step: int) -> None:
        """Save the model; of several ranks only the first does."""
        self.step = step
        if ranks.rank() == 0:
            student.save(self.folder)


def measure(student: Student, validate: Validate) -> dict[str, float]:
    """Validate in evaluation mode without touching the training's random numbers.

    Of several ranks only the first validates and sends the metrics to the others. The student stays in evaluation mode.
    """
    values: dict[str, float] = {}
    if ranks.rank() == 0:
        state = checkpoint.random_state()
        student.eval()
        with torch.no_grad():
            values = {name: float(value) for name, value in validate(student).items()}
        checkpoint.set_random_state(state)
    first: dict[str, float] = ranks.gather_values(values)[0]
    return first
