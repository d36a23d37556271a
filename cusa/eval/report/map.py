"""The report's maps: images and captions laid out by t-SNE, run by run, each point with its picture.

The paper's Figure 4 draws the embeddings with and without USA. A point shows its picture when the pointer rests on it
or a finger taps it, by CSS alone: the page has no script.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cusa.errors import CusaError
from cusa.eval import cache
from cusa.eval.config import EMBEDDINGS
from cusa.eval.report.runs import Run
from cusa.manifests import tables
from cusa.manifests.samples import Split

_POINTS = 240
_GROUPS = 6
_THUMBNAIL = 88  # pixels of the longer side of a point's picture


@dataclass(frozen=True)
class Point:
    """One image or caption on a map.

    Attributes:
        left: place from the left edge, in percent.
        top: place from the upper edge, in percent.
        colour: number of its group's colour.
        tip_classes: where the picture opens, so that it stays within the map.
        words: its caption; empty if it has none.
    """

    left: float
    top: float
    colour: int
    tip_classes: str
    words: str


@dataclass(frozen=True)
class Maps:
    """The section's values.

    Attributes:
        colours: what the colours mean.
        pictures: data URIs; the number of a picture is that of its point in each panel.
        panels: title and points, a panel a run and modality.
        remarks: full sentences on what is left out because it was damaged.
    """

    colours: str
    pictures: Sequence[str]
    panels: Sequence[tuple[str, Sequence[Point]]]
    remarks: Sequence[str]


def gather(runs: Sequence[Run], split: Split) -> Maps | None:
    """Return the section's values; None where no run kept its embeddings.

    A run whose kept embeddings are damaged has no panel, and a remark.

    Args:
        runs: the first is the baseline.
        split: the evaluated split.
    """
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(split.num_images)[:_POINTS])
    captions = np.array([_first_caption(split, int(row)) for row in rows])
    words = ["" if caption < 0 else split.texts[caption] for caption in captions]
    panels = []
    meanings = []
    damaged: list[list[Path]] = [[] for _ in runs]
    for modality, places in (("image", rows), ("text", captions)):
        if (places < 0).any() or len(rows) < 12:
            continue
        colours, meaning = _groups(split, modality, places)
        meanings.append(meaning)
        for run, files in zip(runs, damaged, strict=True):
            embedded = _embeddings(run, split, modality, places, files)
            if embedded is not None:
                title = f"{'Images' if modality == 'image' else 'Captions'}: {run.name}"
                panels.append((title, _points(_layout(embedded), colours, words)))
    remarks = [_left_out(run, paths) for run, paths in zip(runs, damaged, strict=True) if paths]
    if not panels and not remarks:
        return None
    return Maps(meanings[0], _pictures(split, rows) if panels else [], panels, remarks)


def _left_out(run: Run, damaged: Sequence[Path]) -> str:
    return (
        f"{run.name}: {len(damaged)} files of its kept embeddings are not as they were written "
        f"({damaged[0].parent.name}/{damaged[0].name}), so points of its map, or all of it, are left out. "
        f"Run `cusa eval {run.folder} ... --force` to compute them again."
    )


def _first_caption(split: Split, image: int) -> int:
    """Return the row of an image's first caption; -1 if it has none."""
    rows = np.flatnonzero(split.caption_owner == image)
    return int(rows[0]) if len(rows) else -1


def _embeddings(run: Run, split: Split, modality: str, places: np.ndarray, damaged: list[Path]) -> np.ndarray | None:
    """Return rows that the evaluation kept, in the space of the uni-modal tasks; None if one is not there any more.

    Args:
        run: whose.
        split: the evaluated split.
        modality: `image` or `text`.
        places: rows of the split.
        damaged: gets the files that are not as they were written.
    """
    import hashlib

    name = run.result.get("embeddings")
    if not name:
        return None
    if modality == "image":
        contents = [bytes.fromhex(split.samples["sha256"][int(row)].as_py()) for row in places]
    else:
        contents = [hashlib.sha256(split.texts[int(row)].encode("utf-8", "surrogatepass")).digest() for row in places]
    distinct = list(dict.fromkeys(contents))
    rows, blocks = cache.kept(Path(run.folder) / EMBEDDINGS / str(name), modality, distinct, damaged=damaged)
    block = blocks.get("uni", blocks.get("cross"))
    if block is None or len(rows) != len(distinct):
        return None
    at = {distinct[int(place)]: row for row, place in enumerate(rows)}
    return block[[at[content] for content in contents]]


def _groups(split: Split, modality: str, places: np.ndarray) -> tuple[np.ndarray, str]:
    """Return each point's colour and what colours mean: its class, else its group by a teacher, else one for all."""
    labels = split.samples["label"].to_pylist()
    if any(labels):
        names = {label: number for number, label in enumerate(sorted({labels[int(row)] for row in places}))}
        return np.array([names[labels[int(row)]] % _GROUPS for row in places]), "classes, some sharing a colour"
    try:
        teacher = tables.choose_teacher(split, modality)
        embeddings = tables.read_teacher(split, teacher).embeddings[places].astype(np.float32)
    except CusaError:
        return np.zeros(len(places), int), "none, for want of classes and teachers"
    from sklearn.cluster import KMeans

    groups = KMeans(min(_GROUPS, len(places)), n_init=4, random_state=0).fit_predict(embeddings)
    return groups, f"{_GROUPS} groups as the frozen teacher of that modality sees them"


def _layout(rows_ND: np.ndarray) -> np.ndarray:
    """Return t-SNE's places in the unit square: (N, 2), the same for the same rows."""
    from sklearn.manifold import TSNE

    perplexity = min(25.0, (len(rows_ND) - 1) / 3)
    made: Any = TSNE(2, perplexity=perplexity, metric="cosine", init="random", random_state=0, max_iter=600)
    places = made.fit_transform(rows_ND.astype(np.float64))
    low, high = places.min(0), places.max(0)
    unit: np.ndarray = (places - low) / np.where(high > low, high - low, 1)
    return unit


def _pictures(split: Split, rows: np.ndarray) -> list[str]:
    """Return the pictures as data URIs."""
    from cusa.models.preprocess import decode_rgb

    uris = []
    for row in rows:
        image = decode_rgb(split.image_bytes(int(row)))
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=72)
        uris.append("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
    return uris


def _points(layout: np.ndarray, colours: np.ndarray, words: Sequence[str]) -> list[Point]:
    points = []
    for (x, y), colour, text in zip(layout, colours, words, strict=True):
        tip = f"{'right' if x > 0.5 else 'left'} {'low' if y > 0.6 else 'high'}"
        points.append(Point(100 * float(x), 100 * float(y), int(colour), tip, text))
    return points
