"""Unpacking archives from strangers: nothing outside the folder, no links, no devices, no bombs."""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.manifests.storage.os_errors import named_os_errors

KINDS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_FILES = 2_000_000
MAX_RATIO = 200
"""Bytes unpacked for a byte packed: photographs come to about 1, text to 10, a bomb to thousands."""

_CHUNK = 1 << 20
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError, ValueError, LookupError)


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str
    """`file`, `folder`, or what it is instead."""
    source: Any


def unpack(archive: Path, folder: Path, *, reserved: Collection[Path] = ()) -> list[Path]:
    """Unpack an archive into a folder, beside what is there.

    Everything is unpacked under a temporary name first and looked at before it is moved, so a refused archive leaves
    nothing.

    Args:
        archive: a zip or a tar, plain or compressed.
        folder: where its members go.
        reserved: files and folders that no member may replace, or lie in.

    Returns:
        The files, sorted.

    Raises:
        DataError: if the archive is broken, or a member leaves the folder, is a link or a device or has a name of ours;
            if the whole unpacks to more than `MAX_RATIO` times its size.
    """
    allowed = max(archive.stat().st_size, 1 << 20) * MAX_RATIO
    store.make_folder(folder)
    store.sweep(folder)
    written: dict[PurePosixPath, None] = {}  # a later member of the same name replaces the earlier one, as in tar
    temporary = folder / f"{store.TEMPORARY}{archive.name}"
    store.remove_folder(temporary)
    try:
        with named_os_errors(folder), _opened(archive) as (members, open_member):
            for member in members:
                name = _safe(archive, member)
                if any((folder / name).is_relative_to(place) for place in reserved):
                    raise DataError(
                        f"{archive} holds {member.name!r}, a name that is ours. It is refused.", path=archive
                    )
                target = temporary / name
                if member.kind == "folder":
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                if len(written) == MAX_FILES:
                    raise DataError(f"{archive} holds more than {MAX_FILES:,} files. It is refused.", path=archive)
                target.parent.mkdir(parents=True, exist_ok=True)
                with open_member(member) as source, target.open("wb") as file:
                    while chunk := source.read(_CHUNK):
                        allowed -= len(chunk)
                        if allowed < 0:
                            raise DataError(
                                f"{archive} unpacks to more than {MAX_RATIO} times its size; it looks like a bomb and "
                                "is refused. Unpack it yourself if you trust it.",
                                path=archive,
                            )
                        file.write(chunk)
                written[name] = None
        for name in written:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).replace(target)
        return sorted(folder / name for name in written)
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(
            f"{archive} cannot be unpacked: {error}. Delete it and download it again.", path=archive
        ) from error
    finally:
        store.remove_folder(temporary)


def _safe(archive: Path, member: _Member) -> PurePosixPath:
    """Return a member's name, if it is a file or folder below the archive's own root."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        raise DataError(f"{archive} holds {member.name!r}, which leaves the folder. It is refused.", path=archive)
    if member.kind not in ("file", "folder"):
        raise DataError(f"{archive} holds {member.name!r}, a {member.kind}. It is refused.", path=archive)
    if any(part.startswith(store.TEMPORARY) or part == store.LOCK for part in name.parts):
        raise DataError(f"{archive} holds {member.name!r}, a name that is ours. It is refused.", path=archive)
    return name


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[Iterator[_Member], Callable[[_Member], IO[bytes]]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            yield (_zip_member(info) for info in opened.infolist()), lambda m: opened.open(m.source)
    else:
        with tarfile.open(archive, "r:*") as tar:
            yield (_tar_member(info) for info in tar), lambda m: _tar_file(tar, m)


def _zip_member(info: zipfile.ZipInfo) -> _Member:
    mode = info.external_attr >> 16
    kind = "folder" if info.is_dir() else "file"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        kind = "link" if stat.S_ISLNK(mode) else "device"
    return _Member(info.filename, kind, info)


def _tar_member(info: tarfile.TarInfo) -> _Member:
    kind = (
        "file" if info.isreg() else "folder" if info.isdir() else "link" if info.issym() or info.islnk() else "device"
    )
    return _Member(info.name, kind, info)


def _tar_file(tar: tarfile.TarFile, member: _Member) -> IO[bytes]:
    file = tar.extractfile(member.source)
    assert file is not None, member.name
    return file
