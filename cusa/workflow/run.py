"""A whole recipe: every stage that is not up to date, one after another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cusa.manifests.events import SILENT, Callbacks
from cusa.manifests.stage import Outcome
from cusa.workflow import project as projects
from cusa.workflow import stages


@dataclass(frozen=True)
class Ran:
    """What a recipe came to."""

    outcomes: list[Outcome]
    """Of every stage, in order; those that were up to date too."""
    figures: dict[str, float]
    """Every number of the evaluation, by `cusa.workflow.evaluate.figures`' names."""
    expected: dict[str, float]
    """The published ones among them; empty for a smoke."""
    report: Path
    notes: tuple[str, ...]
    """Full sentences a person should read."""


def run(
    recipe: str,
    *,
    out: Path,
    work: Path | None = None,
    name: str = "",
    settings: Sequence[str] = (),
    smoke: bool = False,
    force: bool = False,
    callbacks: Callbacks = SILENT,
) -> Ran:
    """Do every stage of a recipe that is not up to date; stopped anywhere and called again it goes on there.

    Args:
        recipe: name or TOML file.
        out: folder of the project; see `cusa.workflow.stages`.
        work: a work folder that is there already; then nothing is brought or sharded.
        name: the run's folder in `out/runs`; the recipe's name when empty.
        settings: overrides.
        smoke: the same recipe on drawn scenes with a tiny student of the same kind, in `out/smoke`.
        force: train and score anew; a run that was trained with other settings is refused without it.
        callbacks: called with every stage's progress, the training's metrics and a sentence before each stage, and
            asked whether to stop.

    Raises:
        CusaError: what the stages raise.
    """
    project = projects.open_project(recipe, out, work=work, name=name, settings=settings, smoke=smoke, force=force)
    if smoke:
        callbacks.on_message(projects.SMOKE)
    outcomes: list[Outcome] = []
    figures: dict[str, float] = {}
    every = stages.of(project)
    for number, stage in enumerate(every, 1):
        callbacks.on_message(f"{number} of {len(every)}: {stage.name}, {stage.what}")
        result = stage.do(callbacks)
        outcomes += result.outcomes
        figures |= result.figures
    expected = {} if smoke else {key: value for key, value in project.recipe.expected.items() if key in figures}
    return Ran(outcomes, figures, expected, outcomes[-1].out, (projects.SMOKE,) if smoke else ())
