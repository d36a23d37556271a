"""What an audit works with: the teachers it may use, their rows and neighbours, and the finder over them."""

from dataclasses import dataclass

import numpy as np

from cusa.errors import DataError
from cusa.manifests import tables
from cusa.manifests.neighbours import read_neighbours
from cusa.manifests.samples import Split
from cusa.models.captions import clean_caption
from cusa.pipeline.index.neighbours import CrossModal, Modality
from cusa.pipeline.index.student import read_student, student_digest
from cusa.pipeline.index.vectors import unit_rows
from cusa.pipeline.pairs.candidates import Finder
from cusa.pipeline.pairs.features import PairFeatures

WITHOUT = "none"
"""Given as a teacher's name: audit without that modality."""


@dataclass(frozen=True)
class Neighbourhoods:
    """The opened neighbourhoods of a split."""

    finder: Finder
    images: Modality | None
    texts: Modality | None
    cross: CrossModal | None

    def features(self, split: Split) -> PairFeatures:
        """Return what computes the features of the split's pairs."""
        return PairFeatures(
            self.finder,
            split.caption_owner,
            num_images=split.num_images,
            images=self.images,
            texts=self.texts,
            cross=self.cross is not None,
        )


def choose(split: Split, *, image: str = "", text: str = "", student: str = "") -> dict[str, str]:
    """Return who is asked: `image`, `text` and `student` -> name, empty where nobody is.

    Args:
        split: the split.
        image: the image teacher; the only one there is if empty; `none` to do without.
        text: the text teacher, likewise.
        student: an indexed student, or empty.

    Raises:
        DataError: if there is no teacher of either modality, or a named one is not there.
    """
    chosen = {"image": _teacher(split, "image", image), "text": _teacher(split, "text", text), "student": student}
    if not (chosen["image"] or chosen["text"]):
        raise DataError(
            f"{split.folder} has no teacher to audit with. Run `cusa extract-teachers {split.work} --image TEACHER "
            f"--text TEACHER`, then `cusa index {split.work}`.",
            split=split.name,
        )
    return chosen


def digests(split: Split, chosen: dict[str, str]) -> dict[str, str]:
    """Return a digest of what each of those who are asked gave."""
    found = {
        f"teacher {chosen[kind]}": tables.teacher_digest(split, chosen[kind])
        for kind in ("image", "text")
        if chosen[kind]
    }
    if chosen["student"]:
        found[f"student {chosen['student']}"] = student_digest(split, chosen["student"])
    return found


def stamps(split: Split, chosen: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return the provenance of each of those who are asked, as a calibration names them."""
    found = {kind: tables.provenance(split, chosen[kind]) for kind in ("image", "text") if chosen[kind]}
    if chosen["student"]:
        found["student"] = read_student(split, chosen["student"]).provenance
    return found


def open_neighbourhoods(split: Split, chosen: dict[str, str], *, depth: int) -> Neighbourhoods:
    """Read the rows and neighbours of those who are asked.

    Args:
        split: the split; `cusa index` has run on its teachers.
        chosen: as `choose` returns them.
        depth: neighbours a row.

    Raises:
        DataError: if a table is missing or broken.
        StaleError: if a table belongs to another state of the split.
    """
    images = _modality(split, chosen["image"], depth)
    texts = _modality(split, chosen["text"], depth)
    cross = read_student(split, chosen["student"]).neighbourhoods(depth) if chosen["student"] else None
    finder = Finder(
        split.caption_owner,
        images=images,
        texts=texts,
        cross=cross,
        image_content=group_ids(split.samples["sha256"].to_pylist()),
        caption_content=group_ids([clean_caption(words) for words in split.texts]),
    )
    return Neighbourhoods(finder, images, texts, cross)


def group_ids(values: list[str]) -> np.ndarray:
    """Return equal numbers for equal values."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def _teacher(split: Split, modality: str, name: str) -> str:
    """Return the teacher to use, or an empty text where the split has none of the modality and none is asked for."""
    if name == WITHOUT or (not name and modality not in tables.teachers(split).values()):
        return ""
    return tables.choose_teacher(split, modality, name)


def _modality(split: Split, teacher: str, depth: int) -> Modality | None:
    if not teacher:
        return None
    near = read_neighbours(split, teacher, depth=depth)
    return Modality(unit_rows(tables.read_teacher(split, teacher)), near)
