"""Searching a work folder by words or by a picture: the nearest captions and images, by teachers or a student."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests import pages, tables
from cusa.manifests.neighbours import neighbour_path, neighbour_stamp
from cusa.manifests.origin import IMPORTED
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.captions import clean_caption
from cusa.models.teachers.base import Teacher
from cusa.models.teachers.registry import load_teacher, resolve, weights_digest
from cusa.pipeline.index import student as student_index
from cusa.pipeline.index.files import read_index
from cusa.pipeline.result_table import QueryResult

if TYPE_CHECKING:
    from cusa.models.students.base import Student

_THUMBNAIL = 240  # pixels of its longer side


@dataclass(frozen=True)
class Hit:
    """One result.

    A teacher embeds one modality: words find a picture through one of its captions, a picture finds a caption through
    the caption's own picture. A student embeds both: words find pictures, a picture finds captions.
    """

    split: str
    image_key: str
    caption_key: str
    caption: str
    similarity: float


def run(
    splits: list[Split],
    *,
    words: str = "",
    image: Path | None = None,
    teacher: str = "",
    student: str = "",
    number: int = 10,
    load: Callable[[str, str], Teacher] = load_teacher,
    load_student: "Callable[[str], Student] | None" = None,
) -> list[Hit]:
    """Find what is nearest to words, or to a picture.

    Args:
        splits: where to look; `cusa index` has run on them.
        words: what to look for, or empty.
        image: a picture to look for, or None.
        teacher: what loads the teacher, where the name of its tables does not: a folder, for example.
        student: instead of the teachers, what `cusa index --student` embedded the splits with.
        number: how many hits, the best one of each image.
        load: makes the teacher of a name and a modality; called when everything else is there.
        load_student: makes the student of its name; `cusa.models.student.load` if None.

    Returns:
        Hits, the nearest first.

    Raises:
        ConfigError: if not exactly one of words and picture is given, both a teacher and a student, or no name for a
            teacher that came from a folder.
        DataError: if there is no index, or the picture does not decode.
        StaleError: if the teacher or student is not the one that made the tables.
    """
    if (image is None) == (not words.strip()):
        raise ConfigError('Search for words or for a picture: `cusa search WORK "a dog"`, or `--image FILE`.')
    if student and teacher:
        raise ConfigError("Search by --teacher or by --student, not by both.")
    modality = "text" if image is None else "image"
    asked: Any = words if image is None else _decoded(image)
    if student:
        modality = "image" if image is None else "text"  # of the results
        indices = [student_index.open_index(split, student, modality) for split in splits]
        query_D = student_index.embed_one(asked, student, load_student)
    else:
        opened = [_open(split, modality, teacher) for split in splits]
        name, indices = opened[0][0], [index for _, index in opened]
        asked = _cleaned(words, splits[0], name) if image is None else asked
        query_D = _embedded(asked, _load_teacher_of(splits, name, modality, teacher, load), name)
    hits = []
    for split, index in zip(splits, indices, strict=True):
        if index.d != len(query_D):
            raise DataError(
                f"{teacher or student} gives {len(query_D)} numbers, the index of {split.name} has {index.d}: it did "
                "not make the tables. Name what did.",
                split=split.name,
            )
        # Several captions of an image may be near: more are looked at, and the best of each image stays.
        places = min(index.ntotal, 8 * number if modality == "text" else number)
        similarities, rows = index.search(query_D[None], places)
        if not np.isfinite(similarities[rows >= 0]).all():
            raise DataError(
                f"The index of {split.name} gives similarities that are not finite. Run `cusa index {split.work} "
                f"--split {split.name} --force`.",
                split=split.name,
            )
        hits += _hits(split, modality, rows[0], similarities[0])
    best: dict[tuple[str, str], Hit] = {}
    for hit in sorted(hits, key=lambda hit: (-hit.similarity, hit.image_key, hit.caption_key)):
        best.setdefault((hit.split, hit.image_key), hit)
    return list(best.values())[:number]


def answer(hits: list[Hit]) -> QueryResult:
    """Return hits as a table."""
    columns = ["rank", "similarity", "split", "image_key", "caption_key", "caption"]
    rows = [
        (rank, hit.similarity, hit.split, hit.image_key, hit.caption_key, hit.caption)
        for rank, hit in enumerate(hits, 1)
    ]
    return QueryResult(columns, [*rows])


def write_html(path: Path, splits: list[Split], hits: list[Hit], asked: str) -> None:
    """Write hits as a strip of pictures with their captions, in one self-contained HTML file.

    Args:
        path: the file.
        splits: those that were searched.
        hits: the results, nearest first.
        asked: what was looked for, in words.
    """
    from cusa.models.preprocess import UNDECODABLE, decode_rgb

    opened = {split.name: (split, {key: row for row, key in enumerate(split.image_keys)}) for split in splits}
    cards = []
    for rank, hit in enumerate(hits, 1):
        split, row = opened[hit.split]
        picture, problem = "", ""
        try:
            picture = pages.thumbnail(decode_rgb(split.image_bytes(row[hit.image_key])), side=_THUMBNAIL)
        except DataError as error:  # which is among the others
            problem = str(error)
        except UNDECODABLE:
            problem = "This picture does not decode."
        cards.append(_Card(rank, hit, picture, problem))
    html = pages.render("pipeline/index/search.html.j2", title=f"Search: {asked}", asked=asked, cards=cards)
    store.write_text(path, html)


@dataclass(frozen=True)
class _Card:
    """A hit as the template shows it."""

    rank: int
    hit: Hit
    picture: str
    """A data URI; empty where there is a problem."""
    problem: str


def _open(split: Split, modality: str, teacher: str) -> tuple[str, Any]:
    """Return a split's teacher and its index."""
    name = (teacher and tables.find_teacher(split, modality, teacher)) or tables.choose_teacher(split, modality)
    stamp = neighbour_stamp(split, name)
    index = read_index(
        split.folder / "index" / f"{name}.faiss",
        table=neighbour_path(split, name),
        made_from={key: stamp[key] for key in ("split", "teacher_digest")},
        made_by=f"cusa index {split.work} --split {split.name}",
        rows=split.num_images if modality == "image" else split.num_captions,
    )
    return name, index


def _cleaned(words: str, split: Split, teacher: str) -> str:
    """Return the words as the teacher read the captions."""
    return clean_caption(words) if tables.provenance(split, teacher).get("transform") == "clean" else words


def _decoded(path: Path) -> Any:
    from cusa.models.preprocess import UNDECODABLE, decode_rgb

    if not path.is_file():
        raise DataError(f"--image {path} does not exist.", path=path)
    try:
        return decode_rgb(path.read_bytes())
    except UNDECODABLE as error:
        raise DataError(f"--image {path} does not decode ({error}). Give a JPEG, PNG or WebP.", path=path) from error


def _load_teacher_of(
    splits: list[Split], name: str, modality: str, teacher: str, load: Callable[[str, str], Teacher]
) -> Teacher:
    """Load the teacher that made the tables `name` of all splits.

    Args:
        splits: the splits.
        name: the teacher's name in their tables.
        modality: `image` or `text`.
        teacher: what loads it where the name does not, else empty.
        load: makes the teacher of a name and a modality.

    Raises:
        ConfigError: if its name alone does not load it.
        StaleError: if the splits have different teachers of that name, or another one was loaded.
    """
    wanted = tables.provenance(splits[0], name)
    for split in splits[1:]:
        if tables.provenance(split, name) != wanted:
            raise StaleError(f"{split.name} and {splits[0].name} have different teachers {name!r}. Search one --split.")
    imported = wanted["revision"] == IMPORTED
    loads = resolve(splits[0], teacher or name, modality).loads
    if not loads or (imported and not teacher):
        why = "is features that were imported" if imported else "was read from a folder that is not there"
        raise ConfigError(
            f"The teacher {name!r} {why}, so its name alone does not load it. Name the folder, or the model that made "
            "the features: --teacher FOLDER.",
            teacher=name,
        )
    loaded = load(loads, modality)
    has = {**loaded.provenance()}
    has["weights_sha256"] = weights_digest(loads) or has.get("weights_sha256", "")
    if has["weights_sha256"] == wanted["weights_sha256"]:
        has["revision"] = wanted["revision"]  # the same weights, from a folder or from a hub
    # Of imported features only the person who imported them knows what made them.
    for key in ("revision", "weights_sha256", "preprocessing") if not imported else ():
        if wanted.get(key) and has.get(key, "") != wanted[key]:
            raise StaleError(
                f"The teacher {teacher or name!r} that was loaded is not the one that made the tables: its {key} is "
                f"{has.get(key, '')!r}, theirs {wanted[key]!r}. Name the right one with --teacher, or extract "
                "again.",
                teacher=name,
            )
    return loaded


def _embedded(asked: Any, teacher: Teacher, name: str) -> np.ndarray:
    """Embed words or a picture with a teacher: (D,) float32, of unit length."""
    row = np.asarray(teacher.encode([asked]), dtype=np.float32)[0]
    norm = float(np.linalg.norm(row))
    if not (np.isfinite(norm) and norm > 0):
        raise DataError(f"The teacher {name!r} gave no usable vector for what was asked.", teacher=name)
    return np.asarray(row / norm)


def _hits(split: Split, modality: str, rows: np.ndarray, similarities: np.ndarray) -> list[Hit]:
    owner, out = split.caption_owner, []
    first = {int(image): row for row, image in reversed(list(enumerate(owner.tolist())))} if modality == "image" else {}
    for row, similarity in zip(rows.tolist(), similarities.tolist(), strict=True):
        if row < 0:
            continue
        image = row if modality == "image" else int(owner[row])
        caption = first.get(row) if modality == "image" else row
        key, text = ("", "") if caption is None else (split.caption_keys[caption], split.texts[caption])
        out.append(Hit(split.name, split.image_keys[image], key, text, float(similarity)))
    return out
