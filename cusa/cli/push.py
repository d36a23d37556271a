"""`cusa push`."""

from pathlib import Path
from typing import Annotated

import typer

from cusa.cli.console import Console, print_json, print_table, print_text
from cusa.cli.options import AsJson, local


def push(
    folder: Annotated[Path, typer.Argument(metavar="EXPORT", parser=local("EXPORT"), help="What `cusa export` wrote.")],
    to: Annotated[str, typer.Option(metavar="REPOSITORY", help="OWNER/NAME; it is made if there is none.")],
    card: Annotated[bool, typer.Option("--card", help="Only the card and the metadata.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make it a private one, if it is made.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; show what would be sent.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "",
    as_json: AsJson = False,
) -> None:
    """Push an export, a model or a data set, to a repository of the hub. The token comes from HF_TOKEN."""
    from cusa.pipeline.publish.push import push as send

    with Console():
        pushed = send(folder, to, card_only=card, private=private, dry_run=dry_run, message=message)
    if as_json:
        print_json(vars(pushed))
        return
    if dry_run:
        print_table(("file", "bytes"), [(name, f"{size:,}") for name, size in sorted(pushed.files.items())])
    where = pushed.commit or f"{pushed.kind} {pushed.repository}; nothing was sent"
    print_text(f"push: {len(pushed.files)} files, {pushed.bytes / 2**20:,.1f} MiB: {where}")
