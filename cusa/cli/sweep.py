"""`cusa sweep`."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cusa.cli.console import Console, Stopping, point_on, print_json, print_text, report_outcomes, say
from cusa.cli.options import AsJson, Force, Settings, Wait, parse_path
from cusa.cli.plan import RecipeName


def sweep(
    recipe: RecipeName,
    grid: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="Axis: a recipe key, alpha, beta, tau_q, tau_c, tau_u, seed, or method; repeatable.",
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option("--data", parser=parse_path, help="Work folder; then what else to score on (STS, work folders)."),
    ],
    out: Annotated[
        Path, typer.Option(parser=parse_path, help="Folder of the sweep: runs, results.parquet, results.md.")
    ],
    settings: Settings = None,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Train and score a recipe over a grid, one run a cell, into one table; run again, it goes on where it was."""
    from cusa.manifests.events import Callbacks
    from cusa.workflow import sweep as sweeps

    with Console() as console, Stopping() as stopping:
        done = sweeps.run(
            recipe,
            sweeps.parse_grid(grid),
            data=data,
            out=out,
            settings=settings or (),
            force=force,
            callbacks=Callbacks(console.event, console.metrics, console.say, stopping.asked),
        )
    if as_json:
        print_json(done.rows)
    else:
        report_outcomes(done.outcome)
        print_text(f"\n{done.markdown}")
        point_on(out / "results.md", _next(out, done.rows))
    if done.failed:
        say(f"error: {len(done.failed)} of {len(done.rows)} cells failed; run again to try them again.")
        raise typer.Exit(1)


def _next(out: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the command that reports the sweep: the best run beside the first; empty where none has numbers."""
    scored = [row for row in rows if row.get("cross-modal/rsum") is not None]
    if not scored:
        return ""
    best = max(scored, key=lambda row: float(row["cross-modal/rsum"]))
    runs = dict.fromkeys(f"{out / 'runs' / row['run']}" for row in (scored[0], best))
    return f"cusa report {' '.join(shlex.quote(run) for run in runs)} --sweep {shlex.quote(str(out))}"
