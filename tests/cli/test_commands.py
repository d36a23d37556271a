"""Every command: the exit code of what goes wrong, and errors as JSON where a program asked for it."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cusa import doctor, errors
from tests.cli.test_cli import cusa_here


def _raising(error: BaseException) -> Callable[..., Any]:
    def look(*words: object) -> None:
        raise error

    return look


@pytest.mark.parametrize(
    ("kind", "code"),
    [("ConfigError", 2), ("DataError", 1), ("StaleError", 1), ("BusyError", 1), ("StoppedError", 1)],
)
def test_errors__wrong_usage_is_2_what_failed_is_1_and_json_says_what(
    monkeypatch: pytest.MonkeyPatch, kind: str, code: int
) -> None:
    error = errors.CusaError.__new__(getattr(errors, kind))
    errors.CusaError.__init__(error, "Something is wrong.", path=Path("a/b"), number=3)
    monkeypatch.setattr(doctor, "look", _raising(error))
    done = cusa_here("doctor")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "error: Something is wrong.\n")
    told = cusa_here("doctor", "--json")
    assert told.returncode == code
    values = {"path": "a/b", "number": 3}
    assert json.loads(told.stdout) == {"error": {"kind": kind, "message": "Something is wrong.", "values": values}}
    assert told.stderr == "error: Something is wrong.\n"


def test_errors__a_line_that_cannot_be_read_names_the_command_s_help() -> None:
    done = cusa_here("doctor", "--nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: No such option: --nothing (`cusa doctor -h` shows what there is.)\n"
    told = cusa_here("doctor", "--json", "--nothing")
    assert told.returncode == 2
    assert json.loads(told.stdout)["error"]["kind"] == "ConfigError"


def test_stopped__is_said_and_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "look", _raising(KeyboardInterrupt()))
    done = cusa_here("doctor")
    assert (done.returncode, done.stdout) == (1, "")
    assert "run the same command again to go on" in done.stderr


def test_a_fault_of_ours_is_no_user_s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "look", _raising(RuntimeError("ours")))
    with pytest.raises(RuntimeError, match="ours"):
        cusa_here("doctor")


def test_sigterm_stops_as_ctrl_c_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        monkeypatch.setattr(doctor, "look", lambda out: signal.raise_signal(signal.SIGTERM))
        assert cusa_here("doctor").returncode == 1
    finally:
        signal.signal(signal.SIGTERM, before)
