"""Numbers in sentences, and what a run was trained on in words."""

from collections.abc import Mapping
from typing import Any


def counted(number: float, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 group`, `2 groups`, `1,200 images`, `1 query`.

    Args:
        number: a whole one.
        noun: of one.
        plural: of any other number; the noun with an s if empty.
    """
    return f"{number:,.0f} {noun if number == 1 else plural or noun + 's'}"


def mixture(run: Mapping[str, Any]) -> str:
    """Return the data sets of a run with their shares of the draws; empty for a run on one split.

    Args:
        run: what its `run.json` holds.
    """
    sets = run.get("mixture", [])
    weights = [one["pairs"] if one["weight"] is None else one["weight"] for one in sets]
    return ", ".join(f"{one['name']} ({weight / sum(weights):.0%})" for one, weight in zip(sets, weights, strict=True))
