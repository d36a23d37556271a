"""What every reader returns, and the few things that more than one of them needs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cusa.errors import DataError
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.storage import store

Row = ImageRecord | Drop


class Rows(Iterable[Row]):
    """Rows that are read anew at every iteration, so that none needs to be held.

    Args:
        read: gives the rows from the first to the last.
    """

    def __init__(self, read: Callable[[], Iterator[Row]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[Row]:
        return self._read()


@dataclass(frozen=True)
class Reading:
    """The rows of a data set, and the files they were read from."""

    dataset: str
    rows: Iterable[Row]
    """Every image and every refused row, in the source's order; iterable more than once."""
    files: Mapping[str, str]
    """The annotation files that were read: name -> sha256."""
    truth: Mapping[str, Path] = field(default_factory=dict)
    """Split -> a table of every pair known to match (`image_key`, `caption_key`), where the data set comes with one."""

    @property
    def images(self) -> list[ImageRecord]:
        """Every image, held at once: for small data."""
        return [row for row in self.rows if isinstance(row, ImageRecord)]

    @property
    def drops(self) -> list[Drop]:
        """Every row that the reader refused, held at once."""
        return [row for row in self.rows if isinstance(row, Drop)]


BAD_ROW = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What reading a row of the wrong shape raises."""


def refused_row(split: str, where: str, error: Exception, captions: Sequence[object] = ()) -> Iterator[Drop]:
    """Give the drops of a row that could not be read: its image, and each caption it had."""
    what = f"no field {error}" if isinstance(error, KeyError) else str(error)
    yield Drop(split, "", where, "image", "bad-row", what)
    for caption in captions:
        yield Drop(split, "", where, "caption", "bad-row", f"its image was dropped: {caption!r:.200}")


def inside(images: Path, relative: str) -> Path:
    """Return the path of an image below its folder.

    Raises:
        ValueError: if the name is empty or leads elsewhere.
    """
    if not relative or relative[0] == "/" or "\0" in relative or (".." in relative and ".." in relative.split("/")):
        raise ValueError(f"the path {relative!r} leaves the image folder" if relative else "the path is empty")
    return images / relative


def text(value: Any, name: str) -> str:
    """Return `value` if it is a text.

    Raises:
        TypeError: naming the field.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, not a text")
    return value


def split_name(value: Any, default: str = "train") -> str:
    """Return a split's name as a folder can have it: `restval` trains, as in every paper; what is no name, too."""
    if not isinstance(value, str) or not value.replace("-", "").replace("_", "").isalnum() or not value.isascii():
        return default
    return {"restval": "train", "validation": "val", "dev": "val"}.get(value, value)


def named_split(name: str) -> str:
    """Guess a split from a file's name: `captions_val2014.json` is `val`; empty if it holds none."""
    lower = name.lower()
    names = [split for split in ("train", "val", "dev", "test") if split in lower]
    return split_name(names[0]) if len(names) == 1 else ""


def group(pairs: Iterable[tuple[str, CaptionRecord]]) -> dict[str, list[CaptionRecord]]:
    """Gather captions by their image, both in the order in which they first come."""
    captions: dict[str, list[CaptionRecord]] = {}
    for image, caption in pairs:
        captions.setdefault(image, []).append(caption)
    return captions


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Give a text file's lines with their numbers, without their ends; bytes that are no UTF-8 are kept as surrogates.

    Raises:
        DataError: if the file is missing.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"{path} does not exist or is no file. Check the path.", path=path) from error


def digests(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file, named relative to `root`."""
    return {file.relative_to(root).as_posix(): store.sha256_file(file) for file in files}
