"""The shipped calibrations: fitted on Flickr8k's human judgements and CxC's, tested over images and across data sets.

    python benchmarks/calibrations.py MACHINE --flickr8k WORK JUDGEMENTS --coco WORK CXC ECCV [--ship]

`WORK` are work folders, sharded, embedded (`benchmarks.photographs.lite:Lite2`, all-MiniLM-L6-v2, all-mpnet-base-v2)
and indexed; `JUDGEMENTS` is the folder of Flickr8k's two files, `CXC` that of CxC's, `ECCV` that of ECCV Caption's. For
each text teacher, alone and with the image teacher:

- cross-validated over images: average precision where the experts' median is at least 3, where it is 4, and where more
  than 60 % of the crowd said yes, beside single columns; expected calibration error (ten bins) of the experts' pairs;
  95 % intervals by drawing images with replacement. Every judged pair counts.
- transferred: fitted on Flickr8k alone and tested on CxC's pairs of coco-mini, and back; the recall of the known false
  negatives among the first 1,000 pairs. Beside each calibration error stands the one that a perfectly calibrated
  probability would show on as many pairs by chance.
- where nobody chose: the experts also judged 1,662 pairs that no model had ranked high for the crowd, and they lie
  nearly evenly over the ranking; how many of them match, and how many should. `benchmarks/readings.json` has
  232 pairs that a vision-language model read on the experts' scale, 186 of which nobody had chosen: by how many logits
  its answers lie from the probability, on Flickr8k's pairs that experts judged (and by how many the experts' own), on
  its other pairs, and on COCO's.
- `--raw` fits the features as they are, without normal scores: what they are for.

`--ship` fits on all of it and writes `cusa/pipeline/calibrate/shipped/*.json`. Experts, crowd and CxC draw the line at
different places: each source has an intercept of its own, and the experts' is shipped.
"""

import argparse
import json
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GroupKFold

from cusa.manifests.judgements import flickr8k
from cusa.manifests.judgements.truth import read_truth
from cusa.manifests.samples import Split
from cusa.pipeline.calibrate import calibration
from cusa.pipeline.calibrate.calibration import Calibration
from cusa.pipeline.calibrate.normal_scores import NormalScores
from cusa.pipeline.calibrate.reliability import reliability
from cusa.pipeline.pairs.features import PairFeatures
from cusa.pipeline.pairs.neighbourhoods import Encoders, open_neighbourhoods, stamps

RESULTS = Path(__file__).parent / "results"
SHIPPED = Path(calibration.__file__).parent / "shipped"
IMAGE = "benchmarks.photographs.lite_Lite2"
STRENGTHS = (0.01, 0.03, 0.1, 0.3)
READINGS = Path(__file__).parent / "readings.json"
DRAWS, FITS = 300, 20
COLUMNS = ("text_similarity", "text_two", "text_set", "image_centred", "map_similarity")
EXPERTS, CROWD, CXC = range(3)
IN_DOMAIN = "flickr8k, cross-validated over images"


@dataclass(frozen=True)
class Judged:
    """Judged pairs of one source: features, labels, and the image that they are grouped by."""

    source: int
    values: np.ndarray
    match: np.ndarray
    image: np.ndarray
    exact: np.ndarray | None = None
    """Of the experts: whether the median is 4."""
    alone: np.ndarray | None = None
    """Of the experts: whether the crowd was not asked."""


@dataclass(frozen=True)
class Features:
    """The features of a split's pairs, as normal scores among its random pairs."""

    raw: PairFeatures
    normal: NormalScores | None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the features' names."""
        return self.raw.names

    def matrix(self, image: int | np.ndarray, captions: np.ndarray) -> np.ndarray:
        """Return the features of pairs, those of an image together."""
        values = self.raw.matrix(image, captions)
        return values if self.normal is None else self.normal(values).astype(np.float32)


def features_of(features: Features, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Return the features of pairs, in their order."""
    order = np.argsort(images, kind="stable")
    out = np.empty((len(images), len(features.names)), dtype=np.float32)
    out[order] = features.matrix(images[order], captions[order])
    return out


def flickr(split: Split, features: Features, folder: Path) -> list[Judged]:
    """Read the experts' and the crowd's foreign pairs of the split."""
    name_of = {Path(source).name: row for row, source in enumerate(split.samples["source"].to_pylist())}
    position = split.captions["position"].to_pylist()
    caption_of = {(int(owner), position[row]): row for row, owner in enumerate(split.caption_owner)}
    parts: list[Judged] = []
    seen: list[np.ndarray] = []
    for source, file in ((EXPERTS, flickr8k.EXPERTS), (CROWD, flickr8k.CROWD)):
        rows = []
        for line in (folder / file).read_text().splitlines():
            image, caption, *scores = line.split("\t")
            owner, _, number = caption.partition("#")
            if image in name_of and owner in name_of and owner != image:
                rows.append((name_of[image], caption_of[name_of[owner], int(number)], *map(float, scores)))
        table = np.array(sorted(rows))
        images, captions = table[:, 0].astype(int), table[:, 1].astype(int)
        median = np.median(table[:, 2:5], axis=1)
        match = median >= flickr8k.DESCRIBES if source == EXPERTS else table[:, 2] > flickr8k.MOST_SAY_YES
        values = features_of(features, images, captions)
        seen.append(images * split.num_captions + captions)
        parts.append(Judged(source, values, match, images, median >= 4 if source == EXPERTS else None))
    parts[0] = replace(parts[0], alone=~np.isin(seen[0], seen[1]))
    return parts


def cxc(split: Split, features: Features, folder: Path) -> Judged:
    """Read CxC's foreign pairs of the split; images of different splits are kept apart by the split's name."""
    from cusa.pipeline.pairs.ratings import read_ratings

    ratings = read_ratings(split, folder)
    values = features_of(features, ratings.images, ratings.captions)
    shift = sum(split.name.encode()) * 100_000 + 1_000_000
    return Judged(CXC, values, ratings.match, ratings.images + shift)


@dataclass(frozen=True)
class Fit:
    """A logistic regression whose intercept is the first source's."""

    means: np.ndarray
    scales: np.ndarray
    coefficients: np.ndarray
    intercept: float
    of_source: dict[int, float]

    def decision(self, values: np.ndarray, source: int = EXPERTS) -> np.ndarray:
        """Return the logit, by the standard of a source."""
        scaled = (values - self.means) / self.scales
        return np.asarray(scaled @ self.coefficients + self.intercept + self.of_source.get(source, 0.0))


def fit(parts: list[Judged], strength: float, weights: np.ndarray | None = None) -> Fit:
    """Fit all sources together, each with an intercept of its own."""
    values = np.concatenate([part.values for part in parts]).astype(np.float64)
    match = np.concatenate([part.match for part in parts])
    source = np.concatenate([np.full(len(part.match), part.source) for part in parts])
    means, scales = values.mean(0), values.std(0)
    scales[scales < 1e-9] = 1
    first, *others = np.unique(source).tolist()
    wide = 10.0  # so that an intercept is hardly penalised
    columns = [(values - means) / scales, *(wide * (source == one)[:, None] for one in others)]
    model = LogisticRegression(C=strength, max_iter=2000).fit(np.concatenate(columns, 1), match, sample_weight=weights)
    all_of_it, number = model.coef_[0], values.shape[1]
    offsets = {one: wide * float(all_of_it[number + place]) for place, one in enumerate(others)}
    return Fit(means, scales, all_of_it[:number], float(model.intercept_[0]), {first: 0.0, **offsets})


def out_of_fold(parts: list[Judged], strength: float) -> list[np.ndarray]:
    """Return the logit of each pair by a fit without its image."""
    image = np.concatenate([part.image for part in parts])
    where = np.cumsum([0, *(len(part.match) for part in parts)])
    out = np.empty(len(image))
    for train, held in GroupKFold(5).split(image, image, image):
        some = []
        for part, start, stop in zip(parts, where, where[1:], strict=False):
            rows = train[(train >= start) & (train < stop)] - start
            some.append(Judged(part.source, part.values[rows], part.match[rows], part.image[rows]))
        fitted = fit(some, strength)
        for part, start, stop in zip(parts, where, where[1:], strict=False):
            rows = held[(held >= start) & (held < stop)]
            out[rows] = fitted.decision(part.values[rows - start], part.source)
    return [out[start:stop] for start, stop in zip(where, where[1:], strict=False)]


def best_strength(parts: list[Judged]) -> float:
    """Return the strength of the smallest log loss out of the fold."""
    match = np.concatenate([part.match for part in parts])

    def loss(strength: float) -> float:
        logits = np.concatenate(out_of_fold(parts, strength))
        return float(np.logaddexp(0, np.where(match, -logits, logits)).mean())

    return min(STRENGTHS, key=loss)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return probabilities."""
    return np.asarray(1 / (1 + np.exp(-logits)))


def interval(values: np.ndarray, match: np.ndarray, image: np.ndarray, measure: Any) -> list[float]:
    """Return a measure and its 95 % interval over images."""
    rng = np.random.default_rng(0)
    order = np.argsort(image, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(image[order])) + 1)
    draws = []
    for _ in range(DRAWS):
        rows = np.concatenate([groups[k] for k in rng.integers(0, len(groups), len(groups))])
        if match[rows].any():
            draws.append(measure(match[rows], values[rows]))
    low, high = np.quantile(draws, (0.025, 0.975))
    return [round(float(x), 4) for x in (measure(match, values), low, high)]


def calibration_error(match: np.ndarray, probability: np.ndarray) -> float:
    """Return the expected calibration error over ten bins."""
    return float(reliability(probability, match)["expected_calibration_error"])


def errors(match: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Return the calibration error, and the mean one of as many pairs drawn with exactly these probabilities."""
    rng = np.random.default_rng(0)
    by_chance = [calibration_error(rng.random(len(match)) < probability, probability) for _ in range(300)]
    return {
        "expected_calibration_error": round(calibration_error(match, probability), 4),
        "of_a_perfect_one": round(float(np.mean(by_chance)), 4),
        "of_a_perfect_one, 95 % below": round(float(np.quantile(by_chance, 0.95)), 4),
        "mean_probability": round(float(probability.mean()), 4),
        "share_of_matches": round(float(match.mean()), 4),
    }


def validated(parts: list[Judged], strength: float, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the cross-validated figures on Flickr8k."""
    experts, crowd = parts
    logits = out_of_fold(parts, strength)
    sources = {
        "experts' median >= 3": (experts.match, experts.image, logits[0], experts.values),
        "experts' median 4": (experts.exact, experts.image, logits[0], experts.values),
        "crowd > 0.6": (crowd.match, crowd.image, logits[1], crowd.values),
    }
    figures: dict[str, Any] = {"strength": strength}
    for name, (match, image, logit, values) in sources.items():
        assert match is not None
        figures[name] = {
            "pairs": len(match),
            "matches": int(match.sum()),
            "average_precision": interval(logit, match, image, average_precision_score),
            "columns": {
                column: round(float(average_precision_score(match, values[:, names.index(column)])), 4)
                for column in COLUMNS
                if column in names
            },
        }
    figures["calibration, experts"] = errors(experts.match, sigmoid(logits[0]))
    figures["calibration, crowd"] = errors(crowd.match, sigmoid(logits[1]))
    figures["where nobody chose"] = strata(experts, sigmoid(logits[0]))
    figures["out_of_fold"] = reliability(sigmoid(logits[0]), experts.match)
    return figures


def strata(experts: Judged, probability: np.ndarray) -> dict[str, Any]:
    """Return how many of the experts' pairs match and should: chosen for the crowd too, and for the experts alone."""
    assert experts.alone is not None
    out = {}
    for name, rows in (("chosen for the crowd too", ~experts.alone), ("for the experts alone", experts.alone)):
        match, p = experts.match[rows], probability[rows]
        draws = np.random.default_rng(0).poisson(match.sum(), 10_000)  # rare events
        out[name] = {
            "pairs": len(match),
            "matches": int(match.sum()),
            "expected": round(float(p.sum()), 1),
            "matches over expected, 95 %": [round(float(x) / p.sum(), 2) for x in np.quantile(draws, (0.025, 0.975))],
            **errors(match, p),
        }
    return out


def readings(
    opened: dict[tuple[str, str], tuple[Split, Features]], fitted: Fit, experts: dict[tuple[str, str], bool]
) -> dict[str, Any]:
    """Return by how many logits what was read lies from the probability, group by group.

    Args:
        opened: the split and features of each group's first word and split.
        fitted: what the probability is by.
        experts: keys of image and caption -> whether Flickr8k's experts say that they match.
    """
    groups: dict[str, list[tuple[float, bool, bool | None]]] = {}
    for group, name, image, caption, score in json.loads(READINGS.read_text())["pairs"]:
        split, features = opened[group.split(",")[0], name]
        row = features.matrix(split.image_row[image], np.array([split.caption_row[caption]]))
        said = score >= flickr8k.DESCRIBES
        groups.setdefault(group, []).append((float(fitted.decision(row)[0]), said, experts.get((image, caption))))
    out: dict[str, Any] = {}
    for group, found in groups.items():
        logit, said = np.array([x for x, _, _ in found]), np.array([y for _, y, _ in found])
        shift = offset(logit, said)
        p = sigmoid(logit + shift)
        out[group] = {
            "pairs": len(found),
            "said to match": int(said.sum()),
            "expected": round(float(sigmoid(logit).sum()), 1),
            "shift in logits": round(shift, 2),
            "standard error": round(float((p * (1 - p)).sum() ** -0.5), 2),
        }
        theirs = np.array([z for _, _, z in found if z is not None])
        if len(theirs) == len(found):
            out[group] |= {
                "experts say so": int(theirs.sum()),
                "both": int((theirs & said).sum()),
                "experts' shift in logits": round(offset(logit, theirs), 2),
            }
    return out


def said_by_experts(split: Split, folder: Path) -> dict[tuple[str, str], bool]:
    """Return whether the experts say that image and caption match, by their keys."""
    located = flickr8k.locate(split, flickr8k.read(folder))
    rows = zip(located.images.tolist(), located.captions.tolist(), located.pairs, strict=True)
    return {
        (split.image_keys[image], split.caption_keys[caption]): pair.median >= flickr8k.DESCRIBES
        for image, caption, pair in rows
        if pair.median is not None
    }


def offset(logit: np.ndarray, match: np.ndarray) -> float:
    """Return what must be added to logits for the expected matches to be those found: the maximum likelihood."""
    low, high = -10.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(logit + middle).sum() < match.sum() else (low, middle)
    return (low + high) / 2


def recall_of_known(split: Split, features: Features, truth: Path, fitted: Fit) -> dict[str, float]:
    """Return the recall of the known false negatives among the first pairs of all, by the fit and by one column."""
    images, captions = read_truth(split, truth).false_negatives(split.caption_owner)
    every = np.arange(split.num_captions)
    values = np.stack([features.matrix(image, every) for image in range(split.num_images)])
    open_pairs = split.caption_owner[None] != np.arange(split.num_images)[:, None]
    known = np.zeros_like(open_pairs)
    known[images, captions] = True
    out: dict[str, float] = {"known": len(images)}
    rankings = {"probability": fitted.decision(values)}
    rankings |= {column: values[:, :, features.names.index(column)] for column in COLUMNS if column in features.names}
    for name, ranking in rankings.items():
        order = np.argsort(-ranking[open_pairs], kind="stable")
        ranks = np.flatnonzero(known[open_pairs][order]) + 1
        out[f"recall in the first 1,000 by {name}"] = round(float((ranks <= 1000).mean()), 4)
        out[f"median rank by {name}"] = float(np.median(ranks))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machine")
    parser.add_argument("--flickr8k", nargs=2, type=Path, required=True)
    parser.add_argument("--coco", nargs=3, type=Path, required=True)
    parser.add_argument("--text", nargs="*", default=["all-mpnet-base-v2", "all-MiniLM-L6-v2"])
    parser.add_argument("--ship", action="store_true")
    parser.add_argument("--raw", action="store_true")
    asked = parser.parse_args()
    results: dict[str, Any] = {}
    for text in asked.text:
        for image in ("", IMAGE):
            name = f"{text}+imagenet" if image else text
            results[name] = one_pair(name, Encoders(image=image, text=text), asked)
            print(json.dumps({name: results[name]}, indent=1), flush=True)
    raw = "-raw" if asked.raw else ""
    path = RESULTS / f"calibrations{raw}-{asked.machine}-{date.today()}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


def opened(work: Path, name: str, encoders: Encoders, *, raw: bool = False) -> tuple[Split, Features]:
    """Return a split and the features of its pairs."""
    split = Split(work, name)
    features = open_neighbourhoods(split, encoders, depth=5).features(split)
    normal = None if raw else NormalScores.of_split(features, split.caption_owner, split.num_images)
    return split, Features(features, normal)


def one_pair(name: str, encoders: Encoders, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure, and ship if asked to, the calibration of one pair of teachers."""
    split, features = opened(asked.flickr8k[0], "test", encoders, raw=asked.raw)
    parts = flickr(split, features, asked.flickr8k[1])
    strength = best_strength(parts)
    figures: dict[str, Any] = {IN_DOMAIN: validated(parts, strength, features.names)}
    there = {which: opened(asked.coco[0], which, encoders, raw=asked.raw) for which in ("val", "test")}
    rated = [cxc(*one, asked.coco[1]) for one in there.values()]
    both = Judged(CXC, *(np.concatenate([getattr(one, x) for one in rated]) for x in ("values", "match", "image")))
    from_flickr = fit(parts, strength)
    p = sigmoid(from_flickr.decision(both.values))
    transfer = {
        "pairs": len(both.match),
        "average_precision": interval(p, both.match, both.image, average_precision_score),
        **errors(both.match, p),
        **recall_of_known(*there["test"], asked.coco[2], from_flickr),
    }
    groups = {("flickr8k", "test"): (split, features), **{("coco-mini", which): one for which, one in there.items()}}
    experts = said_by_experts(split, asked.flickr8k[1])
    figures["read"] = readings(groups, from_flickr, experts)
    back = fit([both, background(*there["val"], there["test"])], 0.03)
    p = sigmoid(back.decision(parts[0].values, CXC))
    figures["flickr8k to coco-mini"] = transfer
    figures["coco-mini to flickr8k"] = {
        "pairs": len(p),
        "average_precision": interval(p, parts[0].match, parts[0].image, average_precision_score),
        **errors(parts[0].match, p),
    }
    every_source = fit([*parts, both], strength)
    figures["on ECCV Caption's lists"] = listed(*there["test"], asked.coco[2], every_source)
    figures["read, as shipped"] = readings(groups, every_source, experts)
    if asked.ship:
        skills = [one.raw.map_skill() for one in (features, *(its for _, its in there.values()))]
        ship(name, stamps(split, encoders), [*parts, both], features.names, {**figures, "map_skill": skills})
    del figures[IN_DOMAIN]["out_of_fold"]
    return figures


def listed(split: Split, features: Features, truth: Path, fitted: Fit) -> dict[str, Any]:
    """Count how many pairs are on ECCV Caption's lists, by probability, over its queries' rows.

    It bounds from below how many match: its people saw what five models ranked first among all of COCO's test captions,
    twenty-five times as many as here, so the lists leave matches out.
    """
    image_row, caption_row = split.coco_ids.image_row(), split.coco_ids.caption_row()
    lists = json.loads((truth / "eccv_image_to_caption.json").read_text())
    reverse = json.loads((truth / "eccv_caption_to_image.json").read_text())
    pairs: list[tuple[int | None, int | None]] = []
    pairs += [(image_row[int(i)], caption_row.get(int(c))) for i, found in lists.items() for c in found]
    pairs += [(image_row.get(int(i)), caption_row[int(c)]) for c, found in reverse.items() for i in found]
    asked = np.zeros((split.num_images, split.num_captions), dtype=bool)
    asked[[image_row[int(i)] for i in lists]] = True
    asked[:, [caption_row[int(c)] for c in reverse]] = True
    asked &= split.caption_owner[None] != np.arange(split.num_images)[:, None]
    on_lists = np.zeros_like(asked)
    for image, caption in pairs:
        if image is not None and caption is not None:
            on_lists[image, caption] = True
    every = np.arange(split.num_captions)
    p = sigmoid(np.stack([fitted.decision(features.matrix(image, every)) for image in range(split.num_images)]))
    return {
        "pairs": int(asked.sum()),
        "listed": int((on_lists & asked).sum()),
        "sum of probabilities": round(float(p[asked].sum()), 1),
        "by band": [
            {"from": low, "pairs": int(band.sum()), "listed": int((on_lists & band).sum())}
            for low, high in ((0.0, 0.5), (0.5, 0.9), (0.9, 0.95), (0.95, 1.0))
            for band in [asked & (p >= low) & (p < high)]
        ],
    }


def background(split: Split, features: Features, other: tuple[Split, Features]) -> Judged:
    """Draw 2,000 random foreign pairs of two splits, and take those that are the less alike half for no match.

    Of random pairs of photographs like these about 2 % match by the experts' standard, nearly all in the other half.
    """
    rng, values = np.random.default_rng(0), []
    for one, its in ((split, features), other):
        images, captions = rng.integers(0, one.num_images, 1000), rng.integers(0, one.num_captions, 1000)
        foreign = one.caption_owner[captions] != images
        drawn = features_of(its, images[foreign], captions[foreign])
        alike = drawn[:, [its.names.index(name) for name in COLUMNS if name in its.names]]
        alike = ((alike - alike.mean(0)) / alike.std(0)).mean(1)
        values.append(drawn[alike < np.median(alike)])
    number = sum(map(len, values))
    return Judged(CXC, np.concatenate(values), np.zeros(number, dtype=bool), np.full(number, -1))


def ship(
    name: str,
    teachers: dict[str, dict[str, str]],
    parts: list[Judged],
    names: tuple[str, ...],
    figures: dict[str, Any],
) -> None:
    """Fit on everything, and again on images drawn with replacement; write the numbers."""
    strength, skills = figures[IN_DOMAIN]["strength"], figures.pop("map_skill")
    figures = {name: dict(values) for name, values in figures.items()}
    figures["out_of_fold"] = figures[IN_DOMAIN].pop("out_of_fold")
    fitted = fit(parts, strength)
    image = np.concatenate([part.image for part in parts])
    _, place = np.unique(image, return_inverse=True)
    rng, resampled = np.random.default_rng(0), []
    for _ in range(FITS):
        weights = np.bincount(rng.integers(0, place.max() + 1, place.max() + 1), minlength=place.max() + 1)[place]
        again = fit(parts, strength, weights.astype(float))
        resampled.append((*np.round(again.coefficients, 4).tolist(), round(again.intercept, 4)))
    digits = 5
    experts, crowd, people = (int(len(part.match)) for part in parts)
    about = {
        "fitted": {
            "split": "Flickr8k test, half of the judged images; coco-mini val and test",
            "ratings": f"Flickr8k's {experts:,} expert and {crowd:,} crowd pairs, CxC's {people}",
            "pairs": experts + crowd + people,
            "matches": int(sum(part.match.sum() for part in parts)),
            "background": 0,
            "strength": strength,
            "curve": "logistic",
            "map_skill": [round(skill, 3) for skill in skills if skill is not None],
            "image_family": "EfficientNet-Lite2, an ImageNet classifier" if "image" in teachers else "",
            "standard": "the experts' median of 1 to 4 is at least 3: the caption describes the image, with minor "
            "mistakes at most",
            "caveat": "p_positive is by the standard of Flickr8k's experts, who forgave minor mistakes; a stricter "
            "reader calls fewer pairs a match. It was fitted on English captions of everyday photographs (Flickr8k, "
            "COCO) and takes random pairs of any data to match as rarely as there: on other data trust its order more "
            "than its values, and calibrate on verdicts of your own (`cusa calibrate`).",
        },
        "out_of_fold": figures.pop("out_of_fold"),
        "tested": None,
        "measured": figures,
    }
    made = Calibration(
        teachers=teachers,
        features=names,
        means=tuple(np.round(fitted.means, digits).tolist()),
        scales=tuple(np.round(fitted.scales, digits).tolist()),
        products=False,
        coefficients=tuple(np.round(fitted.coefficients, digits).tolist()),
        intercept=round(fitted.intercept, digits),
        decisions=(),
        probabilities=(),
        resampled=tuple(resampled),
        unselected=(1.0, min(one["shift in logits"] for one in figures["read, as shipped"].values())),
        about=about,
        normal_scores=True,
    )
    calibration.write(SHIPPED / f"{name}.json", made)


if __name__ == "__main__":
    main()
