"""The order without a calibration against its own columns: average precision on data whose matches are known.

    python benchmarks/default_order.py MACHINE KIND=WORK[:SPLIT] ... [--eccv FOLDER] [--judgements FOLDER]

`KIND` is `scenes` (every match is known), `coco` (known matches of ECCV Caption, in `--eccv`) or `flickr8k` (judged
pairs, in `--judgements`); the split is `test`. Every image teacher of a work folder is joined with every text teacher,
and every pair of the split (of Flickr8k, every judged one) is ordered: by the score, by the text similarity and by the
image similarity. Where most pairs were never judged (coco), recall says more than average precision.
"""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from cusa.manifests import tables
from cusa.manifests.judgements.flickr8k import CROWD, EXPERTS
from cusa.manifests.neighbours import Neighbours
from cusa.manifests.samples import Split
from cusa.pipeline.index.neighbours import Modality
from cusa.pipeline.index.vectors import unit_rows
from cusa.pipeline.pairs.candidates import Finder, among
from cusa.pipeline.pairs.default_order import similarity_weights
from cusa.pipeline.pairs.ratings import read_ratings

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("score", "text_similarity", "image_similarity")
FIRST = 1000


def finder_of(split: Split, image: str, text: str) -> Finder:
    """Return what compares pairs by two teachers; no neighbours are needed."""
    images, texts = (
        Modality(rows, Neighbours(np.zeros((len(rows), 0), dtype=np.int64), np.zeros((len(rows), 0))))
        for rows in (unit_rows(tables.read_teacher(split, name)) for name in (image, text))
    )
    return Finder(
        split.caption_owner,
        images=images,
        texts=texts,
        image_content=np.arange(split.num_images),
        caption_content=np.arange(split.num_captions),
        weights=similarity_weights(split.caption_owner, split.num_images, images, texts),
    )


def judged(kind: str, asked: argparse.Namespace) -> dict[str, Path | None]:
    """Return the sources of judgements, by name; None is the split's own truth."""
    if kind == "coco":
        return {"known matches": asked.eccv}
    if kind == "flickr8k":
        return {"experts": asked.judgements / EXPERTS, "crowd": asked.judgements / CROWD}
    return {"every match": None}


def measure(kind: str, split: Split, finder: Finder, asked: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return average precision, and for coco recall, of each column by each source of judgements."""
    found: dict[str, dict[str, float]] = {}
    for name, source in judged(kind, asked).items():
        ratings = read_ratings(split, source)
        if kind == "flickr8k":
            order = np.lexsort((ratings.captions, ratings.images))
            candidates = finder.describe(ratings.images[order], ratings.captions[order])
        else:
            candidates = finder.find(np.arange(split.num_images), everything=True)
        match = among(split, candidates, ratings.images[ratings.match], ratings.captions[ratings.match])
        for column in COLUMNS:
            values = getattr(candidates, column)
            measured = {"average_precision": float(average_precision_score(match, values))}
            if kind == "coco":
                first = np.argsort(-values, kind="stable")[:FIRST]
                measured["recall_in_first_1000"] = float(match[first].sum() / match.sum())
            found[f"{name} by {column}"] = {key: round(value, 4) for key, value in measured.items()}
    return found


def main() -> None:
    """Measure every pair of teachers of every work folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machine")
    parser.add_argument("works", nargs="+", metavar="KIND=WORK[:SPLIT]")
    parser.add_argument("--eccv", type=Path)
    parser.add_argument("--judgements", type=Path)
    asked = parser.parse_args()
    results: dict[str, Any] = {}
    for given in asked.works:
        kind, _, place = given.partition("=")
        work, _, name = place.partition(":")
        split = Split(Path(work), name or "test")
        teachers = tables.teachers(split)
        for image in (name for name, modality in teachers.items() if modality == "image"):
            for text in (name for name, modality in teachers.items() if modality == "text"):
                finder, what = finder_of(split, image, text), f"{kind}, {image}, {text}"
                weight = round(finder.weights[0], 4)
                results[what] = {"image_weight": weight, **measure(kind, split, finder, asked)}
                print(what, json.dumps(results[what]), flush=True)
    (RESULTS / f"default-order-{asked.machine}-{date.today()}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
