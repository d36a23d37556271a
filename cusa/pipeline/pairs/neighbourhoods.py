"""The encoders that an audit compares pairs with: their rows and neighbours, and the finder over them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cusa.errors import DataError
from cusa.manifests import ledger, tables
from cusa.manifests.neighbours import neighbour_path, read_neighbours
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.models.captions import clean_caption
from cusa.pipeline.index.neighbours import CrossModal, Modality
from cusa.pipeline.index.student import read_student, student_digest
from cusa.pipeline.index.vectors import unit_rows
from cusa.pipeline.pairs.candidates import Finder
from cusa.pipeline.pairs.default_order import similarity_weights
from cusa.pipeline.pairs.features import MAP_FEATURES, Encodings, PairFeatures
from cusa.pipeline.pairs.image_text_map import Examples, predict_out_of_fold
from cusa.pipeline.pairs.row_statistics import group_sums

NONE = "none"
"""As a teacher's name: audit without that modality."""


@dataclass(frozen=True)
class Encoders:
    """The names of the encoders whose similarities are used."""

    image: str = ""
    """The image teacher."""
    text: str = ""
    """The text teacher."""
    student: str = ""
    """An indexed student, which compares images with captions."""

    def teachers(self) -> dict[str, str]:
        """Return the teachers that are used, by modality."""
        return {modality: name for modality in ("image", "text") if (name := getattr(self, modality))}


@dataclass(frozen=True)
class Neighbourhoods:
    """The opened neighbourhoods of a split."""

    finder: Finder
    images: Modality | None
    texts: Modality | None
    cross: CrossModal | None
    encoders: Encoders
    others: tuple[Split, ...]
    """Splits of the same work folder with the same teachers, whose pairs teach the map from images to texts too."""
    _computed: dict[bool, PairFeatures] = field(default_factory=dict)
    """The features, with the map or without: it is learned once."""

    def features(self, split: Split, names: Sequence[str] | None = None) -> PairFeatures:
        """Return the features of the split's pairs; the map from images to texts is learned here, at the first call.

        Args:
            split: the split that was opened.
            names: of the features that are wanted, in this order; all that the encoders give if None.

        Raises:
            DataError: if one of them cannot be computed from these encoders.
        """
        wants_map = names is None or bool(set(names) & set(MAP_FEATURES))
        every = self._computed.get(True) or self._computed.get(wants_map)
        if every is None:
            mapped = None
            if wants_map and self.images is not None and self.texts is not None:
                own = _examples(self.images.rows, self.texts.rows, split)
                mapped = predict_out_of_fold(own, [_read_examples(other, self.encoders) for other in self.others])
            encodings = Encodings(self.images, self.texts, self.cross, mapped, split.texts)
            every = PairFeatures(split.caption_owner, num_images=split.num_images, encodings=encodings)
            self._computed[wants_map] = every
        return every if names is None else every.only(names)


def choose(split: Split, encoders: Encoders) -> Encoders:
    """Return the encoders to use, a name left empty where there is none.

    Args:
        split: the split.
        encoders: as a user names them: a teacher's name may be empty for the split's only one of that modality, or
            `none` to do without it; no student if empty.

    Raises:
        DataError: if there is no teacher of either modality, or a named one is not there.
    """
    chosen = replace(
        encoders, image=_teacher(split, "image", encoders.image), text=_teacher(split, "text", encoders.text)
    )
    if not chosen.teachers():
        raise DataError(
            f"{split.folder} has no teacher to audit with. Run `cusa extract-teachers {split.work} --image TEACHER "
            f"--text TEACHER`, then `cusa index {split.work}`.",
            split=split.name,
        )
    return chosen


def digests(split: Split, encoders: Encoders) -> dict[str, str]:
    """Return digests of every byte of the encoders' embeddings and neighbour tables."""
    values = {}
    for name in encoders.teachers().values():
        values[f"teacher {name}"] = tables.teacher_digest(split, name)
        values[f"neighbours {name}"] = _neighbours_digest(split, name)
    if encoders.student:
        values[f"student {encoders.student}"] = student_digest(split, encoders.student)
    for other in splits_with(split, encoders):
        parts = [other.digest, *(tables.teacher_digest(other, name) for name in encoders.teachers().values())]
        values[f"pairs of {other.name}"] = store.digest(parts)
    return values


def stamps(split: Split, encoders: Encoders) -> dict[str, dict[str, str]]:
    """Return the provenance of each encoder, by modality, the student's as `student`."""
    values = {modality: tables.provenance(split, name) for modality, name in encoders.teachers().items()}
    if encoders.student:
        values["student"] = read_student(split, encoders.student).provenance
    return values


def open_neighbourhoods(split: Split, encoders: Encoders, *, depth: int) -> Neighbourhoods:
    """Read the rows and neighbours of the encoders.

    Args:
        split: the split; `cusa index` has run on its teachers.
        encoders: as `choose` returns them.
        depth: neighbours a row.

    Raises:
        DataError: if a table is missing or broken.
        StaleError: if a table belongs to another state of the split.
    """
    images = _modality(split, encoders.image, depth)
    texts = _modality(split, encoders.text, depth)
    cross = read_student(split, encoders.student).neighbourhoods(depth) if encoders.student else None
    finder = Finder(
        split.caption_owner,
        images=images,
        texts=texts,
        cross=cross,
        image_content=group_ids(split.samples["sha256"].to_pylist()),
        caption_content=group_ids([clean_caption(words) for words in split.texts]),
        weights=similarity_weights(split.caption_owner, split.num_images, images, texts),
    )
    return Neighbourhoods(finder, images, texts, cross, encoders, tuple(splits_with(split, encoders)))


def splits_with(split: Split, encoders: Encoders) -> list[Split]:
    """Return the other splits of the work folder that both teachers, the very same, have embedded."""
    named = encoders.teachers()
    if len(named) < 2:
        return []
    others = [Split(split.work, name) for name in splits(split.work) if name != split.name]
    return [other for other in others if all(_same_teacher(split, other, name) for name in named.values())]


def _same_teacher(split: Split, other: Split, teacher: str) -> bool:
    there = teacher in tables.teachers(other)
    return there and tables.provenance(split, teacher) == tables.provenance(other, teacher)


def _read_examples(split: Split, encoders: Encoders) -> Examples:
    images, texts = (unit_rows(tables.read_teacher(split, name)) for name in (encoders.image, encoders.text))
    return _examples(images, texts, split)


def _examples(images: np.ndarray, texts: np.ndarray, split: Split) -> Examples:
    counts = np.bincount(split.caption_owner, minlength=split.num_images)
    means = group_sums(texts, split.caption_owner, split.num_images) / np.maximum(counts, 1)[:, None]
    return Examples(images, means.astype(np.float32), counts > 0)


def group_ids(values: list[str]) -> np.ndarray:
    """Return equal numbers for equal values."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def _neighbours_digest(split: Split, teacher: str) -> str:
    """Return the SHA-256 of a neighbour table; empty where the teacher was not indexed."""
    path = neighbour_path(split, teacher)
    if not path.is_file():
        return ""
    return ledger.output_digest(ledger.read(path.with_name(f"{teacher}.ledger.json")), path.parent, path.name)


def _teacher(split: Split, modality: str, name: str) -> str:
    """Return the teacher to use; empty where the split has none of the modality and none was named."""
    if name == NONE or (not name and modality not in tables.teachers(split).values()):
        return ""
    return tables.choose_teacher(split, modality, name)


def _modality(split: Split, teacher: str, depth: int) -> Modality | None:
    if not teacher:
        return None
    near = read_neighbours(split, teacher, depth=depth)
    return Modality(unit_rows(tables.read_teacher(split, teacher)), near)
