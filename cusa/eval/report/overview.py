"""The report's first section: the headline figures, and what each run was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cusa.eval.report.compare import Difference
from cusa.eval.report.runs import Run, difference_path, settings, value_of
from cusa.eval.tasks import registry
from cusa.manifests.pages import Table


@dataclass(frozen=True)
class Headline:
    """One figure of the last run."""

    label: str
    value: float
    difference: Difference | None
    """To the first run."""


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
        descriptions: run and what its recipe says of itself.
        settings: run -> its settings, as words by name.
        loss_setting: of the first run that has soft labels; None if none has.
    """

    baseline: str
    headlines: Sequence[Headline]
    descriptions: Sequence[tuple[str, str]]
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
            headlines.append(Headline(registry.label(headline), value, difference))
    descriptions = [(run.name, run.recipe["description"]) for run in runs if run.recipe.get("description")]
    setting = next((one for run in runs if (one := _loss_setting(run)) is not None), None)
    return Overview(runs[0].name, headlines, descriptions, {run.name: settings(run) for run in runs}, setting)


def _loss_setting(run: Run) -> LossSetting | None:
    loss = run.recipe.get("loss", {})
    if not (loss.get("alpha") or loss.get("beta")):
        return None
    alpha, beta, temperature = loss["alpha"], loss["beta"], loss["teacher_image_temperature"]["initial"]
    is_paper = loss["reduction"] == "standard" and (alpha, beta, temperature) == (0.1, 0.5, 1.0)
    return LossSetting(run.name, is_paper, alpha, beta, temperature)
