"""The units of an index: the neighbours of some rows among all, from rows and an index that every worker maps."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.manifests.neighbours import Neighbours
from cusa.pipeline.index.exact import ROWS_A_BLOCK, RowSearcher, search_block
from cusa.pipeline.units.parts import Task, table_of, units_of


@dataclass(frozen=True)
class Searched:
    """What the units of an index share.

    Attributes:
        rows: (N, D) unit rows.
        neighbours: of a row.
        index: an approximate index as FAISS writes it, (bytes,) uint8; None for an exact search.
        exact_rows: whether that index's own similarities are exact.
        notes: how it was chosen, and its measured recall.
    """

    rows: np.ndarray
    neighbours: int
    index: np.ndarray | None = None
    exact_rows: bool = True
    notes: tuple[str, ...] = ()

    @cached_property
    def searcher(self) -> Any:
        """What is searched, opened once a process."""
        if self.index is None:
            return RowSearcher(self.rows)
        from cusa.pipeline.index import approximate

        return approximate.opened(self.index, self.rows, self.neighbours)


def task() -> Task:
    """Return what makes the parts of an index."""
    return Task(_part, _nothing_outside, (Searched,))


def row_units(number: int) -> list[range]:
    """Return the rows of each unit."""
    return units_of(number, ROWS_A_BLOCK, 1)


def _nothing_outside() -> Mapping[str, object]:
    return {}


def _part(searched: Searched, rows: range) -> pa.Table:
    """Find the neighbours of some rows, on one thread: the last digits of products depend on how threads share them."""
    from threadpoolctl import threadpool_limits

    ids, similarities = [], []
    with threadpool_limits(1):
        for start in range(rows.start, rows.stop, ROWS_A_BLOCK):
            block = np.arange(start, min(start + ROWS_A_BLOCK, rows.stop))
            if searched.index is None:
                nearest = search_block(searched.searcher, searched.rows, block, searched.neighbours)
            else:
                from cusa.pipeline.index import approximate

                nearest = approximate.search_block(
                    searched.searcher, searched.rows, block, searched.neighbours, exact_rows=searched.exact_rows
                )
            ids.append(nearest.ids.reshape(-1))
            similarities.append(nearest.similarities.reshape(-1))
    return table_of({"ids": np.concatenate(ids), "similarities": np.concatenate(similarities)})


def read_part(table: pa.Table, neighbours: int) -> Neighbours:
    """Return the neighbours of a part."""
    ids, similarities = (table[name].combine_chunks().to_numpy() for name in ("ids", "similarities"))
    return Neighbours(ids.reshape(-1, neighbours), similarities.reshape(-1, neighbours))
