"""How high coco-mini's known matches can rank: by the shipped probability, by other teachers, and without blind pairs.

    python benchmarks/known_matches.py MACHINE WORK ECCV

`WORK` is coco-mini with the tables of `benchmarks/calibrations.py`, `ECCV` the folder of ECCV Caption's lists. Of the
known matches of the test split (pairs that the lists hold and the data set does not make) it counts those among the
first 1,000 of all foreign pairs: by the shipped calibrations; with pairs that one edit separates from an own caption
(`text_blind`) put last; and by the best of several orders, which is chosen with the answers in sight: no order made of
these numbers by a rule that does not see the answers can be expected to do better.
"""

import argparse
import json
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from cusa.manifests.judgements.truth import read_truth
from cusa.manifests.samples import Split
from cusa.pipeline.calibrate import calibration, shipped
from cusa.pipeline.calibrate.normal_scores import NormalScores
from cusa.pipeline.pairs.neighbourhoods import Encoders, open_neighbourhoods
from cusa.pipeline.probe.blind import BlindSpots

RESULTS = Path(__file__).parent / "results"
IMAGE = "benchmarks.photographs.lite_Lite2"
FIRST = 1000


def recall(order: np.ndarray, known: np.ndarray) -> float:
    """Return the share of known matches among the first pairs."""
    first = np.argpartition(-order, FIRST)[:FIRST]
    return round(float(known[first].sum() / known.sum()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machine")
    parser.add_argument("work", type=Path)
    parser.add_argument("eccv", type=Path)
    asked = parser.parse_args()
    split = Split(asked.work, "test")
    images, captions = np.nonzero(split.caption_owner[None] != np.arange(split.num_images)[:, None])
    truth = np.zeros((split.num_images, split.num_captions), dtype=bool)
    truth[read_truth(split, asked.eccv).false_negatives(split.caption_owner)] = True
    known = truth[images, captions]
    blind = np.array(
        [kind is not None for kind in BlindSpots(split.texts, split.caption_owner).kinds(images, captions)]
    )
    results: dict[str, Any] = {"pairs": len(known), "known": int(known.sum())}
    results["blind pairs"] = {"all": int(blind.sum()), "known matches among them": int((blind & known).sum())}
    columns: dict[str, np.ndarray] = {}
    for name in ("all-mpnet-base-v2", "all-MiniLM-L6-v2"):
        made = calibration.read(shipped.FOLDER / f"{name}+imagenet.json")
        features = open_neighbourhoods(split, Encoders(IMAGE, name), depth=5).features(split, made.features)
        normal = NormalScores.of_split(features, split.caption_owner, split.num_images)
        values = normal(features.matrix(images, captions))
        p = made.decision(values)
        first = np.argsort(-p, kind="stable")[:FIRST]
        results[name] = {
            "recall": recall(p, known),
            "blind pairs among the first": int(blind[first].sum()),
            "recall, blind pairs put last": recall(np.where(blind, -1e9, p), known),
        }
        columns |= {f"{name} {feature}": column for feature, column in zip(made.features, values.T, strict=True)}
        columns[f"{name} p"] = p
        fitted = LogisticRegression(C=0.1, max_iter=2000).fit(values, known)
        results[name]["recall, fitted on the answers themselves"] = recall(fitted.decision_function(values), known)
    single = {name: recall(column, known) for name, column in columns.items()}
    sums = {f"{a} + {b}": recall(columns[a] + columns[b], known) for a, b in combinations(columns, 2)}
    best = max(single, key=lambda name: single[name])
    pair = max(sums, key=lambda name: sums[name])
    results["best single column, chosen with the answers"] = {best: single[best]}
    results["best sum of two columns, chosen with the answers"] = {pair: sums[pair], "sums tried": len(sums)}
    every = np.column_stack([column for name, column in columns.items() if not name.endswith(" p")])
    fitted = LogisticRegression(C=0.1, max_iter=3000).fit(every, known)
    results["all columns, fitted on the answers themselves"] = recall(fitted.decision_function(every), known)
    print(json.dumps(results, indent=1))
    path = RESULTS / f"known-matches-{asked.machine}-{date.today()}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
