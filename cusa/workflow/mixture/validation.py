"""Validation during training on several data sets: each on its own split, and the mean over them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cusa.data_config import DataConfig
from cusa.errors import DataError
from cusa.eval.config import EvalConfig
from cusa.manifests.samples import Split, splits
from cusa.models.features import FeatureTable

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


def metric_names(data: DataConfig, work: Path, names: Sequence[str]) -> list[str]:
    """Return what `train.monitor` may be: the metrics, of several data sets those of each that is validated as well.

    Args:
        data: the recipe's; no folder need be there yet.
        work: the folder of the sets that name none.
        names: the metrics of one set.
    """
    validated = []
    for one in data.sets:
        place = Path(one.data).expanduser() if one.data else work
        if _has(place, data.val) if one.val is None else one.val:
            validated.append(one.called or place.resolve().name)
    return [*names, *(f"{of_set}/{name}" for of_set in validated for name in names)]


def _has(work: Path, split: str) -> bool:
    try:
        return split in splits(work)
    except DataError:
        return True  # opening the set says what is missing
