"""The commands: parse, call one function, print. One file a command; `console` prints, `options` is what they share.

Data goes to stdout, progress to stderr. Exit codes: 0 done, 1 failed or stopped, 2 wrong usage. Heavy imports happen
inside the commands, so that `cusa --help` answers at once.
"""

import os
import signal
import sys
import traceback
from itertools import groupby
from types import FrameType
from typing import Annotated, Any

import typer

from cusa.cli import (
    audit,
    blend,
    calibrate,
    catalogue,
    demo,
    doctor,
    download,
    evaluate,
    export,
    extract_teachers,
    index,
    languages,
    plan,
    push,
    recipe,
    report,
    review,
    run,
    search,
    shard,
    sql,
    sweep,
    teachers,
    train,
    verify,
)
from cusa.cli.console import prepare_streams, print_error, print_text, say
from cusa.cli.help import Entry, GroupedCommands, add
from cusa.errors import ConfigError, CusaError

# Read when torch's thread pool starts: threads that wait for each other sleep instead of spinning, which on a busy
# machine costs several times the work itself and on an idle one next to nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


_START, _DATA, _TEACHERS, _AUDIT, _TRAIN, _EVALUATE, _SHARE = (
    *("Start", "Data", "Teachers", "Audit", "Train", "Evaluate", "Share"),
)

COMMANDS = (
    Entry(_START, "demo", demo.demo, "cusa demo --out work/demo"),
    Entry(_START, "plan", plan.plan, "cusa plan scenes-cusa --out work --smoke"),
    Entry(_START, "run", run.run, "cusa run scenes-cusa --out work --smoke"),
    Entry(_START, "list", catalogue.list_, "cusa list recipes"),
    Entry(_START, "doctor", doctor.doctor, "cusa doctor"),
    Entry(_DATA, "download", download.download, "cusa download scenes --out raw/scenes --set train=400"),
    Entry(_DATA, "shard", shard.shard, "cusa shard karpathy raw/scenes/dataset_scenes.json --out work/scenes"),
    Entry(_DATA, "verify", verify.verify, "cusa verify work/scenes"),
    Entry(_DATA, "languages", languages.languages, "cusa languages work/scenes --only en,de"),
    Entry(_DATA, "sql", sql.sql, 'cusa sql work/scenes "select split, count(*) as images from samples group by split"'),
    Entry(
        _TEACHERS,
        "extract-teachers",
        extract_teachers.extract_teachers,
        "cusa extract-teachers work/scenes --image offline-scenes-image --text offline-scenes-text",
    ),
    Entry(_TEACHERS, "index", index.index, "cusa index work/scenes"),
    Entry(_TEACHERS, "search", search.search, 'cusa search work/scenes "a red circle" --split test'),
    Entry(_TEACHERS, "teachers", teachers.teachers, "cusa teachers probe work/scenes --split test"),
    Entry(_AUDIT, "calibrate", calibrate.calibrate, "cusa calibrate work/scenes --out work/calibration.json"),
    Entry(_AUDIT, "audit", audit.audit, "cusa audit work/scenes --split test --calibration work/calibration.json"),
    Entry(_AUDIT, "review", review.review, "cusa review work/scenes --split test --as anna"),
    Entry(
        _TRAIN,
        "recipe",
        recipe.recipe,
        "cusa recipe new mine.toml --image offline-scenes-image --text offline-scenes-text --set train.steps=200",
    ),
    Entry(
        _TRAIN,
        "train",
        train.train,
        "cusa train scenes-cusa --data work/scenes --out work/runs/first --set train.steps=200",
    ),
    Entry(
        _TRAIN,
        "sweep",
        sweep.sweep,
        "cusa sweep scenes-cusa --data work/scenes --out work/sweep --grid method=baseline,cusa --set train.steps=200",
    ),
    Entry(
        _TRAIN,
        "blend",
        blend.blend,
        "cusa blend work/sweep/runs/method=cusa work/runs/first --out work/blend --grid 0:1:0.5 --guard work/scenes",
    ),
    Entry(_EVALUATE, "eval", evaluate.eval_, "cusa eval work/runs/first --data work/scenes"),
    Entry(_EVALUATE, "report", report.report, "cusa report work/runs/first"),
    Entry(
        _SHARE,
        "export",
        export.export,
        "cusa export work/runs/first --to sentence-transformers --out work/export",
    ),
    Entry(_SHARE, "push", push.push, "cusa push work/export --to me/my-model --dry-run"),
)
"""Every command, in the order of the journey, which is the order of `cusa --help`."""


class _Commands(GroupedCommands):
    """Turns a user's mistake into one message and an honest exit code."""

    headings = tuple(
        (group, tuple(entry.name for entry in entries)) for group, entries in groupby(COMMANDS, lambda entry: entry[0])
    )

    def invoke(self, ctx: Any) -> Any:
        """Run the command; `--debug` shows the traceback of an error, `--json` prints it as JSON."""
        try:
            return super().invoke(ctx)
        except CusaError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            if "--json" in sys.argv:
                print_error(error)
            say(f"error: {error}")
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
        except _UsageError as error:
            words = error.format_message().replace("Value error, ", "")
            asked = error.ctx.command_path if error.ctx is not None else "cusa"
            if "--json" in sys.argv:
                print_error(ConfigError(words))
            say(f"error: {words} (`{asked} -h` shows what there is.)")
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            say("stopped. What was finished is kept; run the same command again to go on.")
            raise typer.Exit(1) from None


_UsageError: Any = typer.BadParameter.__bases__[0]
"""What the parser raises for a command line that cannot be read."""

app = typer.Typer(
    cls=_Commands,
    name="cusa",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Image-text retrieval that knows its negatives are not all negative.",
    epilog="`cusa COMMAND -h` explains a command and shows an example. Data goes to stdout, progress to stderr.",
)


def _print_version(value: bool) -> None:
    if value:
        from cusa import __version__

        print_text(f"cusa {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    # SIGTERM stops as Ctrl-C does: unfinished files are removed on the way out.
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


for _entry in COMMANDS:
    add(app, _entry)


def main() -> None:
    """Run the command line."""
    prepare_streams()
    app(prog_name="cusa")
