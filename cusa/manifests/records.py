"""What flows from a reader into shards: one image with its captions, or the reason why it was refused."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CaptionRecord:
    """One caption as the data set has it."""

    caption_id: str
    """The data set's own id, for example COCO's annotation id; empty if it has none."""
    text: str


@dataclass(frozen=True)
class ImageRecord:
    """One image, where it lies, and the captions it owns."""

    key: str
    split: str
    path: Path
    source: str
    """The image's name in the data set's own words, for error messages and provenance."""
    captions: tuple[CaptionRecord, ...]
    label: str = ""
    role: str = ""
    """`query` or `gallery` where a protocol divides a split; else empty."""


@dataclass(frozen=True)
class Drop:
    """One row that was refused, why, and where it came from."""

    split: str
    key: str
    """The image's or the caption's key; empty where none could be made."""
    source: str
    kind: str
    """`image` or `caption`: what was lost."""
    reason: str
    """One of `REASONS`."""
    detail: str
    """The particulars, in words."""


REASONS = {
    "missing": "the file does not exist or cannot be opened",
    "not-an-image": "the bytes are no image that Pillow knows",
    "truncated": "the image ends before its last row",
    "too-large": "the image has more pixels than allowed",
    "too-small": "the image has fewer pixels on a side than allowed",
    "unsupported-format": "an image, but not a JPEG, PNG or WebP file",
    "no-captions": "the image owns no usable caption",
    "empty-caption": "nothing is left of the caption once cleaned",
    "duplicate-key": "an earlier row has the same key",
    "bad-row": "the row lacks a field or has one of the wrong type",
}
