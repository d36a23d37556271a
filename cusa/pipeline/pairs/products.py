"""Products of the embeddings of many pairs at once: every row is fetched once a group, and multiplied once.

Shapes: R rows of a table, D their width, P pairs in G groups, A products a pair at most.
"""

from collections.abc import Sequence

import numpy as np

PAIRS_A_BLOCK = 1 << 15
"""Pairs that are compared at once, about: their numbers fit into a processor's cache."""
_DENSE = 0.5  # share of a table's part from which on the whole part is multiplied, instead of copies of rows


def group_bounds(values_P: np.ndarray) -> np.ndarray:
    """Return where each run of equal values begins, and the end: (G + 1,)."""
    if not len(values_P):
        return np.zeros(1, dtype=np.int64)
    return np.concatenate([[0], np.flatnonzero(np.diff(values_P)) + 1, [len(values_P)]])


def couples(first_P: np.ndarray, second_P: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the different pairs of two columns, sorted by the first, and the place of each pair among them.

    Args:
        first_P: row numbers.
        second_P: row numbers below `number`.
        number: rows of the second kind.
    """
    codes, back = np.unique(first_P.astype(np.int64) * number + second_P, return_inverse=True)
    return codes // number, codes % number, back


def grouped_products(
    rows_RD: np.ndarray, picked_P: np.ndarray, bounds: np.ndarray, against: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the products of rows with what their group is compared with.

    Where groups pick most of a part of the table, the part is multiplied as it lies; else the rows are copied first.

    Args:
        rows_RD: the table.
        picked_P: row numbers, group after group.
        bounds: (G + 1,) where each group begins, and the end.
        against: for each group, the rows that it is compared with, (any number up to A, D).

    Returns:
        (A, P) float32; -inf where a group is compared with fewer rows.
    """
    out = np.full((max(map(len, against), default=0), len(picked_P)), -np.inf, dtype=np.float32)
    if not out.size:
        return out
    low, high = int(picked_P.min()), int(picked_P.max()) + 1
    if len(picked_P) >= _DENSE * len(against) * (high - low):
        table = np.concatenate(against) @ rows_RD[low:high].T
        begins = np.cumsum([0, *map(len, against)])
        for group, (start, stop) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            here = table[begins[group] : begins[group + 1]]
            np.take(here, picked_P[start:stop] - low, axis=1, out=out[: len(here), start:stop], mode="clip")
        return out
    copied = np.empty((int(np.diff(bounds).max()), rows_RD.shape[1]), dtype=rows_RD.dtype)
    for others, start, stop in zip(against, bounds[:-1], bounds[1:], strict=True):
        some = np.take(rows_RD, picked_P[start:stop], axis=0, out=copied[: stop - start], mode="clip")
        np.matmul(others, some.T, out=out[: len(others), start:stop])
    return out


def best_two(products_AP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best product of each pair, and the mean of the best two; the best where there is one alone."""
    best = products_AP[0].copy()
    second = np.full_like(best, -np.inf)
    for row in products_AP[1:]:
        np.maximum(second, np.minimum(best, row), out=second)
        np.maximum(best, row, out=best)
    return best, np.where(np.isfinite(second), (best + second) / 2, best)
