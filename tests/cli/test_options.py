"""Options that commands share: every path is a path of this machine or a place, whatever the command."""

import contextvars
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.main import get_command

from cusa import cli
from cusa.cli import options
from cusa.errors import ConfigError
from cusa.manifests import lock
from cusa.manifests.storage import mirror
from cusa.pipeline.config import ShardConfig
from tests.cli.test_cli import cusa_here

COMMANDS: dict[str, Any] = get_command(cli.app).commands  # type: ignore[attr-defined]


def _paths() -> Iterator[tuple[str, Any]]:
    """Give every parameter of every command that is a path, or several."""
    for entry in cli.COMMANDS:
        hints = {
            name: get_args(hint)[0]
            for name, hint in get_type_hints(entry.command, include_extras=True).items()
            if get_args(hint)
        }
        for param in COMMANDS[entry.name].params:
            if "Path" in str(hints.get(param.name, "")):
                yield entry.name, param


PATHS = [pytest.param(command, param, id=f"{command} {param.opts[0]}") for command, param in _paths()]


def _parsed(command: str, param: Any, text: str) -> Any:
    with COMMANDS[command].make_context(command, [], resilient_parsing=True) as context:
        value = param.process_value(context, [text] if param.multiple or param.nargs == -1 else text)
    return value[0] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(("command", "param"), PATHS)
def test_paths__of_every_command_begin_at_home_where_they_say_so(
    command: str, param: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _parsed(command, param, "~/x") == tmp_path / "x"
    assert _parsed(command, param, "x/y") == Path("x/y")


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults__of_every_command_can_be_read(command: str) -> None:
    with COMMANDS[command].make_context(command, [], resilient_parsing=True) as context:
        for param in COMMANDS[command].params:
            default = param.get_default(context)
            if default is not None and not param.required:
                param.process_value(context, default)


LOCAL = {
    "demo": ["--out"],
    "download": ["--out"],
    "extract-teachers": ["--import", "--ids"],
    "audit": ["--export-eccv"],
    "train": ["--out"],
    "eval": ["--out"],
    "report": ["--out"],
    "blend": ["--out"],
    "export": ["--out"],
    "sql": ["--run"],
}
"""What must lie on this machine: files that are renamed into place or mapped into memory."""


@pytest.mark.parametrize(("command", "option"), [(name, one) for name, every in LOCAL.items() for one in every])
def test_local__a_place_on_another_machine_is_refused_by_the_option_s_name(command: str, option: str) -> None:
    (param,) = (param for param in COMMANDS[command].params if option in param.opts)
    with pytest.raises(typer.BadParameter, match=rf"Value error, {option} s3://bucket/x: this lies on another machine"):
        _parsed(command, param, "s3://bucket/x")
    assert _parsed(command, param, "file:///a/b") == Path("/a/b")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("report", "s3://b/run"), "RUNS"),
        (("push", "s3://b/x", "--to", "a/b"), "EXPORT"),
        (("eval", "s3://b/run", "--data", "x"), "RUN"),
        (("eval", "run", "s3://b/run", "--judged", "--data", "x"), "RUN"),
        (("blend", "s3://b/x", "run", "--out", "x"), "BASE"),
        (("blend", "base", "s3://b/x", "--out", "x"), "RUN"),
    ],
)
def test_local__models_too(words: tuple[str, ...], named: str) -> None:
    done = cusa_here(*words)
    assert done.returncode == 2
    assert f"{named} s3://b/" in done.stderr
    assert "this lies on another machine" in done.stderr


WRITES = {
    *("download", "shard", "languages", "extract-teachers", "index", "teachers", "calibrate", "audit", "train", "run"),
    *("sweep", "blend", "eval", "report", "export"),
}


def test_wait_and_force__of_every_command_whose_stage_holds_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for option in ("--wait", "--force"):
        assert {
            name for name, command in COMMANDS.items() if any(option in one.opts for one in command.params)
        } == WRITES
    asked: list[bool] = []
    monkeypatch.setattr(lock, "wait_for_others", lambda wait=True: asked.append(wait))
    for words in (("report", tmp_path / "none"), ("report", tmp_path / "none", "--wait")):
        contextvars.copy_context().run(cusa_here, *words)
    assert asked == [True]


def test_parse_place_and_here__a_url_is_a_place_and_read_through_its_mirror(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mirror, "here", lambda place: tmp_path / "mirror" if "://" in str(place) else place)
    assert str(options.parse_place("memory://bucket/x")) == "memory://bucket/x"
    assert options.parse_here("memory://bucket/x") == tmp_path / "mirror"
    assert options.parse_here("x") == Path("x")


def test_columns_of__what_is_what() -> None:
    words = ["image=file", "caption=text=1", "split=part", "label=class", "id=number"]
    assert options.columns_of(words) == {
        **{"image_column": "file", "caption_column": "text=1", "split_column": "part"},
        **{"label_column": "class", "id_column": "number"},
    }
    for wrong in ("image", "image=", "=file", "imgae=file"):
        with pytest.raises(ConfigError, match=rf"--column '{wrong}' is not WHAT=NAME"):
            options.columns_of([wrong])


def test_caption_sources_of__by_place_once_each() -> None:
    rules = options.caption_sources_of(["#3=synthetic", "human", "a=b=web"])
    assert rules == {"#3": "synthetic", "": "human", "a=b": "web"}
    for again, words in (
        (["#3=a", "#3=b"], "names #3 again"),
        (["a", "b"], "all captions again"),
        (["=a"], "no place"),
    ):
        with pytest.raises(ConfigError, match=f"--caption-source .*{words}"):
            options.caption_sources_of(again)


def test_validated__names_the_option_and_the_value() -> None:
    assert options.validated(ShardConfig, max_images=3) == ShardConfig(max_images=3)
    with pytest.raises(ConfigError, match=r"^--max-images 0: Input should be greater than or equal to 1\.$") as error:
        options.validated(ShardConfig, resize=5, quality=0, max_images=0)
    assert error.value.values == {"option": "--max-images"}
