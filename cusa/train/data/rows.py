"""Rows of a file by number, read and not mapped.

A mapping's pages count as this process's memory as long as the system keeps them, which on a large data set looks like
a leak and, under a memory limit, is one. Pages that are read stay the system's own. No torch here.
"""

import os
import weakref
from pathlib import Path

import numpy as np

from cusa.errors import DataError


class Rows:
    """Rows of one type and shape in a file.

    Args:
        path: the file.
        dtype: of a number.
        shape: of a row; () = one number.
        offset: bytes before the first row.

    Raises:
        OSError: if the file cannot be opened.
    """

    def __init__(self, path: Path, dtype: np.typing.DTypeLike, shape: tuple[int, ...] = (), *, offset: int = 0) -> None:
        self.path, self.dtype, self.shape, self._offset = path, np.dtype(dtype), shape, offset
        self.row_bytes = self.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._length = (os.fstat(self._descriptor).st_size - self._offset) // max(self.row_bytes, 1)

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self) * self.row_bytes

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Return (n, *shape) rows.

        Args:
            numbers: (n,) integers from 0 on; runs of consecutive ones are read at once.

        Raises:
            DataError: if the file has become shorter.
        """
        rows = np.empty((len(numbers), *self.shape), dtype=self.dtype)
        flat = rows.reshape(-1).view(np.uint8).data if rows.size else memoryview(b"")
        if len(numbers):
            starts = np.concatenate([[0], np.flatnonzero(np.diff(numbers) != 1) + 1])
            places = [*(starts * self.row_bytes).tolist(), len(flat)]
            for first, start, stop in zip(numbers[starts].tolist(), places, places[1:], strict=False):
                self._read(first, flat[start:stop])
        return rows

    def row(self, number: int) -> np.ndarray:
        """Return one row."""
        row: np.ndarray = self.run(number, 1)[0]
        return row

    def run(self, first: int, count: int) -> np.ndarray:
        """Return (count, *shape) consecutive rows; raises as `[]` does."""
        rows = np.empty((count, *self.shape), dtype=self.dtype)
        if rows.size:
            self._read(first, rows.reshape(-1).view(np.uint8).data)
        return rows

    def whole(self) -> np.ndarray:
        """Return all rows, in memory."""
        return self.run(0, len(self))

    def _read(self, first: int, into: memoryview) -> None:
        place = self._offset + first * self.row_bytes
        while len(into):
            count = os.preadv(self._descriptor, [into], place)
            if count == 0:
                raise DataError(
                    f"{self.path} has become shorter while it was read. It is made again by the next run.",
                    path=self.path,
                )
            into, place = into[count:], place + count

    def __getstate__(self) -> dict[str, object]:
        # A descriptor means nothing in another process; the file is opened again there.
        return {name: value for name, value in self.__dict__.items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()


class Strings:
    """Strings by number, from one file of bytes and one, `.ends`, of where each ends."""

    def __init__(self, path: Path) -> None:
        self._ends = Rows(path.with_suffix(".ends"), "<i8")
        self._bytes = Rows(path, np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        # One read where there is a string before it: the two ends stand side by side.
        start, stop = (0, int(self._ends.row(0))) if not number else self._ends.run(number - 1, 2).tolist()
        return self._bytes.run(start, stop - start).tobytes().decode()
