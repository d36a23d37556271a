"""A permutation that is never stored: any position's number, alone, at the same cost.

A keyed Feistel network permutes the numbers below a power of four, and numbers outside the range walk on along their
cycle until they fall inside (Black and Rogaway, CT-RSA 2002).
"""

import hashlib

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""What SplitMix64 steps by: multiples of it are far from each other before they are scattered."""
_ROUNDS = 10
_FEWEST_BITS = 3  # a half: networks over fewer numbers are visibly less than random


def permute(positions: np.ndarray, *, size: int, key: int) -> np.ndarray:
    """Map positions 0 ... size-1 one to one onto 0 ... size-1.

    Args:
        positions: (n,) integers below `size`.
        size: how many numbers are permuted, at most 2^62.
        key: 64 bits; another key is another permutation.

    Returns:
        (n,) int64.
    """
    assert 0 < size <= 1 << 62, size
    half = max(_FEWEST_BITS, -(-(size - 1).bit_length() // 2))
    rounds = scatter(np.uint64(key) + np.arange(1, _ROUNDS + 1, dtype=np.uint64) * GOLDEN)
    out = _feistel(np.atleast_1d(np.asarray(positions)).astype(np.uint64), half, rounds)
    outside = np.flatnonzero(out >= size)
    while outside.size:
        out[outside] = _feistel(out[outside], half, rounds)
        outside = outside[out[outside] >= size]
    return out.astype(np.int64)


def derive_key(seed: int, purpose: str, number: int) -> int:
    """Return the 64-bit key of one use of a seed."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}/{number}".encode()).digest()[:8], "little")


def _feistel(numbers: np.ndarray, half: int, rounds: np.ndarray) -> np.ndarray:
    """Permute the numbers below 4^half: each round swaps the halves and mixes one into the other."""
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = numbers >> bits, numbers & mask
    for key in rounds:
        left, right = right, left ^ (scatter(right + key) & mask)
    return (left << bits) | right


def scatter(numbers: np.ndarray) -> np.ndarray:
    """Scatter 64 bits over 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scattered: np.ndarray = numbers ^ (numbers >> np.uint64(31))
    return scattered


def unit_interval(bits: np.ndarray) -> np.ndarray:
    """Return scattered 64 bits as float64 in [0, 1): their upper 53, which is what a float64 holds."""
    numbers: np.ndarray = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers
