"""Progress in words: how far, how fast, how long still."""

from pathlib import Path

import pytest

from cusa.cli import console
from cusa.cli.console import Console, how_far, report_outcomes
from cusa.manifests.stage import Outcome


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("shard", 0, 40, 0.0, 0), "0/40"),
        (("shard", 10, 40, 5.0, 0), "10/40, 2.0/s, 15 s left"),
        (("shard", 40, 40, 8.0, 0), "40/40, 5.0/s"),
        (("read", 3000, 0, 1.5, 0), "3,000, 2,000.0/s"),
        (("a.zip (bytes)", 3 << 20, 10 << 20, 2.0, 1 << 20), "3.0/10.0 MiB, 1.0 MiB/s, 7 s left"),
        (("a.zip (bytes)", 3 << 20, 0, 2.0, 0), "3.0 MiB, 1.5 MiB/s"),
        (("a.zip (bytes)", 1 << 20, 10 << 20, 2.0, 1 << 20), "1.0/10.0 MiB"),
    ],
)
def test_how_far__says_pace_and_rest(arguments: tuple[str, int, int, float, int], words: str) -> None:
    what, done, total, seconds, before = arguments
    assert how_far(what, done, total, seconds=seconds, before=before) == words


def test_event__plain_lines_tell_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 10.0, 12.0, 14.0, 20.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with Console() as shown:
        for done in (0, 1 << 20, 2 << 20, 5 << 20):
            shown.event("a.zip (bytes)", done, 5 << 20)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "[  10.0 s] a.zip (bytes): 0.0/5.0 MiB",
        "[  14.0 s] a.zip (bytes): 2.0/5.0 MiB, 0.5 MiB/s, 6 s left",
        "[  20.0 s] a.zip (bytes): 5.0/5.0 MiB, 0.5 MiB/s",
    ]


def test_event__the_same_work_once_more_has_a_pace_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 0.0, 100.0, 200.0, 210.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with Console() as shown:
        for done in (0, 50, 0, 50):
            shown.event("train", done, 50)
    assert capsys.readouterr().err.splitlines()[-1] == "[ 210.0 s] train: 50/50, 5.0/s"


def test_say__an_error_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("error: there is no teacher '\x1b[2J\x1b]0;owned\x07'")
    assert capsys.readouterr().err == "error: there is no teacher '\\x1b[2J\\x1b]0;owned\\x07'\n"


@pytest.mark.parametrize(
    ("terminal", "expected"), [(True, "a \\x1b[31m red caption\n"), (False, "a \x1b[31m red caption\n")]
)
def test_print_text__a_terminal_shows_what_a_program_gets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool, expected: str
) -> None:
    monkeypatch.setattr(console.sys.stdout, "isatty", lambda: terminal)
    console.print_text("a \x1b[31m red caption")
    assert capsys.readouterr().out == expected


ROW = {"loss": 4.6789, "infonce": 2.947, "csa": 1.2125, "usa": 0.5189, "grad_norm": 16.4, "lr": 1e-3}


def test_metrics__a_line_of_training_has_loss_terms_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 0.0, 10.0, 10.0, 10.5, 20.0, 20.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with Console() as shown:
        shown.event("train", 0, 40)
        shown.metrics(20, {**ROW, "samples_per_second": 1234.0, "peak_memory_bytes": 1e9})
        shown.event("train", 20, 40)
        shown.metrics(30, {"loss": 1.0})
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "[  10.0 s] train: 20/40, 2.0/s, 10 s left: loss 4.679 (infonce 2.95, csa 1.21, usa 0.519), lr 0.001, "
        "1,234 pairs/s",
        "[  20.0 s] train: 30/40, 1.5/s, 7 s left: loss 1",
    ]


def test_describe_step__leaves_out_terms_of_no_weight() -> None:
    from cusa.cli.console import describe_step

    assert describe_step({"loss": 1.0, "infonce": 1.0, "csa": 0.0, "usa": 0.0, "grad_norm": 1.0}) == (
        "loss 1 (infonce 1)"
    )


def test_report_outcomes__one_of_a_thing_is_told_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"units": 1, "units_in_all": 1, "pairs": 2, "matches": 1, "captions_per_loss": 1.5}
    report_outcomes(Outcome("index", Path("work"), True, "", counts, 0.25, ()))
    said = "index: work done in 0.2 s: 1 unit, 1 unit in all, 2 pairs, 1 match, 1.5 captions per loss"
    assert capsys.readouterr().out.splitlines() == [said]
