"""Writing so that a file is whole or absent, and reading so that a broken one is named."""

import atexit
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import DataError
from cusa.manifests.storage.os_errors import named_os_errors
from cusa.manifests.storage.paths import is_remote, named_remote_errors

TEMPORARY = ".partial-"
"""Every unfinished file or folder begins with this, then machine and process; `sweep` removes what the dead left."""
LOCK = ".cusa.lock"
"""The lock's file in a folder that a stage writes, see `cusa.manifests.lock`."""
_MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_OWNER = re.compile(re.escape(TEMPORARY) + r"(?P<machine>[0-9a-f]{8})-(?P<pid>[0-9]+)-[0-9a-f]{12}.*")
_ABANDONED = 24 * 3600.0  # seconds: an unfinished file of another machine that was not touched for so long


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; on success fsync it and rename it to `path`, else remove it.

    Args:
        path: the final name; its folder is made. One that lies elsewhere is uploaded.

    Yields:
        The temporary name, in the same folder or, for an upload, on this machine.

    Raises:
        DataError: if the folder cannot be written or the disk is full.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="cusa-upload-") as folder:
            local = Path(folder) / path.name
            local.touch()
            yield local
            # A store shows an object when all of it has arrived.
            with named_remote_errors(path):
                path.fs.put_file(str(local), path.path)  # type: ignore[attr-defined]
        return
    with named_os_errors(path), _temporary(path) as temporary:
        temporary.touch()
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it becomes `path` (replacing an older one), else it is removed."""
    with named_os_errors(path), _temporary(path) as temporary:
        temporary.mkdir()
        yield temporary
        for file in (temporary, *temporary.rglob("*")):  # a folder's own names are content too
            _fsync(file)
        if path.exists():
            if (path / LOCK).is_file():  # whoever holds the folder goes on holding it
                os.link(path / LOCK, temporary / LOCK)
            with _temporary(path) as old:
                path.replace(old)
                temporary.replace(path)
        else:
            temporary.replace(path)
        _fsync(path.parent)


def sweep(folder: Path, *, keep: Collection[Path] = ()) -> None:
    """Remove what killed stages left unfinished in `folder` itself (not below it), but for what can be gone on from.

    What a living process of this machine is writing stays, and what another machine wrote within the last day.
    """
    if not is_remote(folder):  # uploads leave nothing unfinished
        for leftover in folder.glob(f"{TEMPORARY}*"):
            if leftover not in keep and not _is_being_written(leftover):
                _remove(leftover)


def is_alive(pid: int) -> bool:
    """Tell whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's
    return pid > 0


def _is_being_written(path: Path) -> bool:
    owner = _OWNER.fullmatch(path.name)
    if owner is None:
        return False
    if owner["machine"] != _MACHINE:
        try:
            return time.time() - path.stat().st_mtime < _ABANDONED
        except FileNotFoundError:
            return False
    pid = int(owner["pid"])
    return path in _unfinished if pid == os.getpid() else is_alive(pid)


def remove_folder(folder: Path) -> None:
    """Remove a folder and all below it, if it is there."""
    if is_remote(folder):
        with named_remote_errors(folder), contextlib.suppress(FileNotFoundError):
            folder.fs.rm(folder.path, recursive=True)  # type: ignore[attr-defined]
    else:
        shutil.rmtree(folder, ignore_errors=True)


def files_below(folder: Path) -> list[Path]:
    """Return every file below a folder, sorted, its lock left out."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != LOCK)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; a store needs none."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as sorted, indented JSON, whole."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return `value` as `write_json` writes it."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file; one that begins with a byte order mark too.

    Raises:
        DataError: if it is missing or broken.
    """
    try:
        with named_remote_errors(path):
            data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check the path, or run the stage that writes it.", path=path) from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not a JSON file. Name the file.", path=path) from None
    try:
        return parse_json(data)
    except DataError as error:
        raise DataError(f"{path} is {error} Restore it, or make it again.", path=path) from error


def parse_json(data: bytes | str) -> Any:
    """Return what a JSON text holds, whoever wrote it.

    Args:
        data: UTF-8, with or without a byte order mark.

    Raises:
        DataError: if it is no JSON, no UTF-8, nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(data.decode("utf-8-sig") if isinstance(data, bytes) else data.removeprefix("\ufeff"))
    except RecursionError:
        raise DataError("no readable JSON (it is nested too deeply).") from None
    except ValueError as error:  # no UTF-8, no JSON, or an integer that Python does not convert
        raise DataError(f"no readable JSON ({error}).") from error


def write_table(path: Path, table: pa.Table, *, rows_per_group: int = 65536) -> None:
    """Write a Parquet table whole; the same table gives the same bytes."""
    with table_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=rows_per_group)


@contextlib.contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Give a writer of a Parquet table that is whole when the block ends; each page carries a sum of its bytes."""
    with (
        whole_file(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        yield writer


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
    with named_remote_errors(path):
        if not path.is_file():
            raise DataError(f"{path} does not exist. {way_out}", path=path)
    try:
        if is_remote(path):
            with path.open("rb") as file:
                table = pq.read_table(file, columns=columns, page_checksum_verification=True)
        else:
            table = pq.read_table(path, columns=columns, page_checksum_verification=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        there = _column_names(path)
        if there and (missing := {*(columns or ())} - {*there}):
            raise DataError(
                f"{path} lacks the columns {sorted(missing)}; it has {there}. {way_out}", path=path
            ) from error
        again = way_out.replace("`.", " --force`.")
        raise DataError(f"{path} is no readable Parquet table: {_first_line(error)} {again}", path=path) from error
    return table


def _column_names(path: Path) -> list[str]:
    """Return the columns of a Parquet table; none if it is broken."""
    try:
        with _parquet_file(path) as file:
            names: list[str] = file.schema_arrow.names
            return names
    except DataError:
        return []


def check_types(path: Path, schema: pa.Schema, *, made_by: str = "") -> None:
    """Make sure that a table's columns are of the kinds of a schema: texts, whole numbers...; its rows are not read.

    A text may be a long one, and a whole number of any width: other writers choose these.

    Raises:
        DataError: naming the column.
    """
    with _parquet_file(path) as file:
        actual = file.schema_arrow
    for field in schema:
        kind = actual.field(field.name).type
        if kind != field.type and not any(is_(kind) and is_(field.type) for is_ in (_is_text, pa.types.is_integer)):
            way_out = f"Make it with `{made_by}`." if made_by else "Run the stage that writes it with --force."
            raise DataError(
                f"{path}: the column {field.name!r} is {kind}; it must be {field.type}. {way_out}",
                path=path,
                column=field.name,
            )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def check_table(path: Path, *, columns: list[str], made_by: str = "") -> int:
    """Make sure that a Parquet table is there with its columns, without reading it; return its number of rows.

    Raises:
        DataError: if it is missing, truncated, no Parquet, or lacks a column.
    """
    try:
        with _parquet_file(path) as file:
            names, rows = set(file.schema_arrow.names), int(file.metadata.num_rows)
    except DataError:
        names, rows = set(), 0
    if not set(columns) <= names:
        read_table(path, columns=columns, made_by=made_by)  # says what is wrong
    return rows


def num_rows(path: Path) -> int:
    """Return the rows of a Parquet table without reading them.

    Raises:
        DataError: if it is missing or broken.
    """
    with _parquet_file(path) as file:
        return int(file.metadata.num_rows)


def column_names(path: Path) -> list[str]:
    """Return the names of a Parquet table's columns without reading its rows.

    Raises:
        DataError: if it is missing or broken.
    """
    with _parquet_file(path) as file:
        return list(file.schema_arrow.names)


def table_batches(path: Path, *, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Give a Parquet table one row group after another, so that it needs not be held.

    Args:
        path: the file.
        columns: which to read; all if None.

    Raises:
        DataError: if it is missing or broken; rows before the break have been given.
    """
    with _parquet_file(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=columns, use_threads=False)


def read_rows(path: Path, rows: range, *, columns: list[str] | None = None) -> pa.Table:
    """Read some rows of a Parquet table and no row group that holds none of them.

    Args:
        path: the file.
        rows: which, counted from 0, step 1.
        columns: which to read; all if None.

    Raises:
        DataError: if it is missing or broken, or has no such rows.
    """
    with _parquet_file(path) as file:
        blocks, first = [], 0
        for number in range(file.num_row_groups):
            size = file.metadata.row_group(number).num_rows
            start, stop = max(rows.start, first), min(rows.stop, first + size)
            if start < stop:
                table = file.read_row_group(number, columns=columns, use_threads=False)
                blocks.append(table.slice(start - first, stop - start))
            first += size
        if first < rows.stop:
            raise DataError(f"{path} has {first} rows, {rows.stop} are needed. Make it again.", path=path)
        return pa.concat_tables(blocks) if blocks else file.schema_arrow.empty_table()


@contextlib.contextmanager
def _parquet_file(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(named_remote_errors(path))
            source = stack.enter_context(path.open("rb")) if is_remote(path) else path
            stack.enter_context(_named_damage(path))
            yield stack.enter_context(pq.ParquetFile(source, page_checksum_verification=True))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Run the stage that writes it.", path=path) from None


@contextlib.contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: a name in the footer that is no text
        if is_remote(path) and isinstance(error, OSError) and "page integrity" not in str(error):
            raise  # the network's
        raise DataError(
            f"{path} is no readable Parquet table: {_first_line(error)} Run the stage that writes it with --force.",
            path=path,
        ) from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with named_remote_errors(path), path.open("rb") as file:
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
    temporary = path.parent / f"{TEMPORARY}{_MACHINE}-{os.getpid()}-{uuid.uuid4().hex[:12]}{path.suffix}"
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
