"""Row numbers by what they belong to, and lists of row numbers turned round, as arrays alone."""

from collections.abc import Sequence

import numpy as np


class Groups:
    """The positions of each value in an array, without a Python list a value.

    Args:
        values: integers from 0 to `number` - 1.
        number: how many groups there are.
    """

    def __init__(self, values: np.ndarray, number: int) -> None:
        self._members = np.argsort(values, kind="stable")
        self.sizes = np.bincount(values, minlength=number)
        """(number,) how many members each group has."""
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)])

    def __getitem__(self, group: int) -> np.ndarray:
        return np.asarray(self._members[self._starts[group] : self._starts[group + 1]])

    def all_of(self, groups: np.ndarray) -> np.ndarray:
        """Return the members of several groups, one group after the other."""
        starts, stops = self._starts[groups], self._starts[groups + 1]
        counts = stops - starts
        shift = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) if len(groups) else starts
        return np.asarray(self._members[np.arange(counts.sum()) + shift])


class Reverse:
    """For each row, the rows that have it in their lists of neighbours.

    Args:
        ids_RK: the lists, or None where there are none.
        number: rows that lists may name; as many as there are lists if 0.
    """

    def __init__(self, ids_RK: np.ndarray | None, number: int = 0) -> None:
        ids = np.empty((0, 1), dtype=np.int64) if ids_RK is None else ids_RK
        self._width = max(ids.shape[1], 1)
        order = np.argsort(ids.reshape(-1), kind="stable").astype(np.int32 if ids.size < 2**31 else np.int64)
        self._places = order
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(ids.reshape(-1), minlength=number or len(ids)))])

    def of(self, rows: Sequence[int] | np.ndarray, depth: int | None = None) -> np.ndarray:
        """Return the rows that name one of `rows` among their first `depth`."""
        lists, places = self.lists_with(rows)
        return lists if depth is None or depth >= self._width else lists[places < depth]

    def lists_with(self, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that name one of `rows`, and at which place, counted from 0."""
        parts = [self._places[self._starts[row] : self._starts[row + 1]] for row in rows]
        lists, places = np.divmod(np.concatenate(parts) if parts else np.empty(0, dtype=np.int64), self._width)
        return lists, places
