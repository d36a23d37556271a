"""The header of a tar's member in the POSIX (ustar) form: fixed owner, mode and time, so that it depends on name and
size alone, and not on the version of anything; and a tar of such members.
"""

import hashlib
from typing import IO

BLOCK = 512
"""Bytes a header has, and a member's data is filled up to a multiple of."""
END = bytes(2 * BLOCK)
"""What ends a tar."""
RECORD = 20 * BLOCK
"""A tar's size is a multiple of this."""

_AT_ONCE = 1 << 20  # bytes hashed and written at once
_BEFORE_SIZE = b"0000644\0" + b"0000000\0" * 2  # mode, owner, group
_AFTER_SIZE = b"\0" + b"0" * 11 + b"\0"  # time
_AFTER_SUM = b"\0 0" + bytes(100) + b"ustar\0" + b"00" + bytes(80)  # a file, no link, no names of owner or device
_FIXED = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + sum(_AFTER_SUM[2:]) + 8 * 32  # the sum itself counts as eight spaces


def header(name: str, size: int) -> bytes:
    """Return the header of a file with mode 0644, owner 0 and time 0.

    Args:
        name: at most 100 bytes, or 100 behind a `/` and 155 before it.
        size: bytes, below 8 GiB.
    """
    path, prefix = name.encode(), b""
    if len(path) > 100:
        cut = path.rfind(b"/", 0, 156)
        path, prefix = path[cut + 1 :], path[: max(0, cut)]
        assert 0 < len(path) <= 100, name
        assert prefix, name
    octal = b"%011o" % size
    assert len(octal) == 11, size
    checksum = b"%06o" % (_FIXED + sum(path) + sum(prefix) + sum(octal))
    head = path.ljust(100, b"\0") + _BEFORE_SIZE + octal + _AFTER_SIZE + checksum + _AFTER_SUM
    return head + prefix.ljust(BLOCK - len(head), b"\0")


class Archive:
    """A tar being written from its start, in big blocks, each hashed once and written once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._total = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._written = 0
        self.bytes = 0

    @property
    def sha256(self) -> str:
        """SHA-256 of the tar, once it has ended."""
        return self._total.hexdigest()

    def add(self, name: str, data: bytes) -> int:
        """Add a file; return the offset of its first byte."""
        offset = self.bytes + BLOCK
        self._put(header(name, len(data)), data, bytes(-len(data) % BLOCK))
        return offset

    def end(self) -> None:
        """Write the end and all that waits."""
        self._put(END)
        self._put(bytes(-self.bytes % RECORD))
        self._flush()

    def _put(self, *parts: bytes) -> None:
        self._waiting += parts
        self.bytes += sum(map(len, parts))
        if self.bytes - self._written >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        block = memoryview(b"".join(self._waiting))
        self._waiting.clear()
        self._written = self.bytes
        self._total.update(block)
        while block:  # the operating system may take less than it was given
            block = block[self._file.write(block) :]
