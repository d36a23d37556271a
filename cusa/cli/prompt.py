"""The SQL prompt: statements over several lines, history, completion of views, columns and words of SQL."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from cusa.cli.console import print_text, say, terminal_width
from cusa.errors import CusaError
from cusa.pipeline.result_table import FORMATS, render
from cusa.pipeline.sql.database import Database

HELP = """A statement ends with a semicolon or an empty line. Tab completes views, columns and words of SQL.
.views        what there is to query
.format NAME  how answers are shown: table (fitted to the terminal), csv (everything), json, markdown
.help         this; so does help
.quit         leave; so do exit, quit and Ctrl-D"""

_SQL = (
    "select from where group by order limit having join left on using and or not in is null like between distinct "
    "count sum avg min max median quantile_cont any_value arg_max list unnest case when then else end cast as desc asc "
    "with union all describe summarize explain pivot cosine picture pair"
)
_WORDS = frozenset(_SQL.split())
_HISTORY_LINES = 2000
_BARE = ("help", "exit", "quit")
"""Commands that also go without their dot: no statement of SQL is one of these words."""


class Completer:
    """Completes the word before the cursor, as `readline` asks for it: one answer a call, None after the last.

    Args:
        database: whose views and columns are completed.
    """

    def __init__(self, database: Database) -> None:
        names: set[str] = set(_WORDS)
        for view, _, columns in database.overview().rows:
            names |= {view, *columns.split(", ")}
        self._names = sorted(names)
        self._hits: Sequence[str] = ()

    def __call__(self, text: str, state: int) -> str | None:
        """Return the completion number `state` of `text`."""
        if state == 0:
            start = text.lower()
            upper = text.isupper()
            self._hits = [
                name.upper() if upper and name in _WORDS else name for name in self._names if name.startswith(start)
            ]
        return self._hits[state] if state < len(self._hits) else None


def prompt(
    database: Database,
    form: str,
    *,
    limit: float,
    read: Callable[[str], str] | None = None,
    history: Path | None = None,
) -> None:
    """Answer statements until the end of the input.

    Mistakes are reported and the prompt goes on. Line editing is Python's own `readline`.

    Args:
        database: the open work folder.
        form: how answers are shown at first.
        limit: seconds a statement may take; 0 = any.
        read: gives a line for a prompt, `EOFError` at the end; `input` if None.
        history: file of earlier statements; the user's state folder if None.
    """
    path = history or Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "cusa/sql_history"
    close = _edit(Completer(database), path)
    say("Statements end with `;`. `help` says more, `exit` leaves.")
    lines: list[str] = []
    try:
        while True:
            try:
                line = (read or input)("  ...> " if lines else "cusa> ")
            except EOFError:
                return
            except KeyboardInterrupt:
                lines = []
                say("")
                continue
            command = line.strip().rstrip(";").strip()
            if not lines and (command.startswith(".") or command.lower() in _BARE):
                command = f".{command.lstrip('.')}"
                if command.lower() in (".quit", ".exit"):
                    return
                form = _command(database, command, form)
                continue
            if not lines and not line.strip():
                continue
            lines.append(line)
            if line.rstrip().endswith(";") or not line.strip():
                _answer(database, "\n".join(lines).strip(), form, limit)
                lines = []
    finally:
        close()


def _answer(database: Database, query: str, form: str, limit: float) -> None:
    try:
        answer = database.run(query, limit=limit)
    except CusaError as error:
        say(f"error: {error}")
    except KeyboardInterrupt:
        say("stopped")
    else:
        print_text(render(answer, form, width=terminal_width()).rstrip("\n"))
        for note in answer.notes:
            say(note)


def _command(database: Database, line: str, form: str) -> str:
    """Do what a line that begins with a dot asks for; return the form of answers from here on."""
    name, _, value = line.partition(" ")
    if name == ".views":
        print_text(render(database.overview(), "table", width=terminal_width()).rstrip("\n"))
    elif name == ".format" and value.strip() in FORMATS:
        return value.strip()
    elif name == ".format":
        say(f"error: .format takes one of {', '.join(FORMATS)}")
    else:
        say(HELP if name == ".help" else f"error: there is no {name}\n{HELP}")
    return form


def _edit(completer: Completer, history: Path) -> Callable[[], None]:
    """Turn on line editing, completion and history where this Python has `readline`; return what saves the history."""
    try:
        import readline
    except ImportError:  # not on Windows; statements are read all the same
        return lambda: None
    readline.set_completer(completer)
    readline.set_completer_delims(re.sub(r"[._]", "", readline.get_completer_delims()))
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    readline.clear_history()
    if history.is_file():
        readline.read_history_file(history)

    def save() -> None:
        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(_HISTORY_LINES)
            readline.write_history_file(history)
        except OSError as error:
            say(f"The history could not be kept in {history} ({error.strerror}).")

    return save
