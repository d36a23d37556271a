"""Neighbour tables: the nearest rows of every row by a teacher, refused when they belong to another state."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cusa.errors import DataError, StaleError
from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import store


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of every row of a teacher table, itself left out.

    Attributes:
        ids: (N, K) int64 row numbers, nearest first; ties in the order of their rows.
        similarities: (N, K) float32 cosines.
    """

    ids: np.ndarray
    similarities: np.ndarray


def read_neighbours(split: Split, teacher: str, *, depth: int) -> Neighbours:
    """Read the neighbour table of a teacher, cut to a depth.

    Args:
        split: the split.
        teacher: the teacher's name.
        depth: neighbours wanted a row; fewer come back only where the split has no more rows.

    Raises:
        DataError: if the table is missing or broken, or less deep than wanted.
        StaleError: if it was made from other teacher tables or another split.
    """
    path = neighbour_path(split, teacher)
    made_by = f"cusa index {split.work} --split {split.name}"
    table = store.read_table(path, columns=["neighbours"], made_by=made_by)
    metadata = tables.read_part_metadata(path)
    stamp = neighbour_stamp(split, teacher)
    for name, what in (("split", "state of the split"), ("teacher_digest", f"table of teacher {teacher!r}")):
        if metadata.get(name) != stamp[name]:
            raise StaleError(f"{path} was made from another {what}. Run `{made_by}`.", path=path, teacher=teacher)
    column = table["neighbours"].combine_chunks()
    ids, distances = (column.field(name).flatten().to_numpy() for name in ("ids", "distances"))
    rows = table.num_rows
    expected = split.num_images if stamp["modality"] == "image" else split.num_captions
    width = len(ids) // max(rows, 1)
    if rows != expected or len(ids) != rows * width or (ids.size and (ids.min() < 0 or ids.max() >= rows)):
        raise DataError(
            f"{path} has not one whole row for each of {expected} rows. Run `{made_by} --force`.", path=path
        )
    deep = max(0, min(depth, rows - 1))
    if width < deep:
        raise DataError(
            f"{path} has {width} neighbours a row and {depth} are asked for. Run `{made_by} --neighbours {depth}`, or "
            f"ask for at most {width}.",
            path=path,
            neighbours=depth,
        )
    similarities_NK = (1 - distances).reshape(rows, width)[:, :deep]
    return Neighbours(ids.reshape(rows, width)[:, :deep], similarities_NK.astype(np.float32))


def neighbour_path(split: Split, teacher: str) -> Path:
    """Return where the neighbour table of a teacher lies."""
    return split.folder / "index" / f"neighbours-{teacher}.parquet"


def neighbour_stamp(split: Split, teacher: str) -> dict[str, str]:
    """Return what a neighbour table says of its making."""
    return {
        "teacher": teacher,
        "modality": tables.teachers(split).get(teacher, ""),
        "teacher_digest": tables.teacher_digest(split, teacher),
        "split": split.digest,
    }
