"""Answers: read back by the csv and json modules, aligned for people, nothing that breaks a terminal or a table."""

import csv
import datetime
import io
import json

import pytest

from cusa.errors import ConfigError
from cusa.pipeline.result_table import QueryResult, render

ROWS = [
    ("a|b", 1, 0.123456789, None, [1.0, float("nan"), 3.0, 4.0, 5.0], True),
    ('quoted "x",\n\x1b[31mred', 20, float("nan"), "x" * 300, [], False),
]
ANSWER = QueryResult(["words", "n", "value", "none", "list", "flag"], ROWS)


def test_render__csv_reads_back() -> None:
    header, *rows = csv.reader(io.StringIO(render(ANSWER, "csv")))
    assert header == ANSWER.columns
    assert [row[0] for row in rows] == [row[0] for row in ROWS]
    assert rows[1][3] == "x" * 300
    assert json.loads(rows[0][4]) == [1.0, None, 3.0, 4.0, 5.0]
    assert float(rows[0][2]) == 0.123456789


def test_render__json_reads_back_strictly() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    records = json.loads(render(ANSWER, "json"), parse_constant=refuse)
    assert records[0]["list"] == [1.0, None, 3.0, 4.0, 5.0]
    assert (records[1]["value"], records[1]["words"]) == (None, ROWS[1][0])
    moment = QueryResult(["when"], [(datetime.datetime(2026, 1, 2, 3, 4),)])
    assert json.loads(render(moment, "json")) == [{"when": "2026-01-02 03:04:00"}]
    assert json.loads(render(QueryResult(["a"], []), "json")) == []


def test_render__tables_have_one_line_a_row() -> None:
    lines = render(ANSWER, "table").splitlines()
    assert len(lines) == 4
    assert "\x1b" not in "".join(lines), "a caption cannot colour the terminal"
    assert "[1, nan, 3, 4, ... 5 in all]" in lines[2]
    at = lines[0].index(" n ") + 1
    assert (lines[2][at - 1 : at + 1], lines[3][at - 1 : at + 1]) == (" 1", "20"), "numbers end below each other"
    assert max(map(len, lines)) < 300
    assert render(QueryResult(["only"], []), "table").splitlines() == ["only", "----"]


def test_render__markdown_cells_stay_cells() -> None:
    lines = render(ANSWER, "markdown").splitlines()
    assert len(lines) == 4
    assert lines[1] == "| --- | --- | --- | --- | --- | --- |"
    assert lines[2].startswith(r"| a\|b | 1 | 0.123457 |  | [1, nan")


def test_render__two_columns_of_one_name_both_stay_in_json() -> None:
    assert json.loads(render(QueryResult(["key", "key"], [(1, 2)]), "json")) == [{"key": 1, "key_1": 2}]


def test_render__an_unknown_format_is_named() -> None:
    with pytest.raises(ConfigError, match="no format 'jsn'. Did you mean 'json'"):
        render(ANSWER, "jsn")
