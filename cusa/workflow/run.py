"""A whole recipe: every stage that is not up to date, one after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cusa.manifests.events import OnEvent, ignore
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
    on_event: OnEvent = ignore,
    on_metrics: Callable[[int, Any], None] = lambda step, values: None,
    say: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
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
        on_event: hears of every stage's progress.
        on_metrics: hears every row of the training's metrics.
        say: hears a sentence before each stage.
        should_stop: when true, the training step's checkpoint is written and StoppedError raised.

    Raises:
        CusaError: what the stages raise.
    """
    project = projects.open_project(recipe, out, work=work, name=name, settings=settings, smoke=smoke, force=force)
    ears = stages.Ears(on_event, on_metrics, should_stop)
    if smoke:
        say(projects.SMOKE)
    outcomes = []
    every = stages.of(project)
    for number, stage in enumerate(every, 1):
        say(f"{number} of {len(every)}: {stage.name}, {stage.what}")
        outcomes += stage.do(ears)
    expected = {} if smoke else {key: value for key, value in project.recipe.expected.items() if key in ears.figures}
    return Ran(outcomes, dict(ears.figures), expected, ears.pages[-1], (projects.SMOKE,) if smoke else ())
