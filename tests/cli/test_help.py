"""Help: every command under a heading with its whole summary, choices listed, and an example that runs."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cusa import __version__, cli
from cusa.cli.help import METAVARS

HEADINGS = ("Start", "Data", "Teachers", "Audit", "Train", "Evaluate", "Share")
FEW = [
    *("train.steps=2", "train.batch=16", "train.validate_every=2", "train.log_every=1", "train.warmup_steps=0"),
    "eval.bootstrap=0",
]
SMALL = [word for setting in FEW for word in ("--set", setting)]
FASTER = {
    "download": ["--set", "train=40", "--set", "val=12", "--set", "test=12"],
    "train": SMALL,
    "sweep": SMALL,
    "plan": SMALL,
    "run": SMALL,
    "eval": ["--set", "bootstrap=0"],
}
NOT_HERE = ("demo", "review")  # the demo has a test of its own, the review serves until it is stopped


def _help(*words: str) -> str:
    done = CliRunner(env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).invoke(cli.app, [*words, "-h"], prog_name="cusa")
    assert done.exit_code == 0, done.output
    return re.sub(r"\s+", " ", done.output)


def test_help__every_command_stands_under_a_heading_with_its_whole_summary() -> None:
    shown = _help()
    places = [shown.index(f"{heading}: ") for heading in HEADINGS]
    assert places == sorted(places)
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    assert {entry.name for entry in cli.COMMANDS} == commands.keys()
    for name, command in commands.items():
        summary = re.sub(r"\s+", " ", command.help.split("\n\n")[0]).strip()
        assert f"{name} {summary}" in shown


def test_version() -> None:
    done = CliRunner().invoke(cli.app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"cusa {__version__}\n")


@pytest.mark.parametrize("entry", cli.COMMANDS, ids=lambda entry: entry.name)
def test_help__of_a_command_has_its_example_and_one_spelling_of_metavariables(entry: cli.Entry) -> None:
    shown = _help(entry.name)
    assert f"Example: {entry.example}" in shown
    command = get_command(cli.app).commands[entry.name]  # type: ignore[attr-defined]
    for param in command.params:
        if param.name != "help" and not getattr(param, "is_flag", False):
            metavar = param.metavar or param.display_type(None)
            assert re.fullmatch(r"[A-Z][A-Z_ :=,]*|<[a-z0-9-]+(\|[a-z0-9-]+)*>", metavar), (param.name, metavar)
    assert set(METAVARS.values()) == {"PATH", "TEXT", "NUMBER"}


def test_examples__run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for entry in cli.COMMANDS:
        if entry.name in NOT_HERE:
            continue
        program, *words = shlex.split(entry.example)
        assert program == "cusa"
        done = CliRunner().invoke(cli.app, [*words, *FASTER.get(entry.name, [])])
        assert done.exit_code == 0, (entry.example, done.output)
        assert done.stdout
        assert "never finished" not in done.stdout or entry.name == "plan"
        for line in re.findall(r"^open: (.*)$", done.stdout, re.MULTILINE):
            assert Path(line).is_file()
        then = re.findall(r"^next: cusa ([a-z-]+)", done.stdout, re.MULTILINE)
        assert set(then) <= {entry.name for entry in cli.COMMANDS}
        assert len(then) == 1 or entry.name not in ("download", "verify", "sweep", "report")
        if entry.name == "sweep":
            _, *words = shlex.split(done.stdout.rpartition("next: ")[2])
            assert CliRunner().invoke(cli.app, words).exit_code == 0
