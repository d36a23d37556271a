"""`cusa train`."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from cusa.cli.console import Console, Stopping, report_outcomes
from cusa.cli.options import AsJson, Force, Settings, Wait, local, parse_here
from cusa.cli.plan import RecipeName


def train(
    recipe: RecipeName,
    out: Annotated[Path, typer.Option(parser=local("--out"), help="Folder of the run.")],
    work: Annotated[
        Path | None,
        typer.Option(
            "--data",
            parser=parse_here,
            help="Work folder with shards and teacher tables; not needed where the recipe's data.train names folders.",
        ),
    ] = None,
    settings: Settings = None,
    resume: Annotated[
        Literal["auto", "must"],
        typer.Option(help="auto: go on from the latest whole checkpoint, or start; must: never start without one."),
    ] = "auto",
    allow_changed: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Recipe key in which the checkpoint may differ; repeatable."),
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="Score the best model on the test split at the end.")] = False,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Train a student by a recipe; run again, it goes on where it was. For several ranks: torchrun -m cusa train ..."""
    from cusa import recipe as recipes
    from cusa.manifests.events import Callbacks
    from cusa.workflow import train as training
    from cusa.workflow.mixture import training_data

    loaded = recipes.load(recipe, settings or ())
    work = training_data.main_folder(loaded.data, work)
    with Console() as console, Stopping() as stopping:
        outcome = training.train(
            loaded,
            work=work,
            out=out,
            force=force,
            resume=resume,
            allow_changed=allow_changed or (),
            test=test,
            callbacks=Callbacks(console.event, console.metrics, console.say, stopping.asked),
        )
    if os.environ.get("RANK", "0") == "0":
        given = " ".join(f"--data {folder}" for folder in training_data.unique_folders(loaded, work))
        report_outcomes(outcome, as_json=as_json, then=f"cusa eval {out} {given}")
