"""Progress in words: how far, how fast, how long still."""

import json
import signal
from pathlib import Path
from typing import Any

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


def test_metrics__a_validation_is_a_line_with_the_sets_beside_the_mean(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as shown:
        shown.metrics(1200, {"val.rsum": 312.34})
        shown.metrics(1200, {"val.rsum": 312.34, "val.one/rsum": 300.0, "val.two/rsum": 324.68, "val.one/r@1": 9.0})
    lines = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "step 1,200: val.rsum 312.3",
        "step 1,200: val.rsum 312.3, the mean of one 300.0, two 324.7",
    ]


def test_describe_step__a_term_of_weight_0_that_still_weighs_is_shown() -> None:
    row = {"loss": 1.5, "infonce": 1.0, "csa": 0.0, "grad_norm": 2.0, "effective_weight.csa": 0.1}
    assert console.describe_step(row) == "loss 1.5 (infonce 1, csa 0)"
    assert console.describe_step({"loss": 1.0, "grad_norm": 2.0, "lr": 0.0012345}) == "loss 1, lr 0.0012"


def test_stopping__the_first_signal_is_a_wish_and_the_second_stops(capsys: pytest.CaptureFixture[str]) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        with console.Stopping() as stopping:
            assert not stopping.asked()
            signal.raise_signal(number)
            assert stopping.asked()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert "stopping after this step; once more stops at once" in capsys.readouterr().err
    assert {number: signal.getsignal(number) for number in before} == before


def test_report_outcomes__a_line_each_with_counts_why_and_notes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    counts = {"rows_kept": 12345, "share": 0.123456, "fidelity_r@1": 1.0}
    done = Outcome("index", Path("a"), True, "rows changed", counts, 2.345, ("A note.",))
    first = Outcome("index", Path("b"), True, console.NEVER, {}, 0.0)
    same = Outcome("index", Path("c"), False, "", {"rows": 3}, 0.0, ("Not said.",))
    console.report_outcomes(done, first, same, look_at=tmp_path, then="cusa audit")
    assert capsys.readouterr().out.splitlines() == [
        "index: a done in 2.3 s (rows changed): 12,345 rows kept, 0.1235 share",
        "  A note.",
        "index: b done in 0.0 s: ",
        "index: c is up to date",
        f"open: {tmp_path}",
        "next: cusa audit",
    ]
    console.report_outcomes(done, same, as_json=True, look_at=tmp_path, then="cusa audit")
    told = json.loads(capsys.readouterr().out)
    assert told == [
        {
            **{"stage": "index", "out": "a", "fresh": True, "why": "rows changed", "counts": counts},
            "seconds": 2.345,
            "notes": ["A note."],
        },
        {
            **{"stage": "index", "out": "c", "fresh": False, "why": "", "counts": {"rows": 3}},
            "seconds": 0.0,
            "notes": ["Not said."],
        },
    ]
    console.report_outcomes(same, look_at=tmp_path / "none")
    assert capsys.readouterr().out == "index: c is up to date\n"


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", '"é"'), ("ascii", '"\\u00e9"'), (None, '"\\u00e9"')])
def test_print_json__escapes_what_the_stream_cannot_carry(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, encoding: str | None, shown: str
) -> None:
    monkeypatch.setattr(console.sys, "stdout", _Stream(console.sys.stdout, encoding))
    console.print_json("é")
    assert capsys.readouterr().out == f"{shown}\n"


class _Stream:
    """Standard output with another encoding."""

    def __init__(self, stream: Any, encoding: str | None) -> None:
        self._stream, self.encoding = stream, encoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def test_event__between_two_plain_lines_lie_three_seconds_but_the_last_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([100.0, 103.0, 105.9, 106.0, 106.1])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with Console() as shown:
        for done in (1, 2, 3, 4):
            shown.event("shard", done, 4)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].partition(",")[0] for line in lines] == ["1/4", "3/4", "4/4"]
