"""Which pairs a training step sees: a pure function of seed, step and the number of pairs, free to seek.

An epoch is a permutation of all pairs. It is never stored: a keyed Feistel network permutes the numbers below a power
of four, and numbers outside the manifest walk on along their cycle until they fall inside (Black and Rogaway, CT-RSA
2002). So step 10^6 of 10^8 pairs costs what step 0 costs. Neither workers nor ranks nor history enter.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from cusa.errors import ConfigError

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
    rounds = _mix(np.uint64(key) + np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    out = _feistel(np.atleast_1d(np.asarray(positions)).astype(np.uint64), half, rounds)
    outside = np.flatnonzero(out >= size)
    while outside.size:
        out[outside] = _feistel(out[outside], half, rounds)
        outside = outside[out[outside] >= size]
    return out.astype(np.int64)


@dataclass(frozen=True)
class Order:
    """The order of a split's pairs; row p is caption p with the image that owns it.

    Attributes:
        pairs: captions of the split.
        batch: pairs a step, all ranks together.
        seed: another seed is another order.
        drop_last: leave out an epoch's last pairs where they fill no batch; else that batch is smaller.

    Raises:
        ConfigError: if not one batch can be filled.
    """

    pairs: int
    batch: int
    seed: int
    drop_last: bool = True

    def __post_init__(self) -> None:
        if self.steps_per_epoch < 1:
            raise ConfigError(
                f"train.batch is {self.batch}, but the split has only {self.pairs} pairs, so with train.drop_last not "
                f"one batch is full. Set train.batch to at most {self.pairs}, or train.drop_last=false.",
                key="train.batch",
                value=self.batch,
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every pair is seen once (but for what `drop_last` leaves out)."""
        return self.pairs // self.batch if self.drop_last else -(-self.pairs // self.batch)

    def epoch(self, step: int) -> int:
        """Return the epoch, counted from 0, that a step (from 0) belongs to."""
        return step // self.steps_per_epoch

    def rows(self, step: int, *, rank: int = 0, world: int = 1) -> np.ndarray:
        """Return the pairs of a step.

        Args:
            step: counted from 0 over all epochs.
            rank: which part of the global batch, 0 ... world-1.
            world: parts; consecutive slices whose sizes differ by at most one.

        Returns:
            int64 (pairs of this rank,). The ranks' slices put together are the batch of one rank alone.
        """
        assert 0 <= rank < world, (rank, world)
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        first = step_in_epoch * self.batch
        count = min(self.batch, self.pairs - first)
        mine = np.arange(first + count * rank // world, first + count * (rank + 1) // world)
        return permute(mine, size=self.pairs, key=_key(self.seed, "epoch", epoch))

    def substitute(self, row: int, attempt: int) -> int:
        """Return the pair that stands in for one that cannot be read: the same one in every run.

        Args:
            row: the pair that failed.
            attempt: 1 for its first stand-in, 2 for that one's...
        """
        return int(permute(np.array([row]), size=self.pairs, key=_key(self.seed, "substitute", attempt))[0])


def _key(seed: int, purpose: str, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}/{number}".encode()).digest()[:8], "little")


def _feistel(numbers: np.ndarray, half: int, rounds: np.ndarray) -> np.ndarray:
    """Permute the numbers below 4^half: each round swaps the halves and mixes one into the other."""
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = numbers >> bits, numbers & mask
    for key in rounds:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << bits) | right


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Scatter 64 bits over 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
