"""What tiles are made of: the directions a loss has, the labels they are taught, and where a tile lies.

Legend: B pairs, T rows or columns of a tile. A direction is one softmax an item: image to text, text to image, image to
image, text to text.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(eq=False)
class Label:
    """The soft labels of one direction: symmetric, and largest on the diagonal, where the cosine is 1."""

    source: str
    temperature: int
    """Position among the temperatures."""
    norm_B: Tensor
    """sum_j exp((a_ij - 1) / u)"""
    weighted_B: Tensor
    """sum_j exp((a_ij - 1) / u) a_ij"""


@dataclass(eq=False)
class Direction:
    """One softmax a row of the student, and the soft label it is compared with."""

    items: str
    """image or text: what the rows are."""
    temperature: int
    label: Label | None
    most_B: Tensor
    """With sum_B the running log-sum-exp."""
    sum_B: Tensor
    crossed_B: Tensor
    """sum_j exp((a_ij - 1) / u) s_ij"""
    value_B: Tensor = field(default_factory=lambda: torch.empty(0))
    """What each row adds to the loss."""

    def log_norm_B(self) -> Tensor:
        """Return the logarithm of every softmax's normaliser."""
        return self.most_B.to(self.sum_B.dtype) + self.sum_B.log()


class Tile(NamedTuple):
    """Where a tile lies."""

    rows: slice
    columns: slice
    axes: tuple[tuple[slice, int], ...]
    """Of a symmetric matrix: which items this tile serves, along which axis their softmax runs."""


class Cross(NamedTuple):
    """A tile of image-text cosines, and where the items of each kind lie in it."""

    s_TT: Tensor
    row_items: str
    places: dict[str, tuple[slice, int]]


Soft = dict[int, tuple[Tensor, Tensor]]
"""For each label, by identity: its similarities a and exp((a - 1) / u) on one tile."""


def cut(rows: slice, size: int) -> list[slice]:
    """Return consecutive parts of at most `size` rows."""
    return [slice(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size)]


def outer(share_B: Tensor, axes: tuple[tuple[slice, int], ...]) -> Tensor:
    """Return the shares of a tile's items, summed over the axes: (T, 1), (1, T) or (T, T)."""
    parts = [share_B[items].unsqueeze(axis) for items, axis in axes]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def take_in(direction: Direction, items: slice, logits_TT: Tensor, axis: int) -> None:
    """Take a tile of logits, which is overwritten, into the running log-sum-exp of some items."""
    before = direction.most_B[items]
    most = torch.maximum(before, logits_TT.amax(axis))
    scaled = direction.sum_B[items] * (before - most).exp()
    direction.sum_B[items] = scaled + logits_TT.sub_(most.unsqueeze(axis)).exp_().sum(axis)
    direction.most_B[items] = most
