"""The samples of one tar of a work folder, as an export writes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from cusa.errors import DataError
from cusa.manifests.samples import Split


class Sample(NamedTuple):
    """One image and its captions."""

    row: dict[str, Any]
    """Its row of the split's samples."""
    image: bytes
    """The encoded picture; empty for texts alone."""
    captions: list[dict[str, Any]]
    """Its rows of the split's captions, in their order."""


@dataclass(frozen=True)
class Part:
    """One tar of a split, and the file that an export makes of it."""

    work: Path
    split: str
    number: int
    """Of the tar in the split's table of shards, from 0."""
    file: Path
    made_of: str
    """Digest of all that the file depends on; the file repeats it, so that a killed export goes on."""
    state: str
    """Digest of the split."""

    @property
    def images(self) -> range:
        """The rows of its images in the split's samples."""
        return self._opened.shard_rows()[self.number][2]

    @property
    def _opened(self) -> Split:
        return _split(self.work, self.split, self.state)

    def samples(self) -> Iterator[Sample]:
        """Give every sample of the tar, its picture compared with the digest that was recorded.

        Raises:
            DataError: if the tar is damaged, or holds features of regions and no pictures.
        """
        split = self._opened
        _, _, images, captions = split.shard_rows()[self.number]
        texts: dict[str, list[dict[str, Any]]] = {}
        for row in split.captions.slice(captions.start, len(captions)).to_pylist():
            texts.setdefault(row["key"], []).append(row)
        for number, row in zip(images, split.samples.slice(images.start, len(images)).to_pylist(), strict=True):
            if row["ext"] == "npy":
                raise DataError(
                    f"{split.folder} holds features of regions and no pictures, which these formats have no place for. "
                    "Share the folder itself.",
                    path=split.folder,
                )
            image = split.checked_image_bytes(number) if row["ext"] else b""
            yield Sample(row, image, texts.get(row["key"], []))


@lru_cache(maxsize=4)
def _split(work: Path, name: str, state: str) -> Split:
    """Return a split, opened once a process for each state of it."""
    return Split(work, name)
