"""The commands: parse, call one function, print. One file a command; `console` prints, `options` is what they share.

Data goes to stdout, progress to stderr. Exit codes: 0 done, 1 failed or stopped, 2 wrong usage. Heavy imports happen
inside the commands, so that `cusa --help` answers at once.
"""

import os
import signal
import traceback
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cusa.cli import (
    audit,
    calibrate,
    catalogue,
    demo,
    doctor,
    download,
    evaluate,
    export,
    extract_teachers,
    index,
    plan,
    report,
    review,
    run,
    search,
    shard,
    sql,
    sweep,
    train,
    verify,
)
from cusa.cli.console import prepare_streams, say
from cusa.errors import ConfigError, CusaError

# Read when torch's thread pool starts: threads that wait for each other sleep instead of spinning, which on a busy
# machine costs several times the work itself and on an idle one next to nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class _Commands(TyperGroup):
    """Turns a user's mistake into one message and an honest exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; `--debug` shows the traceback of an error."""
        try:
            return super().invoke(ctx)
        except CusaError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            say(f"error: {error}")
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
        except KeyboardInterrupt:
            say("stopped. What was finished is kept; run the same command again to go on.")
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    name="cusa",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Image-text retrieval that knows its negatives are not all negative.",
)


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    # SIGTERM stops as Ctrl-C does: unfinished files are removed on the way out.
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# In the order of the journey, which is the order of `cusa --help`.
app.command()(demo.demo)
app.command()(plan.plan)
app.command()(run.run)
app.command()(download.download)
app.command()(shard.shard)
app.command()(verify.verify)
app.command("extract-teachers")(extract_teachers.extract_teachers)
app.command()(index.index)
app.command()(search.search)
app.command()(calibrate.calibrate)
app.command()(audit.audit)
app.command()(review.review)
app.command()(train.train)
app.command()(sweep.sweep)
app.command("eval")(evaluate.eval_)
app.command()(export.export)
app.command()(report.report)
app.command()(sql.sql)
app.command("list")(catalogue.list_)
app.command()(doctor.doctor)


def main() -> None:
    """Run the command line."""
    prepare_streams()
    app()
