"""What is known of each image and each caption of a split: words, candidates, verdicts, neighbours; for viewers.

Legend: N rows, K neighbours, E width of a teacher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.errors import DataError
from cusa.manifests import neighbours, schemas, tables
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

CANDIDATES = "audit/candidates.parquet"
DEPTH = 15
"""Neighbours a row: what viewers make a graph of."""


@dataclass(frozen=True)
class Known:
    """What the files of a split say of its rows of one modality.

    Attributes:
        columns: name -> N values.
        teacher: the teacher's tables; empty where there are none.
        neighbours: of each row {ids, distances}; empty where nothing was indexed.
        notes: full sentences: what is missing, and the command that makes it.
    """

    columns: Mapping[str, Sequence[Any]]
    teacher: str
    neighbours: Sequence[Mapping[str, list[float]]]
    notes: tuple[str, ...]


def of_images(split: Split, *, teacher: str = "") -> Known:
    """Return what is known of the images: key, size, label, captions, their best candidate, verdicts.

    Args:
        split: the split.
        teacher: the image teacher whose neighbours are wanted; the only one if empty.
    """
    captions: list[list[str]] = [[] for _ in range(split.num_images)]
    for text, owner in zip(split.texts, split.caption_owner.tolist(), strict=True):
        captions[owner].append(text)
    samples = split.samples
    columns: dict[str, Sequence[Any]] = {
        "key": split.image_keys,
        "captions": ["\n".join(texts) for texts in captions],
        "width": samples["width"].to_pylist(),
        "height": samples["height"].to_pylist(),
        "label": samples["label"].to_pylist(),
    }
    pairs, notes = _pairs(split, "image_key", split.image_row)
    texts = [split.texts[split.caption_row[key]] if key else "" for key in pairs.pop("other_key")]
    name, near, more = _neighbours(split, "image", teacher)
    return Known({**columns, **pairs, "best_candidate": texts}, name, near, (*notes, *more))


def of_captions(split: Split, *, teacher: str = "") -> Known:
    """Return what is known of the captions: key, words, image, the best other image that they may be true of, verdicts.

    Args:
        split: the split.
        teacher: the text teacher whose neighbours are wanted; the only one if empty.
    """
    columns: dict[str, Sequence[Any]] = {
        "caption_key": split.caption_keys,
        "text": split.texts,
        "image_key": [split.image_keys[row] for row in split.caption_owner.tolist()],
    }
    pairs, notes = _pairs(split, "caption_key", split.caption_row)
    name, near, more = _neighbours(split, "text", teacher)
    others = pairs.pop("other_key")
    return Known({**columns, **pairs, "best_candidate": others}, name, near, (*notes, *more))


def _pairs(split: Split, key: str, row: Mapping[str, int]) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """Return candidates and verdicts of each row: how many, the best one, its probability, what people said."""
    number = len(row)
    notes: tuple[str, ...] = ()
    path = split.folder / CANDIDATES
    table = schemas.CANDIDATES.empty_table()
    if path.is_file():
        table = store.read_table(path, columns=["image_key", "caption_key", "score", "p_positive"])
    else:
        notes = (f"There are no candidates. Run `cusa audit {split.work} --split {split.name}`.",)
    other = "caption_key" if key == "image_key" else "image_key"
    counts, best = [0] * number, [-1.0] * number
    chosen: list[tuple[str, float | None, float | None]] = [("", None, None)] * number
    lists = [table[name].to_pylist() for name in (key, other, "p_positive", "score")]
    for own, foreign, p_positive, score in zip(*lists, strict=True):
        place = row.get(own, -1)
        if place < 0:
            raise DataError(
                f"{path} names {own!r}, which the split does not have. Run `cusa audit {split.work} --split "
                f"{split.name}`.",
                path=path,
                key=own,
            )
        counts[place] += 1
        rank = score if p_positive is None else 2 + p_positive  # a probability, where there is one, before a score
        if rank > best[place]:
            best[place], chosen[place] = rank, (foreign, p_positive, score)
    said: list[list[str]] = [[] for _ in range(number)]
    for judgement in pair_judgements.read(split).judgements:
        place = row[judgement.image_key if key == "image_key" else judgement.caption_key]
        said[place].append(judgement.verdict)
    columns: dict[str, list[Any]] = {
        "candidates": counts,
        "other_key": [each[0] for each in chosen],
        "best_p_positive": [each[1] for each in chosen],
        "best_score": [each[2] for each in chosen],
        "verdicts": [", ".join(sorted(words)) for words in said],
        "judged_matches": [sum(word in ("match", "duplicate") for word in words) for words in said],
    }
    return columns, notes


def _neighbours(split: Split, modality: str, teacher: str) -> tuple[str, list[dict[str, list[float]]], tuple[str, ...]]:
    there = [name for name, kind in tables.teachers(split).items() if kind == modality]
    if not there and not teacher:
        return "", [], (f"There is no {modality} teacher, so no map and no neighbours.",)
    name = tables.choose_teacher(split, modality, teacher)
    path = neighbours.neighbour_path(split, name)
    if not path.is_file():
        note = f"The neighbours of {name} were not searched. Run `cusa index {split.work} --split {split.name}`."
        return name, [], (note,)
    first = store.read_rows(path, range(1), columns=["neighbours"])["neighbours"].to_pylist()
    near = neighbours.read_neighbours(split, name, depth=min(DEPTH, len(first[0]["ids"]) if first else 0))
    distances = (1 - near.similarities).clip(0)
    both = zip(near.ids.tolist(), distances.tolist(), strict=True)
    return name, [{"ids": ids, "distances": far} for ids, far in both], ()


def principal_components(rows_NE: np.ndarray) -> np.ndarray:
    """Return the first two principal components of rows, (N, 2) float32; the sign of each is fixed.

    Args:
        rows_NE: unit rows.
    """
    rows = rows_NE.astype(np.float32)
    mean = rows.mean(0)
    number, width = rows.shape
    if number <= width:  # the smaller of both products
        centred = rows - mean
        values, vectors = np.linalg.eigh(centred @ centred.T)
        plane = vectors[:, ::-1][:, :2] * np.sqrt(np.maximum(values[::-1][:2], 0))
    else:
        covariance = rows.T @ rows / number - np.outer(mean, mean)
        _, vectors = np.linalg.eigh(covariance)
        plane = (rows - mean) @ vectors[:, ::-1][:, :2]
    if plane.shape[1] < 2:
        plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    signs = np.sign(plane[np.abs(plane).argmax(0), [0, 1]])
    return np.asarray(plane * np.where(signs == 0, 1, signs), dtype=np.float32)


def table(known: Known, extra: Mapping[str, Any]) -> pa.Table:
    """Return the columns, with further ones, as a table."""
    return pa.table({**{name: list(values) for name, values in known.columns.items()}, **extra})
