"""The header of a tar's member in the POSIX (ustar) form: fixed owner, mode and time, so that it depends on name and
size alone, and not on the version of anything.
"""

BLOCK = 512
"""Bytes a header has, and a member's data is filled up to a multiple of."""
END = bytes(2 * BLOCK)
"""What ends a tar."""
RECORD = 20 * BLOCK
"""A tar's size is a multiple of this."""

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
