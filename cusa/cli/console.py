"""The terminal: data to stdout, progress to stderr. Nothing else of `cusa` prints."""

import io
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from cusa.manifests.terminal import printable

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress, TaskID

    from cusa.errors import CusaError
    from cusa.manifests.stage import Outcome

NEVER = "never finished"
"""Why a stage worked that had not been done before: no news to the one who asked for it."""


def prepare_streams() -> None:
    """Make standard streams safe to write to, whatever the terminal and whoever started this process.

    A stream that was closed becomes the null device: the next file that is opened must not get its number. Characters
    that the terminal's encoding lacks are written as escapes instead of ending in an error.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_conversation() -> bool:
    """Tell whether a person types and reads: standard input and output are a terminal."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def terminal_width() -> int:
    """Return the letters of a line where standard output is a terminal; 0 where it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else 0


def say(text: str) -> None:
    """Print a line of progress or of an error to stderr; nothing where stderr is closed."""
    if sys.stderr is not None:  # else print would take stdout, which is for data
        print(printable(text), file=sys.stderr)  # noqa: T201 (the one place that prints)


def print_text(text: str) -> None:
    """Print text to stdout; to a terminal without what it would obey."""
    print(printable(text) if sys.stdout is not None and sys.stdout.isatty() else text)  # noqa: T201


def print_json(value: Any) -> None:
    """Print a value as JSON to stdout."""
    print_json_text(json.dumps(value, indent=1, default=str, ensure_ascii=False))


def print_error(error: "CusaError") -> None:
    """Print an error as JSON to stdout, for a program that reads the answer there; `docs/json.md` describes it."""
    values = {
        name: value if isinstance(value, int | float | str) else str(value) for name, value in error.values.items()
    }
    print_json({"error": {"kind": type(error).__name__, "message": str(error), "values": values}})


def print_json_text(text: str) -> None:
    """Print JSON to stdout; where that cannot carry a character, as JSON's own escape of it."""
    if not (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf"):
        text = re.sub(r"[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)
    print_text(text)


def report_outcomes(*outcomes: "Outcome", as_json: bool = False, look_at: "Path | str" = "", then: str = "") -> None:
    """Print what stages did: a line each, or JSON.

    Args:
        outcomes: of the stages.
        as_json: print JSON.
        look_at: the file that shows what came out; nothing where it is not there.
        then: the command that comes next.
    """
    if as_json:
        print_json([{**vars(outcome), "counts": dict(outcome.counts)} for outcome in outcomes])
        return
    for outcome in outcomes:
        if not outcome.fresh:
            print_text(f"{outcome.stage}: {outcome.out} is up to date")
            continue
        counts = ", ".join(
            _counted(value, name)
            for name, value in outcome.counts.items()
            if not name.startswith("fidelity")  # a note says it in words
        )
        why = f" ({outcome.why})" if outcome.why not in ("", NEVER) else ""
        print_text(f"{outcome.stage}: {outcome.out} done in {outcome.seconds:.1f} s{why}: {counts}")
        for note in outcome.notes:
            print_text(f"  {note}")
    point_on(look_at, then)


def point_on(look_at: "Path | str" = "", then: str = "") -> None:
    """Say which file shows what came out, and which command comes next."""
    if look_at and os.path.exists(look_at):
        print_text(f"open: {look_at}")
    if then:
        print_text(f"next: {then}")


def _counted(value: float, name: str) -> str:
    """Return a count with its name in words: `2 units in all`, `1 unit in all`."""
    number = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    noun, space, rest = name.replace("_", " ").partition(" ")
    if value == 1 and not noun.endswith("ss"):
        noun = noun.removesuffix("es") if noun.endswith(("ches", "sses")) else noun.removesuffix("s")
    return f"{number} {noun}{space}{rest}"


def print_table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a plain aligned table to stdout."""
    lines = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print_text("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def how_far(what: str, done: int, total: int, *, seconds: float, before: int) -> str:
    """Say how far a piece of work is, and at what pace.

    Args:
        what: its name; one that ends with `(bytes)` counts bytes.
        done: units that are done.
        total: all of them; 0 = not known.
        seconds: since the first word of it.
        before: units that were done by then, for example before a download was resumed.
    """
    if what.endswith("(bytes)"):
        state = f"{done / 2**20:,.1f}{f'/{total / 2**20:,.1f}' if total else ''} MiB"
    else:
        state = f"{done:,}{f'/{total:,}' if total else ''}"
    if done <= before or seconds <= 0:
        return state
    rate = (done - before) / seconds
    state += f", {rate / 2**20:,.1f} MiB/s" if what.endswith("(bytes)") else f", {rate:,.1f}/s"
    return f"{state}, {(total - done) / rate:,.0f} s left" if done < total else state


def describe_step(values: Mapping[str, float]) -> str:
    """Say a training step in one line: the loss, its terms as they are added up, learning rate, pairs a second.

    Args:
        values: a row of training's metrics; its terms stand before `grad_norm`.
    """
    terms = []
    for name, value in values.items():
        if name == "grad_norm":
            break
        weighs_nothing = name in ("csa", "usa") and not value and not values.get(f"effective_weight.{name}")
        if name != "loss" and not weighs_nothing:
            terms.append(f"{name} {value:.3g}")
    words = f"loss {values['loss']:.4g}" + (f" ({', '.join(terms)})" if terms else "")
    if "lr" in values:
        words += f", lr {values['lr']:.2g}"
    if "samples_per_second" in values:
        words += f", {values['samples_per_second']:,.0f} pairs/s"
    return words


class Stopping:
    """Turns the first SIGTERM or Ctrl-C into a wish that the training loop grants at the next step."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        say("stopping after this step; once more stops at once")

    def asked(self) -> bool:
        """Tell whether a signal came."""
        return self._asked


class Console:
    """Progress on stderr: bars on a terminal, plain lines elsewhere."""

    EVERY = 3.0  # seconds between two plain lines of the same work

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, float] = {}
        self._first: dict[str, tuple[float, int]] = {}
        self._seen: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self._training = ""
        self._start = time.monotonic()

    def __enter__(self) -> "Console":
        if sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[state]}"),
                TimeElapsedColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def event(self, what: str, done: int, total: int) -> None:
        """Show how far a piece of work is, how fast it goes and how long it will take."""
        now = time.monotonic()
        if what not in self._first or done < self._seen[what]:  # new work, or the same kind of work once more
            self._first[what] = (now, done)
        self._seen[what] = done
        self._total[what] = total
        start, before = self._first[what]
        state = how_far(what, done, total, seconds=now - start, before=before)
        if what == "train" and self._training:
            state += f": {self._training}"
        if self._progress is not None:
            if what not in self._tasks:
                self._tasks[what] = self._progress.add_task(what, total=total, state=state)
            self._progress.update(self._tasks[what], completed=done, total=total, state=state)
            return
        if done == total or now - self._last.get(what, 0.0) >= self.EVERY:
            self._last[what] = now
            say(f"[{now - self._start:6.1f} s] {what}: {state}")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Show a row of training's metrics: on the bar, or as a line where there is none; a validation as a line."""
        if "val.rsum" in values:
            each = {
                name[4:-5]: value for name, value in values.items() if name.startswith("val.") and name[-5:] == "/rsum"
            }
            of_sets = ", ".join(f"{name} {value:.1f}" for name, value in each.items())
            self.say(f"step {step:,}: val.rsum {values['val.rsum']:.1f}{f', the mean of {of_sets}' if each else ''}")
        if "loss" not in values:
            return
        self._training = describe_step(values)
        if self._progress is None:
            now = time.monotonic()
            self._last["train"] = now  # the line says what a plain one of progress would
            state = ""
            if "train" in self._first:
                start, before = self._first["train"]
                state = how_far("train", step, self._total["train"], seconds=now - start, before=before)
            self.say(f"train: {state or f'step {step:,}'}: {self._training}")

    def say(self, text: str) -> None:
        """Show a sentence between the bars."""
        if self._progress is not None:
            self._progress.console.print(printable(text), markup=False, highlight=False)
        else:
            say(f"[{time.monotonic() - self._start:6.1f} s] {text}")
