"""Orders that keep some pairs near each other, or far apart: an epoch is a shuffle of blocks of pairs.

Two uses: the blocks are shards, and shuffling within a window of a few of them keeps reads local; or the blocks are
groups of near neighbours, which are put into the same batch or into different ones. Like the plain order, both are
pure functions of seed and epoch; seeking costs one shuffle of the blocks an epoch and nothing a step.
"""

from collections.abc import Sequence

import numpy as np

from cusa.train.data.permutation import derive_key, permute, scatter


class Blocks:
    """Blocks of pairs.

    Args:
        sizes: pairs of each block; together they hold every pair once.
        window: blocks, neighbours in the epoch's order of blocks, whose pairs are shuffled together; 0 = pairs keep
            their order within a block.
        rows: the pairs block by block; None = 0, 1, 2...
        apart: deal the pairs out to the steps one by one, so that those of a block are spread over the epoch: a block
            of no more pairs than the epoch has steps never has two in one of them.
    """

    def __init__(
        self, sizes: Sequence[int] | np.ndarray, *, window: int, rows: np.ndarray | None = None, apart: bool = False
    ) -> None:
        self.apart = apart
        self._window = window
        self._rows = rows
        # Empty blocks hold no pair, and would make the search for a position's block ambiguous.
        self._sizes = np.asarray([size for size in sizes if size], dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._shuffled: tuple[tuple[int, int], np.ndarray, np.ndarray] | None = None

    @property
    def pairs(self) -> int:
        """Pairs of all blocks."""
        return int(self._sizes.sum())

    def at(self, positions: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        """Return the pairs at some positions of an epoch.

        Args:
            positions: (n,) integers, 0 ... pairs-1.
            seed: of the run.
            epoch: counted from 0.

        Returns:
            (n,) int64; over all positions, every pair once.
        """
        blocks, stops = self._shuffle(seed, epoch)
        if self._window:
            positions = self._within_windows(positions, stops, seed, epoch)
        place = np.searchsorted(stops, positions, side="right")
        block = blocks[place]
        size = self._sizes[block]
        inside = positions - (stops[place] - size)
        if self.apart:
            # A block's pairs go to consecutive steps; turned by another amount each epoch, they meet other pairs there.
            key = np.uint64(derive_key(seed, "turn", epoch))
            inside = (inside + (scatter(block.astype(np.uint64) + key) >> np.uint64(2)).astype(np.int64) % size) % size
        rows: np.ndarray = self._starts[block] + inside
        if self._rows is not None:
            rows = self._rows[rows]
        return rows

    def _shuffle(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the epoch's order of blocks, and the position after each one's last pair."""
        shuffled = self._shuffled  # read once: other threads may replace it
        if shuffled is None or shuffled[0] != (seed, epoch):
            number = len(self._sizes)
            blocks = permute(np.arange(number), size=number, key=derive_key(seed, "blocks", epoch))
            self._shuffled = shuffled = ((seed, epoch), blocks, np.cumsum(self._sizes[blocks]))
        return shuffled[1], shuffled[2]

    def _within_windows(self, positions: np.ndarray, stops: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """Return where the pairs that come to these positions lie in the unshuffled windows."""
        last = np.append(stops[self._window - 1 : -1 : self._window], stops[-1])
        window = np.searchsorted(last, positions, side="right")
        out = np.empty_like(positions)
        for number in np.unique(window):
            mine = window == number
            start = int(last[number - 1]) if number else 0
            key = derive_key(seed, f"window {number}", epoch)
            out[mine] = start + permute(positions[mine] - start, size=int(last[number]) - start, key=key)
        return out
