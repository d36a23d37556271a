"""`cusa report`."""

from pathlib import Path
from typing import Annotated

import typer

from cusa.cli.console import print_json, report_outcomes
from cusa.cli.options import AsJson, Force, Wait, local, parse_here, parse_path


def report(
    runs: Annotated[
        list[Path], typer.Argument(parser=local("RUNS"), help="Evaluated runs; the first is the baseline.")
    ],
    work: Annotated[
        Path | None, typer.Option("--data", parser=parse_here, help="Work folder; default: the one the run names.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(parser=local("--out"), help="HTML file; default: report.html in the last run.")
    ] = None,
    sweep: Annotated[
        Path | None, typer.Option(parser=parse_path, help="Folder of a sweep: its frontier is drawn.")
    ] = None,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page, and the same tables as Markdown."""
    from cusa.workflow import report as reporting

    outcome = reporting.report(runs, work=work, out=out, sweep=sweep, force=force)
    if as_json:
        print_json({"page": outcome.out, "markdown": outcome.out.with_suffix(".md"), "fresh": outcome.fresh})
    else:
        then = f"cusa index {work or 'WORK'} --student {runs[-1]}"
        report_outcomes(outcome, look_at=outcome.out, then=then)
