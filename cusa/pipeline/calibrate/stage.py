"""Calibrating: from human ratings of a split to a probability that a pair matches, tested on ratings of another."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cusa.errors import DataError
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.pipeline.calibrate import calibration
from cusa.pipeline.calibrate.calibration import Calibration
from cusa.pipeline.calibrate.fit import fit
from cusa.pipeline.calibrate.reliability import reliability
from cusa.pipeline.config import CalibrateConfig
from cusa.pipeline.pairs.neighbourhoods import (
    Encoders,
    Neighbourhoods,
    choose,
    digests,
    open_neighbourhoods,
    stamps,
)
from cusa.pipeline.pairs.products import PAIRS_A_BLOCK
from cusa.pipeline.pairs.ratings import PairRatings, RatedSplit, read_ratings


def run(
    config: CalibrateConfig,
    *,
    split: Split,
    out: Path,
    ratings: Path | None = None,
    test: RatedSplit | None = None,
    encoders: Encoders = Encoders(),
    force: bool = False,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Fit `p_positive` on the judged pairs of one split, and write it to a file that `cusa audit` reads.

    Args:
        config: depth of the neighbourhoods, pairs used, seed.
        split: whose pairs were judged; the validation split, so that the test stays unseen.
        out: the calibration's file; its ledger lies beside it.
        ratings: see `cusa.pipeline.pairs.ratings.read_ratings`.
        test: a split on whose judgements it is tested, or None.
        encoders: which to use, see `cusa.pipeline.pairs.neighbourhoods.choose`.
        force: fit again even if nothing changed.
        on_event: called with every block of pairs.

    Returns:
        The outcome; counts has the pairs and matches, notes the figures in sentences.

    Raises:
        DataError: if there are too few judgements of either kind, or a table is missing or broken.
        StaleError: if a table belongs to another state of a split, or the test split has other teachers.
    """
    chosen = choose(split, encoders)
    rated = [RatedSplit(split, ratings), *([test] if test is not None else [])]
    sources = [(one.split, read_ratings(one.split, one.ratings)) for one in rated]
    inputs: dict[str, str] = {}
    for one, judged in sources:
        inputs |= {f"{one.name}": one.digest, f"ratings of {one.name}": judged.digest}
        inputs |= {f"{name} of {one.name}": value for name, value in digests(one, chosen).items()}
    parameters = {**config.model_dump(), **asdict(chosen), "split": split.name, "test": test.split.name if test else ""}
    stage = StageRun(
        "calibrate", out.with_suffix(".ledger.json"), out=out, inputs=inputs, parameters=parameters, force=force
    )
    if stage.up_to_date:
        return stage.reuse(notes=sentences(calibration.read(out)))
    with stage.begin(lock_path=out.with_name(f".{out.name}.lock")):  # its folder may be a work folder
        teachers = stamps(split, chosen)
        opened = open_neighbourhoods(split, chosen, depth=config.neighbours)
        pairs = _pairs(split, sources[0][1], opened, config)
        sources[0][1].refuse_too_few(int(pairs.match.sum()), int((~pairs.match).sum()))
        names = opened.features(split).names
        values = _values(split, opened, pairs, f"calibrate on {split.name}", on_event)
        fitted = fit(values, pairs.match, pairs.images, seed=config.seed)
        judged_rows = np.flatnonzero(pairs.judged)
        about: dict[str, Any] = {
            "fitted": {
                "split": split.name,
                "ratings": sources[0][1].source,
                "pairs": int(pairs.judged.sum()),
                "matches": int(pairs.match[pairs.judged].sum()),
                "background": int((~pairs.judged).sum()),
                "strength": fitted.strength,
                "curve": fitted.curve,
                "caveat": sources[0][1].caveat,
            },
            "out_of_fold": reliability(fitted.out_of_fold[judged_rows], pairs.match[judged_rows]),
        }
        made = Calibration(
            teachers=teachers,
            features=names,
            means=tuple(fitted.means.tolist()),
            scales=tuple(fitted.scales.tolist()),
            products=fitted.products,
            coefficients=tuple(fitted.coefficients.tolist()),
            intercept=fitted.intercept,
            decisions=tuple(fitted.decisions.tolist()),
            probabilities=tuple(fitted.probabilities.tolist()),
            resampled=tuple(tuple(one) for one in fitted.resampled.tolist()),
            unselected=(),
            about=about,
        )
        del opened, values
        if test is not None:
            made.refuse_others(stamps(test.split, chosen), out)
            neighbourhoods = open_neighbourhoods(test.split, chosen, depth=config.neighbours)
            about["tested"] = _test(made, test.split, sources[1][1], neighbourhoods, on_event)
        calibration.write(out, made)
        fit_counts = about["fitted"]
        counts = {name: fit_counts[name] for name in ("pairs", "matches", "background")}
        return stage.finish(outputs=[out], counts=counts, notes=sentences(made))


def sentences(made: Calibration) -> tuple[str, ...]:
    """Return what a calibration was fitted on and how good it is, for a person."""
    fitted = made.about["fitted"]
    terms = "features and their products" if made.products else "features"
    out = [
        f"Logistic regression over {len(made.features)} {terms}, {fitted['curve']} curve; fitted on "
        f"{fitted['pairs']:,} judged pairs of {fitted['split']} ({fitted['matches']:,} matches; {fitted['ratings']}) "
        f"and {fitted['background']:,} pairs drawn at random.",
        "On judged pairs, each by a model that did not see its image: " + _figures(made.about["out_of_fold"]),
    ]
    if (tested := made.about.get("tested")) is not None:
        out.append(f"On {tested['split']} ({tested['ratings']}): " + _figures(tested))
    if fitted["caveat"]:
        out.append(fitted["caveat"])
    return tuple(out)


def _figures(measured: dict[str, Any]) -> str:
    if not measured["pairs"]:
        return "no judged pair."
    precision = measured["average_precision"]
    shown = "" if precision is None else f", average precision {precision:.3f}"
    return (
        f"Brier score {measured['brier']:.3f}, expected calibration error {measured['expected_calibration_error']:.3f}"
        f"{shown}, {measured['pairs']:,} pairs, {measured['matches']:,} of them matches."
    )


class _Pairs:
    """Pairs to fit or test on, in the order of their image rows.

    Args:
        images: image rows.
        captions: caption rows.
        match: whether they match.
        judged: False for pairs drawn at random and taken for no match.
    """

    def __init__(self, images: np.ndarray, captions: np.ndarray, match: np.ndarray, judged: np.ndarray) -> None:
        order = np.lexsort((captions, images))
        self.images, self.captions = images[order], captions[order]
        self.match, self.judged = match[order].astype(bool), judged[order].astype(bool)


def _pairs(split: Split, ratings: PairRatings, opened: Neighbourhoods, config: CalibrateConfig) -> _Pairs:
    """Choose the pairs to fit on.

    People rated pairs that were sampled by similarity, and the features are similarities: given the features, the
    share of matches is that of the rated pairs. Random pairs are added for the region that nobody rated. With a
    complete truth the candidates of random images are taken instead, as many as `config.pairs`, and random pairs with
    their true answer.
    """
    rng = np.random.default_rng(config.seed)
    code = ratings.images * split.num_captions + ratings.captions
    random = _random_pairs(split, config.background, rng)
    random = random[~np.isin(random, code)] if not ratings.complete else random
    if ratings.complete:
        chosen, number = [], 0
        for image in rng.permutation(split.num_images):
            captions = opened.finder.captions_near(int(image))
            chosen.append(image * split.num_captions + captions)
            number += len(captions)
            if number >= config.pairs:
                break
        every = np.unique(np.concatenate([*chosen, random]))
        match, judged = np.isin(every, code), np.ones(len(every), dtype=bool)
    else:
        every = np.concatenate([code, random])
        match = np.concatenate([ratings.match, np.zeros(len(random), dtype=bool)])
        judged = np.arange(len(every)) < len(code)
    images, captions = np.divmod(every, split.num_captions)
    return _Pairs(images, captions, match, judged)


def _random_pairs(split: Split, number: int, rng: np.random.Generator) -> np.ndarray:
    """Return the codes (image row times captions, plus caption row) of different pairs the data set does not make."""
    if split.num_images < 2 or not split.num_captions:
        return np.empty(0, dtype=np.int64)
    drawn = rng.integers(0, split.num_images * split.num_captions, 2 * number)
    drawn = drawn[split.caption_owner[drawn % split.num_captions] != drawn // split.num_captions]
    return np.unique(drawn)[:number] if len(drawn) <= number else rng.permutation(np.unique(drawn))[:number]


def _values(split: Split, opened: Neighbourhoods, pairs: _Pairs, what: str, on_event: OnEvent) -> np.ndarray:
    """Return the features of pairs, (P, F)."""
    features = opened.features(split)
    out = np.empty((len(pairs.images), len(features.names)), dtype=np.float32)
    on_event(what, 0, len(out))
    for start in range(0, len(out), PAIRS_A_BLOCK):
        block = slice(start, start + PAIRS_A_BLOCK)
        out[block] = features.matrix(pairs.images[block], pairs.captions[block])
        on_event(what, min(start + PAIRS_A_BLOCK, len(out)), len(out))
    if not np.isfinite(out).all():
        pair, feature = np.argwhere(~np.isfinite(out))[0]
        image, caption = int(pairs.images[pair]), int(pairs.captions[pair])
        raise DataError(
            f"{split.image_keys[image]} with {split.caption_keys[caption]} has the {features.names[feature]} "
            f"{out[pair, feature]:g}, which nothing can be fitted on. Run `cusa index {split.work} "
            f"--split {split.name} --force`.",
            image_key=split.image_keys[image],
            caption_key=split.caption_keys[caption],
        )
    return out


def _test(
    made: Calibration, test: Split, ratings: PairRatings, opened: Neighbourhoods, on_event: OnEvent
) -> dict[str, Any]:
    """Measure a calibration on the judgements of another split; with a complete truth, on all its candidates."""
    if ratings.complete:
        parts = [(image, opened.finder.captions_near(image)) for image in range(test.num_images)]
        images = np.repeat([image for image, _ in parts], [len(captions) for _, captions in parts])
        captions = np.concatenate([captions for _, captions in parts])
        code = ratings.images * test.num_captions + ratings.captions
        match = np.isin(images * test.num_captions + captions, code)
    else:
        images, captions, match = ratings.images, ratings.captions, ratings.match
    pairs = _Pairs(images, captions, match, np.ones(len(images), dtype=bool))
    values = _values(test, opened, pairs, f"test on {test.name}", on_event)
    figures = reliability(made.probability(values), pairs.match)
    return {"split": test.name, "ratings": ratings.source, "complete": ratings.complete, **figures}
