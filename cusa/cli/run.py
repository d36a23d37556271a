"""`cusa run`."""

from pathlib import Path

from cusa.cli.console import Console, Stopping, point_on, print_json, print_table, print_text, report_outcomes
from cusa.cli.options import AsJson, Force, Settings, Wait
from cusa.cli.plan import ProjectFolder, RecipeName, RunName, Smoke, WorkThere


def run(
    recipe: RecipeName,
    out: ProjectFolder = Path("work"),
    work: WorkThere = None,
    name: RunName = "",
    settings: Settings = None,
    smoke: Smoke = False,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Do every stage of a recipe that is not up to date, from the download to the report; run again, it goes on."""
    from cusa.eval.tasks.metrics import is_main
    from cusa.manifests.events import Callbacks
    from cusa.workflow import run as runs

    with Console() as console, Stopping() as stopping:
        done = runs.run(
            recipe,
            out=out,
            work=work,
            name=name,
            settings=settings or (),
            smoke=smoke,
            force=force,
            callbacks=Callbacks(console.event, console.metrics, console.say, stopping.asked),
        )
    if as_json:
        outcomes = [{**vars(outcome), "counts": dict(outcome.counts)} for outcome in done.outcomes]
        print_json({**vars(done), "outcomes": outcomes})
        return
    report_outcomes(*done.outcomes)
    shown = done.expected or {key: 0.0 for key in done.figures if is_main(key)}
    rows = [(key, f"{done.figures[key]:.1f}", f"{done.expected[key]:.1f}" if done.expected else "") for key in shown]
    print_text("")
    print_table(("metric", "here", "published") if done.expected else ("metric", "here", ""), rows)
    for note in done.notes:
        print_text(f"\n{note}")
    print_text("")
    point_on(done.report)
