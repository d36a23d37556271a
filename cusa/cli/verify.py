"""`cusa verify`."""

from pathlib import Path
from typing import Annotated

import typer

from cusa.cli.console import Console, print_json, print_text
from cusa.cli.options import AsJson, parse_place


def verify(
    folder: Annotated[Path, typer.Argument(parser=parse_place, help="Raw files, a work folder or a run.")],
    workers: Annotated[int, typer.Option(help="Processes; 0 = one a core.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Check every digest, every tar member and every row; name what differs, and exit with 1 if anything does."""
    from cusa.pipeline import verify as stage

    with Console() as console:
        done = stage.run(folder, workers=workers, on_event=console.event)
    if as_json:
        print_json({**vars(done), "findings": [vars(finding) for finding in done.findings]})
    else:
        for finding in done.findings:
            print_text(f"{finding.path}{f': {finding.what}' if finding.what else ''}: {finding.detail}")
        state = f"{len(done.findings)} things differ" if done.findings else "all as it was written"
        print_text(
            f"verify: {folder}: {done.files:,} files, {done.bytes / 2**20:,.1f} MiB, {done.samples:,} samples: {state}"
        )
    if done.findings:
        raise typer.Exit(1)
