"""Tables of an encoder's outputs that a student reads in place of pictures or texts.

Legend: N rows of a split, W width of an encoder's features.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cusa.errors import ConfigError, DataError, StaleError, nearest
from cusa.manifests import tables
from cusa.manifests.origin import IMPORTED, read_origin
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

FEATURES = "features"
"""Name under which a batch's tokens hold rows of a table instead: (B, W)."""

_CARD = "student.json"  # as `cusa.models.students.base.CARD`, which needs torch
_SAME = ("revision", "weights_sha256", "preprocessing", "transform")


@dataclass(frozen=True)
class FeatureTable:
    """A table that a student learned from, as its card keeps it."""

    table: str
    """Name of its folder under `teachers/` of a split."""
    width: int
    """W."""
    provenance: Mapping[str, str]
    """What made its rows: revision, weights_sha256, preprocessing, transform."""
    encoder: str = ""
    """What computes such a row of a new picture or text, as `load_teacher` takes it; empty = nothing does."""

    def to_json(self) -> dict[str, Any]:
        """Return what a card holds."""
        return {**asdict(self), "provenance": dict(self.provenance)}

    def has_rows_of(self, other: "FeatureTable") -> bool:
        """Return whether another table's rows mean the same: made by the same weights, read the same way."""
        mine, theirs = ({key: one.provenance.get(key) for key in _SAME} for one in (self, other))
        return self.width == other.width and mine == theirs

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "FeatureTable":
        """Read what a card holds."""
        return FeatureTable(fields["table"], int(fields["width"]), dict(fields["provenance"]), fields["encoder"])


def describe(split: Split, modality: str, *, name: str = "", encoder: str = "") -> FeatureTable:
    """Return the table of a split that a student is to learn from.

    Args:
        split: whose table.
        modality: of its rows.
        name: the table's, or what made it, see `tables.find_teacher`; empty for the only one of the modality.
        encoder: what computes such rows; empty for what the table remembers to have made it, if that is no class.

    Raises:
        ConfigError: if there are several tables and no name, none of this name, or it holds the other modality's rows.
        DataError: if there is none at all.
    """
    key, there = f"student.heads.{modality}_table", tables.teachers(split)
    names = [table for table, kind in there.items() if kind == modality]
    if name in there and name not in names:
        raise ConfigError(
            f"{key} is {name!r}, which holds rows of {there[name]}s in {split.folder}. Name a table of {modality}s: "
            f"{', '.join(names) or 'there is none'}.",
            key=key,
        )
    if not names:
        raise DataError(
            f"{split.folder} has no table of {modality}s to learn from. Run {_how_to_make(split, modality, encoder)}.",
            split=split.name,
        )
    table = tables.find_teacher(split, modality, name) if name else names[0]
    if not table:
        raise ConfigError(
            f"{key} is {name!r}, and {split.folder} has no such table. {nearest(name, names)}; or run "
            f"{_how_to_make(split, modality, encoder)}.",
            key=key,
        )
    if not name and len(names) > 1:
        raise ConfigError(f"{split.folder} has several tables of {modality}s: {', '.join(names)}. Set {key}.", key=key)
    return of_table(split, table, encoder=encoder or _known_encoder(split, table))


def of_table(split: Split, table: str, *, encoder: str = "") -> FeatureTable:
    """Return what a card keeps of a table that is there."""
    path = _first_part(split, table)
    metadata = tables.read_part_metadata(path)
    provenance = {part: metadata.get(part, "") for part in _SAME}
    return FeatureTable(table, tables.part_width(path), provenance, encoder)


def read_by(name: str | Path) -> dict[str, FeatureTable]:
    """Return the tables that a student reads in place of pictures or texts, by modality, from its card alone.

    Args:
        name: of the student; what is no folder of a student of heads reads none.
    """
    path = Path(name).expanduser()
    card = next((place / _CARD for place in (path, path / "model") if (place / _CARD).is_file()), None)
    content = store.read_json(card) if card is not None else {}
    if not isinstance(content, dict) or content.get("kind") != "heads":
        return {}
    return {modality: FeatureTable.from_json(fields) for modality, fields in content["features"].items()}


def digests(split: Split, read: Mapping[str, FeatureTable]) -> dict[str, str]:
    """Return a digest of every byte of a split's tables that a student reads, by its name among the inputs of a stage.

    A table that the split lacks is left out: there the student's encoder reads the pictures or texts themselves.

    Args:
        split: whose tables.
        read: what the student learned from, by modality.

    Raises:
        StaleError: if a table was made by something else than the one that the student learned from.
    """
    names = {modality: find(split, modality, table) for modality, table in read.items()}
    return {f"the {modality} features": tables.teacher_digest(split, name) for modality, name in names.items() if name}


def digest(split: Split, modality: str, table: FeatureTable) -> str:
    """Return a digest of every byte of a split's table, for what depends on it.

    Raises:
        DataError: if the split has no such table.
        StaleError: if it was made by something else than the one that the student learned from.
    """
    name = find(split, modality, table)
    if not name:
        raise DataError(
            f"{split.folder} has no table {table.table!r} of {modality}s, which the student reads. Run "
            f"{_how_to_make(split, modality, table.encoder)}.",
            split=split.name,
        )
    return tables.teacher_digest(split, name)


def find(split: Split, modality: str, table: FeatureTable) -> str:
    """Return the name of a split's table that a student can read: the one of its name, or one that its encoder made.

    Args:
        split: whose table.
        modality: of its rows.
        table: what the student learned from.

    Returns:
        Empty if there is none. What was imported is known by its name alone.

    Raises:
        StaleError: if the one of that name was made by something else or has other rows.
    """
    if is_there(split, modality, table):
        return table.table
    if not table.provenance.get("weights_sha256") or table.provenance.get("revision") == IMPORTED:
        return ""
    names = [name for name, kind in tables.teachers(split).items() if kind == modality]
    others = (of_table(split, name) for name in names)
    same = (one.table for one in others if (one.width, one.provenance) == (table.width, dict(table.provenance)))
    return next(same, "")


def is_there(split: Split, modality: str, table: FeatureTable) -> bool:
    """Return whether a split has a table.

    Raises:
        StaleError: if it has one of that name that was made by something else or has other rows.
    """
    if tables.teachers(split, towers=True).get(table.table) != modality:
        return False
    path = _first_part(split, table.table)
    metadata, width = tables.read_part_metadata(path), tables.part_width(path)
    if width != table.width:
        raise StaleError(
            f"The table {table.table!r} of {split.folder} has rows of {width} numbers, and the student's heads read "
            f"{table.width}: another model made it. Make it again with the one that the student learned from.",
            path=path.parent,
        )
    # What was imported says which file it came from, and each split may have its own.
    parts = ("revision",) if table.provenance.get("revision") == IMPORTED else _SAME
    for part in parts:
        if metadata.get(part, "") != table.provenance.get(part, ""):
            raise StaleError(
                f"The table {table.table!r} of {split.folder} was not made by what the student learned from: its "
                f"{part} is {metadata.get(part, '')!r}, not {table.provenance.get(part, '')!r}. Make it again with "
                "that encoder.",
                path=path.parent,
            )
    return True


def read_rows(split: Split, modality: str, table: FeatureTable | None) -> np.ndarray | None:
    """Return all rows of a table, (N, W) in the split's order; None if there is no table.

    Raises:
        DataError: if a part is missing or broken.
        StaleError: if it was made by something else, or of another state of the split.
    """
    name = find(split, modality, table) if table is not None else ""
    return tables.read_teacher(split, name).embeddings if name else None


def _first_part(split: Split, table: str) -> Path:
    return min((split.folder / "teachers" / table).glob("[0-9]*.parquet"))


def _known_encoder(split: Split, table: str) -> str:
    """Return what made a table, where it is known and no code: a class is named by the one who trusts it."""
    origin = read_origin(split.folder / "teachers" / table)
    return "" if origin == IMPORTED or ":" in origin else origin


def _how_to_make(split: Split, modality: str, encoder: str) -> str:
    command = f"cusa extract-teachers {split.work} --split {split.name} --{modality}"
    return f"`{command} {encoder or 'NAME'}`" + ("" if encoder else ", with `--import FILE` for rows made elsewhere")
