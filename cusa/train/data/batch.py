"""A batch of pairs, as a training step receives it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Substitute:
    """One pair that could not be read, and the one that stood in for it."""

    key: str
    """Image key of the pair that failed."""
    shard: str
    reason: str
    """In Pillow's words."""
    used: str
    """Caption key of the stand-in."""


@dataclass(frozen=True)
class Batch:
    """One rank's pairs of one part of a step.

    Legend: B pairs, L tokens, K patches, S pixels a side, W width of a table, E and F widths of the teachers.
    """

    step: int
    """Counted from 0."""
    part: int
    """Which part of the step, counted from 0."""
    pairs: int
    """Of this part, all ranks together."""
    keys: tuple[str, ...]
    """(B) caption keys; the image's key is the part before `#`."""
    images: Tensor
    """What the student's `image_array` made, for most students (B, 3, S, S) uint8; or rows of a table (B, W)."""
    tokens: dict[str, Tensor]
    """What the student's `tokenize` made, each (B, L); or `features`, rows of a table (B, W)."""
    image_ids: Tensor
    """(B) int64, the image's row in the split: equal where two captions of one image meet. Of several data sets the
    first row that holds the same bytes."""
    rows: Tensor
    """(B) int64, the captions' rows in the split."""
    teacher_image: Tensor | None
    """(B, E) float32; None where the loss uses no image teacher, or its rows are on the device."""
    teacher_text: Tensor | None
    """(B, F) float32, or None, likewise."""
    substitutes: tuple[Substitute, ...] = ()
    patches: Tensor | None = None
    """(B, K) int64, the patches of each image that the image tower sees; None = all."""
