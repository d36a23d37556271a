"""`cusa verify`."""

from pathlib import Path
from typing import Annotated

import typer

from cusa.cli.console import Console, point_on, print_json, print_text
from cusa.cli.options import AsJson, parse_place
from cusa.manifests.words import counted


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
        differing = len(done.findings)
        state = "all as it was written"
        if differing:
            state = f"{counted(differing, 'thing')} {'differs' if differing == 1 else 'differ'}"
        size = f"{counted(done.files, 'file')}, {done.bytes / 2**20:,.1f} MiB, {counted(done.samples, 'sample')}"
        print_text(f"verify: {folder}: {size}: {state}")
    if done.findings:
        raise typer.Exit(1)
    if not as_json:
        point_on(then=_next(folder))


def _next(folder: Path) -> str:
    """Return the command that a sound folder is ready for."""
    if (folder / "recipe.json").is_file():
        return f"cusa eval {folder} --data WORK"
    if any(folder.glob("*/teachers/*/ledger.json")):
        return f"cusa index {folder}"
    if any(folder.glob("*/samples.parquet")):
        return f"cusa extract-teachers {folder} --image TEACHER --text TEACHER"
    return f"cusa shard LAYOUT {folder} --out WORK"
