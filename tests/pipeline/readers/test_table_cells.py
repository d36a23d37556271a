"""Pictures in the cells of tables: by row of Parquet, by byte range of Arrow, exactly the bytes that were put in."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.pipeline.readers import table_cells
from cusa.pipeline.readers.table_cells import Cell, arrow_batches, arrow_cells, read_cell

CELLS: list[bytes | None] = [b"first", None, b"", b"a longer one than the others", b"\x00\xff", b"x" * 300, b"last"]
KINDS: dict[str, pa.DataType] = {
    "binary": pa.binary(),
    "large": pa.large_binary(),
    "struct": pa.struct([("path", pa.string()), ("bytes", pa.binary())]),
    "large struct": pa.struct([("bytes", pa.large_binary()), ("path", pa.string())]),
}


def _column(kind: str) -> pa.Array:
    if "struct" not in kind:
        return pa.array(CELLS, KINDS[kind])
    values: list[Any] = [{"bytes": cell, "path": f"{row}.jpg"} for row, cell in enumerate(CELLS)]
    return pa.array([*values[:-1], None, values[-1]], KINDS[kind])


def _expected(kind: str) -> list[bytes | None]:
    return [*CELLS[:-1], None, CELLS[-1]] if "struct" in kind else CELLS


@pytest.mark.parametrize("held", [0, 1 << 30])
@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_read_cell__gives_the_bytes_of_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: int, held: int
) -> None:
    """From row groups of any size, in any order, whatever is still held of others."""
    monkeypatch.setattr(table_cells, "_HELD", held)
    path = tmp_path / "t.parquet"
    other = pa.array([f"other {row}".encode() for row in range(len(_expected(kind)))])
    pq.write_table(pa.table({"a": other, "picture": _column(kind)}), path, row_group_size=size)
    expected = _expected(kind)
    order = [*range(len(expected)), *reversed(range(len(expected)))]
    for row in order:
        if expected[row] is None:
            with pytest.raises(OSError, match=f"row {row} of column 'picture' holds no bytes"):
                read_cell(path, "picture", row)
        else:
            assert read_cell(path, "picture", row) == expected[row]
        assert read_cell(path, "a", row) == f"other {row}".encode()
    groups = {(name, group) for at, name, group in table_cells._groups._columns if at == str(path)}
    rows = len(expected)
    assert len(groups) == (2 * -(-rows // size) if held else 1), "the last ones, within the bound"
    for row in (-1, rows):
        with pytest.raises(OSError, match=f"the table has {rows} rows, and row {row} is asked for"):
            read_cell(path, "picture", row)


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}])
@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("kind", KINDS)
def test_arrow_cells__are_the_bytes_at_their_place_in_the_file(
    tmp_path: Path, kind: str, form: str, options: dict[str, str]
) -> None:
    path = tmp_path / "t.arrow"
    column, expected = _column(kind), _expected(kind)
    make = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    parts = [column.slice(0, 2), column.slice(2, 3), column.slice(5)]
    with (
        path.open("wb") as sink,
        make(sink, pa.schema({"p": column.type}), options=pa.ipc.IpcWriteOptions(**options)) as writer,
    ):
        for part in parts:
            writer.write_batch(pa.record_batch({"p": part}))
    data, found = path.read_bytes(), []
    for batch, address, size in arrow_batches(path):
        assert size == len(data)
        if options:
            with pytest.raises(ValueError, match="its buffers are compressed"):
                arrow_cells(batch["p"], address, size)
            return
        cells = arrow_cells(batch["p"], address, size)
        for start in range(batch.num_rows):  # a slice of the batch has the places of its rows
            assert arrow_cells(batch["p"].slice(start), address, size) == cells[start:]
        found += cells
    assert [None if cell is None else data[cell.offset : cell.offset + cell.length] for cell in found] == expected


def test_arrow_cells__a_column_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    with path.open("wb") as sink, pa.ipc.new_file(sink, pa.schema({"p": pa.binary()})) as writer:
        writer.write_batch(pa.record_batch({"p": pa.array([None, None], pa.binary())}))
        writer.write_batch(pa.record_batch({"p": pa.array([b"", b""], pa.binary())}))
    cells = [arrow_cells(batch["p"], address, size) for batch, address, size in arrow_batches(path)]
    assert cells[0] == [None, None]
    assert [cell and cell.length for cell in cells[1]] == [0, 0]
    assert all(isinstance(cell, Cell) for cell in cells[1])


@pytest.mark.parametrize("content", [b"", b"no arrow at all", b"ARROW1 and nothing more"])
def test_arrow_batches__what_is_no_arrow_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.arrow"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t\.arrow is no readable Arrow file .*Restore it"):
        list(arrow_batches(path))
