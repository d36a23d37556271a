"""The report's maps: images and captions laid out by t-SNE, run by run, each point with its picture.

The paper's Figure 4 draws the embeddings with and without USA. A point shows its picture when the pointer rests on it
or a finger taps it, by CSS alone: the page has no script.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
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
_SIDE = 88  # pixels of a point's picture


def section(runs: Sequence[Run], split: Split) -> Iterable[str]:
    """Give the section piece by piece, everything escaped; nothing where no run kept its embeddings.

    Args:
        runs: the first is the baseline.
        split: the evaluated split.
    """
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(split.num_images)[:_POINTS])
    first = np.array([np.flatnonzero(split.caption_owner == row)[:1] for row in rows], dtype=object)
    captions = np.array([found[0] if len(found) else -1 for found in first])
    panels = []
    colours: dict[str, tuple[np.ndarray, str]] = {}
    for kind, places in (("image", rows), ("text", captions)):
        if (places < 0).any() or len(rows) < 12:
            continue
        colours[kind] = _groups(split, kind, places)
        for run in runs:
            embedded = _kept(run, split, kind, places)
            if embedded is not None:
                panels.append((kind, run.name, _layout(embedded)))
    if not panels:
        return
    texts = ["" if at < 0 else split.texts[at] for at in captions]
    yield "<h2>Maps of the embeddings</h2>"
    told = next(iter(colours.values()))[1]
    yield (
        f"<p>{len(rows)} test images, and one caption of each, in the space of the uni-modal tasks, laid out by t-SNE. "
        f"Colours: {escape(told)}. Where the student has learnt from its teachers, a colour lies together. Rest the "
        "pointer on a point, or tap it, to see its picture. Distances between far groups mean nothing in such maps.</p>"
    )
    yield f"<style>{_pictures(split, rows)}</style><div class='maps'>"
    for kind, name, layout in panels:
        yield _panel(f"{'Images' if kind == 'image' else 'Captions'}: {name}", layout, colours[kind][0], texts)
    yield "</div>"


def _kept(run: Run, split: Split, kind: str, places: np.ndarray) -> np.ndarray | None:
    """Return rows that the evaluation kept, in the space of the uni-modal tasks; None if one is not there any more."""
    import hashlib

    name = run.result.get("embeddings")
    if not name:
        return None
    if kind == "image":
        contents = [bytes.fromhex(split.samples["sha256"][int(row)].as_py()) for row in places]
    else:
        contents = [hashlib.sha256(split.texts[int(row)].encode("utf-8", "surrogatepass")).digest() for row in places]
    distinct = list(dict.fromkeys(contents))
    found, blocks = cache.kept(Path(run.folder) / EMBEDDINGS / str(name), kind, distinct)
    block = blocks.get("uni", blocks.get("cross"))
    if block is None or len(found) != len(distinct):
        return None
    at = {distinct[int(place)]: row for row, place in enumerate(found)}
    return block[[at[content] for content in contents]]


def _groups(split: Split, kind: str, places: np.ndarray) -> tuple[np.ndarray, str]:
    """Return a colour for each point: its class, else its group in a teacher's eyes, else one for all."""
    labels = split.samples["label"].to_pylist()
    if any(labels):
        names = {label: number for number, label in enumerate(sorted({labels[int(row)] for row in places}))}
        return np.array([names[labels[int(row)]] % _GROUPS for row in places]), "classes, some sharing a colour"
    try:
        teacher = tables.choose_teacher(split, kind)
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
    return (places - low) / np.where(high > low, high - low, 1)


def _pictures(split: Split, rows: np.ndarray) -> str:
    """Return a CSS class a picture, so that each stands in the page once."""
    from cusa.models.preprocess import decode_rgb

    rules = []
    for number, row in enumerate(rows):
        image = decode_rgb(split.image_bytes(int(row)))
        image.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=72)
        uri = base64.b64encode(buffer.getvalue()).decode()
        rules.append(f".p{number}{{background-image:url(data:image/jpeg;base64,{uri})}}")
    return "".join(rules)


def _panel(title: str, layout: np.ndarray, colours: np.ndarray, texts: Sequence[str]) -> str:
    points = []
    for number, ((x, y), colour, text) in enumerate(zip(layout, colours, texts, strict=True)):
        side = "right" if x > 0.5 else "left"
        ends = "low" if y > 0.6 else "high"
        words = f"<span>{escape(text)}</span>" if text else ""
        points.append(
            f'<b class="pt g{int(colour)}" tabindex="0" style="left:{100 * x:.1f}%;top:{100 * y:.1f}%">'
            f'<i class="tip {side} {ends}"><u class="p{number}"></u>{words}</i></b>'
        )
    return f'<figure class="chart map"><figcaption>{escape(title)}</figcaption><div>{"".join(points)}</div></figure>'
