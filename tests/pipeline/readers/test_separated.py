"""Tables of separated values: what csv and pandas write is read back; what people write by hand is not swallowed."""

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from cusa.errors import DataError
from cusa.pipeline.readers import separated

WANTED = ("image", "caption")


def _read(path: Path, text: str | bytes, encoding: str = "utf-8") -> list[list[str]]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    form = separated.form_of(path, WANTED)
    return [list(form.columns), *(fields for _, fields in separated.read_rows(path, form))]


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff"), min_size=1, max_size=12)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(rows=[("0", "\n|")])
@example(rows=[("0", "a\n0\tb")])
@given(rows=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=6))
def test_form_of__what_csv_writes_is_read_back(
    tmp_path: Path, separator: str, quoting: int, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path / ("t.tsv" if separator == "\t" else "t.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator, quoting=quoting).writerows([WANTED, *rows])
    # Unquoted header, and a text of several lines that each look like a row: nobody can know.
    several = [field for row in rows for field in row if "\n" in field]
    assume(quoting == csv.QUOTE_ALL or not any(separator in field for field in several))
    form = separated.form_of(path, WANTED)
    assert form.separator == separator
    assert [tuple(fields) for _, fields in separated.read_rows(path, form)] == rows


QUOTES = [
    '"No parking" sign by a wall',
    '"What a day, says the man',
    'five inches 5"',
    '"quoted"',
    'a "b" c',
    '""',
    '"',
]


@pytest.mark.parametrize("text", QUOTES)
def test_form_of__quotes_in_a_plain_tsv_are_text(tmp_path: Path, text: str) -> None:
    rows = [["image", "caption"], ["0.jpg", "plain"], ["1.jpg", text], ["2.jpg", "plain"], ["3.jpg", 'six feet 6"']]
    for ragged in ([], [["4.jpg"]]):
        whole = "".join("\t".join(row) + "\n" for row in rows + ragged)
        assert _read(tmp_path / "t.tsv", whole) == rows + ragged


def test_form_of__quotes_in_a_plain_csv_are_text_where_all_else_fits(tmp_path: Path) -> None:
    rows = [["image", "caption"], ["1.jpg", '"No parking" sign'], ["2.jpg", "a dog"]]
    assert _read(tmp_path / "t.csv", "".join(",".join(row) + "\n" for row in rows)) == rows
    with pytest.raises(DataError, match=r"t\.csv line 2.*quotes fit no dialect.*JSONL"):
        _read(tmp_path / "t.csv", 'image,caption\n1.jpg,"No parking" sign, by a wall\n2.jpg,a dog\n')
    with pytest.raises(DataError, match="in two ways"):
        _read(tmp_path / "t.csv", 'image,caption\n1.jpg,"What a day\n2.jpg,five inches 5"\n3.jpg,a dog\n')
    with pytest.raises(DataError, match="fit no dialect"):
        _read(tmp_path / "t.csv", 'image,caption\n1.jpg,"never closed, alas\n2.jpg,a dog\n')


SEPARATED = {
    "semi.csv": ("\ufeffimage;caption\r\n0.jpg;a red, thing\r\n", "utf-8"),
    "tab.csv": ("image\tcaption\n0.jpg\ta red, thing\n", "utf-8"),
    "pipe.csv": ("image| number| caption\n0.jpg| 0| a red, thing\n", "utf-8"),
    "wide.csv": ('image,caption\r\n0.jpg,"a red, thing"\r\n', "utf-16"),
    "big.csv": ('\ufeffimage,caption\r\n0.jpg,"a red, thing"\r\n', "utf-32-be"),
    "blank.csv": ('image, caption\n0.jpg, "a red, thing"\n\n', "utf-8"),
}


@pytest.mark.parametrize("name", SEPARATED)
def test_form_of__separators_encodings_and_blanks(tmp_path: Path, name: str) -> None:
    header, row = _read(tmp_path / name, *SEPARATED[name])
    assert dict(zip(header, row, strict=True)) | {"number": ""} == {
        "image": "0.jpg",
        "caption": "a red, thing",
        "number": "",
    }


def test_form_of__what_is_no_table_is_named(tmp_path: Path) -> None:
    for content, match in (
        (b"", "no header"),
        ("image,caption\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"\xff\xfei\0m\0\0\xd8", "not in utf-16"),
    ):
        with pytest.raises(DataError, match=match):
            _read(tmp_path / "t.csv", content)
    with pytest.raises(DataError, match="does not exist"):
        separated.form_of(tmp_path / "none.csv")


FORMS = {
    # (ending, text): separator, whether blanks follow it, whether quotes enclose fields
    ("csv", "image,caption\n1.jpg,a dog\n"): (",", False, False),
    ("csv", 'image,caption\n1.jpg,"a dog"\n'): (",", False, True),
    ("csv", 'image,caption\n1.jpg,"a dog"\n2.jpg,a cat\n'): (",", False, True),
    ("csv", '"image","caption"\n1.jpg,a dog\n'): (",", False, True),
    ("csv", '"image","caption"\r\n\r\n1.jpg,"a dog"\r\n'): (",", False, True),
    ("csv", 'image, caption\n1.jpg, "a dog, a cat"\n'): (",", True, True),
    ("csv", "image, caption,label\n1.jpg, a dog,x\n"): (",", False, False),
    ("csv", 'image,caption\n1.jpg,"No parking" sign\n'): (",", False, False),
    ("csv", 'image;caption\n1.jpg;"a;b"\n'): (";", False, True),
    ("tsv", 'image\tcaption\n1.jpg\t"a dog"\n2.jpg\ta cat\n'): ("\t", False, False),
    ("tsv", 'image\tcaption\n1.jpg\t"a dog"\n2.jpg\t"a cat"\n'): ("\t", False, True),
    ("tsv", 'image\tcaption\n1.jpg\t"a ""big"" dog"\n2.jpg\ta cat\n'): ("\t", False, True),
    ("tsv", '"image"\t"caption"\n"1.jpg"\t"a dog"\n'): ("\t", False, True),
    ("tsv", 'image\tcaption\n1.jpg\t"a dog\n2.jpg\ta cat\n'): ("\t", False, False),
    ("tsv", 'image\tcaption\n1.jpg\t"a\tdog"\n2.jpg\ta cat\n'): ("\t", False, True),
    ("tsv", "image,caption\tx\n"): (",", False, False),
    ("TSV", "a\tb,c\n"): ("\t", False, False),
    ("csv", "a\tb,c\n"): (",", False, False),
    ("csv", 'image,caption\n1.jpg,"a dog"\n2.jpg\n'): (",", False, True),
    ("csv", '"image","caption"\n1.jpg,a dog\n2.jpg\n'): (",", False, True),
}


@pytest.mark.parametrize("written", FORMS)
def test_form_of__is_what_the_file_shows(tmp_path: Path, written: tuple[str, str]) -> None:
    ending, text = written
    path = tmp_path / f"t.{ending}"
    path.write_bytes(text.encode())
    form = separated.form_of(path, WANTED)
    assert (form.separator, form.spaced, form.quoted) == FORMS[written]
    assert form.encoding.lower().replace("_", "-") == "utf-8"


def test_read_rows__each_with_the_number_of_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'"image","caption"\n\n"1.jpg","two\nlines"\n\n\n"2.jpg","x"\n')
    form = separated.form_of(path, WANTED)
    assert list(separated.read_rows(path, form)) == [(4, ["1.jpg", "two\nlines"]), (7, ["2.jpg", "x"])]
    path.write_bytes(b'"image","caption"\n"1.jpg","a" dog\n')
    with pytest.raises(DataError, match="line 2 cannot be read"):
        list(separated.read_rows(path, form))


def test_form_of__a_header_of_blanks_is_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("   \n1.jpg,a\n")
    with pytest.raises(DataError, match="has no header"):
        separated.form_of(tmp_path / "t.csv", WANTED)


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ('image, "caption, whole"', ("image", "caption, whole")),
        (" image ,caption ", ("image", "caption")),
        ('"image";"caption"', ("image", "caption")),
        ("image\t\tcaption", ("image", "", "caption")),
    ],
)
def test_form_of__names_of_columns_without_blanks_and_quotes(
    tmp_path: Path, header: str, columns: tuple[str, ...]
) -> None:
    (tmp_path / "t.csv").write_text(f"{header}\n")
    assert separated.form_of(tmp_path / "t.csv", WANTED).columns == columns
