"""What flows from a reader into shards: one image with its captions, or the reason why it was refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cusa.manifests.storage.paths import place


class CaptionRecord(NamedTuple):
    """One caption as the data set has it."""

    caption_id: str
    """The data set's own id, for example COCO's annotation id; empty if it has none."""
    text: str
    position: int | None = None
    """The number in its key; None = its place among the image's captions."""
    source: str = ""
    """What made it, as `human`, `alt text` or `synthetic`; empty where nobody says."""


class ImageRecord(NamedTuple):
    """One image, where it lies, and the captions it owns."""

    key: str
    split: str
    path: Path | None
    """The file that holds the image; None for a sample of texts alone."""
    source: str
    """The image's name in the data set's own words, for error messages and provenance."""
    captions: tuple[CaptionRecord, ...]
    label: str = ""
    role: str = ""
    """`query` or `gallery` where a protocol divides a split; else empty."""
    offset: int = 0
    """The image's first byte in `path`: an image may lie in a tar, a region's features in an array of many."""
    length: int | None = None
    """The image's bytes; None = to the end of the file."""
    array: tuple[int, ...] = ()
    """Shape of float32 numbers, little-endian, that the bytes are instead of an encoded image: (regions, width)."""
    other_key: str = ""
    """The key it gets where another image has `key`: equal file names in two folders, or with two extensions."""
    sha256: str = ""
    """SHA-256 of the image as it was stored before, where one was recorded: what has another one is refused."""
    column: str = ""
    """The column of a Parquet table that holds the image in its row `offset`; `length` is an estimate then."""

    def to_json(self) -> list[Any]:
        """Return the record as what JSON can say, for a plan that a worker reads."""
        where = None if self.path is None else str(self.path)
        # What only some data have stands there only where they have it: the plan of others stays as it was.
        captions = [caption if caption.source else caption[:3] for caption in self.captions]
        names = [self.key, self.split, where, self.source, captions, self.label, self.role]
        more = [self.sha256, self.column] if self.column else [self.sha256] if self.sha256 else []
        return [*names, self.offset, self.length, self.array, *more]

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> "ImageRecord":
        """Make a record of what `to_json` gave."""
        key, split, path, source, captions, label, role, offset, length, array, *more = values
        texts = tuple(CaptionRecord(*caption) for caption in captions)
        where = None if path is None else place(path)
        return cls(key, split, where, source, texts, label, role, offset, length, tuple(array), "", *more)


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

    def row(self) -> dict[str, str]:
        """Return the drop as a table holds it, with its split."""
        return {name: utf8(value) for name, value in vars(self).items()}


def utf8(text: str) -> str:
    """Replace what no table can hold: half a surrogate pair, or the bytes of a name in another encoding."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


REASONS = {
    "missing": "the file does not exist or cannot be opened",
    "not-an-image": "the bytes are no image that Pillow knows",
    "truncated": "the image ends before its last row",
    "too-large": "the image has more pixels than allowed",
    "too-small": "the image has fewer pixels on a side than allowed",
    "unsupported-format": "an image, but not a JPEG, PNG or WebP file",
    "no-split": "the data set divides its images by lists, and none of them names this one, or several do",
    "no-captions": "the image owns no usable caption",
    "empty-caption": "nothing is left of the caption once cleaned",
    "changed": "the bytes are not those whose SHA-256 was recorded",
    "duplicate-key": "an earlier row has the same key",
    "not-finite": "the features hold a number that is not finite",
    "judged": "people judged it a duplicate, its words true of another image as well, or not true of its own",
    "doubted": "the audit calls the caption's pair wrong with a larger probability than allowed",
    "language": "the caption is in none of the languages that were asked for, or nobody can tell in which it is",
    "no-score": "the pair of texts has no score",
    "bad-row": "the row lacks a field or has one of the wrong type",
    "bad-url": "no web address",
    "private-address": "the host is on a private network, which nobody allowed",
    "host-not-found": "no address is known for the host",
    "connect-failed": "the host does not answer",
    "timeout": "nothing came for too long",
    "too-slow": "fewer bytes a second than required",
    "cut": "the connection ended before the file did",
    "bad-answer": "the server's answer is no HTTP",
    "http-status": "the server refused, with the HTTP status that is recorded",
    "redirects": "redirected too often, or to no web address",
    "web-page": "a web page came instead of a picture",
    "empty-body": "nothing came",
    "too-many-bytes": "the file is larger than allowed",
    "robots": "the host's robots.txt forbids it",
    "noai": "the server's X-Robots-Tag forbids use for training",
    "noimageai": "the server's X-Robots-Tag forbids use of the picture for training",
    "noindex": "the server's X-Robots-Tag forbids indexing",
    "noimageindex": "the server's X-Robots-Tag forbids indexing of the picture",
}
