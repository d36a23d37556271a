"""`cusa sql`."""

from pathlib import Path
from typing import Annotated

import typer

from cusa.cli.console import print_text, say
from cusa.cli.options import Work, local


def sql(
    work: Work,
    query: Annotated[str, typer.Argument(help="One statement; without it, the views are shown.")] = "",
    runs: Annotated[
        list[Path] | None, typer.Option("--run", parser=local("--run"), help="Run folder; default: `runs` beside WORK.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="table, csv, json or markdown.")] = "table",
) -> None:
    """Ask in SQL: DuckDB with a typed view for each table, read only."""
    from cusa.manifests import mirror
    from cusa.pipeline.query import connect, render

    with connect(mirror.here(work), runs=runs) as database:
        answer = database.run(query) if query else database.overview()
    print_text(render(answer, form).rstrip("\n"))
    for note in answer.notes:
        say(note)
