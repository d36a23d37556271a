"""The rows of a query, written as an aligned table, CSV, JSON or Markdown."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cusa.errors import ConfigError, nearest
from cusa.manifests.terminal import printable

FORMATS = ("table", "csv", "json", "markdown")

_WIDEST = 120  # letters of a cell in a table; CSV and JSON hold everything
_NARROWEST = 12  # letters that a column of words keeps on a narrow terminal
_BETWEEN = "  "
_LIST_SHOWN = 4
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what begins a formula in a spreadsheet, as OWASP lists it


@dataclass(frozen=True)
class QueryResult:
    """The rows of one query."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    notes: tuple[str, ...] = ()
    """Full sentences for a person: which views are empty, and what would fill them."""


def render(answer: QueryResult, form: str, *, escape_formulas: bool = False, width: int = 0) -> str:
    """Write an answer.

    Args:
        answer: the rows.
        form: one of `FORMATS`. `table` and `markdown` shorten long cells and show escapes for what a terminal would
            obey; `csv` and `json` hold everything as it is.
        escape_formulas: in CSV, put an apostrophe before texts that a spreadsheet would calculate.
        width: of the terminal that a `table` is for, in letters; 0 = any. Texts are shortened until the columns stand
            beside each other; where even that is too wide, each row is a list of its values. Numbers are never cut.

    Returns:
        Text that ends with a line break.

    Raises:
        ConfigError: if there is no such format.
    """
    if form not in FORMATS:
        raise ConfigError(f"There is no format {form!r}. {nearest(form, FORMATS)}", format=form)
    if form == "json":
        names = _distinct(answer.columns)
        records = [dict(zip(names, map(_plain, row), strict=True)) for row in answer.rows]
        return json.dumps(records, indent=1, ensure_ascii=False, default=str) + "\n"
    if form == "csv":
        buffer = io.StringIO()
        plain = csv.writer(buffer, lineterminator="\n")
        quoted = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # `plain` lets a \r end the row
        rows = [answer.columns, *([_in_csv(cell) for cell in row] for row in answer.rows)]
        for row in rows:
            writer = quoted if any(isinstance(cell, str) and "\r" in cell for cell in row) else plain
            writer.writerow([_escaped(cell) for cell in row] if escape_formulas else row)
        return buffer.getvalue()
    header, *cells = [[_short(cell) for cell in row] for row in [answer.columns, *answer.rows]]
    if form == "markdown":
        lines = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in [header, *cells]]
        lines.insert(1, ["---"] * len(answer.columns))
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)
    numeric = [_is_numeric(column) for column in zip(*answer.rows, strict=True)] or [False] * len(header)
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    if not width:
        return _aligned(header, cells, numeric, widths)
    least = [
        _least(column, name, right) for column, name, right in zip(_turned(cells, header), header, numeric, strict=True)
    ]
    spare = width - len(_BETWEEN) * (len(header) - 1)
    if sum(least) > spare and cells:
        return _records(header, cells, width)
    return _aligned(header, cells, numeric, _narrowed(widths, least, spare))


def _turned(cells: Sequence[Sequence[str]], header: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*cells, strict=True)) or [()] * len(header)


def _least(column: Sequence[str], name: str, is_numeric: bool) -> int:
    """Return the letters below which a column tells nothing."""
    widest = max(map(len, column), default=0)
    return max(widest, min(len(name), _NARROWEST)) if is_numeric else min(max(widest, len(name)), _NARROWEST)


def _narrowed(widths: Sequence[int], least: Sequence[int], spare: int) -> list[int]:
    """Take letters from the widest columns until all fit, or none can give any more."""
    narrowed = list(widths)
    while sum(narrowed) > spare:
        widest = max(range(len(narrowed)), key=lambda at: narrowed[at] if narrowed[at] > least[at] else -1)
        if narrowed[widest] <= least[widest]:
            break
        narrowed[widest] -= 1
    return narrowed


def _records(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> str:
    """Write each row as a list of names and values, for rows that no line holds."""
    names = max(map(len, columns))
    room = max(width - names - len(_BETWEEN), _NARROWEST)
    blocks = []
    for number, row in enumerate(cells, 1):
        values = [
            f"{name.ljust(names)}{_BETWEEN}{_cut(cell, room)}".rstrip() for name, cell in zip(columns, row, strict=True)
        ]
        blocks.append("\n".join([f"row {number}", *values]) + "\n")
    return "\n".join(blocks)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def _aligned(
    columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool], widths: Sequence[int]
) -> str:
    def line(row: Sequence[str]) -> str:
        cut = [_cut(cell, width) for cell, width in zip(row, widths, strict=True)]
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cut, widths, numeric, strict=True)
        ]
        return _BETWEEN.join(padded).rstrip() + "\n"

    rule = _BETWEEN.join("-" * width for width in widths) + "\n"
    return line(columns) + rule + "".join(map(line, cells))


def _is_numeric(column: Sequence[Any]) -> bool:
    there = [value for value in column if value is not None]
    return bool(there) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in there)


def _short(value: Any) -> str:
    """Return a cell of a table: one line, no longer than a person reads."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        more = f", ... {len(value)} in all" if len(value) > _LIST_SHOWN else ""
        return f"[{', '.join(_short(item) for item in value[:_LIST_SHOWN])}{more}]"
    if isinstance(value, dict):
        value = ", ".join(f"{_short(key)}: {_short(item)}" for key, item in value.items())
    text = printable(" ".join(str(value).split()))
    return _cut(text, _WIDEST)


def _plain(value: Any) -> Any:
    """Return a value that JSON knows: no NaN, no infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _distinct(columns: Sequence[str]) -> list[str]:
    """Return the names with a number added to those that stand twice, as in a join's `key`."""
    out: list[str] = []
    for column in columns:
        name, number = column, 1
        while name in out:
            name, number = f"{column}_{number}", number + 1
        out.append(name)
    return out


def _in_csv(value: Any) -> Any:
    return (
        json.dumps(_plain(value), ensure_ascii=False, default=str) if isinstance(value, list | tuple | dict) else value
    )


def _escaped(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
