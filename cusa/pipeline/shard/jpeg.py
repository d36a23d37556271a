"""What the structure of a JPEG file says without decoding it: its size, and that nothing of it is missing."""

import re

_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_HUFFMAN_FRAMES = frozenset((0xC0, 0xC1, 0xC2))  # baseline, extended, progressive: what every decoder reads
_OTHER_FRAMES = frozenset(range(0xC0, 0xD0)) - _HUFFMAN_FRAMES - {0xC4, 0xC8, 0xCC}


def whole_size(data: bytes) -> tuple[int, int] | None:
    """Walk a JPEG's segments to its end marker (ITU T.81, annex B).

    Args:
        data: a file's bytes.

    Returns:
        Width and height in pixels, if the file has one frame of 8 bits that every decoder reads, its tables, and scans
        that go on to the end marker. None = only a decoder can tell.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    size: tuple[int, int] | None = None
    tables: set[int] = set()
    at, end, scans = 2, len(data), 0
    while at + 2 <= end:
        if data[at] != 0xFF:
            return None
        kind = data[at + 1]
        if kind == 0xFF:  # fill bytes
            at += 1
            continue
        if kind == 0xD9:
            return size if scans else None
        if kind < 0xC0 or 0xD0 <= kind < 0xD9:  # reserved, or a mark that belongs into a scan
            return None
        if at + 4 > end:
            return None
        length = data[at + 2] << 8 | data[at + 3]
        if kind in _HUFFMAN_FRAMES:
            if size or at + 10 > end or data[at + 4] != 8 or data[at + 9] not in (1, 3, 4):
                return None
            if length != 8 + 3 * data[at + 9]:
                return None
            size = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
        elif (
            kind in _OTHER_FRAMES or length < 2 or (kind == 0xDB and not _whole_tables(data[at + 4 : at + 2 + length]))
        ):
            return None
        tables.add(kind)
        at += 2 + length
        if kind == 0xDA:
            if not size or not min(size) or not tables >= {0xDB, 0xC4}:
                return None
            scans += 1
            marker = _NEXT_MARKER.search(data, at)
            if marker is None:
                return None
            at = marker.start()
    return None


def _whole_tables(tables: bytes) -> bool:
    """Tell whether a segment's quantization tables have all their numbers."""
    at = 0
    while at < len(tables):
        at += 129 if tables[at] >> 4 else 65
    return at == len(tables) > 0
