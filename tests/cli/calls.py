"""What a command hands on: the functions it calls are replaced by ones that write down what they were given."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cusa.cli import app
from cusa.manifests.events import Callbacks
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome
from tests.cli.test_cli import cusa_here

CALLBACKS = {
    "on_event": "Console.event",
    "on_metrics": "Console.metrics",
    "on_message": "Console.say",
    "should_stop": "Stopping.asked",
}
"""What a command that trains gives: progress, metrics, sentences, and whether a signal came."""

SHARED = frozenset({"--json", "--wait", "--help", "--debug"})
"""Options that no function is given."""


def outcome(stage: str = "stage", out: Path | str = "there", *, fresh: bool = True, **counts: int) -> Outcome:
    """Return what a stage could have come to."""
    return Outcome(stage, Path(out), fresh, "", counts, 1.0)


def record(
    monkeypatch: pytest.MonkeyPatch, place: object, name: str, returns: object = None
) -> list[Mapping[str, Any]]:
    """Replace a function; return the list of what it is called with, by the names of its parameters.

    Methods (callbacks) stand there by their qualified names, splits by work folder and name.

    Args:
        monkeypatch: pytest's.
        place: the module or class that has it.
        name: its name there.
        returns: what it returns; a function is asked with the arguments.
    """
    signature = inspect.signature(getattr(place, name))
    calls: list[Mapping[str, Any]] = []

    def instead(*arguments: Any, **more: Any) -> Any:
        bound = signature.bind(*arguments, **more)
        calls.append({key: _shown(value) for key, value in bound.arguments.items()})
        return returns(**bound.arguments) if inspect.isfunction(returns) else returns

    monkeypatch.setattr(place, name, instead)
    return calls


def _shown(value: Any) -> Any:
    if inspect.ismethod(value):
        return value.__qualname__
    if isinstance(value, Split):
        return (value.work, value.name)
    if isinstance(value, list):
        return [_shown(one) for one in value]
    if isinstance(value, Callbacks):
        return {name: _shown(one) for name, one in vars(value).items()}
    return value


def options_of(command: str) -> set[str]:
    """Return the long options of a command; of `--leaks/--no-leaks` the first."""
    params = get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {param.opts[0] for param in params if param.param_type_name == "option"}


def every_option(command: object, *words: object, but: frozenset[str] | set[str] = frozenset()) -> str:
    """Run a command with each of its options at a value that is not the default's; return what it printed.

    Args:
        command: its name.
        words: the rest of the line.
        but: options that exclude those of the line.
    """
    off = {option: option.replace("--", "--no-", 1) for option in options_of(str(command))}
    missing = {option for option in off if option not in words and off[option] not in words}
    assert missing == (SHARED & missing) | but, "an option is new: say here what becomes of it"
    return plain(command, *words)


def plain(*words: object) -> str:
    """Run a command; return what it printed to stdout."""
    done = cusa_here(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*words: object) -> str:
    """Run a command that is wrong usage; return what it said."""
    done = cusa_here(*words)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert not done.stdout
    return " ".join(done.stderr.split())
