"""How help reads: commands in groups with whole summaries, one spelling of metavariables, one example a command."""

import textwrap
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperGroup
from typer.models import ArgumentInfo, OptionInfo


class Entry(NamedTuple):
    """One command."""

    group: str
    """The heading it stands under."""
    name: str
    command: Callable[..., None]
    example: str
    """A whole line that a user can type; a test runs it."""


METAVARS = {"Path": "PATH", "str": "TEXT", "int": "NUMBER", "float": "NUMBER"}
"""What stands for a value in help, by its type, where the option says nothing better."""


def add(app: typer.Typer, entry: Entry) -> None:
    """Add a command to the app, with its example at the end of its help."""
    for name, hint in get_type_hints(entry.command, include_extras=True).items():
        if get_origin(hint) is Annotated:
            kind, info = get_args(hint)[:2]
            if isinstance(info, ArgumentInfo) and info.metavar is None:
                info.metavar = name.strip("_").upper()
            elif isinstance(info, OptionInfo) and info.metavar is None:
                info.metavar = METAVARS.get(_plain(kind))
    app.command(entry.name, epilog=f"Example:\n\n\b\n  {entry.example}")(entry.command)


def _plain(kind: Any) -> str:
    """Return the name of a value's type: `Path` of `list[Path] | None`; empty for a choice, which lists itself."""
    if get_origin(kind) is Literal:
        return ""
    inner = [_plain(part) for part in get_args(kind) if part is not type(None)]
    return inner[0] if inner else str(getattr(kind, "__name__", ""))


class GroupedCommands(TyperGroup):
    """A group of commands whose help shows them under headings, with their whole first sentences."""

    headings: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Each heading with its commands."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under their headings."""
        width = max(len(name) for _, names in self.headings for name in names)
        for heading, names in self.headings:
            with formatter.section(heading):
                for name in names:
                    summary = (self.commands[name].help or "").split("\n\n")[0].replace("\n", " ")
                    lines = textwrap.wrap(summary, max(20, formatter.width - width - 6))
                    indent = " " * (width + 4)
                    formatter.write(f"  {name.ljust(width)}  " + f"\n{indent}".join(lines) + "\n")
