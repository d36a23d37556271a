"""The rows of several data sets as those of one: the sets stand one after another, in the order of the recipe."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cusa.errors import ConfigError
from cusa.train.data.gather import TeacherRows
from cusa.train.data.pairs import Pairs
from cusa.train.data.rows import Rows


class _Numbered(Protocol):
    def __len__(self) -> int: ...


def _starts(parts: Sequence[_Numbered]) -> np.ndarray:
    """Return the first row of each part, and the number of all rows: int64 (parts + 1,)."""
    return np.cumsum([0, *(len(part) for part in parts)]).astype(np.int64)


class JoinedNumbers:
    """A column of row numbers, each part's raised by the rows that stand before it.

    Args:
        parts: a column of each set.
        raised: by how much the values of each rise.
    """

    def __init__(self, parts: Sequence[Rows], raised: np.ndarray) -> None:
        self._parts, self._starts, self._raised = parts, _starts(parts), raised

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Return (n,) int64 values."""
        out = np.empty(len(numbers), dtype=np.int64)
        for place, mine, rows in _of_parts(self._starts, numbers):
            out[mine] = self._parts[place][rows] + self._raised[place]
        return out

    def row(self, number: int) -> np.ndarray:
        """Return one value."""
        value: np.ndarray = self[np.array([number])][0]
        return value

    def whole(self) -> np.ndarray:
        """Return all values, in memory."""
        return np.concatenate([part.whole() + more for part, more in zip(self._parts, self._raised, strict=True)])


class JoinedStrings:
    """Strings by number, those of each set after those of the one before.

    Args:
        parts: of each set.
        names: what is put before a set's strings, with a colon: keys of two sets may be equal; empty = nothing.
    """

    def __init__(self, parts: Sequence[Any], names: Sequence[str] = ()) -> None:
        self._parts, self._starts = parts, _starts(parts)
        self._before = [f"{name}:" for name in names] or [""] * len(parts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> str:
        place, row = _part(self._starts, number)
        return f"{self._before[place]}{self._parts[place][row]}"


class JoinedSplit:
    """What training asks of a split, for several: how many rows there are, and where they lie."""

    def __init__(self, parts: Sequence[Pairs]) -> None:
        self.num_images = sum(part.split.num_images for part in parts)
        self.num_captions = sum(part.split.num_captions for part in parts)
        self.folder = Path()


class JoinedPairs:
    """The pairs of several splits, as `Pairs` gives those of one.

    An image that several rows hold, within a set or over sets, is one image: the rows are equal by the SHA-256 of their
    bytes.

    Args:
        parts: opened splits, in the order of the recipe.
        names: of the sets; they stand before the keys.
    """

    def __init__(self, parts: Sequence[Pairs], names: Sequence[str]) -> None:
        self._parts, self._names = parts, names
        self._images = _starts([part.image_keys for part in parts])
        self.split = JoinedSplit(parts)
        self.owner = JoinedNumbers([part.owner for part in parts], self._images[:-1])
        self.texts = JoinedStrings([part.texts for part in parts])
        self.caption_keys = JoinedStrings([part.caption_keys for part in parts], names)
        self.image_keys = JoinedStrings([part.image_keys for part in parts], names)

    @property
    def notes(self) -> tuple[str, ...]:
        """Full sentences a person should read: a damaged cache, images that stand in several sets."""
        return (*(note for part in self._parts for note in part.notes), *self._shared_images())

    @cached_property
    def first(self) -> np.ndarray:
        """For each image row the first row with the same bytes: int64 (images,)."""
        digests = np.concatenate([part.digests() for part in self._parts]).view("S32")  # which sorts, as V32 does not
        _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        rows = first[inverse.reshape(-1)].astype(np.int64)
        # Rows without an image have no digest, and are nobody's copies.
        return np.where(digests == b"", np.arange(len(rows)), rows)

    def image_ids(self, images: np.ndarray) -> np.ndarray:
        """Return what image rows show: int64, equal for rows of the same bytes."""
        ids: np.ndarray = self.first[images]
        return ids

    def shard(self, image: int) -> str:
        """Return the path of the tar that holds an image row."""
        place, row = _part(self._images, image)
        part = self._parts[place]
        return f"{part.split.folder}/{part.shard(row)}"

    def image_bytes(self, image: int) -> bytes:
        """Return the encoded image of a row; raises as `Pairs.image_bytes` does."""
        place, row = _part(self._images, image)
        return self._parts[place].image_bytes(row)

    def check(self, image: int, data: bytes) -> None:
        """Compare an encoded image with its recorded SHA-256; raises as `Pairs.check` does."""
        place, row = _part(self._images, image)
        self._parts[place].check(row, data)

    def _shared_images(self) -> list[str]:
        owner = np.searchsorted(self._images, np.arange(self._images[-1]), side="right") - 1
        notes = []
        for place in range(1, len(self._parts)):
            rows = self.first[self._images[place] : self._images[place + 1]]
            if shared := int((rows < self._images[place]).sum()):
                others = sorted({self._names[one] for one in owner[rows[rows < self._images[place]]]})
                notes.append(
                    f"{shared:,} of {len(rows):,} images of {self._names[place]} stand in {', '.join(others)} as well "
                    "(the same bytes): in the loss each is one image with the captions of all, none its own negative."
                )
        return notes


class JoinedTable:
    """The rows of a table of each set, as `TeacherRows` gives those of one.

    Args:
        parts: in the order of the recipe.
        modality: whose rows they are, for error messages.
        shares: of the draws that each set has, their sum 1.
    """

    def __init__(self, parts: Sequence[TeacherRows], modality: str, shares: Sequence[float]) -> None:
        self._parts, self._starts, self._modality = parts, _starts(parts), modality
        self.shares = tuple(shares)
        self.teacher = parts[0].teacher
        self.widths = tuple(part.width for part in parts)

    @property
    def parts(self) -> tuple[TeacherRows, ...]:
        """The table of each set."""
        return tuple(self._parts)

    @property
    def width(self) -> int:
        """Numbers an embedding.

        Raises:
            ConfigError: if the sets' tables differ in it.
        """
        if len({*self.widths}) > 1:
            raise ConfigError(
                f"The {self._modality} tables of the data sets have rows of {', '.join(map(str, self.widths))} "
                "numbers, and this needs rows that compare over sets. Extract one encoder's rows for all sets.",
                key="data.train",
            )
        return self.widths[0]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return (n, width) float32 copies of the given rows; of one set, where the sets' widths differ."""
        whose = _of_parts(self._starts, rows)
        if len(whose) == 1:
            place, _, own = whose[0]
            return self._parts[place][own]
        out = np.empty((len(rows), self.width), dtype=np.float32)
        for place, mine, own in whose:
            out[mine] = self._parts[place][own]
        return out

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(part.nbytes for part in self._parts)

    def on(self, device: torch.device, *, budget: int) -> Tensor | None:
        """Return all rows on a device, or None if they are more than a budget or differ in type or width."""
        if self.nbytes > budget or len({*self.widths}) > 1:
            return None
        tables = [part.on(device, budget=budget) for part in self._parts]
        there = [table for table in tables if table is not None]
        return torch.cat(there) if len({table.dtype for table in there}) == 1 else None


def _of_parts(starts: np.ndarray, numbers: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Return for each part that has some of the rows: its place, which of them, and their rows in it."""
    numbers = np.asarray(numbers)
    places = np.searchsorted(starts, numbers, side="right") - 1
    out = []
    for place in np.unique(places).tolist():
        mine = np.flatnonzero(places == place)
        out.append((place, mine, numbers[mine] - starts[place]))
    return out


def _part(starts: np.ndarray, number: int) -> tuple[int, int]:
    place = int(np.searchsorted(starts, number, side="right")) - 1
    return place, int(number - starts[place])


AnyPairs = Pairs | JoinedPairs
AnyTable = TeacherRows | JoinedTable


def join_pairs(parts: Sequence[Pairs], names: Sequence[str]) -> AnyPairs:
    """Return the pairs of one split as they are, of several joined."""
    return parts[0] if len(parts) == 1 else JoinedPairs(parts, names)


def join_table(parts: Sequence[TeacherRows], modality: str, shares: Sequence[float]) -> AnyTable:
    """Return the table of one split as it is, of several joined."""
    return parts[0] if len(parts) == 1 else JoinedTable(parts, modality, shares)
