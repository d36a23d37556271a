"""Which pairs a training step sees: a pure function of seed, step and the split, free to seek.

An epoch is a permutation of all pairs, or of blocks of them. It is never stored, so step 10^6 of 10^8 pairs costs what
step 0 costs. Neither workers nor ranks nor history enter.
"""

from dataclasses import dataclass

import numpy as np

from cusa.errors import ConfigError
from cusa.train.data.blocks import Blocks
from cusa.train.data.caption_odds import CaptionDraw
from cusa.train.data.mixture.draws import Draws
from cusa.train.data.permutation import derive_key, permute


@dataclass(frozen=True)
class Order:
    """The order of a split's pairs; row p is caption p with the image that owns it.

    Attributes:
        pairs: captions of the split.
        batch: pairs a step, all ranks together.
        seed: another seed is another order.
        drop_last: leave out an epoch's last pairs where they fill no batch; else that batch is smaller.
        blocks: pairs that are kept near each other or apart, or the draws of several data sets; None = an epoch is a
            permutation of all pairs.
        captions: draws the caption that each turn of an image shows; None = each caption has a turn of its own.

    Raises:
        ConfigError: if not one batch can be filled.
    """

    pairs: int
    batch: int
    seed: int
    drop_last: bool = True
    blocks: Blocks | Draws | None = None
    captions: CaptionDraw | None = None

    def __post_init__(self) -> None:
        assert self.blocks is None or self.blocks.pairs == self.pairs, (self.blocks.pairs, self.pairs)
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

    def visit(self, step: int) -> int:
        """Return what tells apart the times that a pair is seen, for what changes with them: the epoch of a step.

        Of several data sets, whose pairs may come more than once an epoch, the step itself.
        """
        return step if isinstance(self.blocks, Draws) else self.epoch(step)

    @property
    def fewest(self) -> int:
        """Pairs of an epoch's smallest step."""
        rest = self.pairs % self.batch
        if self.drop_last or not rest:
            return self.batch
        return self.pairs // self.steps_per_epoch if self.blocks is not None and self.blocks.apart else rest

    def rows(self, step: int, *, rank: int = 0, world: int = 1, part: int = 0, parts: int = 1) -> np.ndarray:
        """Return the pairs of a step.

        Args:
            step: counted from 0 over all epochs.
            rank: which share of the part, 0 ... world-1.
            world: shares; consecutive slices whose sizes differ by at most one.
            part: which part of the global batch, where its parts are computed one after another.
            parts: parts; consecutive slices whose sizes differ by at most one.

        Returns:
            int64 (pairs of this rank,). The parts put together, and of each the ranks' shares, are the whole batch.
        """
        assert 0 <= rank < world, (rank, world)
        assert 0 <= part < parts, (part, parts)
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        positions = _share(_share(self._positions(step_in_epoch), part, parts), rank, world)
        if self.blocks is not None:
            rows = self.blocks.at(positions, seed=self.seed, epoch=epoch)
        else:
            rows = permute(positions, size=self.pairs, key=derive_key(self.seed, "epoch", epoch))
        if self.captions is None:
            return rows
        # An image has its turns in a pass over its own data set, which is no epoch where there are several.
        passes = self.blocks.passes(positions, epoch=epoch) if isinstance(self.blocks, Draws) else epoch
        return self.captions.draw(rows, seed=self.seed, epoch=passes)

    def size(self, step: int, *, part: int = 0, parts: int = 1) -> int:
        """Return how many pairs a part of a step has, of all ranks together."""
        return len(_share(self._positions(step % self.steps_per_epoch), part, parts))

    def _positions(self, step: int) -> np.ndarray:
        """Return the positions in the epoch that a step of it takes."""
        if self.blocks is not None and self.blocks.apart:
            stop = self.steps_per_epoch * self.batch if self.drop_last else self.pairs
            return np.arange(step, stop, self.steps_per_epoch)
        first = step * self.batch
        return np.arange(first, min(first + self.batch, self.pairs))

    def substitute(self, row: int, attempt: int) -> int:
        """Return the pair that stands in for one that cannot be read: the same one in every run.

        Args:
            row: the pair that failed.
            attempt: 1 for its first stand-in, 2 for that one's...
        """
        if isinstance(self.blocks, Draws):
            rows = np.array([self.blocks.substitute(row, seed=self.seed, attempt=attempt)])
        else:
            rows = permute(np.array([row]), size=self.pairs, key=derive_key(self.seed, "substitute", attempt))
        if self.captions is not None:
            rows = self.captions.draw(rows, seed=self.seed, epoch=0)
        return int(rows[0])


def shares(size: int, world: int) -> tuple[int, ...]:
    """Return how many of `size` pairs each rank has: consecutive slices whose sizes differ by at most one."""
    return tuple(size * (rank + 1) // world - size * rank // world for rank in range(world))


def _share(positions: np.ndarray, number: int, of: int) -> np.ndarray:
    return positions[len(positions) * number // of : len(positions) * (number + 1) // of]
