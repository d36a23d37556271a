"""Exact and near duplicates of images and captions as connected components, and what leaks between splits.

Two rows are joined if they have the same content (bytes of an image, words of a caption as the text teacher reads
them), or if a teacher's cosine of one to a neighbour reaches a threshold. Groups are the connected components.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.manifests import schemas, tables
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.models.captions import clean_caption
from cusa.pipeline.index.neighbours import Modality
from cusa.pipeline.index.vectors import unit_rows


def components(content_N: np.ndarray, near: Modality | None, threshold: float) -> np.ndarray:
    """Return the component of each row, numbered in the order of first rows.

    Args:
        content_N: equal numbers for equal content.
        near: the teacher, or None: then only equal content joins.
        threshold: cosine from which two rows are joined.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number = len(content_N)
    _, first, inverse = np.unique(content_N, return_index=True, return_inverse=True)
    twin = first[inverse]
    rows, columns = [np.arange(number)], [twin]
    if near is not None:
        row, place = np.nonzero(near.near.similarities >= threshold)
        rows.append(row)
        columns.append(near.near.ids[row, place])
    edges = (np.concatenate(rows), np.concatenate(columns))
    graph = coo_array((np.ones(len(edges[0]), dtype=np.int8), edges), shape=(number, number))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels)


def groups(
    modality: str, keys: list[str], content_N: np.ndarray, near: Modality | None, threshold: float
) -> tuple[pa.Table, dict[str, int]]:
    """Return every row that has a duplicate, and how many there are.

    Args:
        modality: `image` or `text`.
        keys: of the rows.
        content_N: equal numbers for equal content.
        near: the teacher, or None.
        threshold: cosine from which rows are near duplicates.

    Returns:
        The rows as `schemas.DUPLICATE_GROUPS`, groups in the order of their first rows; counts: groups and rows of all
        components, and exact_groups and exact_rows of those by content alone.
    """
    labels = components(content_N, near, threshold)
    sizes = np.bincount(labels, minlength=1)
    alike = np.bincount(content_N)[content_N] if len(content_N) else content_N
    best = np.full(len(keys), np.nan, dtype=np.float32)
    if near is not None and near.near.ids.shape[1]:
        best = near.near.similarities[:, 0].copy()
    best[alike > 1] = 1.0
    rows = np.flatnonzero(sizes[labels] > 1)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    _, group = np.unique(labels[rows], return_inverse=True)
    table = pa.table(
        {
            "modality": pa.array([modality] * len(rows), pa.string()),
            "component": pa.array(group, pa.int64()),
            "key": pa.array([keys[row] for row in rows], pa.string()),
            "size": pa.array(sizes[labels[rows]], pa.int64()),
            "exact": pa.array(alike[rows] > 1),
            "similarity": pa.array(best[rows], pa.float32(), from_pandas=True),
        },
        schema=schemas.DUPLICATE_GROUPS,
    )
    counts = {
        "groups": int((sizes > 1).sum()),
        "rows": len(rows),
        "exact_groups": len(np.unique(content_N[alike > 1])) if len(content_N) else 0,
        "exact_rows": int((alike > 1).sum()),
    }
    return table, counts


def leak_inputs(split: Split, teacher: str) -> dict[str, str]:
    """Return digests of everything that the search for leaks reads in the other splits."""
    inputs = {}
    for name in splits(split.work):
        if name != split.name:
            other = Split(split.work, name)
            inputs[f"split {name}"] = store.digest([other.digest, tables.teacher_digest(other, teacher)])
    return inputs


def leaks(split: Split, images: Modality | None, teacher: str, threshold: float) -> pa.Table:
    """Find what this split shares with the others.

    Args:
        split: the split.
        images: its image teacher's rows, or None: then only equal bytes and words are found.
        teacher: the image teacher's name.
        threshold: cosine from which images are near duplicates.

    Returns:
        As `schemas.LEAKS`: for each image and each other split, one row an image there with the same bytes, and the
        nearest by the teacher from the threshold on; captions only where the words are the same.
    """
    import faiss

    rows: list[tuple[str, str, str, str, float, bool]] = []
    for name in splits(split.work):
        if name == split.name:
            continue
        other = Split(split.work, name)
        exact = _equal(split.samples["sha256"].to_pylist(), other.samples["sha256"].to_pylist())
        # Texts alone have no bytes, and all of them the same "image".
        pairs = {(here, there): 1.0 for here, there in exact if split.samples["image_bytes"][here].as_py()}
        known = set(pairs)
        if images is not None and _is_same_teacher(split, other, teacher) and len(images.rows):
            theirs = unit_rows(tables.read_teacher(other, teacher))
            similarity, nearest = faiss.knn(images.rows, theirs, 1, metric=faiss.METRIC_INNER_PRODUCT)
            for here in np.flatnonzero(similarity[:, 0] >= threshold).tolist():
                pairs.setdefault((here, int(nearest[here, 0])), float(similarity[here, 0]))
        for (here, there), value in sorted(pairs.items()):
            keys = split.image_keys[here], name, other.image_keys[there]
            rows.append(("image", *keys, value, (here, there) in known))
        words, others = ([clean_caption(text) for text in one.texts] for one in (split, other))
        for here, there in _equal(words, others, first_only=True):
            rows.append(("text", split.caption_keys[here], name, other.caption_keys[there], 1.0, True))
    columns: list[Any] = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(schemas.LEAKS)
    return pa.table(columns, schema=schemas.LEAKS)


def write(folder: Path, duplicates: list[pa.Table], leaked: pa.Table | None) -> list[Path]:
    """Write `duplicates.parquet`, and `leaks.parquet` if they were looked for; return the files."""
    files = [folder / "duplicates.parquet"]
    store.write_table(files[0], pa.concat_tables([schemas.DUPLICATE_GROUPS.empty_table(), *duplicates]))
    (folder / "leaks.parquet").unlink(missing_ok=True)
    if leaked is not None:
        files.append(folder / "leaks.parquet")
        store.write_table(files[1], leaked)
    return files


def _equal(here: list[str], there: list[str], *, first_only: bool = False) -> list[tuple[int, int]]:
    """Return the pairs of rows with equal values; with `first_only` the first row there of each value."""
    place: dict[str, list[int]] = {}
    for row, value in enumerate(there):
        place.setdefault(value, []).append(row)
    return [
        (row, other) for row, value in enumerate(here) for other in place.get(value, [])[: 1 if first_only else None]
    ]


def _is_same_teacher(split: Split, other: Split, teacher: str) -> bool:
    return bool(teacher) and tables.provenance(split, teacher) == tables.provenance(other, teacher)
