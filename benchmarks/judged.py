"""Scores on incomplete truth, redrawn: do the intervals of `cusa eval --judged` cover, and how wide are they?

Usage: python benchmarks/judged.py DEMO FLICKR_WORK FLICKR [--redraws 1000]

DEMO is the folder of `cusa demo`: scenes, where every match is known, its two runs, and the audit's calibrated
probabilities. FLICKR_WORK is Flickr8k sharded, with the tables of `all-mpnet-base-v2` and EfficientNet-Lite2; FLICKR
its official folder with people's judgements. There the gallery of a query is what people judged for it and its own
pairs, so that everything is known; the two runs are ridge regressions from images to texts, fitted on all training
images and on 300 of them; the good judge is a logistic fit of three similarities, each image by a fit on other images.

Each redraw asks the first 100, 200 or 500 pairs of a new random order, for both directions at once as the command does,
and for one direction alone. People alone: the same number of answers from an order that knows no probability, and
estimates without them (a judge that says 1/2 of everything).
"""

import argparse
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cusa.eval.judged import pool as pools
from cusa.eval.judged.estimate import compare
from cusa.eval.judged.pool import NONE, KnownPairs, Pool
from cusa.eval.judged.rankings import read_judge, read_ranking
from cusa.eval.judged.sample import Answers, priorities
from cusa.eval.judged.units import Units, single_pairs, whole_queries
from cusa.manifests import tables
from cusa.manifests.judgements.truth import read_truth
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

LABELS = (100, 200, 500)
WAYS = ("image-to-text", "text-to-image")
Rankings = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class World:
    """Two rankings, the whole truth, and a good judge."""

    name: str
    rankings: Rankings
    known: KnownPairs
    match: np.ndarray
    """(images, captions)."""
    good: np.ndarray
    """(images, captions) probability."""


def scenes(demo: Path) -> World:
    split = Split(demo / "data", "test")
    truth = read_truth(split, split.folder / "truth.parquet")
    match = np.zeros((split.num_images, split.num_captions), bool)
    match[truth.images, truth.captions] = True
    judge = read_judge(split)
    good = np.zeros(match.size)
    good[judge.codes] = judge.probabilities
    runs = [demo / "runs" / name / "eval" / "per_query.parquet" for name in ("scenes-cusa", "scenes-infonce")]
    tops = [read_ranking(split, path) for path in runs]
    own = np.sort(split.caption_owner * split.num_captions + np.arange(split.num_captions))
    rankings = {way: (tops[0][way], tops[1][way]) for way in WAYS}
    return World("scenes", rankings, KnownPairs(own, np.array([], np.int64)), match, good.reshape(match.shape))


def flickr(work: Path, folder: Path, depth: int = 5) -> World:
    split, train = Split(work, "test"), Split(work, "train")
    image, text = (_rows(split, name) for name in ("benchmarks.photographs.lite_Lite2", "all-mpnet-base-v2"))
    learned = [_ridge(train, number) for number in (train.num_images, 300)]
    scores = [_unit(image @ weights) @ text.T for weights in learned]
    judged, match = _judgements(split, folder)
    own = np.zeros_like(match)
    own[split.caption_owner, np.arange(split.num_captions)] = True
    match |= own
    asked = [judged.any(1), judged.any(0)]  # only queries that people judged something of
    rankings = {
        way: tuple(_top(np.where(judged | own, one, -np.inf), way, asked, depth) for one in scores) for way in WAYS
    }
    codes = np.flatnonzero(own[asked[0]][:, asked[1]].ravel())
    good = _good_judge(split, image, text, judged, match)
    known = KnownPairs(codes, np.array([], np.int64))
    return World("flickr8k", rankings, known, match[asked[0]][:, asked[1]], good[asked[0]][:, asked[1]])  # type: ignore[arg-type]


def _rows(split: Split, teacher: str) -> np.ndarray:
    return _unit(np.asarray(tables.read_teacher(split, teacher).embeddings, np.float32))


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _ridge(train: Split, number: int, strength: float = 10.0) -> np.ndarray:
    image, text = (_rows(train, name) for name in ("benchmarks.photographs.lite_Lite2", "all-mpnet-base-v2"))
    mean = np.zeros((train.num_images, text.shape[1]), np.float32)
    np.add.at(mean, train.caption_owner, text)
    chosen = np.random.default_rng(0).permutation(train.num_images)[:number]
    one, other = image[chosen], mean[chosen] / 5
    return np.linalg.solve(one.T @ one + strength / 10 * np.eye(one.shape[1]), one.T @ other)


def _judgements(split: Split, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return which pairs people judged, and which they call a match: the experts' median, else the crowd's majority."""
    judged = np.zeros((split.num_images, split.num_captions), bool)
    match = np.zeros_like(judged)
    name = split.image_keys[0].rpartition("/")[0]
    for file in ("CrowdFlowerAnnotations.txt", "ExpertAnnotations.txt"):
        for line in (folder / file).read_text().splitlines():
            image, caption, *values = line.split("\t")
            stem, _, number = caption.partition("#")
            row = split.image_row.get(f"{name}/{Path(image).stem}")
            column = split.caption_row.get(f"{name}/{Path(stem).stem}#{number}")
            if row is None or column is None:
                continue
            judged[row, column] = True
            numbers = [float(value) for value in values]
            match[row, column] = numbers[0] > 0.5 if file.startswith("Crowd") else np.median(numbers) >= 3
    return judged, match


def _top(scores: np.ndarray, way: str, asked: list[np.ndarray], depth: int) -> np.ndarray:
    some = scores[asked[0]][:, asked[1]]
    some = some if way == "image-to-text" else some.T
    top = np.argsort(-some, axis=1, kind="stable")[:, :depth]
    return np.where(np.isfinite(np.take_along_axis(some, top, 1)), top, NONE)


def _good_judge(split: Split, image: np.ndarray, text: np.ndarray, judged: np.ndarray, match: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    owner = split.caption_owner
    alike = text @ text.T
    of_image = np.stack([alike[owner == row].max(0) for row in range(split.num_images)])
    mean = np.stack([alike[owner == row].mean(0) for row in range(split.num_images)])
    seen = (image @ image.T)[:, owner]
    open_pairs = judged.copy()
    open_pairs[owner, np.arange(len(owner))] = False
    rows, columns = np.nonzero(open_pairs)
    features = np.stack([values[rows, columns] for values in (of_image, mean, seen)], 1)
    features = (features - features.mean(0)) / features.std(0)
    probability = np.zeros(judged.shape)
    for fitted, held in GroupKFold(5).split(features, groups=rows):
        model = LogisticRegression(C=10.0).fit(features[fitted], match[rows[fitted], columns[fitted]])
        probability[rows[held], columns[held]] = model.predict_proba(features[held])[:, 1]
    return probability


def judges(world: World) -> dict[str, np.ndarray]:
    return {
        "good": world.good,
        "bad": np.random.default_rng(1).random(world.good.shape),
        "inverted": 1 - world.good,
        "people alone": np.full(world.good.shape, 0.5),
    }


def redraw(units: Units, truth: np.ndarray, labels: int, redraws: int) -> list[dict[str, Any]]:
    """Return coverage, mean width, bias and spread of each score's three estimates."""
    size, cost = units.sizes(), units.pairs_of_unit
    true = [100 * (term.constant + term.values(truth).sum(0)) for term in units.terms]
    true3 = np.array([[*one, one[0] - one[1]] for one in true])
    # What people would say is one and the same in every redraw: it is worked out once.
    terms = tuple(replace(term, values=lambda _, said=term.values(truth): said) for term in units.terms)  # type: ignore[misc]
    units = replace(units, terms=terms)
    values, spans, units_asked = [], [], []
    for seed in range(redraws):
        priority = priorities(size, seed)
        order = np.argsort(priority)
        number = int((np.cumsum(cost[order]) <= labels).sum())
        threshold = float(priority[order[number]]) if number < len(order) else np.inf
        asked = order[:number]
        said = Answers(asked, np.minimum(1, size[asked] * threshold), threshold, 0)
        compared = compare(units, size, said, truth)
        three = [(one.first, one.second, one.difference) for one in compared]
        values.append([[one.value for one in row] for row in three])
        spans.append(
            [[(one.low, one.high) if one.low is not None else (np.nan, np.nan) for one in row] for row in three]
        )
        units_asked.append([one.answered for one in compared])
    value, span = np.array(values), np.array(spans)
    inside = (span[..., 0] <= true3 + 1e-9) & (true3 - 1e-9 <= span[..., 1])
    given = ~np.isnan(span[..., 0])
    out = []
    for at, term in enumerate(units.terms):
        row: dict[str, Any] = {"score": term.score, "direction": term.direction, "labels": labels}
        row["units"] = float(np.mean(np.array(units_asked)[:, at]))
        for place, which in enumerate(("A", "B", "A - B")):
            row[which] = {
                "true": round(float(true3[at, place]), 3),
                "coverage": round(100 * float(inside[:, at, place].sum() / max(given[:, at, place].sum(), 1)), 1),
                "no interval": round(100 * float((~given[:, at, place]).mean()), 1),
                "width": round(float(np.nanmean(span[:, at, place, 1] - span[:, at, place, 0])), 3),
                "bias": round(float(value[:, at, place].mean() - true3[at, place]), 3),
                "spread": round(float(value[:, at, place].std()), 3),
            }
        out.append(row)
    return out


def measure(world: World, ways: tuple[str, ...], redraws: int) -> list[dict[str, Any]]:
    rows = []
    codes = np.arange(world.good.size)
    for name, judge in judges(world).items():
        pool: Pool = pools.build(
            {way: world.rankings[way] for way in ways}, world.known, (codes, judge.ravel()), world.good.shape[1]
        )
        truth = world.match[pool.images, pool.captions].astype(float)
        for units in (single_pairs(pool), whole_queries(pool, seed=0)):
            for labels in LABELS:
                start = time.perf_counter()
                for row in redraw(units, truth, labels, redraws):
                    rows.append({"world": world.name, "asked": " and ".join(ways), "judge": name, **row})
                print(world.name, ways, name, units.terms[0].score, labels, f"{time.perf_counter() - start:.0f} s")
    return rows


def add_ratios(rows: list[dict[str, Any]]) -> None:
    """Add each width beside that of people alone."""
    key = ("world", "asked", "score", "direction", "labels")
    alone = {tuple(row[name] for name in key): row for row in rows if row["judge"] == "people alone"}
    for row in rows:
        other = alone[tuple(row[name] for name in key)]
        for which in ("A", "B", "A - B"):
            row[which]["width beside people alone"] = round(row[which]["width"] / other[which]["width"], 3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("demo", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("flickr", type=Path)
    parser.add_argument("--redraws", type=int, default=1000)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "judged-2-core-x86-2026-11-30.json"
    )
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for world in (flickr(given.work, given.flickr), scenes(given.demo)):
        for ways in (("text-to-image",), ("image-to-text",), WAYS):
            rows += measure(world, ways, given.redraws)
            done = [dict(row) for row in rows]
            add_ratios(done)
            about = {"redraws": given.redraws, "machine": platform.machine(), "rows": done}
            store.write_json(given.out, about)
    print(json.dumps({"rows": len(rows), "out": str(given.out)}))


if __name__ == "__main__":
    main()
