"""A small split in numbers: two rankings, a judge, and a truth that tests know."""

import numpy as np

from cusa.eval.judged import pool as pools
from cusa.eval.judged.pool import KnownPairs, Pool

IMAGES, CAPTIONS = 30, 60
OWNER = np.arange(CAPTIONS) // 2


def truth_of(seed: int = 0) -> np.ndarray:
    """Return (IMAGES, CAPTIONS): own pairs match, and a tenth of the others."""
    match = np.random.default_rng(seed).random((IMAGES, CAPTIONS)) < 0.1
    match[OWNER, np.arange(CAPTIONS)] = True
    return match


def rankings(match: np.ndarray, depth: int, seed: int = 1) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rank by the truth and noise, the first run with less noise than the second."""
    rng = np.random.default_rng(seed)
    scores = [match + noise * rng.normal(size=match.shape) for noise in (0.5, 0.9)]
    ways = {"image-to-text": scores, "text-to-image": [one.T for one in scores]}
    return {
        way: (both[0].argsort(1)[:, ::-1][:, :depth], both[1].argsort(1)[:, ::-1][:, :depth])
        for way, both in ways.items()
    }


def make_pool(match: np.ndarray, judge: np.ndarray, depth: int = 5) -> tuple[Pool, np.ndarray]:
    """Return the pool where only own pairs are known, and the truth of its pairs."""
    own = np.sort(OWNER * CAPTIONS + np.arange(CAPTIONS))
    codes = np.arange(judge.size)
    known = KnownPairs(own, np.array([], np.int64))
    pool = pools.build(rankings(match, depth), known, (codes, judge.ravel()), CAPTIONS)
    return pool, match[pool.images, pool.captions].astype(float)
