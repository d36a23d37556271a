"""Who works on the units of a stage: this process alone, several, a cluster, or the tasks of a scheduler's array."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from cusa.errors import ConfigError
from cusa.manifests.words import counted
from cusa.pipeline.engine import Workers, workers_kept

MERGE = "merge"


@dataclass(frozen=True)
class UnitRange:
    """Some of a stage's units, as `--unit-range` names them."""

    words: str
    """`FIRST:STOP` (units from FIRST up to but not including STOP), `K/N` (the K-th of N equal shares, from 0), or
    `merge` (all are made: put them together)."""

    def __post_init__(self) -> None:
        words = self.words
        numbers = re.fullmatch(r"([0-9]{1,18})([:/])([0-9]{1,18})", words)
        first, sign, second = (int(numbers[1]), numbers[2], int(numbers[3])) if numbers else (0, "", 0)
        if words != MERGE and (not sign or first >= second):
            raise ConfigError(
                f"--unit-range {words!r} names no units. Write FIRST:STOP (0:4 = the units 0 to 3), K/N (0/16 = the "
                "first of sixteen equal shares, 15/16 the last), or merge.",
                option="--unit-range",
                value=words,
            )

    @property
    def merges(self) -> bool:
        """Whether units are put together and none is made."""
        return self.words == MERGE

    def of(self, number: int) -> range:
        """Return the units that are meant, of so many.

        Raises:
            ConfigError: if there are not so many.
        """
        assert not self.merges
        first, sign, second = re.split("([:/])", self.words)
        if sign == "/":
            return range(number * int(first) // int(second), number * (int(first) + 1) // int(second))
        if int(second) > number:
            raise ConfigError(
                f"--unit-range {self.words}: this stage has {counted(number, 'unit')}, and 0:{number} is the whole "
                "range. K/N names shares without knowing how many there are.",
                option="--unit-range",
                value=self.words,
            )
        return range(int(first), int(second))


@dataclass(frozen=True)
class Sharing:
    """How the units of the stages of this context are shared."""

    workers: Workers = Workers(1)
    only: UnitRange | None = None
    """The units that this process shall make, another process having made or making the others; None = all, and then
    put together."""


_ALONE = Sharing()
_SHARING: ContextVar[Sharing] = ContextVar("sharing", default=_ALONE)


@contextmanager
def sharing(workers: Workers, only: UnitRange | None = None) -> Iterator[None]:
    """Within it the stages that work in units share them so, and their workers stay from one stage to the next."""
    token = _SHARING.set(Sharing(workers, only))
    try:
        with workers_kept():
            yield
    finally:
        _SHARING.reset(token)


def current() -> Sharing:
    """Return how units are shared here."""
    return _SHARING.get()
