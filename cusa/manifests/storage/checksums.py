"""Checksums of caches: a small file beside each cache says what was written and from what, and is read before use.

A cache is a file that a stage builds for itself and may build again at any time: plain rows of a table, strings by
number, embeddings. No ledger names it. Its checksum is XXH3, 128 bits: it finds every accident (a flipped byte, zeroed
pages, a file put in another's place) at the speed of memory, some ten times that of SHA-256; it proves nothing against
a forger. What is handed on, tars and tables, has a SHA-256 in a ledger.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from cusa.errors import DataError
from cusa.manifests.storage import store

SUFFIX = ".sum.json"
"""What follows a cache's name in that of its checksum file."""
_CHUNK = 4 << 20  # bytes


def checksum(path: Path) -> str:
    """Return the XXH3 checksum of a file's bytes, 128 bits in hexadecimal.

    Raises:
        OSError: if the file cannot be read.
    """
    total = xxhash.xxh3_128()
    buffer = bytearray(max(1, min(_CHUNK, path.stat().st_size)))  # clearing a large one costs more than a small file
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(view):
            total.update(view[:count])
    return total.hexdigest()


@contextmanager
def checked_file(path: Path, *, made_from: str) -> Iterator[Path]:
    """Give a temporary name to write a cache to; on success it becomes `path`, its checksum beside it.

    Args:
        path: the cache's final name; its folder is made.
        made_from: digest of what it is built from.

    Yields:
        The temporary name, see `store.whole_file`.

    Raises:
        DataError: if the folder cannot be written or the disk is full.
    """
    with store.whole_file(path) as temporary:
        yield temporary
        content = _describe(temporary, made_from)
    # A kill in between leaves a cache without its checksum, which is built again.
    store.write_json(_beside(path), content)


def write_checksum(path: Path, *, made_from: str) -> None:
    """Write the checksum of a cache that is complete, such as a file of a folder that becomes visible as a whole.

    Args:
        path: the cache.
        made_from: digest of what it is built from.
    """
    store.write_json(_beside(path), _describe(path, made_from))


def write_in_first(places: Sequence[Path], write: Callable[[Path], None]) -> Path:
    """Write a cache to the first place that can be written, and return that place.

    Args:
        places: one at least, the best first.
        write: writes the cache to a place, whole or not at all.

    Raises:
        DataError, OSError: of the last place, if none can be written.
    """
    for place in places[:-1]:
        with suppress(DataError, OSError):
            write(place)
            return place
    write(places[-1])
    return places[-1]


def is_intact(path: Path, *, made_from: str) -> bool:
    """Tell whether a cache is there, was built from this, and holds every byte that was written.

    Args:
        path: the cache.
        made_from: digest of what it should be built from.
    """
    return not problem(path, made_from=made_from)


def problem(path: Path, *, made_from: str | None = None) -> str:
    """Say in a few words why a cache cannot be used; empty if it can.

    Args:
        path: the cache.
        made_from: digest of what it should be built from; None = not compared.
    """
    try:
        content = store.read_json(_beside(path))
        size, source, total = content["bytes"], content["made_from"], content["xxh3_128"]
    except (DataError, KeyError, TypeError, OSError):
        return "its checksum is missing or cannot be read"
    if made_from is not None and source != made_from:
        return "it was built from something else"
    try:
        if (actual := os.stat(path).st_size) != size:
            return f"{actual} bytes instead of {size}"
        if (now := checksum(path)) != total:
            return f"xxh3 {now[:12]} instead of {str(total)[:12]}"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return ""


def remove(path: Path) -> None:
    """Remove a cache and its checksum, if they are there."""
    path.unlink(missing_ok=True)
    _beside(path).unlink(missing_ok=True)


def caches_below(folder: Path) -> list[Path]:
    """Return every cache below a folder that has a checksum, for `cusa verify`; a cache itself may be missing."""
    return sorted(path.with_name(path.name.removesuffix(SUFFIX)) for path in folder.rglob(f"*{SUFFIX}"))


def _describe(path: Path, made_from: str) -> dict[str, str | int]:
    return {"bytes": path.stat().st_size, "made_from": made_from, "xxh3_128": checksum(path)}


def _beside(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)
