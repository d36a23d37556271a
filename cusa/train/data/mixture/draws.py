"""The order of several data sets' pairs: whose turn it is at every position, and which of its pairs that is.

The sets take turns at even distances, so that every batch has the shares that the weights ask for, to a pair or two.
Each set has an endless stream of its own, one shuffle of all its pairs after another: within its own passes every
pair is seen equally often, whatever the weights are. Nothing is stored: any position costs the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from cusa.errors import ConfigError
from cusa.train.data.blocks import Blocks
from cusa.train.data.permutation import derive_key, permute

_MOST = 1 << 31  # draws an epoch, so that twice their square is still a number of 64 bits


@dataclass(frozen=True)
class Draws:
    """Which pair of which data set is drawn at each position.

    The rows of the sets stand one after another: row p of set k is row `starts[k] + p`.

    Attributes:
        sizes: pairs of each set.
        epoch: draws of each set in an epoch.
        run: consecutive positions that one set takes in its turn: 1, or the pairs of a batch where each batch is of one
            set.
        windows: a set's own order, where it keeps reads local; None = a shuffle of all its pairs.
    """

    sizes: tuple[int, ...]
    epoch: tuple[int, ...]
    run: int = 1
    windows: tuple[Blocks | None, ...] = ()

    apart = False
    """Positions of a step are consecutive, see `Blocks.apart`."""

    def __post_init__(self) -> None:
        assert sum(self.epoch) <= _MOST, self.epoch
        assert all(draws % self.run == 0 for draws in self.epoch), (self.epoch, self.run)

    @property
    def pairs(self) -> int:
        """Pairs of all sets."""
        return sum(self.sizes)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the draws that each set has, their sum 1."""
        return tuple(draws / sum(self.epoch) for draws in self.epoch)

    @property
    def starts(self) -> tuple[int, ...]:
        """The first row of each set."""
        return tuple(int(start) for start in np.cumsum((0, *self.sizes[:-1])))

    def at(self, positions: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        """Return the pairs at some positions of an epoch.

        Args:
            positions: (n,) integers, 0 ... sum(epoch)-1.
            seed: of the run.
            epoch: counted from 0.

        Returns:
            (n,) int64 rows.
        """
        whose, drawn = self._streams(positions, epoch)
        rows = np.empty(len(whose), dtype=np.int64)
        for place, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            mine = whose == place
            rows[mine] = start + self._of_set(place, size, drawn[mine], seed)
        return rows

    def passes(self, positions: np.ndarray, *, epoch: int) -> np.ndarray:
        """Return in which pass over its own set each position of an epoch is: (n,) int64, counted from 0."""
        whose, drawn = self._streams(positions, epoch)
        numbers: np.ndarray = drawn // np.array(self.sizes)[whose]
        return numbers

    def _streams(self, positions: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return whose turn it is at each position, and where that is in the set's endless stream: (n,) int64 both."""
        turn, inside = np.divmod(np.atleast_1d(np.asarray(positions, dtype=np.int64)), self.run)
        whose, number = take_turns(turn, [draws // self.run for draws in self.epoch])
        return whose, epoch * np.array(self.epoch)[whose] + number * self.run + inside

    def _of_set(self, place: int, size: int, drawn: np.ndarray, seed: int) -> np.ndarray:
        """Return what a set's endless stream gives at some of its positions."""
        passes, position = np.divmod(drawn, size)
        rows = np.empty(len(drawn), dtype=np.int64)
        window = self.windows[place] if self.windows else None
        for number in np.unique(passes).tolist():
            mine = passes == number
            if window is None:
                key = derive_key(seed, f"data set {place}, pass", number)
                rows[mine] = permute(position[mine], size=size, key=key)
            else:
                own = derive_key(seed, "data set", place)
                rows[mine] = window.at(position[mine], seed=own, epoch=number)
        return rows

    def substitute(self, row: int, *, seed: int, attempt: int) -> int:
        """Return the pair of the same set that stands in for one that cannot be read."""
        place = int(np.searchsorted(self.starts, row, side="right")) - 1
        key = derive_key(seed, f"data set {place}, substitute", attempt)
        start, size = self.starts[place], self.sizes[place]
        return start + int(permute(np.array([row - start]), size=size, key=key)[0])


def take_turns(turns: np.ndarray, draws: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return whose turn it is, and the how-manieth of its turns in the epoch.

    The first set takes its turns at even distances, the second at even distances among those that are left, and so on.

    Args:
        turns: (n,) int64, 0 ... sum(draws)-1.
        draws: turns of each set.

    Returns:
        (n,) int64 places among the sets, and (n,) int64 counted from 0.
    """
    whose = np.full(len(turns), len(draws) - 1, dtype=np.int64)
    number = np.zeros(len(turns), dtype=np.int64)
    open_, left, rest = np.arange(len(turns)), turns, sum(draws)
    for place, mine in enumerate(draws):
        before, after = ((2 * at * mine + rest) // (2 * rest) for at in (left, left + 1))
        taken = after > before
        whose[open_[taken]], number[open_[taken]] = place, before[taken]
        open_, left, rest = open_[~taken], (left - before)[~taken], rest - mine
        if not len(open_):
            break
    return whose, number


def draws_of_epoch(sizes: Sequence[int], weights: Sequence[float | None], total: int) -> tuple[int, ...]:
    """Return how many of an epoch's draws each set has.

    Args:
        sizes: pairs of each set.
        weights: finite and above 0, only their ratio counts; all None = as many as the sets have pairs.
        total: draws of all sets together.

    Returns:
        Whole numbers of that sum, none further than 1 from its exact share (largest remainders).

    Raises:
        ConfigError: if some sets have a weight and some have none, or a set would never be drawn.
    """
    given = [weight for weight in weights if weight is not None]
    if given and len(given) < len(weights):
        raise ConfigError(
            f"data.train gives {len(given)} of {len(weights)} data sets a weight. Give all of them one, or none: then "
            "each is drawn as often as it has pairs.",
            key="data.train",
        )
    # As decimals: 0.1 is then a tenth, and equal ratios give equal orders.
    parts = [Fraction(str(weight)) for weight in given] or [Fraction(size) for size in sizes]
    exact = [total * part / sum(parts) for part in parts]
    whole = [int(draws) for draws in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: (whole[place] - exact[place], place))
    for place in by_remainder[: total - sum(whole)]:
        whole[place] += 1
    for place, draws in enumerate(whole):
        if not draws:
            raise ConfigError(
                f"data.train: data set {place + 1} has weight {weights[place]} of {float(sum(parts)):g}, so few that "
                f"of an epoch's {total:,} draws it has none. Give it a larger weight, or leave it out.",
                key=f"data.train.{place + 1}.weight",
            )
    return tuple(whole)
