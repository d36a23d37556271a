"""`cusa sql`."""

import math
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cusa.cli.console import Console, is_conversation, print_json_text, print_text, say, terminal_width
from cusa.cli.options import Work, local, parse_path, parse_text
from cusa.errors import ConfigError
from cusa.manifests.words import counted


def sql(
    work: Work,
    query: Annotated[
        str,
        typer.Argument(
            parser=parse_text, help="One statement; `-` reads it from stdin. Without it: a prompt, or the views."
        ),
    ] = "",
    runs: Annotated[
        list[Path] | None,
        typer.Option("--run", parser=local("--run"), help="Run folder; default: `runs` beside WORK or its parent."),
    ] = None,
    raw: Annotated[
        list[Path] | None,
        typer.Option("--raw", parser=parse_path, help="Folder of a download; default: those near WORK."),
    ] = None,
    form: Annotated[
        Literal["table", "csv", "json", "markdown", "parquet"],
        typer.Option("--format", help="How the answer is shown."),
    ] = "table",
    out: Annotated[
        Path | None, typer.Option(parser=parse_path, help="File for the answer; --format parquet needs one.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(parser=parse_path, help="Copy every view into this DuckDB file, for other tools.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that a query may take; 0 = any.")] = 300.0,
    escape_formulas: Annotated[
        bool, typer.Option("--escape-formulas", help="CSV for a spreadsheet: ' before texts that begin with = + - @.")
    ] = False,
    write: Annotated[bool, typer.Option("--allow-write", help="Let statements write, and read other files.")] = False,
) -> None:
    """Ask in SQL: DuckDB with a typed view for each table, read only unless --allow-write is given."""
    from cusa.manifests.storage import mirror, store
    from cusa.pipeline.sql.database import connect, render

    if not 0 <= timeout < math.inf:
        raise ConfigError(f"--timeout {timeout:g}: a number of seconds, 0 or more.", option="--timeout")
    if form == "parquet" and out is None:
        raise ConfigError("--format parquet needs --out FILE: it is no text.", option="--out")
    if query == "-":
        query = sys.stdin.read()
    with connect(mirror.here(work), runs=runs, raw=raw, read_only=not write) as database:
        for path, option in ((export, "--export"), (out, "--out")):
            if path is not None:
                database.refuse_own_file(path, option)
        if export is not None:
            with Console() as console:
                number = database.export(export, on_event=console.event)
            print_text(f"sql: {export}: {number} tables")
            return
        if not query and out is None and is_conversation():
            from cusa.cli.prompt import prompt

            prompt(database, form, limit=timeout)
            return
        if form == "parquet" and out is not None:
            rows = database.save(query, out, limit=timeout)
            print_text(f"sql: {out}: {counted(rows, 'row')}")
            return
        answer = database.run(query, limit=timeout) if query else database.overview()
    text = render(answer, form, escape_formulas=escape_formulas, width=0 if out is not None else terminal_width())
    if out is not None:
        store.write_text(out, text)
    elif form == "json":
        print_json_text(text.rstrip("\n"))
    else:
        print_text(text.rstrip("\n"))
    for note in answer.notes:
        say(note)
