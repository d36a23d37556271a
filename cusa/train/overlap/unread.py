"""Losses that nobody has read yet: a step leaves them on the device, and the host reads those of many steps at once.

Reading a number makes the host wait until the device has done all that is queued; then the device waits for the host.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cusa.train.data.batch import Batch

NEVER = 1 << 62


@dataclass(frozen=True)
class Problem:
    """A loss that is no finite number."""

    step: int
    """Counted from 1; `NEVER` where there is none."""
    keys: tuple[str, ...] = ()
    """Caption keys of the batch."""
    terms: str = ""
    """The loss and its terms, in words."""


class Unread:
    """The losses of the steps since the last reading."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, tuple[str, ...], Mapping[str, Tensor]]] = []

    def add(self, part: Batch, terms: Mapping[str, Tensor]) -> None:
        """Keep the terms of a part of a step, on their device."""
        self._parts.append((part.step + 1, part.keys, {name: term.detach() for name, term in terms.items()}))

    def read(self) -> Problem:
        """Read all losses at once and forget them; return the first that is no finite number."""
        parts, self._parts = self._parts, []
        if parts:
            finite: list[bool] = torch.stack([terms["loss"] for _, _, terms in parts]).isfinite().tolist()
            for (step, keys, terms), is_finite in zip(parts, finite, strict=True):
                if not is_finite:
                    return Problem(step, keys, ", ".join(f"{name} {float(term):.4g}" for name, term in terms.items()))
        return Problem(NEVER)
