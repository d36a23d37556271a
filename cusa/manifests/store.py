"""Writing so that a file is whole or absent, and reading so that a broken one is named."""

import atexit
import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import DataError

TEMPORARY = ".partial-"
"""Every unfinished file or folder begins with this; `sweep` removes what a killed stage left."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; on success fsync it and rename it to `path`, else remove it.

    Args:
        path: the final name; its folder is made.

    Yields:
        The temporary name, in the same folder.

    Raises:
        DataError: if the folder cannot be written or the disk is full.
    """
    with _named_os_errors(path), _temporary(path) as temporary:
        temporary.touch()
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it becomes `path` (replacing an older one), else it is removed."""
    with _named_os_errors(path), _temporary(path) as temporary:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            _fsync(file)
        if path.exists():
            with _temporary(path) as old:
                path.replace(old)
                temporary.replace(path)
        else:
            temporary.replace(path)
        _fsync(path.parent)


def sweep(folder: Path) -> None:
    """Remove what killed stages left unfinished in `folder` itself (not below it)."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        _remove(leftover)


def remove_folder(folder: Path) -> None:
    """Remove a folder and all below it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as sorted, indented JSON, whole."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: if it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check the path, or run the stage that writes it.", path=path) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is no readable JSON ({error}). Restore it, or make it again.", path=path) from error


def write_table(path: Path, table: pa.Table, *, rows_per_group: int = 65536) -> None:
    """Write a Parquet table whole; the same table gives the same bytes."""
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=rows_per_group)


def read_table(path: Path, *, columns: list[str] | None = None, made_by: str = "") -> pa.Table:
    """Read a Parquet table.

    Args:
        path: the file.
        columns: which to read; all if None.
        made_by: the command that makes the table, for the error message.

    Raises:
        DataError: if it is missing, truncated, no Parquet, or lacks a column.
    """
    way_out = f"Run `{made_by}`." if made_by else "Run the stage that writes it."
    if not path.is_file():
        raise DataError(f"{path} does not exist. {way_out}", path=path)
    try:
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        again = way_out.replace("`.", " --force`.")
        raise DataError(f"{path} is no readable Parquet table: {_first_line(error)} {again}", path=path) from error
    missing = set(columns or ()) - set(table.column_names)
    if missing:
        raise DataError(
            f"{path} lacks the columns {sorted(missing)}; it has {table.column_names}. {way_out}", path=path
        )
    return table


def check_table(path: Path, *, columns: list[str], made_by: str = "") -> int:
    """Make sure that a Parquet table is there with its columns, without reading it; return its number of rows.

    Raises:
        DataError: if it is missing, truncated, no Parquet, or lacks a column.
    """
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        metadata = None
    if metadata is None or not set(columns) <= set(metadata.schema.to_arrow_schema().names):
        read_table(path, columns=columns, made_by=made_by)  # says what is wrong
    return 0 if metadata is None else metadata.num_rows


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(folder: Path) -> str:
    """Return one SHA-256 over the names and bytes of every file below `folder`, hidden and cached ones left out."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in relative.parts):
            total.update(f"{relative.as_posix()}\0{sha256_file(file)}\n".encode())
    return total.hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


_unfinished: set[Path] = set()


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Reserve a temporary name beside `path`; whatever bears it afterwards is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex[:12]}{path.suffix}"
    _unfinished.add(temporary)
    try:
        yield temporary
    finally:
        _remove(temporary)
        _unfinished.discard(temporary)


@atexit.register
def _remove_unfinished() -> None:
    # A signal can arrive where no `finally` is entered yet; the process still leaves nothing behind.
    for temporary in _unfinished:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".") + "." if str(error) else type(error).__name__


@contextlib.contextmanager
def _named_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = f"{shutil.disk_usage(_existing(path)).free / 2**20:.0f} MiB free"
            raise DataError(
                f"The disk is full while writing {path} ({free}). Nothing unfinished was left there. "
                "Free some space or choose another --out, and run the same command again.",
                path=path,
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise DataError(
                f"{path} cannot be written ({error.strerror}). Choose another --out, or mend the folder's permissions.",
                path=path,
            ) from error
        raise


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
