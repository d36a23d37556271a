"""The parts of tiles: the softmax directions of a loss, their soft labels, and the place of a tile.

Legend: B pairs, T rows or columns of a tile. A direction is one softmax an item: image to text, text to image, image to
image, text to text.
"""

from collections.abc import Sequence
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


class Workspace:
    """Memory of a tile's size, by name, used again for every tile: fresh pages cost a CPU more than what fills them.

    Args:
        size: rows and columns of the largest tile.
        like: whose type and device it has.
    """

    def __init__(self, size: int, like: Tensor) -> None:
        self._size, self._like = size, like.new_empty(0)
        self._flat: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int) -> Tensor:
        """Return memory that holds what was last written under this name, (rows, columns)."""
        if name not in self._flat:
            self._flat[name] = self._like.new_empty(self._size * self._size)
        return self._flat[name][: rows * columns].view(rows, columns)

    def like(self, name: str, tile_TT: Tensor) -> Tensor:
        """Return memory of a tile's shape."""
        return self.take(name, *tile_TT.shape)


Soft = dict[int, tuple[Tensor, Tensor]]
"""For each label, by identity: its similarities a and exp((a - 1) / u) on one tile."""


def cut(rows: slice, size: int) -> list[slice]:
    """Return consecutive parts of at most `size` rows."""
    return [slice(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size)]


def outer(parts: Sequence[tuple[Tensor, slice, int]], out_TT: Tensor) -> Tensor:
    """Return the shares of a tile's items, summed over the axes along which their softmaxes run.

    Args:
        parts: one or two of: a share an item, the tile's items, their axis.
        out_TT: memory for the sum of two.

    Returns:
        (T, 1), (1, T) or (T, T).
    """
    first, *others = (share_B[items].unsqueeze(axis) for share_B, items, axis in parts)
    return torch.add(first, others[0], out=out_TT) if others and parts[0][2] != parts[1][2] else sum(others, first)


def take_in(direction: Direction, items: slice, logits_TT: Tensor, axis: int) -> None:
    """Take a tile of logits, which is overwritten, into the running log-sum-exp of some items."""
    before = direction.most_B[items]
    most = torch.maximum(before, logits_TT.amax(axis))
    scaled = direction.sum_B[items] * (before - most).exp()
    direction.sum_B[items] = scaled + logits_TT.sub_(most.unsqueeze(axis)).exp_().sum(axis)
    direction.most_B[items] = most
