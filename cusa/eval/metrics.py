"""Numbers from ranks, each with its meaning, and how sure they are.

Legend: Q queries.
"""

from collections.abc import Callable

import numpy as np


def hits_at_k(rank_Q: np.ndarray, k: int) -> np.ndarray:
    """Return 1 for each query whose best right item is among the first k, else 0: (Q,) float64; see `recall_at_k`."""
    return ((rank_Q >= 1) & (rank_Q <= k)).astype(np.float64)


def recall_at_k(rank_Q: np.ndarray, k: int) -> float:
    """Return the share of queries, in percent, whose best right item is among the first k.

    Higher is better, 0 to 100. A random ranking gives about `100 * k * positives / gallery`. It counts a query once
    however many right items it has, and cannot see what lies behind the first of them: a student that finds one caption
    of an image and loses four looks perfect.

    Args:
        rank_Q: best right item of each query, 1 = first; 0 = the query has none, a miss.
        k: at least 1.
    """
    return mean_percent(hits_at_k(rank_Q, k))


def median_rank(rank_Q: np.ndarray) -> float:
    """Return the median rank of the best right item; lower is better, 1 is perfect; misses are left out."""
    hits = rank_Q[rank_Q >= 1]
    return float(np.median(hits)) if len(hits) else float("nan")


def mean_percent(value_Q: np.ndarray) -> float:
    """Return the mean of a per-query share in percent, queries without right items (NaN) left out.

    For R-Precision and mAP@R: higher is better, 0 to 100; chance is about the share of right items in the gallery.
    Both look at the first R places, R being the query's number of right items (Musgrave et al., ECCV 2020), and so see
    every right item, but not how far behind place R one lies.
    """
    known = value_Q[~np.isnan(value_Q)]
    return float(100 * known.mean()) if len(known) else float("nan")


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float], num_queries: int, *, samples: int, seed: int, level: float = 0.95
) -> tuple[float, float] | None:
    """Return the percentile interval of a statistic over resampled queries.

    It answers how the number would vary with other queries from the same source; not with another training run, which
    varies more.

    Args:
        statistic: takes the numbers of the chosen queries and returns the value.
        num_queries: Q.
        samples: resamples; 0 gives None.
        seed: of the resamples.
        level: coverage.
    """
    if not samples or not num_queries:
        return None
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(num_queries, size=num_queries)) for _ in range(samples)]
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
