"""A recipe trained and scored over a grid of settings: one run a cell, one table of results.

`OUT/runs/CELL` are runs like any other. `OUT/results.parquet` has a row a cell, in the order of the grid; its columns:

- `run`: the folder under `OUT/runs`. Cells that come to the same recipe (alpha where the method has no CSA) share
  one; it is trained once.
- one an axis, named as in the grid (`method`, `seed`, `loss.alpha`...): int64 or float64 where all its values are
  numbers, else text.
- `set.loss.alpha`, `set.loss.beta`, `set.loss.reduction`, `set.train.seed`, `set.train.batch`: what the run was trained
  with, whatever the axes are.
- `error`: why a cell has no numbers; empty if it has.
- `seconds`: of its training.
- one a metric, float64, null where there is none: `TASK/METRIC` (`cross-modal/rsum`, `image-to-image/r@1`) on the work
  folder, `sts/SET` on the STS sets, `DATA SET/TASK/METRIC` on further work folders.

`OUT/results.md` shows the main ones, with means and intervals over seeds where there are several.
"""

import itertools
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cusa import recipe as recipes
from cusa.errors import ConfigError, CusaError, StoppedError
from cusa.eval.tasks.metrics import short_title
from cusa.manifests import ledger
from cusa.manifests.events import SILENT, Callbacks
from cusa.manifests.samples import Split, splits
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.recipe import Recipe
from cusa.workflow import evaluate as scoring
from cusa.workflow import train as training
from cusa.workflow.mixture import training_data

Value = str | int | float
Cell = Mapping[str, Value]
"""One value for each axis."""

METHOD = "method"
"""The axis whose values are baseline, csa, usa and cusa."""

SHORT = {
    "seed": ("train.seed={0}",),
    "alpha": ("loss.alpha={0}",),
    "beta": ("loss.beta={0}",),
    "tau_q": ("loss.teacher_image_temperature={{initial={0}, minimum={0}, maximum={0}, learned=false}}",),
    "tau_c": ("loss.csa_image_temperature={{initial={0}, minimum={1}, maximum={2}}}",),
    "tau_u": (
        "loss.usa_image_temperature={{initial={0}, minimum={1}, maximum={2}}}",
        "loss.usa_text_temperature={{initial={0}, minimum={1}, maximum={2}}}",
    ),
}
"""Axes with the paper's names. {1} and {2} are the bounds 0.1 and 1, moved out where the value lies beyond them."""

_ALWAYS = ("loss.alpha", "loss.beta", "loss.reduction", "train.seed", "train.batch")
_SHOWN = (
    "cross-modal/rsum",
    "cross-modal-truth/image-to-text/r_precision",
    "cross-modal-truth/text-to-image/r_precision",
    "cross-modal-truth/image-to-text/map_at_r",
    "cross-modal-truth/text-to-image/map_at_r",
    "image-to-image/r@1",
    "text-to-text/r@1",
    "sts/average",
)
"""What `results.md` shows of each cell; the table has everything."""


@dataclass(frozen=True)
class Swept:
    """What a sweep came to."""

    outcome: Outcome
    rows: list[dict[str, Any]]
    """As in `results.parquet`, a row a cell."""
    markdown: str
    """As in `results.md`."""

    @property
    def failed(self) -> list[str]:
        """The runs without numbers."""
        return [row["run"] for row in self.rows if row["error"]]


def parse_grid(axes: Iterable[str]) -> dict[str, list[Value]]:
    """Turn `loss.alpha=0.1,0.5` into axis and values.

    Raises:
        ConfigError: if one is no `KEY=VALUE,VALUE`, an axis comes twice, or a value does.
    """
    grid: dict[str, list[Value]] = {}
    for text in axes:
        axis, equals, listed = text.partition("=")
        values = [_value(part.strip()) for part in listed.split(",") if part.strip()]
        if not equals or not axis.strip() or not values:
            raise ConfigError(f"--grid {text!r} is no KEY=VALUE,VALUE. Write --grid loss.alpha=0.1,0.5.", grid=text)
        axis = axis.strip()
        if axis in grid:
            raise ConfigError(f"--grid {axis} comes twice; give all its values at once.", grid=text)
        if len(set(map(str, values))) < len(values):
            raise ConfigError(f"--grid {text!r} names a value twice.", grid=text)
        grid[axis] = values
    return grid


def settings_of(cell: Cell, settings: Sequence[str] = ()) -> list[str]:
    """Return a cell as overrides of a recipe.

    A treatment's strengths, its numbers (a mask's threshold), come first, so that the sweep's settings and the other
    axes choose them. What makes it that treatment, and the weights that a method takes away, come last.

    Args:
        cell: a value for each axis.
        settings: overrides of every cell.

    Raises:
        ConfigError: if there is no such method, or a temperature is no number.
    """
    method = recipes.method_settings(str(cell[METHOD])) if METHOD in cell else []
    strengths = [one for one in method if _is_strength(*one.split("=", 1))]
    chosen = []
    for axis, value in cell.items():
        if axis == METHOD:
            continue
        if axis in SHORT and not isinstance(value, int | float):
            raise ConfigError(f"--grid {axis}={value}: it is a number.", axis=axis)
        bounds = (min(value, 0.1), max(value, 1.0)) if axis.startswith("tau") and not isinstance(value, str) else ()
        chosen += [form.format(value, *bounds) for form in SHORT.get(axis, (f"{axis}={{0}}",))]
    return [*strengths, *settings, *chosen, *(one for one in method if one not in strengths)]


def _is_strength(key: str, value: str) -> bool:
    return key not in ("loss.alpha", "loss.beta") and isinstance(_value(value), int | float)


def cells(grid: Mapping[str, Sequence[Value]]) -> list[dict[str, Value]]:
    """Return every combination, the last axis running fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def run(
    recipe: str,
    grid: Mapping[str, Sequence[Value]],
    *,
    data: Sequence[Path],
    out: Path,
    settings: Sequence[str] = (),
    force: bool = False,
    callbacks: Callbacks = SILENT,
) -> Swept:
    """Train and score every cell of a grid, one after another; run again, finished cells are up to date.

    A cell that fails (a loss that is no number, say) is a row with its error, and the others go on.

    Args:
        recipe: name or TOML file.
        grid: axis -> values: keys of a recipe, the names of `SHORT`, or `method`.
        data: what the runs are scored on; the first is the work folder they are trained on.
        out: folder of the sweep.
        settings: overrides of every cell.
        force: train and score all of them anew.
        callbacks: called with every step, with a sentence before each cell, and asked whether to stop.

    Raises:
        ConfigError: for an unknown recipe, axis or value; before anything is trained.
        DataError: if the work folder lacks what the recipe needs.
        StoppedError: if it was asked to stop.
    """
    if not data or not splits(data[0]):
        raise ConfigError("A sweep needs --data: the work folder first.", data=list(data))
    chosen = [(cell, recipes.load(recipe, settings_of(cell, settings))) for cell in cells(grid)]
    places = _places(chosen)
    first = chosen[0][1].data
    if first.sets:
        sets = training_data.folders(chosen[0][1], data[0])
        inputs = {f"{one.name}/{one.split}": Split(one.work, one.split).digest for one in sets}
    else:
        inputs = {name: Split(data[0], name).digest for name in (first.train_split, first.val, first.test)}
    parameters = {
        "recipe": recipe,
        "settings": list(settings),
        "grid": {axis: list(values) for axis, values in grid.items()},
        "cells": store.digest([one.model_dump(mode="json") for _, one in chosen]),
        "data": [str(folder) for folder in data],
    }
    stage = StageRun("sweep", out / "ledger.json", inputs=inputs, parameters=parameters, force=force)
    if stage.up_to_date:
        rows = store.read_table(out / "results.parquet").to_pylist()
        return Swept(stage.reuse(), rows, (out / "results.md").read_text(encoding="utf-8"))
    results: dict[str, dict[str, Any]] = {}
    rows = []
    with stage.begin():
        for number, ((cell, one), place) in enumerate(zip(chosen, places, strict=True), 1):
            if place not in results:
                callbacks.on_message(f"{number} of {len(chosen)}: {place}")
                results[place] = _one(one, data, out / "runs" / place, force, callbacks)
            always = {f"set.{key}": _dig(one, key) for key in _ALWAYS}
            rows.append({"run": place, **cell, **always, **results[place]})
            _write(out, rows, list(grid))
        markdown = _write(out, rows, list(grid))
        failed = sum(bool(one["error"]) for one in results.values())
        counts = {"cells": len(rows), "runs": len(results), "failed": failed}
        if failed:  # no ledger: run again, they are tried again
            return Swept(Outcome("sweep", out, True, stage.why, counts, 0.0), rows, markdown)
        done = stage.finish(outputs=[out / "results.parquet", out / "results.md"], counts=counts)
    return Swept(done, rows, markdown)


def _one(
    recipe: Recipe,
    data: Sequence[Path],
    folder: Path,
    force: bool,
    callbacks: Callbacks,
) -> dict[str, Any]:
    """Train and score one cell: `error`, `seconds` and the metrics."""
    try:
        training.train(recipe, work=data[0], out=folder, force=force, callbacks=callbacks)
        results = scoring.evaluate(
            str(folder),
            scoring.EvalRequest(data=data, trust=recipe.student.classes, force=force),
            on_event=callbacks.on_event,
        )
    except (StoppedError, ConfigError):
        raise
    except CusaError as error:
        return {"error": str(error), "seconds": None}
    training_ledger = ledger.read(folder / "ledger.json")
    seconds = training_ledger.seconds if training_ledger else None
    return {"error": "", "seconds": seconds, **scoring.figures(results, data[0])}


def _places(chosen: Sequence[tuple[Cell, Recipe]]) -> list[str]:
    """Return each cell's folder; cells of the same recipe share the first one's."""
    seen: dict[str, str] = {}
    places = []
    for cell, one in chosen:
        name = "_".join(re.sub(r"[^A-Za-z0-9.=-]+", "-", f"{axis}={value}") for axis, value in cell.items()) or "run"
        if len(name) > 120:
            name = f"{name[:100]}-{store.digest(dict(cell))[:12]}"
        recipe = store.digest(one.model_dump(mode="json"))
        if recipe not in seen and name in seen.values():
            name = f"{name}-{recipe[:12]}"  # signs that no folder's name has are all written `-`
        places.append(seen.setdefault(recipe, name))
    return places


def _write(out: Path, rows: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> str:
    """Write what is known so far; return the Markdown."""
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    store.write_table(out / "results.parquet", pa.table(columns))
    text = markdown(rows, axes)
    store.write_text(out / "results.md", text)
    return text


def _column(values: list[Any]) -> Any:
    import pyarrow as pa

    numbers = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in numbers):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if numbers and all(isinstance(value, int) for value in numbers):
        return pa.array(values, pa.int64())
    return pa.array(values, pa.float64())


def markdown(rows: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> str:
    """Return the main numbers as Markdown: a row a cell, or where `seed` is an axis a row a setting, over its seeds."""
    shown = [(key, short_title(key)) for key in _SHOWN if any(row.get(key) is not None for row in rows)]
    seeds = [axis for axis in axes if axis in ("seed", "train.seed")]
    others = [axis for axis in axes if axis not in seeds]
    header = [*others, *(["seeds"] if seeds else []), *(words for _, words in shown)]
    lines = [header, ["---"] * len(header)]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(tuple(row[axis] for axis in others) if seeds else (number,), []).append(row)
    for group in groups.values():
        cell = [str(group[0][axis]) for axis in others]
        values = [[row[key] for row in group if row.get(key) is not None] for key, _ in shown]
        shown_values = [_over_seeds(numbers) for numbers in values]
        lines.append([*cell, *([str(sum(not row["error"] for row in group))] if seeds else []), *shown_values])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    errors = [f"- `{row['run']}`: {row['error']}" for row in rows if row["error"]]
    if seeds:
        text += "\nMean over seeds, with the half width of its 95 % t-interval.\n"
    return text + ("\nWithout numbers:\n\n" + "\n".join(errors) + "\n" if errors else "")


def _over_seeds(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean, half = mean_interval(values)
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} ± {half:.2f}"


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % t-interval (NaN for less than two values)."""
    import numpy as np
    from scipy.stats import t

    number = len(values)
    mean = float(np.mean(values))
    if number < 2:
        return mean, math.nan
    return mean, float(t.ppf(0.975, number - 1) * np.std(values, ddof=1) / math.sqrt(number))


def _dig(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _value(text: str) -> Value:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text
