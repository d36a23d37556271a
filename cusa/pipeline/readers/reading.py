"""What every reader returns, and the few things that more than one of them needs."""

import codecs
import contextlib
import io
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, DataError
from cusa.manifests import keys
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
    notes: tuple[str, ...] = ()
    """Full sentences a person should read: what the reader took for granted."""
    work: Path | None = None
    """The work folder whose shards are read; nothing may be written into it."""

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


def refuse_own_source(work: Path, out: Path) -> None:
    """Refuse to write a part of a work folder over the folder itself, above it or into it.

    Args:
        work: the work folder that is read.
        out: the work folder to be written.

    Raises:
        ConfigError: if they are one, or one lies in the other, links followed.
    """
    here, there = work.resolve(), out.resolve()
    if here == there:
        how = "is the work folder that is read, and would be overwritten"
    elif here in there.parents:
        how = f"lies in {work}, the work folder that is read"
    elif there in here.parents:
        how = f"holds {work}, the work folder that is read"
    else:
        return
    raise ConfigError(
        f"--out {out} {how}. Give a folder outside of it, for example {here.with_name(f'{here.name}-part')}.",
        option="--out",
        work=work,
        out=out,
    )


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


def other_key(dataset: str, name: str) -> str:
    """Return the key of an image whose file name's stem another image has already: that of its whole path."""
    return keys.image_key(dataset, posixpath.normpath(name)) if name else ""


def group(pairs: Iterable[tuple[str, CaptionRecord]]) -> dict[str, list[CaptionRecord]]:
    """Gather captions by their image, both in the order in which they first come."""
    captions: dict[str, list[CaptionRecord]] = {}
    for image, caption in pairs:
        captions.setdefault(image, []).append(caption)
    return captions


_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(start: bytes) -> str:
    """Return the encoding that a file's byte order mark names; UTF-8 without one."""
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def decode_text(data: bytes) -> str:
    """Return a file's text, by its byte order mark; in UTF-8, bytes that are none are kept as surrogates.

    Raises:
        ValueError: if the bytes are not in the encoding that their mark names.
    """
    encoding = encoding_of(data[:4])
    return data.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "strict")


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a text file in the encoding of its byte order mark; line ends are left as they are.

    Raises:
        DataError: if the file is missing.
    """
    try:
        file = path.open("rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"{path} does not exist or is no file. Check the path.", path=path) from error
    with file:
        encoding = encoding_of(file.read(4))
        file.seek(0)
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        yield io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Give a text file's lines with their numbers, without their ends; bytes that are no UTF-8 are kept as surrogates.

    Raises:
        DataError: if the file is missing, or not in the encoding that its byte order mark names.
    """
    try:
        with path.open("rb") as file:
            encoding = encoding_of(file.read(4))
            file.seek(0)
            if encoding.startswith("utf-8"):
                for number, line in enumerate(file, 1):
                    content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                    yield number, content.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
            else:
                text_file = io.TextIOWrapper(file, encoding=encoding, newline="\n")
                for number, text_line in enumerate(text_file, 1):
                    yield number, text_line.rstrip("\r\n")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"{path} does not exist or is no file. Check the path.", path=path) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in {encoding} ({error}). Save it as UTF-8.", path=path) from error


def digests(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file, named relative to `root`."""
    return {file.relative_to(root).as_posix(): store.sha256_file(file) for file in files}
