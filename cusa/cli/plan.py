"""`cusa plan`."""

from pathlib import Path
from typing import Annotated

import typer

from cusa.cli.console import print_json, print_table, print_text
from cusa.cli.options import AsJson, Settings, parse_path

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or the path of a TOML file.")]
ProjectFolder = Annotated[
    Path, typer.Option(parser=parse_path, help="Folder of the project: raw, data and runs go there.")
]
WorkThere = Annotated[
    Path | None,
    typer.Option("--data", parser=parse_path, help="A work folder that is there; nothing is brought or sharded then."),
]
RunName = Annotated[str, typer.Option("--name", help="The run's folder in runs; default: the recipe's name.")]
Smoke = Annotated[
    bool, typer.Option("--smoke", help="The same recipe on drawn scenes, with a tiny student of the same kind.")
]


def plan(
    recipe: RecipeName,
    out: ProjectFolder = Path("work"),
    work: WorkThere = None,
    name: RunName = "",
    settings: Settings = None,
    smoke: Smoke = False,
    as_json: AsJson = False,
) -> None:
    """Show what `cusa run` would do: which stages are up to date and why not, bytes, time, disk, terms to accept."""
    from cusa.workflow import plan as plans

    planned = plans.plan(recipe, out=out, work=work, name=name, settings=settings or (), smoke=smoke)
    if as_json:
        print_json({**vars(planned), "stages": [vars(stage) for stage in planned.stages]})
        return
    rows = [
        (
            stage.stage,
            stage.what,
            f"{stage.state}: {stage.why}" if stage.why else stage.state,
            _size(stage.bytes),
            _size(stage.disk),
            _time(stage.seconds),
        )
        for stage in planned.stages
    ]
    print_text(f"{planned.recipe} in {planned.out}")
    print_table(("stage", "on", "state", "fetch", "disk", "time"), rows)
    for stage in planned.stages:
        if stage.licence:
            print_text(f"\nterms of {stage.what}: {stage.licence}")
    for note in planned.notes:
        print_text(f"\n{note}")


def _size(number: int | None) -> str:
    if number is None:
        return ""
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
