"""Validation during training on several data sets: each on its own split, and the mean over them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cusa.eval.config import EvalConfig
from cusa.manifests.samples import Split
from cusa.models.features import FeatureTable
from cusa.recipe import Recipe

if TYPE_CHECKING:
    from cusa.models.students.base import Student

Validated = tuple[str, Split, Mapping[str, FeatureTable]]
"""Name of a data set, its validation split, and the tables that heads read there; empty for other students."""


def on_each(sets: Sequence[Validated], config: EvalConfig) -> Callable[["Student"], Mapping[str, float]]:
    """Return what validates a student on several splits.

    Its numbers are `NAME/METRIC` of each set, and under the metric's own name the mean over the sets, each counting the
    same however large it is.
    """
    from cusa.eval.evaluate import validate

    def measure(student: "Student") -> dict[str, float]:
        read = student.features
        values: dict[str, dict[str, float]] = {}
        try:
            for name, split, own in sets:
                student.features = own or read  # its tables may have other names
                values[name] = validate(student, split, config)
        finally:
            student.features = read
        first = values[sets[0][0]]
        mean = {metric: sum(one[metric] for one in values.values()) / len(values) for metric in first}
        return mean | {f"{name}/{metric}": value for name, one in values.items() for metric, value in one.items()}

    return measure


def metric_names(recipe: Recipe, names: Sequence[str]) -> list[str]:
    """Return what `train.monitor` may be: the metrics, of several data sets those of each as well.

    A set without a name or folder goes by the folder of `--data`, which is known later: its metrics are not listed.
    """
    return [*names, *(f"{one.called}/{name}" for one in recipe.data.sets if one.called for name in names)]
