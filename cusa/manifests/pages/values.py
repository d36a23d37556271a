"""Values that pages of different rooms show the same way: figures on cards, tables, pictures."""

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image


@dataclass(frozen=True)
class Figure:
    """One large number on a card; all are plain texts.

    Attributes:
        label: what the number is.
        value: the number.
        note: a line below it.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Term:
    """A name that the page defines.

    Attributes:
        words: the name, as it stands where it is used.
        anchor: of its definition in the page; empty where the page has none.
        definition: shows where the pointer rests.
    """

    words: str
    anchor: str = ""
    definition: str = ""


@dataclass(frozen=True)
class Table:
    """A table of plain texts.

    Attributes:
        header: the columns' names.
        rows: the cells, as many a row as the header has.
        words: numbers of the columns that hold running text rather than numbers.
        terms: column -> the term that its name is, where the page defines it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[int] = ()
    terms: Mapping[int, Term] = field(default_factory=dict)


def thumbnail(image: Image.Image, *, side: int = 160) -> str:
    """Return a picture as a data URI that a page can show without another file.

    Args:
        image: an RGB image.
        side: of the thumbnail, the longer one, in pixels at most.
    """
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
