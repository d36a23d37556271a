"""`cusa sql`: every option reaches the database, and the answer goes where it should."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cusa.cli import app, prompt
from cusa.cli import sql as command
from cusa.pipeline.sql import database
from tests.cli import calls

ROWS = "select * from (values ('=1', 1), ('b', 2)) as t(word, number) order by number"


def test_sql__every_option_arrives(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = database.connect(small)
    connected = calls.record(monkeypatch, database, "connect", lambda **told: opened)
    ran = calls.record(monkeypatch, database.Database, "run", lambda **told: database.QueryResult(["n"], [("=1",)]))
    out = tmp_path / "a.csv"
    printed = calls.every_option(
        *("sql", small, "select 1", "--run", tmp_path / "r", "--raw", tmp_path / "d", "--format", "csv", "--out", out),
        *("--timeout", 7, "--escape-formulas", "--allow-write"),
        but={"--export"},
    )
    assert connected == [{"work": small, "runs": [tmp_path / "r"], "raw": [tmp_path / "d"], "read_only": False}]
    assert [(one["query"], one["limit"]) for one in ran] == [("select 1", 7.0)]
    assert (out.read_text(), printed) == ("n\n'=1\n", "")
    assert calls.plain("sql", small, "select 1", "--format", "csv") == "n\n=1\n"
    assert connected[1] == {"work": small, "runs": None, "raw": None, "read_only": True}
    assert ran[1]["limit"] == 300.0


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("csv", "word,number\n=1,1\nb,2\n"),
        ("json", '[\n {"word": "=1", "number": 1},\n {"word": "b", "number": 2}\n]\n'),
        ("markdown", "| word | number |\n| --- | --- |\n| =1 | 1 |\n| b | 2 |\n"),
    ],
)
def test_sql__the_form_of_the_answer_on_stdout_and_in_a_file(
    small: Path, tmp_path: Path, form: str, expected: str
) -> None:
    shown = calls.plain("sql", small, ROWS, "--format", form)
    assert "".join(shown.split()) == "".join(expected.split())
    assert calls.plain("sql", small, ROWS, "--format", form, "--out", tmp_path / "a") == ""
    assert (tmp_path / "a").read_text().split() == shown.split()


def test_sql__parquet_needs_a_file_and_keeps_types(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.parquet"
    assert calls.plain("sql", small, ROWS, "--format", "parquet", "--out", out) == f"sql: {out}: 2 rows\n"
    assert pq.read_table(out).to_pydict() == {"word": ["=1", "b"], "number": [1, 2]}
    assert "--format parquet needs --out FILE" in calls.refused("sql", small, ROWS, "--format", "parquet")


def test_sql__from_stdin_into_a_database_or_at_a_prompt(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = CliRunner().invoke(app, ["sql", str(small), "-", "--format", "csv"], input="select 40 + 2 as n")
    assert (done.exit_code, done.stdout) == (0, "n\n42\n")
    exported = calls.record(monkeypatch, database.Database, "export", 12)
    out = tmp_path / "all.duckdb"
    assert calls.plain("sql", small, "--export", out) == f"sql: {out}: 12 tables\n"
    assert [(one["path"], one["on_event"]) for one in exported] == [(out, "Console.event")]
    overview = calls.plain("sql", small)
    assert "samples" in overview
    asked: list[Any] = calls.record(monkeypatch, prompt, "prompt")
    monkeypatch.setattr(command, "is_conversation", lambda: True)
    assert calls.plain("sql", small, "--format", "json", "--timeout", 9) == ""
    assert [(one["form"], one["limit"]) for one in asked] == [("json", 9.0)]
    calls.plain("sql", small, "select 1")
    calls.plain("sql", small, "--out", tmp_path / "o.txt")
    assert len(asked) == 1, "a statement is answered, a file is written"


def test_sql__what_the_views_read_is_not_written_over(small: Path, tmp_path: Path) -> None:
    table = next(small.glob("*/captions.parquet"))
    before = table.read_bytes()
    link = tmp_path / "link.parquet"
    link.symlink_to(table)
    for path in (table, link):
        for more in (("--format", "parquet", "--out"), ("--format", "csv", "--out"), ("--export",)):
            refused = calls.refused("sql", small, "select 1 as n", *more, path)
            assert f"{more[-1]} {path} is what the view captions reads, and would be overwritten" in refused
    assert table.read_bytes() == before
