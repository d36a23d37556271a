"""The interface of a frozen uni-modal teacher."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    pass


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
        """Say what made the vectors: teacher, revision, weights_sha256 (`none` without weights), preprocessing."""
        ...


@runtime_checkable
class PreparingTeacher(Protocol):
    """A teacher whose `encode` falls into two halves, so that threads can do the first one ahead of the model."""

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
    """A teacher whose work on an item grows with its length: batches of equal lengths waste none of it."""

    def lengths(self, items: Sequence[Any]) -> np.ndarray:
        """Return the length of each item, (n,) integers, for example in tokens."""
        ...
