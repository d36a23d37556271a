"""The shipped calibrations of a batch's pairs: fitted on what Flickr8k's crowd said, made honest for random pairs.

    python benchmarks/batch_calibrations.py MACHINE WORK JUDGEMENTS [--ship]

`WORK` is Flickr8k, sharded and embedded (`benchmarks.photographs.lite:Lite0`, `:Lite2`, all-MiniLM-L6-v2,
all-mpnet-base-v2); `JUDGEMENTS` the folder of its two files of judgements.

The crowd judged pairs that retrieval models of 2013 had ranked high, 5 % of all pairs of its images and captions. Of
pairs with the same cosines that no model had chosen, fewer match. How many fewer is measured where two models' choices
meet: among the pairs that the crowd judged, those that were chosen once more, for the experts, match more often by
`shift` in logits at the same cosines. Pairs that nobody chose are given the chosen ones' logit less one such shift, and
the calibration is fitted on all pairs of judged images with judged captions: each judged one by its judgement, all
others by that probability. Beside it stand the shares of matches without a shift (at most) and with no match among
pairs that nobody chose (at least).
"""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GroupKFold

from cusa.manifests import batch_calibration
from cusa.manifests.judgements import flickr8k
from cusa.manifests.samples import Split
from cusa.pipeline.calibrate import in_batch
from cusa.pipeline.calibrate.reliability import reliability
from cusa.pipeline.pairs.neighbourhoods import Encoders, stamps

RESULTS = Path(__file__).parent / "results"
IMAGES = {"lite2": "benchmarks.photographs.lite_Lite2", "lite0": "benchmarks.photographs.lite_Lite0", "": ""}
TEXTS = ("all-MiniLM-L6-v2", "all-mpnet-base-v2")
BATCHES = (32, 128, 512)


def judged(split: Split, folder: Path) -> tuple[np.ndarray, ...]:
    """Return the crowd's foreign pairs: image, caption, whether most said yes, whether they were chosen for experts."""
    located = flickr8k.locate(split, flickr8k.read(folder))
    foreign = split.caption_owner[located.captions] != located.images
    crowd = np.array([pair.share is not None for pair in located.pairs]) & foreign
    match = np.array([pair.share is not None and pair.share > flickr8k.MOST_SAY_YES for pair in located.pairs])
    again = np.array([pair.median is not None for pair in located.pairs])
    return located.images[crowd], located.captions[crowd], match[crowd], again[crowd]


def logistic(values: np.ndarray, match: np.ndarray) -> tuple[np.ndarray, float]:
    """Return slopes and intercept of a regression that is hardly penalised."""
    means, scales = values.mean(0), values.std(0)
    model = LogisticRegression(C=100.0, max_iter=3000).fit((values - means) / scales, match)
    slopes = model.coef_[0] / scales
    return slopes, float(model.intercept_[0] - slopes @ means)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return probabilities."""
    return np.asarray(1 / (1 + np.exp(-logits)))


def measure(
    split: Split, folder: Path, encoders: Encoders
) -> tuple[batch_calibration.BatchCalibration, dict[str, Any]]:
    """Fit one calibration, and say how well it does."""
    items = in_batch.Items.read(split, encoders)
    images, captions, match, again = judged(split, folder)
    siblings = np.stack([np.flatnonzero(split.caption_owner == image) for image in range(split.num_images)])
    each = siblings.shape[1]
    values = items.values(siblings[images].ravel(), np.repeat(captions, each))
    answers, image_of = np.repeat(match, each), np.repeat(images, each)
    shift = float(logistic(np.column_stack([values, np.repeat(again, each)]), answers)[0][-1])
    out = np.empty(len(values))
    for train, held in GroupKFold(5).split(values, answers, image_of):
        slopes, intercept = logistic(values[train], answers[train])
        out[held] = values[held] @ slopes + intercept
    slopes, intercept = logistic(values, answers)

    all_images, all_captions = (
        grid.ravel() for grid in np.meshgrid(np.unique(images), np.unique(captions), indexing="ij")
    )
    foreign = split.caption_owner[all_captions] != all_images
    all_images, all_captions = all_images[foreign], all_captions[foreign]
    said = dict(zip((images * split.num_captions + captions).tolist(), match.tolist(), strict=True))
    codes = (all_images * split.num_captions + all_captions).tolist()
    known = np.array([said.get(code, -1) for code in codes])
    # One caption of each image, drawn: five copies of every pair say nothing more.
    drawn = siblings[all_images, np.random.default_rng(0).integers(0, each, len(all_images))]
    features = items.values(drawn, all_captions)
    logits = features @ slopes + intercept
    shares = {}
    for name, less in (("at most", 0.0), ("expected", shift), ("at least", np.inf)):
        soft = np.where(known >= 0, known, sigmoid(logits - less))
        shares[name] = float(soft.mean())
        if name == "expected":
            target = soft
    about: dict[str, Any] = {
        "fitted": {
            "split": "Flickr8k test, half of the judged images",
            "ratings": "Flickr8k's crowd",
            "standard": "more than 60 % of the crowd say that the caption describes the image",
            "pairs": len(match),
            "matches": int(match.sum()),
            "caveat": "It was fitted on English captions of everyday photographs (Flickr8k). On other data fit one of "
            "your own (`cusa calibrate --in-batch`).",
        },
        "random_pairs": shares["expected"],
        "random_pairs_between": [shares["at least"], shares["at most"]],
        "out_of_fold": reliability(sigmoid(out), answers),
    }
    given = stamps(split, encoders)
    made = in_batch.fit(items.modalities, given, features, target, weight_P=np.ones(len(target)), about=about)
    found = sigmoid(features @ np.array([*made.cosines.values(), *made.levels.values()]) + made.intercept)
    figures = {
        "judged pairs": len(match),
        "matches": int(match.sum()),
        "all pairs": len(target),
        "shift": round(shift, 3),
        "average precision, by folds of images": round(
            float(np.mean([average_precision_score(match, out[k::each]) for k in range(each)])), 4
        ),
        "expected calibration error, by folds of images": round(
            float(reliability(sigmoid(out), answers)["expected_calibration_error"]), 4
        ),
        "expected calibration error, all pairs": round(
            float(np.abs([(found[rows] - target[rows]).mean() for rows in _tenths(found)]).mean()), 6
        ),
        "share of random pairs that match": {name: round(share, 6) for name, share in shares.items()},
        "mean probability of random pairs": round(float(found.mean()), 6),
        "false negatives a row": {
            f"batch of {batch}": {name: round(share * (batch - 1), 3) for name, share in shares.items()}
            for batch in BATCHES
        },
        "slopes of cosines": {name: round(slope, 3) for name, slope in made.cosines.items()},
        "slopes of levels": {name: round(slope, 3) for name, slope in made.levels.items()},
        "intercept": round(made.intercept, 3),
    }
    return made, figures


def _tenths(probability: np.ndarray) -> list[np.ndarray]:
    """Return the pairs in ten groups of equal size, by their probability."""
    return np.array_split(np.argsort(probability, kind="stable"), 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machine")
    parser.add_argument("work", type=Path)
    parser.add_argument("judgements", type=Path)
    parser.add_argument("--ship", action="store_true")
    options = parser.parse_args()
    split = Split(options.work, "test")
    results: dict[str, Any] = {}
    for text in TEXTS:
        for image, table in IMAGES.items():
            name = "+".join(part for part in (text, image) if part)
            made, results[name] = measure(split, options.judgements, Encoders(table, text))
            print(name, json.dumps(results[name]))
            if options.ship:
                batch_calibration.write(in_batch.FOLDER / f"{name}.json", made)
    path = RESULTS / f"batch-calibrations-{options.machine}-{date.today()}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
