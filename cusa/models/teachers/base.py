"""The interface of a frozen uni-modal teacher."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np


class Teacher(Protocol):
    """A frozen model that turns images or texts into unit vectors."""

    name: str
    """A folder's name: letters, digits, `.`, `_` and `-`."""
    modality: str
    """`image` or `text`."""
    width: int
    """Numbers an embedding."""

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        """Embed PIL images (RGB) or texts: (n, width) float32, every row of length 1."""
        ...

    def provenance(self) -> dict[str, str]:
        """Return what made the vectors: teacher, revision, weights_sha256 (`none` without weights), preprocessing."""
        ...


@runtime_checkable
class PreparingTeacher(Protocol):
    """A teacher whose `encode` is split in two, so that threads can prepare batches ahead of the model."""

    precision: str
    """Numbers that `embed` calculates with: `float32`, `float16` or `bfloat16`."""

    def prepare(self, items: Sequence[Any]) -> Any:
        """Make a batch ready: scale images, tokenise texts. Called from several threads."""
        ...

    def embed(self, prepared: Any, *, exact: bool = False) -> np.ndarray:
        """Embed what `prepare` returned: (n, width) float32 unit rows; in float32 throughout if `exact`."""
        ...


@runtime_checkable
class MeasuringTeacher(Protocol):
    """A teacher whose cost of an item grows with its length, so that batches of equal lengths waste nothing."""

    def lengths(self, items: Sequence[Any]) -> np.ndarray:
        """Return the length of each item, (n,) integers, for example in tokens."""
        ...
