"""What a JPEG's structure says, against Pillow: its size, and never more than a decoder would confirm."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cusa.pipeline.shard import jpeg


def _encoded(mode: str = "RGB", size: tuple[int, int] = (61, 40), **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


KINDS = {
    "baseline": _encoded(),
    "progressive": _encoded(progressive=True),
    "grey": _encoded("L"),
    "cmyk": _encoded("CMYK"),
    "restart marks": _encoded(restart_marker_rows=1),
    "metadata that look like an end": _encoded(exif=b"Exif\0\0" + b"\xff\xd9" * 50, comment=b"\xff\xd8\xff\xd9"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_size__is_pillows_and_no_cut_is_whole(kind: str) -> None:
    data = KINDS[kind]
    assert jpeg.whole_size(data) == (61, 40)
    assert jpeg.whole_size(data + b"\0" * 7) == (61, 40), "what lies behind the end does not matter"
    assert all(jpeg.whole_size(data[:length]) is None for length in range(len(data)))


def test_whole_size__of_photographs(shared: Path) -> None:
    files = sorted((shared / "data/coco-mini/val2014").glob("*.jpg"))
    files += sorted((shared / "data/standins").rglob("*.[jJ][pP][gG]")) + sorted(
        (shared / "data/cub-mini").rglob("*.jpg")
    )
    assert len(files) > 1800
    for file in files[::3]:
        with Image.open(file) as image:
            assert jpeg.whole_size(file.read_bytes()) == image.size, file


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)), flips=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=3)
)
def test_whole_size__whatever_it_accepts_opens_with_that_size(kind: str, flips: list[tuple[int, int]]) -> None:
    data = bytearray(KINDS[kind])
    for at, value in flips:
        data[at] = value
    size = jpeg.whole_size(bytes(data))
    if size is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert Image.open(io.BytesIO(bytes(data)), formats=("JPEG",)).size == size


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n", b"\xff\xd8" + b"\xff" * 40]
)
def test_whole_size__what_is_no_jpeg_is_not_whole(data: bytes) -> None:
    assert jpeg.whole_size(data) is None


def _segment(kind: int, body: bytes) -> bytes:
    return bytes([0xFF, kind]) + (len(body) + 2).to_bytes(2, "big") + body


def _frame(kind: int = 0xC0, *, bits: int = 8, parts: int = 1, width: int = 300, height: int = 200) -> bytes:
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return _segment(kind, bytes([bits]) + size + bytes([parts]) + bytes(3 * parts))


START, END = b"\xff\xd8", b"\xff\xd9"
TABLE = _segment(0xDB, b"\0" + bytes(64))
WIDE_TABLE = _segment(0xDB, b"\x10" + bytes(128))
CODES = _segment(0xC4, bytes(17))
SCAN = _segment(0xDA, bytes(6)) + b"\x12\xff\0\x34\xff\xd3\x56"


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([START, TABLE, _frame(), CODES, SCAN, END], True),
        ([START, WIDE_TABLE, _frame(0xC1, parts=3), CODES, SCAN, END], True),
        ([START, TABLE, _frame(0xC2, parts=4), CODES, SCAN, CODES, SCAN, END], True),
        ([START, b"\xff\xff", TABLE, _frame(), b"\xff", CODES, SCAN, b"\xff", END], True),
        ([START, TABLE + TABLE, _frame(), CODES, SCAN, END], True),
        ([START, _segment(0xDB, 2 * (b"\0" + bytes(64))), _frame(), CODES, SCAN, END], True),
        ([START, _segment(0xE1, END), TABLE, _frame(), CODES, SCAN, END], True),
        ([START, TABLE, _frame(), CODES, SCAN], False),
        ([START, TABLE, _frame(), CODES, END], False),
        ([START, TABLE, _frame(), SCAN, END], False),
        ([START, _frame(), CODES, SCAN, END], False),
        ([START, TABLE, CODES, SCAN, END], False),
        ([START, TABLE, CODES, SCAN, _frame(), END], False),
        ([START, TABLE, _frame(), _frame(), CODES, SCAN, END], False),
        ([START, TABLE, _frame(), b"x", CODES, SCAN, END], False),
        ([START, TABLE, _frame(bits=12), CODES, SCAN, END], False),
        ([START, TABLE, _frame(parts=2), CODES, SCAN, END], False),
        ([START, TABLE, _frame(width=0), CODES, SCAN, END], False),
        ([START, TABLE, _frame(height=0), CODES, SCAN, END], False),
        ([START, TABLE, _segment(0xC0, _frame()[4:] + b"\0"), CODES, SCAN, END], False),
        ([START, _segment(0xDB, b"\0" + bytes(63)), _frame(), CODES, SCAN, END], False),
        ([START, _segment(0xDB, b"\x10" + bytes(64)), _frame(), CODES, SCAN, END], False),
        ([START, _segment(0xDB, b""), _frame(), CODES, SCAN, END], False),
        ([START, TABLE, b"\xff\xe0\0\1", _frame(), CODES, SCAN, END], False),
        ([START, TABLE, b"\xff\xd0", _frame(), CODES, SCAN, END], False),
        ([START, TABLE, b"\xff\x4f", _frame(), CODES, SCAN, END], False),
        *(
            ([START, TABLE, _frame(kind), CODES, SCAN, END], False)
            for kind in (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
        ),
        *(([START, TABLE, _frame(), _frame(kind), CODES, SCAN, END], False) for kind in (0xC3, 0xC9, 0xCF)),
    ],
)
def test_whole_size__segment_by_segment(parts: list[bytes], whole: bool) -> None:
    assert jpeg.whole_size(b"".join(parts)) == ((300, 200) if whole else None)
