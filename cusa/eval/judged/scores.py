"""R@1, R-Precision and mAP@R of queries whose pool is known.

With R right items in the pool of a query, at depth K:
    R-Precision  right items among the first min(R, K) places, divided by min(R, K);
    mAP@R        the precision at each right item among these places, summed and divided by min(R, K).
Where a query has at most K right items, and its pool holds them all, these are the usual scores (Musgrave et al., ECCV
2020, for mAP@R). A query without a right item scores 0.

Legend: P pairs of the pool, Q queries, K places.
"""

from typing import Literal

import numpy as np

from cusa.eval.judged.pool import Places

Score = Literal["r@1", "r_precision", "map_at_r"]
AT_R: tuple[Score, ...] = ("r_precision", "map_at_r")


def at_r(places: Places, truth_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each query's R-Precision and mAP@R at depth K: (Q,) and (Q,).

    Args:
        places: of one run in one direction.
        truth_P: 1 or True for pairs that match, 0 or False for others.
    """
    truth = np.append(truth_P, 0).astype(float)  # what stands where a list has no pair matches nothing
    top_QK = truth[places.top]
    number = top_QK.sum(1) + truth[places.rest].sum(1)
    place_K = np.arange(1, top_QK.shape[1] + 1)
    looked_at = np.minimum(number, len(place_K))
    hit_QK = top_QK * (place_K <= looked_at[:, None])
    divisor = np.maximum(looked_at, 1)
    return hit_QK.sum(1) / divisor, (hit_QK * hit_QK.cumsum(1) / place_K).sum(1) / divisor
