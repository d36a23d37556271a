"""`cusa download`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import AsJson, Force, Settings, Wait, local, parse_path


def download(
    name: Annotated[str, typer.Argument(help="Data set (`cusa list datasets` shows them), or a manifest's TOML file.")],
    out: Annotated[Path, typer.Option(parser=local("--out"), help="Folder for the raw files.")],
    lock: Annotated[
        Path | None, typer.Option(parser=parse_path, help="`lock.json` of another machine: the files must be the same.")
    ] = None,
    retry: Annotated[Literal["failed"] | None, typer.Option(help="Try only the files that failed.")] = None,
    settings: Settings = None,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Bring a data set's raw files, checked and unpacked. `scenes` is drawn here and now, from a seed."""
    from cusa.workflow import download as downloading

    with Console() as console:
        outcome = downloading.download(
            name,
            out=out,
            lock=lock,
            only_failed=bool(retry),
            settings=settings or (),
            force=force,
            on_event=console.event,
        )
    report_outcomes(outcome, as_json=as_json)
