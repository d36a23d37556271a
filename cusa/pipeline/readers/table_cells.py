"""Pictures in the cells of a table: Parquet by row, Arrow by the byte range that a cell has in its file."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import DataError
from cusa.manifests.storage.paths import named_remote_errors

_HELD = 256 << 20  # bytes of decoded row groups that a process keeps


class Cell(NamedTuple):
    """Where the bytes of a cell lie in a file that holds them as they are."""

    offset: int
    length: int


class _Groups:
    """The row groups of Parquet files that were read last: pictures are mostly asked for in the file's order."""

    def __init__(self) -> None:
        self._columns: OrderedDict[tuple[str, str, int], pa.ChunkedArray] = OrderedDict()
        self._starts: dict[str, list[int]] = {}

    def cell(self, path: Path, column: str, row: int) -> bytes | None:
        """Return a cell's bytes; None where it has none.

        Raises:
            OSError, pa.ArrowException: if the file cannot be read, or has no such row.
        """
        starts = self._starts.get(str(path))
        if starts is None:
            starts = self._starts[str(path)] = _row_group_starts(path)
        group = int(np.searchsorted(starts, row, side="right")) - 1
        if not 0 <= group < len(starts) - 1:
            raise OSError(f"the table has {starts[-1]} rows, and row {row} is asked for")
        name = (str(path), column, group)
        values = self._columns.pop(name, None)
        if values is None:
            with named_remote_errors(path), path.open("rb") as file:
                table = pq.ParquetFile(file).read_row_group(group, columns=[column], use_threads=False)
            values = table[column]
            while self._columns and self._bytes() + values.nbytes > _HELD:
                self._columns.popitem(last=False)
        self._columns[name] = values
        value = values[row - starts[group]].as_py()
        if isinstance(value, dict):
            value = value.get("bytes")
        return value if isinstance(value, bytes) else None

    def _bytes(self) -> int:
        return sum(values.nbytes for values in self._columns.values())


_groups = _Groups()


def read_cell(path: Path, column: str, row: int) -> bytes:
    """Return the bytes of a picture in a Parquet table.

    Args:
        path: the table.
        column: binary, or `{bytes, path}`.
        row: of the table, from 0.

    Raises:
        OSError: if there are none, or the table cannot be read.
    """
    try:
        data = _groups.cell(path, column, row)
    except pa.ArrowException as error:
        raise OSError(str(error)) from error
    if data is None:
        raise OSError(f"row {row} of column {column!r} holds no bytes")
    return data


def _row_group_starts(path: Path) -> list[int]:
    """Return the number of the first row of each row group, and behind them the number of all rows."""
    with named_remote_errors(path), path.open("rb") as file:
        metadata = pq.ParquetFile(file).metadata
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    return [0, *np.cumsum(sizes, dtype=np.int64).tolist()]


def arrow_batches(path: Path) -> Iterator[tuple[pa.RecordBatch, int, int]]:
    """Give the record batches of an Arrow file or stream, mapped into memory.

    Yields:
        A batch, and the address and size in memory of the whole file, see `arrow_cells`.

    Raises:
        DataError: if it is no Arrow file.
    """
    try:
        with pa.memory_map(str(path)) as mapped:
            whole = mapped.read_buffer()
            source = pa.BufferReader(whole)
            if bytes(whole[:6]) == b"ARROW1":
                file = pa.ipc.open_file(source)
                for number in range(file.num_record_batches):
                    yield file.get_batch(number), whole.address, whole.size
            else:
                for batch in pa.ipc.open_stream(source):
                    yield batch, whole.address, whole.size
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Arrow file ({error}). Restore it.", path=path) from error


def arrow_cells(values: pa.Array, address: int, size: int) -> list[Cell | None]:
    """Return where the bytes of each cell of a column lie in the file; None for a cell without.

    Args:
        values: a column of a batch that `arrow_batches` gave: binary, or `{bytes, path}`.
        address: of the file in memory.
        size: of the file.

    Raises:
        ValueError: if the file's buffers are compressed, so that a cell has no byte range.
    """
    is_null = values.is_null()
    if pa.types.is_struct(values.type):
        values = values.field("bytes") if not values.offset else values.flatten()[values.type.get_field_index("bytes")]
    wide = pa.types.is_large_binary(values.type)
    _, offsets, data = values.buffers()
    if data is None:
        return [None] * len(values)
    if data.size and not address <= data.address <= address + size:
        raise ValueError("its buffers are compressed")
    ends = np.frombuffer(offsets, dtype=np.int64 if wide else np.int32)[values.offset : values.offset + len(values) + 1]
    start = data.address - address if data.size else 0  # an empty buffer lies anywhere
    empty = (values.is_null().to_numpy(zero_copy_only=False)) | is_null.to_numpy(zero_copy_only=False)
    return [
        None if empty[row] else Cell(start + int(ends[row]), int(ends[row + 1] - ends[row]))
        for row in range(len(values))
    ]
