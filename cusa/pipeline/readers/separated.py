"""Tables of separated values as people have them: which encoding, which separator, and whether quotes mean anything.

Python's `csv` module reads the rows. What it cannot know is the dialect: a TSV is often written without any quoting, so
that a caption that begins with a quote would swallow the rows after it. The whole file is looked at once to decide.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cusa.errors import DataError
from cusa.pipeline.readers.reading import open_text

_SEPARATORS = ",;\t|"
_WELL_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_LONGEST = 1 << 24  # characters of a field


@dataclass(frozen=True)
class Form:
    """How a file is written."""

    encoding: str
    separator: str
    spaced: bool
    """Whether a blank follows every separator."""
    quoted: bool
    """Whether quotes enclose fields; else they are part of the text."""
    columns: tuple[str, ...]


def form_of(path: Path, wanted: tuple[str, ...] = ()) -> Form:
    """Find out how a table is written.

    Args:
        path: a file whose first line names the columns.
        wanted: names that decide between separators.

    Raises:
        DataError: if the file is missing, empty, in an encoding without a mark, or its quotes fit no dialect.
    """
    csv.field_size_limit(_LONGEST)
    with open_text(path) as file:
        encoding = file.encoding
        try:
            header = file.readline(_LONGEST).rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not in {encoding} ({error}). Save it as UTF-8.", path=path) from error
    if "\0" in header:
        raise DataError(f"{path} seems to be UTF-16 without a byte order mark. Save it as UTF-8.", path=path)
    if not header.strip():
        raise DataError(f"{path} has no header: its first line names the columns.", path=path)
    order = "\t,;|" if path.suffix.lower() == ".tsv" else _SEPARATORS

    def rank(separator: str) -> tuple[int, int]:
        names = _names(header, separator)
        return sum(name in names for name in wanted), len(names)

    separator = max(order, key=rank)  # the first of equals
    rest = header.split(separator)[1:]
    spaced = bool(rest) and all(cell.startswith(" ") for cell in rest)
    columns = tuple(_names(header, separator))
    form = Form(encoding, separator, spaced, False, columns)
    return Form(encoding, separator, spaced, _is_quoted(path, form, header), columns)


def read_rows(path: Path, form: Form) -> Iterator[tuple[int, list[str]]]:
    """Give each row below the header with the number of its last line; empty lines are left out.

    Raises:
        DataError: if a row cannot be read.
    """
    with open_text(path) as file:
        # A file with well-made quotes was seen to be so from end to end; strict, so that nothing is swallowed.
        reader = csv.reader(
            file,
            delimiter=form.separator,
            skipinitialspace=form.spaced,
            quoting=csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE,
            strict=True,
        )
        try:
            next(reader, None)
            for row in reader:
                if row:
                    yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path} line {reader.line_num} cannot be read ({error}).", path=path) from error


def _names(header: str, separator: str) -> list[str]:
    row = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
    return [name.strip() for name in row]


def _is_quoted(path: Path, form: Form, header: str) -> bool:
    """Decide whether quotes enclose fields.

    They do not where every line has its fields without them, and a field that begins with a quote is not a well-made
    quoted one. Among tabs, where nothing but a tab, a quote or a line's end needs quoting, a field in quotes that
    needs none is text in quotes, unless all rows have one.
    """
    wrong = rows = with_quotes = 0
    well_made, needed = True, True
    with open_text(path) as file:
        try:
            for number, line in enumerate(file):
                line = line.rstrip("\r\n")
                if not line or not number:
                    continue
                fields = line.split(form.separator)
                rows += 1
                wrong += len(fields) != len(form.columns)
                bare = [field.lstrip(" ") for field in fields] if form.spaced else fields
                enclosed = [field for field in bare if field.startswith('"')]
                with_quotes += bool(enclosed)
                well_made = well_made and all(_WELL_QUOTED.fullmatch(field) for field in enclosed)
                needed = needed and all('""' in field[1:-1] for field in enclosed)
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not in {form.encoding} ({error}). Save it as UTF-8.", path=path) from error
    if not with_quotes:
        return header.startswith('"')
    all_quoted = header.startswith('"')
    free = form.separator != "\t" or all_quoted or needed or with_quotes == rows
    if not wrong and (well_made or (form.separator == "\t" and not all_quoted)):
        return well_made and free
    try:
        wrong_if_quoted = sum(
            len(row) != len(form.columns)
            for _, row in read_rows(path, Form(form.encoding, form.separator, form.spaced, True, form.columns))
        )
    except DataError as error:
        if form.separator == "\t" or not wrong:
            return False
        raise DataError(
            f"{error} Its quotes fit no dialect: neither do they enclose whole fields with inner quotes doubled, nor "
            f"has every line its {len(form.columns)} fields without them. Write it again with quotes doubled inside "
            "quoted fields, or as JSONL or Parquet.",
            path=path,
        ) from error
    if not wrong and not wrong_if_quoted and not all_quoted:
        raise DataError(
            f"{path} can be read in two ways: with quotes that enclose texts of several lines, and with quotes that "
            "are part of the text. Write it again as JSONL or Parquet, or with every field in quotes.",
            path=path,
        )
    if wrong_if_quoted == wrong:
        return all_quoted or (well_made and free)
    return wrong_if_quoted < wrong
