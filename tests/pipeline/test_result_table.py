"""Answers: read back by the csv and json modules, aligned for people, nothing that breaks a terminal or a table."""

import csv
import datetime
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_render__captions_and_names_of_columns_are_shown_and_not_obeyed() -> None:
    answer = QueryResult(["a\x1b[2J", "b"], [("\x9b31m \u202e \ud800", ["\x1b]0;x\x07"])])
    for form in ("table", "markdown"):
        text = render(answer, form)
        text.encode()
        assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(text)
        assert "x1b[2J" in text
        assert "x9b31m" in text
    assert json.loads(render(answer, "json"))[0]["b"] == ["\x1b]0;x\x07"], "a program gets what is there"


def test_render__csv_for_a_spreadsheet_calculates_nothing() -> None:
    words = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "a = b", "'=1", "", "x-1"]
    answer = QueryResult(["=cmd", "n"], [(word, -1.5) for word in words])

    def read(**options: bool) -> list[list[str]]:
        return list(csv.reader(io.StringIO(render(answer, "csv", **options), newline="")))

    assert read() == [["=cmd", "n"], *([word, "-1.5"] for word in words)], "by default as it is"
    escaped = [f"'{word}" if word[:1] in ("=", "+", "-", "@", "\t", "\r") else word for word in words]
    assert read(escape_formulas=True) == [["'=cmd", "n"], *([word, "-1.5"] for word in escaped)], "numbers stay numbers"


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


@given(
    st.lists(st.lists(st.text("ab c", max_size=60), min_size=4, max_size=4), min_size=1, max_size=4),
    st.integers(40, 200),
)
def test_render__a_table_is_no_wider_than_the_terminal(rows: list[list[str]], width: int) -> None:
    answer = QueryResult(["key", "a_rather_long_name", "c", "d"], [tuple(row) for row in rows])
    text = render(answer, "table", width=width)
    assert max(map(len, text.splitlines())) <= width
    whole = render(answer, "table")
    if max(map(len, whole.splitlines())) <= width:
        assert text == whole


def test_render__numbers_are_never_cut_and_rows_that_no_line_holds_are_lists() -> None:
    answer = QueryResult(["key", "caption", "score"], [("coco/000000391895", "word " * 12, 0.123456), ("k", "b", 2e9)])
    narrow = render(answer, "table", width=50).splitlines()
    assert [line.split()[-1] for line in narrow[2:]] == ["0.123456", "2e+09"]
    assert "coco/000000391895" in narrow[2]  # the widest column gives way first
    assert "…" in narrow[2]
    many = QueryResult([f"column_{number}" for number in range(9)], [tuple(range(9)), ("word " * 40, *range(8))])
    records = render(many, "table", width=40)
    assert records.count("row ") == 2
    assert "column_8  8" in records
    assert max(map(len, records.splitlines())) <= 40
    assert render(many, "markdown", width=40) == render(many, "markdown")


def test_render__on_a_narrow_terminal_numbers_stay_whole_and_lists_of_values_stand_apart() -> None:
    answer = QueryResult(["n", "words"], [(1, "a long caption of many words"), (12345678, "b")])
    lines = render(answer, "table", width=24).splitlines()
    assert lines[3].split() == ["12345678", "b"]
    assert max(map(len, lines)) <= 24
    assert "12345678" in render(answer, "table", width=21)
    wide = QueryResult([f"column_{number}" for number in range(6)], [tuple(range(6)), tuple(range(6, 12))])
    first, second = render(wide, "table", width=20).split("\n\n")
    assert first.splitlines()[0] == "row 1"
    assert second.splitlines()[0] == "row 2"
    assert [line.split() for line in second.splitlines()[1:]] == [[f"column_{n}", str(6 + n)] for n in range(6)]
