"""The points of a blend: which there are, and by what rule one is chosen."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from cusa.errors import ConfigError

MOST = 1001
_WAY = "Write START:STOP:STEP, such as 0:1:0.1, or numbers with commas, such as 0,0.5,1; all within 0 and 1."


def parse(text: str) -> tuple[float, ...]:
    """Return the points of a grid, rising, each once.

    Args:
        text: `0:1:0.1`, both ends included where the step meets them, or `0,0.3,1`.

    Raises:
        ConfigError: if it is none, holds no point, or one outside 0 and 1.
    """
    ranged = ":" in text
    try:
        numbers = [Decimal(part.strip()) for part in text.split(":" if ranged else ",") if part.strip()]
    except InvalidOperation:
        raise _refused(text, "it is not numbers") from None
    if not all(number.is_finite() for number in numbers) or (ranged and len(numbers) != 3):
        raise _refused(text, "it is not numbers")
    points = _from_to(text, *numbers) if ranged else numbers
    if not points:
        raise _refused(text, "it holds no point")
    for point in points:
        _refuse_outside(text, point)
    return tuple(sorted({abs(float(point)) for point in points}))  # -0 is 0


def _from_to(text: str, start: Decimal, stop: Decimal, step: Decimal) -> list[Decimal]:
    if step <= 0:
        raise _refused(text, "its step is not above 0")
    for end in (start, stop):
        _refuse_outside(text, end)
    if stop - start >= MOST * step:
        raise _refused(text, f"it has more than {MOST:,} points")
    number = math.floor((stop - start) / step) + 1
    return [start + place * step for place in range(number)]


def _refuse_outside(text: str, point: Decimal) -> None:
    if not 0 <= point <= 1:
        raise _refused(text, f"{point} lies outside 0 and 1, where the weights are no mean of both")


def _refused(text: str, why: str) -> ConfigError:
    return ConfigError(f"--grid {text!r}: {why}. {_WAY}", grid=text)


@dataclass(frozen=True)
class Choice:
    """How the point that is exported is chosen.

    Attributes:
        alpha: the point itself; None where a rule finds it.
        most_lost: by how many points of its own number a guard may fall below the base; None if the guards do not
            count.
    """

    alpha: float | None = None
    most_lost: float | None = None

    @property
    def rule(self) -> str:
        """The rule in words."""
        if self.alpha is not None:
            return "by hand"
        if self.most_lost is None:
            return "the highest number of the new task"
        return f"the highest number of the new task where no guard is more than {self.most_lost:g} below the base's"

    def number(self, values: Sequence[Sequence[float]], alphas: Sequence[float]) -> int:
        """Return which point is chosen; of equal ones the nearest to the base.

        Args:
            values: of each point: the number of the new task first, then the guards'.
            alphas: of the points, rising.
        """
        if self.alpha is not None:
            return alphas.index(self.alpha)
        allowed = range(len(values))
        if self.most_lost is not None:
            base = values[alphas.index(0.0)]
            allowed_points = [
                at
                for at in allowed
                if all(one >= of_base - self.most_lost for one, of_base in zip(values[at][1:], base[1:], strict=True))
            ]
            return max(allowed_points, key=lambda at: (values[at][0], -at))
        return max(allowed, key=lambda at: (values[at][0], -at))


def parse_choice(text: str) -> Choice | None:
    """Return how a point is chosen; None for an empty text: none is.

    Args:
        text: a number from 0 to 1; `best`; or `keep:LOSS`, such as `keep:1`.

    Raises:
        ConfigError: for anything else.
    """
    if not text:
        return None
    if text == "best":
        return Choice()
    kept = re.fullmatch(r"keep:([0-9]+(?:\.[0-9]+)?)", text)
    if kept:
        return Choice(most_lost=float(kept[1]))
    try:
        alpha = float(Decimal(text))
    except (InvalidOperation, ValueError):
        alpha = math.nan
    if not 0 <= alpha <= 1:
        raise ConfigError(
            f"--choose {text!r} is neither a point from 0 to 1 (0.5) nor a rule: best, the highest number of the new "
            "task; or keep:1, the highest where no guard loses more than 1 against the base.",
            choose=text,
        )
    return Choice(alpha=alpha)


def not_dominated(values: Sequence[Sequence[float]]) -> list[bool]:
    """Tell of each point whether no other one is as good in every number and better in one.

    Args:
        values: of each point, in the same order; higher is better.
    """

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        return all(a >= b for a, b in zip(one, other, strict=True)) and any(
            a > b for a, b in zip(one, other, strict=True)
        )

    return [not any(beats(other, one) for other in values) for one in values]
