"""Exact nearest rows: blocked products, ties by row number, a row's own place left out.

Shapes: N rows, D their width, K neighbours kept a row; Q rows searched at once, S places searched.
"""

from typing import TYPE_CHECKING

import numpy as np

from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.neighbours import Neighbours
from cusa.pipeline.index.gpu import MOST_PLACES, gpus, on_gpu

if TYPE_CHECKING:
    import faiss

ROWS_A_BLOCK = 4096
"""Rows that are searched at once; the last digits of their products depend on it."""
_DECIMALS = 6  # similarities that agree so far are ties: float32 products differ in the 7th digit from block to block


def nearest_rows(
    rows_ND: np.ndarray,
    k: int,
    *,
    index: "faiss.IndexFlatIP | None" = None,
    what: str = "index",
    on_event: OnEvent = ignore,
) -> Neighbours:
    """Find the `k` rows of largest inner product to every row, exactly.

    A row leaves itself out by its number, so its duplicates stay. Ties (to six decimals) go to the smaller row number,
    also where they straddle the last place.

    Args:
        rows_ND: (N, D) float32 unit rows.
        k: neighbours a row; N - 1 where there are fewer others.
        index: a flat index of these rows, if there is one already.
        what: the name of the work in progress reports.
        on_event: called with every block of rows.

    Returns:
        (N, min(k, N - 1)) row numbers and cosines.
    """
    number = len(rows_ND)
    k = max(0, min(k, number - 1))
    if index is None:
        index = flat_index(rows_ND)
    searcher = on_gpu(index, rows_ND, k + 2)
    ids_NK = np.empty((number, k), dtype=np.int64)
    similarities_NK = np.empty((number, k), dtype=np.float32)
    on_event(what, 0, number)
    for start in range(0, number if k else 0, ROWS_A_BLOCK):
        rows_Q = np.arange(start, min(start + ROWS_A_BLOCK, number))
        near = search_block(searcher, rows_ND, rows_Q, k)
        ids_NK[rows_Q], similarities_NK[rows_Q] = near.ids, near.similarities
        on_event(what, int(rows_Q[-1]) + 1, number)
    return Neighbours(ids_NK, similarities_NK)


def search_block(searcher: "faiss.Index | RowSearcher", rows_ND: np.ndarray, rows_Q: np.ndarray, k: int) -> Neighbours:
    """Find the `k` rows of largest inner product to some rows; see `nearest_rows`.

    Args:
        searcher: of all rows.
        rows_ND: all rows.
        rows_Q: consecutive row numbers, few enough to be searched at once.
        k: neighbours a row, at most N - 1.
    """
    # One place more for the row itself, and one to see whether the last place is tied.
    near_QS, ids_QS = searcher.search(rows_ND[rows_Q], min(k + 2, len(rows_ND)))
    near_QS, ids_QS = in_order(near_QS, ids_QS, rows_Q)
    for row in np.flatnonzero(near_QS[:, k - 1] == near_QS[:, k]):
        near_QS[row, :k], ids_QS[row, :k] = _untie(rows_ND, int(rows_Q[row]), k)
    return Neighbours(ids_QS[:, :k], near_QS[:, :k])


class RowSearcher:
    """An exact search of rows as they lie, in a mapped file too; on GPUs where FAISS sees some.

    Args:
        rows_ND: (N, D) float32 rows, contiguous.
    """

    def __init__(self, rows_ND: np.ndarray) -> None:
        self._rows = np.asarray(rows_ND)
        self._on_gpu: faiss.Index | None = None

    def search(self, queries_QD: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the similarities and numbers of the nearest rows, as an index does."""
        import faiss

        if gpus() and places <= MOST_PLACES:
            if self._on_gpu is None:
                self._on_gpu = on_gpu(flat_index(self._rows), queries_QD, places)
            near_QS, ids_QS = self._on_gpu.search(queries_QD, places)
        else:
            near_QS, ids_QS = faiss.knn(queries_QD, self._rows, places, metric=faiss.METRIC_INNER_PRODUCT)
        return near_QS, ids_QS


def extend(
    before: Neighbours, rows_ND: np.ndarray, k: int, *, what: str = "index", on_event: OnEvent = ignore
) -> Neighbours:
    """Update the neighbours of a table's first rows after rows were added; equal to `nearest_rows` of all rows.

    Args:
        before: the neighbours of the first rows among themselves, `k` of them.
        rows_ND: all rows.
        k: neighbours a row.
        what: the name of the work in progress reports.
        on_event: called with every block of rows.
    """
    known, number = len(before.ids), len(rows_ND)
    ids_NK = np.empty((number, k), dtype=np.int64)
    similarities_NK = np.empty((number, k), dtype=np.float32)
    every, new = (on_gpu(flat_index(rows), rows, min(k + 2, len(rows))) for rows in (rows_ND, rows_ND[known:]))
    on_event(what, 0, number)
    for start in range(0, number, ROWS_A_BLOCK):
        rows_Q = np.arange(start, min(start + ROWS_A_BLOCK, number))
        old = rows_Q[rows_Q < known]
        for rows, index in ((old, new), (rows_Q[rows_Q >= known], every)):
            if not len(rows):
                continue
            near_QS, ids_QS = index.search(rows_ND[rows], min(k + 2, index.ntotal))
            if rows is old:
                near_QS = np.concatenate([before.similarities[rows], near_QS], axis=1)
                ids_QS = np.concatenate([before.ids[rows], np.where(ids_QS < 0, -1, ids_QS + known)], axis=1)
            near_QS, ids_QS = in_order(near_QS, ids_QS, rows)
            if near_QS.shape[1] > k:
                for row in np.flatnonzero(near_QS[:, k - 1] == near_QS[:, k]):
                    near_QS[row, :k], ids_QS[row, :k] = _untie(rows_ND, int(rows[row]), k)
            ids_NK[rows], similarities_NK[rows] = ids_QS[:, :k], near_QS[:, :k]
        on_event(what, int(rows_Q[-1]) + 1, number)
    return Neighbours(ids_NK, similarities_NK)


def flat_index(rows_ND: np.ndarray) -> "faiss.IndexFlatIP":
    """Return an exact index of the rows."""
    import faiss  # here, so that an up-to-date stage needs not import it

    index = faiss.IndexFlatIP(rows_ND.shape[1])
    index.add(rows_ND)
    return index


def in_order(near_QS: np.ndarray, ids_QS: np.ndarray, rows_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort search results by rounded similarity, then row number; the query row itself and empty places last."""
    # Before rounding: where FAISS finds nothing it writes the lowest float32, which overflows there.
    near_QS = np.round(np.where((ids_QS == rows_Q[:, None]) | (ids_QS < 0), -np.inf, near_QS), _DECIMALS)
    order_QS = np.lexsort((ids_QS, -near_QS), axis=1)
    return np.take_along_axis(near_QS, order_QS, axis=1), np.take_along_axis(ids_QS, order_QS, axis=1)


def _untie(rows_ND: np.ndarray, row: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search one row whose last place is tied: FAISS keeps any of the tied rows, the rule keeps the first ones."""
    # The rows are finite. Vectors of few numbers make OpenBLAS read beyond them, and what lies there raises the flag.
    with np.errstate(invalid="ignore"):
        near_N = np.round(rows_ND @ rows_ND[row], _DECIMALS)
    near_N[row] = -np.inf
    last = np.partition(near_N, -k)[-k]
    above = np.flatnonzero(near_N > last)
    nearest = np.concatenate([above, np.flatnonzero(near_N == last)[: k - len(above)]])
    nearest = nearest[np.lexsort((nearest, -near_N[nearest]))]
    return near_N[nearest], nearest
