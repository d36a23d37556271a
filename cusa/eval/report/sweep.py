"""The report's section on a sweep: cross-modal against uni-modal quality of every setting, and the frontier."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cusa.errors import DataError
from cusa.eval.report import charts
from cusa.eval.tasks import definitions, metrics
from cusa.manifests.pages import Table
from cusa.manifests.storage import store


def _labelled(path: str) -> tuple[str, str]:
    task, _, name = path.partition("/")
    way = metrics.DIRECTIONS.get(task, ("",))[0]
    return path, f"{way} {metrics.title(name)}".strip()


CROSS = _labelled("cross-modal/rsum")
UNI = tuple(map(_labelled, ("image-to-image/r@1", "text-to-text/r@1", "sts/average")))
"""The numbers that are set against each other, and their names for people."""


class Setting(NamedTuple):
    """One setting of a sweep, its seeds together."""

    name: str
    seeds: int
    values: Mapping[str, float]
    """Metric -> mean over its seeds."""
    deviations: Mapping[str, float]
    """Metric -> standard deviation over its seeds, where there are several."""


def read(folder: Path) -> list[Setting]:
    """Read a sweep's settings from its `results.parquet`; cells without finite numbers are left out.

    Raises:
        DataError: if it is no sweep, or nothing in it has numbers.
    """
    rows = store.read_table(folder / "results.parquet", made_by="cusa sweep").to_pylist()
    paths = [CROSS[0], *(path for path, _ in UNI)]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if _is_finite(row.get(CROSS[0])):
            groups.setdefault(_name(row), []).append(row)
    if not groups:
        raise DataError(
            f"{folder} has no cell with {CROSS[0]}. Look at its results.md, then run it again.", path=folder
        )
    settings = []
    for name, group in groups.items():
        seeds = {metric: _finite(group, metric) for metric in paths if metric in group[0]}
        means = {metric: float(np.mean(values)) if values else float("nan") for metric, values in seeds.items()}
        spread = {metric: float(np.std(values, ddof=1)) for metric, values in seeds.items() if len(values) > 1}
        settings.append(Setting(name, len(group), means, spread))
    return settings


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the points that no other one beats in one value without losing in the other, x rising."""
    best, front = -np.inf, []
    for number in sorted(range(len(points)), key=lambda at: (-points[at][0], -points[at][1])):
        if points[number][1] > best:
            best = points[number][1]
            front.append(number)
    return front[::-1]


@dataclass(frozen=True)
class Sweep:
    """The section's values."""

    charts: Sequence[charts.Chart]
    """One of RSUM against each uni-modal metric."""
    table: Table


def gather(settings: Sequence[Setting]) -> Sweep | None:
    """Return the section's values; None without settings."""
    if not settings:
        return None
    numbered = {number: one for number, one in enumerate(_best_first(settings), 1)}
    drawn = []
    for metric, words in UNI:
        points = [
            charts.Point(one.values[CROSS[0]], one.values[metric], one.name, str(number))
            for number, one in numbered.items()
            if _known(one, metric)
        ]
        if not points:
            continue
        front = frontier([(point.x, point.y) for point in points])
        drawn.append(
            charts.scatter_chart(f"{CROSS[1]} and {words}", points, x_label=CROSS[1], y_label=words, front=front)
        )
    return Sweep(drawn, table(settings))


def table(settings: Sequence[Setting]) -> Table:
    """Return the settings, best RSUM first and numbered as in the charts; `*` marks a frontier's points."""
    shown = [(metric, words) for metric, words in (CROSS, *UNI) if any(_known(one, metric) for one in settings)]
    on_front: dict[str, set[str]] = {}
    for metric, _ in shown[1:]:
        known = [one for one in settings if _known(one, metric)]
        front = frontier([(one.values[CROSS[0]], one.values[metric]) for one in known])
        on_front[metric] = {known[number].name for number in front}
    rows = []
    for number, one in enumerate(_best_first(settings), 1):
        cells = [_cell(one, metric) + ("*" if one.name in on_front.get(metric, ()) else "") for metric, _ in shown]
        rows.append([f"{number}. {one.name}", str(one.seeds), *cells])
    terms = {at: definitions.term(metric, words) for at, (metric, words) in enumerate(shown, 2)}
    return Table(["setting", "seeds", *(words for _, words in shown)], rows, words=(0,), terms=terms)


def _best_first(settings: Sequence[Setting]) -> list[Setting]:
    return sorted(settings, key=lambda one: -one.values[CROSS[0]])


def _cell(one: Setting, metric: str) -> str:
    if not _known(one, metric):
        return ""
    spread = one.deviations.get(metric)
    return f"{one.values[metric]:.2f}" + ("" if spread is None else f" ± {spread:.2f}")


def _known(one: Setting, metric: str) -> bool:
    return _is_finite(one.values.get(metric))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _finite(group: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    return [row[metric] for row in group if _is_finite(row.get(metric))]


def _name(row: Mapping[str, Any]) -> str:
    """Name a cell by its axes, the seed left out; by its weights where they are none of them."""
    not_axes = {"run", "error", "seconds", "seed", "train.seed"}
    axes = {
        key: value
        for key, value in row.items()
        if key not in not_axes and not key.startswith("set.") and "/" not in key
    }
    weights = {short: row.get(f"set.loss.{short}") for short in ("alpha", "beta")}
    axes |= {key: value for key, value in weights.items() if value is not None and f"loss.{key}" not in axes}
    return ", ".join(f"{key.removeprefix('loss.')} {value}" for key, value in axes.items())
