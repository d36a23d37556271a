"""`cusa download`."""

from pathlib import Path
from typing import Annotated

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import AsJson, Force, Settings, Wait, local, parse_path
from cusa.errors import ConfigError


def download(
    name: Annotated[str, typer.Argument(help="Data set (`cusa list datasets` shows them), or a manifest's TOML file.")],
    out: Annotated[Path, typer.Option(parser=local("--out"), help="Folder for the raw files.")],
    lock: Annotated[
        Path | None, typer.Option(parser=parse_path, help="`lock.json` of another machine: the files must be the same.")
    ] = None,
    retry: Annotated[str, typer.Option(help="`failed`: try only the files that failed.")] = "",
    settings: Settings = None,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Bring a data set's raw files, checked and unpacked. `scenes` is drawn here and now, from a seed."""
    from cusa.workflow import download as downloading

    if retry not in ("", "failed"):
        raise ConfigError(f"--retry {retry!r}: `failed` is what can be tried again.", option="--retry")
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
