"""Precomputed region features, as SCAN and SGRAF use them: one array for a split, one caption a line."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import Reading, Row, Rows, digests, lines
from cusa.pipeline.readers.splits import split_option

CAPTIONS_AN_IMAGE = 5


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read precomputed region features: `<split>_ims.npy` (images, 36, 2048) with `<split>_caps.txt`, five an image.

    Arrays that repeat every image five times (one row a caption) are read every fifth row. Each image becomes a
    `.npy` member of float32. Splits are named as the files (`train`, `dev` is `val`, `test`, `testall`).

    Args:
        source: the folder, for example `f30k_precomp`.
        images: the folder of the arrays; mostly the same.
        config: the data set's name (default: the folder's).

    Raises:
        DataError: if there is no such pair of files, an array is no (images, regions, width) of float32, or the
            captions are not five an image.
    """
    names = [file.name.removesuffix("_caps.txt") for file in sorted(source.glob("*_caps.txt"))]
    if not names:
        raise DataError(f"{source} holds no <split>_caps.txt.", path=source)
    parts = [_part(source, images, name) for name in names]
    dataset = config.dataset or source.name
    files = [file for name in names for file in (source / f"{name}_caps.txt", source / f"{name}_ids.txt")]
    return Reading(
        dataset,
        Rows(lambda: (row for part in parts for row in part.rows(dataset))),
        digests(source, [file for file in files if file.is_file()]),
    )


@dataclass(frozen=True)
class _Part:
    """One split: its array's place and shape, and its captions."""

    split: str
    array: Path
    captions: Path
    ids: Path
    first: int
    """Offset of the array's first number in its file, in bytes."""
    shape: tuple[int, ...]
    step: int
    """Rows of the array an image: 1, or 5 where every image is repeated for each of its captions."""

    def rows(self, dataset: str) -> Iterator[Row]:
        """Give the images of the split, each with its five captions."""
        split = split_option(self.split, f"{self.captions.name}:")
        texts = (text for _, text in lines(self.captions))
        ids = [text.strip() for _, text in lines(self.ids)] if self.ids.is_file() else []
        size = 4 * self.shape[1] * self.shape[2]
        for number in range(0, self.shape[0], self.step):
            image = number // self.step
            row = range(image * CAPTIONS_AN_IMAGE, (image + 1) * CAPTIONS_AN_IMAGE)
            captions = tuple(CaptionRecord(str(i), text) for i, text in zip(row, texts, strict=False))
            name = f" (image {ids[image if len(ids) * self.step == self.shape[0] else number]})" if ids else ""
            key = keys.image_key(dataset, f"{self.split}-{image:06d}")
            where = f"{self.array.name}[{number}]{name}"
            offset = self.first + number * size
            yield ImageRecord(key, split, self.array, where, captions, offset=offset, length=size, array=self.shape[1:])
        for text in texts:
            yield Drop(split, "", self.captions.name, "caption", "bad-row", f"belongs to no image: {text[:200]!r}")


def _part(source: Path, images: Path, name: str) -> _Part:
    array, captions = images / f"{name}_ims.npy", source / f"{name}_caps.txt"
    shape, first = _header(array)
    number, step = sum(1 for _ in lines(captions)), 1
    if shape[0] == number and number % CAPTIONS_AN_IMAGE == 0:
        step = CAPTIONS_AN_IMAGE
    elif shape[0] * CAPTIONS_AN_IMAGE != number:
        raise DataError(
            f"{array} has {shape[0]} rows and {captions.name} has {number} lines; "
            f"{CAPTIONS_AN_IMAGE} captions an image, or one row a caption, is what can be read.",
            path=array,
        )
    return _Part(name, array, captions, source / f"{name}_ids.txt", first, shape, step)


def _header(path: Path) -> tuple[tuple[int, ...], int]:
    """Return an array's shape and the offset of its first number, without reading the numbers."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            first = file.tell()
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist; put it beside its captions, or name its folder with --images."
        ) from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is no .npy array ({error}).", path=path) from error
    if len(shape) != 3 or fortran or dtype != np.dtype("<f4"):
        raise DataError(
            f"{path} is {dtype} {shape}; (images, regions, width) of float32 is what can be read.", path=path
        )
    return shape, first
