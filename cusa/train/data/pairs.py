"""Keys, captions, owners and byte ranges of a split by row, from files of plain rows built once from its tables.

Parquet is what others read, but it gives no single row without the group around it, and a table in memory grows with
the data set. These files (the cache) give a row for a page or two of the operating system's cache. They are used only
if all their checksums are right, see `cusa.manifests.storage.checksums`; otherwise they are built again. No torch here.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cusa.errors import DataError
from cusa.manifests.samples import Split
from cusa.manifests.storage import checksums, store
from cusa.train.data.rows import Rows, Strings

_NUMBERS = {"owner": "<i8", "shard": "<i4", "offset": "<i8", "size": "<i8", "sha256": "V32"}
_STRINGS = ("caption_key", "text", "image_key")
_FILES = (*_NUMBERS, *(name + ending for name in _STRINGS for ending in ("", ".ends")))


class Pairs:
    """A split's rows.

    Args:
        split: the split.
        fallback: folder for the files where the work folder cannot be written; None = there is no other.

    Attributes:
        split: the split.
        owner: the image row of each caption row, int64; rows by number.
        texts: the words of each caption row, as the data set has them.
        caption_keys: the key of each caption row.
        image_keys: the key of each image row.
        notes: full sentences a person should read: a cache that was damaged.

    Raises:
        DataError: if a table is broken or nowhere can be written.
    """

    def __init__(self, split: Split, *, fallback: Path | None = None) -> None:
        name = f"pairs-{split.digest[:16]}"
        places = [split.folder / "cache" / name, *([] if fallback is None else [fallback / f"{split.name}-{name}"])]
        self.notes: tuple[str, ...] = ()
        self.split = split
        self._folder = self._intact(places) or _build(split, places)
        self._shards: list[str] = split.shards["shard"].to_pylist()
        self._open()

    def shard(self, image: int) -> str:
        """Return the tar that holds an image row."""
        return self._shards[int(self._shard.row(image))]

    def image_ids(self, images: np.ndarray) -> np.ndarray:
        """Return what image rows show: the rows themselves, as in one split each row is an image of its own."""
        return images

    def digests(self) -> np.ndarray:
        """Return the recorded SHA-256 of every image row, (images,) of 32 bytes, zeros where a row has no image."""
        return self._sha256.whole()

    def image_bytes(self, image: int) -> bytes:
        """Return the encoded image of a row, read by its byte range.

        Raises:
            DataError: if the tar is missing or too short.
        """
        return self.split.bytes_at(
            self.shard(image), int(self._offset.row(image)), int(self._size.row(image)), key=self.image_keys[image]
        )

    def check(self, image: int, data: bytes) -> None:
        """Compare the encoded image of a row with the SHA-256 that was recorded when it was sharded.

        Raises:
            DataError: if they differ.
        """
        if hashlib.sha256(data).digest() != self._sha256.row(image).tobytes():
            path = self.split.folder / self.shard(image)
            raise DataError(
                f"{path}: the bytes of {self.image_keys[image]} are not those that were sharded (their SHA-256 "
                "differs); the tar was changed or damaged since. Restore it, or make it again with `cusa shard ... "
                "--force`.",
                path=path,
                key=self.image_keys[image],
            )

    def _intact(self, places: list[Path]) -> Path | None:
        """Return the first folder of which every file's checksum is right; note those that are damaged."""
        for place in places:
            problems = (
                f"{name}: {problem}"
                for name in _FILES
                if (problem := checksums.problem(place / name, made_from=self.split.digest))
            )
            if (first := next(problems, None)) is None:
                return place
            if place.exists():
                self.notes += (f"The cache {place} was damaged and was built again ({first}).",)
        return None

    def _open(self) -> None:
        self.owner, self._shard, self._offset, self._size, self._sha256 = (
            Rows(self._folder / name, dtype) for name, dtype in _NUMBERS.items()
        )
        self.caption_keys, self.texts, self.image_keys = (Strings(self._folder / name) for name in _STRINGS)


class Writer:
    """Writes the columns of one table to a folder, block by block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends: dict[str, int] = {}

    def numbers(self, name: str, values: np.ndarray) -> None:
        """Append to a column of numbers."""
        with (self._folder / name).open("ab") as file:
            file.write(values.astype(_NUMBERS[name]).tobytes())

    def strings(self, name: str, values: Iterable[str]) -> None:
        """Append to a column of strings."""
        encoded = [value.encode() for value in values]
        stops = np.cumsum([len(value) for value in encoded], dtype=np.int64) + self._ends.get(name, 0)
        if len(stops):
            self._ends[name] = int(stops[-1])
        with (self._folder / name).open("ab") as file:
            file.write(b"".join(encoded))
        with (self._folder / name).with_suffix(".ends").open("ab") as file:
            file.write(stops.astype("<i8").tobytes())


def _build(split: Split, places: list[Path]) -> Path:
    """Write the files to the first place that can be written, in place of those of an older state."""

    def write(place: Path) -> None:
        with store.whole_folder(place) as temporary:
            _write(split, Writer(temporary), temporary)
            for name in _FILES:
                checksums.write_checksum(temporary / name, made_from=split.digest)

    place = checksums.write_in_first(places, write)
    for old in place.parent.glob(f"{place.name[:-16]}{'?' * 16}"):
        if old != place:
            store.remove_folder(old)
    return place


def _write(split: Split, writer: Writer, folder: Path) -> None:
    shard_number = {shard: number for number, shard in enumerate(split.shards["shard"].to_pylist())}
    for rows in _blocks(split.folder / "samples.parquet", ["key", "shard", "image_offset", "image_bytes", "sha256"]):
        writer.strings("image_key", rows["key"])
        writer.numbers("shard", np.array([shard_number[shard] for shard in rows["shard"]]))
        writer.numbers("offset", np.array(rows["image_offset"]))
        writer.numbers("size", np.array(rows["image_bytes"]))
        writer.numbers("sha256", np.array([bytes.fromhex(sha256 or "") for sha256 in rows["sha256"]], dtype="V32"))
    image_keys = Strings(folder / "image_key")
    image, image_key = 0, image_keys[0]
    for rows in _blocks(split.folder / "captions.parquet", ["key", "caption_key", "text"]):
        owner = np.empty(len(rows["key"]), dtype=np.int64)
        for place, key in enumerate(rows["key"]):
            # Captions stand in the order of their images, so the owner is this image or one further on.
            while image_key != key:
                image += 1
                if image == len(image_keys):
                    raise DataError(
                        f"{split.folder}: captions are not in the order of their images, or {key!r} is no image. "
                        "Make it again with `cusa shard ... --force`.",
                        path=split.folder,
                    )
                image_key = image_keys[image]
            owner[place] = image
        writer.numbers("owner", owner)
        writer.strings("caption_key", rows["caption_key"])
        writer.strings("text", rows["text"])


def _blocks(path: Path, columns: list[str]) -> Iterator[dict[str, list[Any]]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=columns, batch_size=1 << 16):
            yield batch.to_pydict()
