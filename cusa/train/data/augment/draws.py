"""Random numbers of a row in an epoch: by hashing, so that nothing has to be drawn before them."""

import numpy as np

from cusa.train.data.permutation import GOLDEN, derive_key, scatter, unit_interval


def uniforms(rows: np.ndarray, count: int, *, seed: int, epoch: int, purpose: str = "augment") -> np.ndarray:
    """Return numbers in [0, 1) that depend on seed, purpose, epoch and row alone.

    Args:
        rows: (n,) caption rows.
        count: numbers a row.
        seed: the run's.
        epoch: counted from 0.
        purpose: another one gives other numbers.

    Returns:
        (n, count) float64; the first numbers of a row do not depend on `count`.
    """
    key = np.uint64(derive_key(seed, purpose, epoch))
    base = scatter(np.asarray(rows).astype(np.uint64) + scatter(np.atleast_1d(key)))
    return unit_interval(scatter(base[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN))


def kept_patches(rows: np.ndarray, *, patches: int, kept: int, seed: int, epoch: int) -> np.ndarray:
    """Return which patches of each row are kept: (n, kept) int64, ascending, every subset equally likely."""
    numbers = uniforms(rows, patches, seed=seed, epoch=epoch, purpose="patches")
    return np.sort(np.argsort(numbers, axis=1, kind="stable")[:, :kept], axis=1)
