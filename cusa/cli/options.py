"""Options that several commands share, and how words become configurations."""

import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cusa.errors import ConfigError, nearest

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from cusa.pipeline.engine import Engine


def parse_path(text: str) -> Path:
    """Return a path of this machine; `~` is the home folder, also where the shell did not expand it (`--out=~/w`)."""
    from cusa.manifests.storage.paths import expand

    return expand(text)


def parse_text(text: str) -> str:
    """Return words as the user typed them, also where the locale could not decode them (`LC_ALL=C`)."""
    return os.fsencode(text).decode("utf-8", "replace")


def parse_place(text: str | Path) -> Path:
    """Return a path, or the place that a URL names."""
    from cusa.manifests.storage.paths import place

    return place(text)


def parse_here(text: str) -> Path:
    """Return a path, or the mirror on this machine of the place that a URL names."""
    from cusa.manifests.storage import mirror

    return mirror.here(parse_place(text))


def local(option: str) -> Callable[[str | Path], Path]:
    """Return a parser for what must lie on this machine: files that are renamed into place or mapped into memory.

    It is given an option's default too, which is a path already.
    """

    def parse_local(text: str | Path) -> Path:
        if isinstance(text, str) and "://" in text and not text.startswith("file://"):
            raise ConfigError(
                f"{option} {text}: this lies on another machine, and a folder of this one is needed. Give a local "
                "path, and copy it from or to the store with the store's own tool (for S3: `aws s3 cp --recursive`).",
                option=option,
            )
        return parse_place(text)

    return parse_local


Work = Annotated[Path, typer.Argument(metavar="WORK", parser=parse_place, help="Work folder that `cusa shard` wrote.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Only this split; repeatable. Default: all.")]


def _wait(value: bool) -> None:
    """Let every stage of this command wait for a folder's writer."""
    if value:
        from cusa.manifests import lock

        lock.wait_for_others()


Wait = Annotated[
    bool,
    typer.Option(
        "--wait",
        help="Wait for another process that writes there, instead of being refused.",
        callback=_wait,
        expose_value=False,
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE:CLASS",
        help="A student's class outside cusa that the model's folder may name: its module is run; repeatable.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Do it again even if nothing changed.")]
EngineKind = Annotated[Literal["local", "ray"], typer.Option("--engine", help="Where to work.")]
EngineAddress = Annotated[str, typer.Option("--address", help="Ray cluster: auto or host:port; empty starts one here.")]
UnitWorkers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Processes that share the work; 0 = one a core. Default: 1; on Ray a core."),
]
UnitRanges = Annotated[
    str,
    typer.Option(
        "--unit-range",
        metavar="RANGE",
        help="For a scheduler's array: make these units only, FIRST:STOP or K/N; then `merge`.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key, as train.steps=500; repeatable."),
]


Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="WHAT=NAME",
        help="Of a table: image, caption, split, label, id, source (of the caption), url, sha256 or md5; repeatable.",
    ),
]


def columns_of(pairs: Iterable[str]) -> dict[str, str]:
    """Turn `image=url` into `image_column="url"`."""
    allowed = ("image", "caption", "split", "label", "id", "source", "url", "sha256", "md5")
    columns = {}
    for pair in pairs:
        what, equals, name = pair.partition("=")
        if not (equals and name) or what not in allowed:
            raise ConfigError(f"--column {pair!r} is not WHAT=NAME. {nearest(what, allowed)}.", option="--column")
        columns[f"{what}_column"] = name
    return columns


def caption_sources_of(rules: Iterable[str]) -> dict[str, str]:
    """Turn `#3=synthetic` into `{"#3": "synthetic"}`, and `human` into `{"": "human"}`."""
    sources: dict[str, str] = {}
    for rule in rules:
        where, equals, source = rule.rpartition("=")
        if where in sources or (equals and not where):
            why = f"names {where or 'all captions'} again" if where in sources else "names no place before the ="
            raise ConfigError(f"--caption-source {rule} {why}. Give each place one source.", option="--caption-source")
        sources[where] = source
    return sources


def refuse_unread(context: typer.Context, read: Collection[str], mode: str) -> None:
    """Refuse options that were given and that a mode of a command does not read.

    Args:
        context: the command's.
        read: names of the parameters that it reads, as the command's function has them; those that every command has
            need not be named.
        mode: what the user wrote to choose it, such as `--pairs`; it begins the message.

    Raises:
        ConfigError: naming them.
    """
    always = {"force", "wait", "as_json", "work", *read}
    names = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in always and source is not None and source.name == "COMMANDLINE":
            names.append(parameter.opts[0])
    if names:
        raise ConfigError(f"{mode} does not read {', '.join(names)}. Leave out one or the other.", option=names[0])


def validated(model: type[Any], **values: Any) -> Any:
    """Make a configuration from options, its complaints turned into ours."""
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        option = "--" + str(problem["loc"][0]).replace("_", "-")
        raise ConfigError(f"{option} {problem['input']}: {problem['msg']}.", option=option) from None


def engine_of(kind: Literal["local", "ray"], address: str) -> "Engine":
    """Return the engine that the options name."""
    from cusa.pipeline.engine import Engine

    return Engine(kind, address)


def units_shared(
    workers: int | None, kind: Literal["local", "ray"], address: str, unit_range: str
) -> "AbstractContextManager[None]":
    """Let the stages of this command share their units as the options say."""
    from cusa.pipeline.engine import Workers
    from cusa.pipeline.units.sharing import UnitRange, sharing

    count = workers if workers is not None else int(kind == "local")
    return sharing(Workers(count, engine_of(kind, address)), UnitRange(unit_range) if unit_range else None)
