"""`cusa list`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cusa.cli.console import print_json, print_table
from cusa.cli.options import AsJson, parse_here


def list_(
    what: Annotated[
        Literal["datasets", "layouts", "recipes", "teachers", "drop-reasons"], typer.Argument(help="What to show.")
    ],
    work: Annotated[
        Path | None, typer.Option("--data", parser=parse_here, help="Show what this work folder holds instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what there is to choose from, or what a work folder holds."""
    from cusa.workflow import catalogue as catalogues

    header, rows = catalogues.catalogue(what, work)
    if as_json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
    else:
        print_table(header, rows)
