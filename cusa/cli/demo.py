"""`cusa demo`."""

from pathlib import Path
from typing import Annotated

import typer

from cusa.cli.console import Console, point_on, print_text
from cusa.cli.options import local


def demo(
    out: Annotated[Path, typer.Option(parser=local("--out"), help="Folder for everything the demo makes.")] = Path(
        "work/demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the drawn data set and of both trainings.")] = 0,
) -> None:
    """Run the whole journey on drawn scenes: no network, no accelerator, no account."""
    from cusa.manifests.events import Callbacks
    from cusa.workflow import demo as demos

    with Console() as console:
        result = demos.demo(out, seed=seed, callbacks=Callbacks(console.event, console.metrics, console.say))
    print_text(result.summary)
    print_text("")
    point_on(result.report)
