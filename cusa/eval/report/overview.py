"""The report's first section: the headline figures, and what each run was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cusa.eval.report.compare import Difference
from cusa.eval.report.runs import Run, difference_path, settings, value_of
from cusa.eval.tasks import definitions, metrics, registry
from cusa.manifests.pages import Table, Term


@dataclass(frozen=True)
class Headline:
    """One figure of the last run."""

    label: Term
    value: float
    unit: str
    chance: float | None
    """What a random ranking gets; None where nobody knows."""
    difference: Difference | None
    """To the first run."""
    interval: tuple[float, float] | None
    """Of 95 %, of the run alone."""


class Change(NamedTuple):
    """A key of a recipe that a run was given another value of; the values are written as TOML."""

    key: str
    recipe: str
    set: str


@dataclass(frozen=True)
class Description:
    """What a run's recipe says of itself, and what was changed of it for this run."""

    run: str
    recipe: str
    """Its name; empty where none is known."""
    description: str
    changes: Sequence[Change]


@dataclass(frozen=True)
class LossSetting:
    """How a run's loss relates to the paper's setting for CLIP, read literally."""

    run: str
    is_paper: bool
    alpha: float
    beta: float
    temperature: float
    """Of the soft labels."""


@dataclass(frozen=True)
class Overview:
    """The section's values.

    Attributes:
        baseline: the first run's name.
        headlines: of the last run.
        descriptions: of the runs whose recipe is known.
        settings: run -> its settings, as words by name.
        loss_setting: of the first run that has soft labels; None if none has.
    """

    baseline: str
    headlines: Sequence[Headline]
    descriptions: Sequence[Description]
    settings: Mapping[str, Mapping[str, str]]
    loss_setting: LossSetting | None

    @property
    def settings_table(self) -> Table:
        """The settings, a column a run."""
        names = dict.fromkeys(name for words in self.settings.values() for name in words)
        rows = [[name, *(words.get(name, "") for words in self.settings.values())] for name in names]
        return Table(["", *self.settings], rows, range(1, len(self.settings) + 1))


def gather(runs: Sequence[Run], differences: Sequence[Mapping[str, Difference]]) -> Overview:
    """Return the section's values.

    Args:
        runs: the first is the baseline.
        differences: of each other run to it, by path.
    """
    headlines = []
    for headline in registry.HEADLINES:
        task, _, metric = headline.partition("/")
        value = value_of(runs[-1], task, metric)
        if value is not None:
            difference = differences[-1].get(difference_path(task, metric)) if differences else None
            summary = runs[-1].result["tasks"][task]
            headlines.append(
                Headline(
                    definitions.term(metric, registry.label(headline)),
                    value,
                    metrics.named(metric).metric.unit,
                    metrics.chance_in(summary, metric),
                    difference,
                    tuple(summary["intervals"][metric]) if summary.get("intervals", {}).get(metric) else None,
                )
            )
    descriptions = [_description(run) for run in runs if run.recipe]
    setting = next((one for run in runs if (one := _loss_setting(run)) is not None), None)
    return Overview(runs[0].name, headlines, descriptions, {run.name: settings(run) for run in runs}, setting)


def _description(run: Run) -> Description:
    changes = [Change(one["key"], one["recipe"], one["set"]) for one in run.changes]
    return Description(run.name, run.recipe.get("name", ""), run.recipe.get("description", ""), changes)


def _loss_setting(run: Run) -> LossSetting | None:
    loss = run.recipe.get("loss", {})
    if not (loss.get("alpha") or loss.get("beta")):
        return None
    alpha, beta, temperature = loss["alpha"], loss["beta"], loss["teacher_image_temperature"]["initial"]
    treated = loss.get("label_smoothing") or loss.get("false_negatives", "soft") != "soft"
    treated = treated or loss.get("pair_weights", "none") != "none"
    if loss.get("contrast", "infonce") != "infonce" or treated:
        return None
    is_paper = loss["reduction"] == "standard" and (alpha, beta, temperature) == (0.1, 0.5, 1.0)
    return LossSetting(run.name, is_paper, alpha, beta, temperature)
