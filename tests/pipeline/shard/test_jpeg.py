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
