"""What a random ranking gets, from the sizes alone.

Legend: G gallery items, R right items among them, K places.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Pool(NamedTuple):
    """What a query of one direction is ranked against."""

    gallery: int
    """Items, the query itself left out."""
    right: int
    """Right ones among them."""


def recall(pools: Sequence[Pool], ks: Sequence[int]) -> float:
    """Return 100 (1 - C(G - R, K) / C(G, K)), summed."""
    return sum(100 * (1 - _misses(pool, k)) for pool in pools for k in ks)


def _misses(pool: Pool, k: int) -> float:
    """Return the probability that no right item is among the first K."""
    gallery, right = pool
    if k > gallery - right:
        return float(not right)
    return math.prod(1 - k / (gallery - place) for place in range(right))


def precision(pools: Sequence[Pool], ks: Sequence[int]) -> float:
    """Return 100 R / G."""
    return sum(100 * right / gallery for gallery, right in pools)


def average_precision(pools: Sequence[Pool], ks: Sequence[int]) -> float:
    """Return the mean over places i of 1 to R of P(hit at i) times the precision expected there, in percent."""
    total = 0.0
    for gallery, right in pools:
        before = (right - 1) / max(gallery - 1, 1)  # the share of right items among those of earlier places
        precisions = [(1 + (place - 1) * before) / place for place in range(1, right + 1)]
        total += 100 * right / gallery * sum(precisions) / right
    return total


def median(pools: Sequence[Pool], ks: Sequence[int]) -> float:
    """Return the first rank K that the best right item reaches with a probability of one half."""
    low, high = 1, pools[0].gallery
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if recall(pools, (middle,)) >= 50 else (middle + 1, high)
    return float(low)
