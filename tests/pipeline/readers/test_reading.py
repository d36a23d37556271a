"""What several readers need: text in any marked encoding, paths that stay inside, keys for equal names."""

import codecs
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.pipeline.readers.reading import decode_text, inside, lines, open_text, other_key

TEXT = "eins\nzwei \u2028 ü\r\n\nvier"
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", [*ENCODINGS, "big"])
def test_lines__any_marked_encoding(tmp_path: Path, encoding: str) -> None:
    data = codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be") if encoding == "big" else TEXT.encode(encoding)
    (tmp_path / "t").write_bytes(data)
    assert list(lines(tmp_path / "t")) == [(1, "eins"), (2, "zwei \u2028 ü"), (3, ""), (4, "vier")]
    assert decode_text(data) == TEXT
    with open_text(tmp_path / "t") as file:
        assert file.read() == TEXT, "line ends are left as they are"


def test_lines__bytes_that_are_no_utf8_are_kept(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"a\xffb\n")
    ((_, line),) = lines(tmp_path / "t")
    assert line.encode("utf-8", "surrogateescape") == b"a\xffb"
    (tmp_path / "t").write_bytes(codecs.BOM_UTF16_LE + b"a\0\0\xd8")
    with pytest.raises(DataError, match="not in utf-16"):
        list(lines(tmp_path / "t"))
    with pytest.raises(ValueError, match="utf-16"):
        decode_text(codecs.BOM_UTF16_LE + b"a\0\0\xd8")


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../../b", "a/..", "a\0b"])
def test_inside__refuses_what_leads_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="empty|leaves the image folder"):
        inside(tmp_path, name)


def test_inside__odd_names_are_names(tmp_path: Path) -> None:
    for name in ("a..b.jpg", "..a", "a/.b/c", " a"):
        assert inside(tmp_path, name) == tmp_path / name


def test_other_key__equal_stems_differ() -> None:
    keys = {other_key("d", name) for name in ("a/1.jpg", "b/1.jpg", "a/1.png", "1.jpg")}
    assert len(keys) == 4
    assert other_key("d", "./a//1.jpg") == other_key("d", "a/1.jpg")


def test_read__bytes_that_are_no_utf8_are_kept_by_every_way_of_reading(tmp_path: Path) -> None:
    data = b"a\xffb\r\nc\xef\xbb\xbfd"
    (tmp_path / "t").write_bytes(data)
    assert decode_text(data).encode("utf-8", "surrogateescape") == data
    with open_text(tmp_path / "t") as file:
        assert file.read().encode("utf-8", "surrogateescape") == data
    found = [line.encode("utf-8", "surrogateescape") for _, line in lines(tmp_path / "t")]
    assert found == [b"a\xffb", b"c\xef\xbb\xbfd"], "a mark that is not at the beginning is text"
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbfa\n\xef\xbb\xbfb")
    assert [line for _, line in lines(tmp_path / "t")] == ["a", "\ufeffb"]
    for short in (b"", b"a", b"\xff", b"\xfe\xff"):
        (tmp_path / "t").write_bytes(short)
        assert [line for _, line in lines(tmp_path / "t")] == (
            [] if short in (b"", b"\xfe\xff") else [decode_text(short)]
        )
