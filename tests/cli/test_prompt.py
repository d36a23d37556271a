"""The SQL prompt: several lines, mistakes that do not end it, history, completion."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cusa.cli import prompt
from cusa.pipeline.sql import database as query
from tests.worlds import make_work


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[query.Database]:
    with query.connect(make_work(tmp_path_factory.mktemp("prompt"), images=2, splits=("train",))) as opened:
        yield opened


def _talk(database: query.Database, *lines: str, history: Path) -> None:
    told = iter(lines)

    def read(_: str) -> str:
        try:
            return next(told)
        except StopIteration:
            raise EOFError from None

    prompt.prompt(database, "csv", limit=30, read=read, history=history)


def test_prompt__statements_over_lines_and_mistakes(
    database: query.Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ("SELECT count(*)", "AS n FROM samples;", "", "selct 1;", ".format json", "select 1 as one", "", ".nothing")
    _talk(database, *lines, ".views", ".format xml", ".quit", "select 2;", history=tmp_path / "h")
    out, err = capsys.readouterr()
    assert out.startswith("n\n2\n")
    assert '"one": 1' in out
    assert "2" not in out.partition('"one": 1')[2].splitlines()[0]
    assert 'syntax error at or near "selct"' in err
    assert "there is no .nothing" in err
    assert ".format takes one of table, csv, json, markdown" in err
    assert (tmp_path / "h").exists()


@pytest.mark.parametrize("word", ["exit", "quit", "EXIT;", ".exit", ".quit"])
def test_prompt__help_and_exit_need_no_dot(
    database: query.Database, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    _talk(database, "help", word, "select 2 as two;", history=tmp_path / "h")
    out, err = capsys.readouterr()
    assert "leave; so do exit, quit and Ctrl-D" in err
    assert out == ""


def test_completer__views_columns_and_words(database: query.Database) -> None:
    completer = prompt.Completer(database)

    def all_of(text: str) -> list[str]:
        out: list[str] = []
        while (found := completer(text, len(out))) is not None:
            out.append(found)
        return out

    assert "candidates" in all_of("candi")
    assert {"image_key", "image_rank", "image_similarity", "image_neighbours"} <= set(all_of("image_"))
    assert all_of("SEL") == ["SELECT"]
    assert all_of("zzz") == []


def test_sql__a_prompt_on_a_terminal(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=2, splits=("train",))
    ours, theirs = pty.openpty()
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    command = [sys.executable, "-m", "cusa", "sql", str(work)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True)
    os.close(theirs)

    def until(words: bytes) -> bytes:
        seen, end = b"", time.monotonic() + 120
        while words not in seen and time.monotonic() < end:
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 4096)
        assert words in seen, seen
        return seen

    until(b"cusa> ")
    os.write(ours, b"select 40 + 2 as answer from samp\t limit 1;\n")
    assert b"42" in until(b"42")
    os.write(ours, b".quit\n")
    assert process.wait(60) == 0
    os.close(ours)
    assert "from samples" in (tmp_path / "cusa/sql_history").read_text()


def test_prompt__a_statement_has_its_limit_and_its_form(
    database: query.Database, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []

    def run(self: query.Database, words: str, *, limit: float = 0) -> query.QueryResult:
        asked.append((words, limit))
        return query.QueryResult(["n"], [(7,)], notes=("a note",))

    monkeypatch.setattr(query.Database, "overview", lambda self: query.QueryResult(["view"], [("samples", "", "n")]))
    monkeypatch.setattr(query.Database, "run", run)
    _talk(database, "select", "7", "", "select 8;", ".format json", "select 9;", history=tmp_path / "h")
    assert asked == [("select\n7", 30), ("select 8;", 30), ("select 9;", 30)]
    out, err = capsys.readouterr()
    assert out.startswith("n\n7\nn\n7\n[")
    assert err.count("a note") == 3


def test_prompt__ctrl_c_forgets_the_lines_of_a_statement_and_the_prompt_goes_on(
    database: query.Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: Iterator[str | BaseException] = iter(["select 1", KeyboardInterrupt(), "select 2 as two;", EOFError()])
    prompts: list[str] = []

    def read(words: str) -> str:
        prompts.append(words)
        line = next(told)
        if isinstance(line, BaseException):
            raise line
        return line

    prompt.prompt(database, "csv", limit=30, read=read, history=tmp_path / "h")
    assert capsys.readouterr().out == "two\n2\n"
    assert prompts == ["cusa> ", "  ...> ", "cusa> ", "cusa> "]


def test_history__lies_where_the_user_s_state_does(
    database: query.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Path] = []

    def edit(completer: prompt.Completer, path: Path) -> Callable[[], None]:
        places.append(path)
        return lambda: None

    monkeypatch.setattr(prompt, "_edit", edit)
    monkeypatch.setenv("HOME", str(tmp_path))
    for state in (str(tmp_path / "state"), ""):
        monkeypatch.setenv("XDG_STATE_HOME", state)
        prompt.prompt(database, "csv", limit=30, read=_end)
    assert places == [tmp_path / "state/cusa/sql_history", tmp_path / ".local/state/cusa/sql_history"]


def _end(words: str) -> str:
    raise EOFError
