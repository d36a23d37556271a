"""Calibrating: from human ratings of a split to a probability that a pair matches, tested on ratings of another."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cusa.errors import DataError
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.pipeline.calibrate import calibration, units
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
from cusa.pipeline.pairs.ratings import PairRatings, RatedSplit, read_ratings
from cusa.pipeline.units.parts import Parts, together

_SIMILARITIES = ("text_similarity", "text_two", "text_set", "image_centred", "map_similarity", "cross_similarity")


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
        on_event: called with every unit of pairs.

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
    lock_path = out.with_name(f".{out.name}.lock")  # its folder may be a work folder
    sides = [
        _Side(
            *(one, judged, chosen, config, fits),
            Parts(
                out.parent,
                name=f"{out.name}-{'fit' if fits else 'test'}",
                what=f"{'calibrate' if fits else 'test'} on {one.name}",
                key=store.digest([inputs, parameters]),
                task=units.task(),
                locks=[lock_path, *one.locks],
            ),
        )
        for (one, judged), fits in zip(sources, (True, False), strict=False)
    ]
    if stage.up_to_date:
        if not stage.asked:
            for side in sides:
                side.parts.remove(others=False)
        return stage.reuse(notes=sentences(calibration.read(out)))
    if sides[0].parts.some_only:
        return together([side.make_some(stage, on_event) for side in sides])
    if sides[0].parts.merges_only:
        for side in sides:
            side.parts.check(side.open().unit_rows)
    others = {path for side in sides for path in side.parts.locks} - {lock_path}
    with stage.begin(lock_path=lock_path, unless_held=sorted(others)):
        teachers = stamps(split, chosen)
        opened = sides[0].open()
        pairs = opened.pairs
        names, values = sides[0].values(opened, on_event, force=force)
        certain = pairs.judged | _unlike(values, names, ~pairs.judged)
        pairs, values = pairs.take(certain), values[certain]
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
            about["tested"] = _test(made, sides[1], on_event, force=force)
        calibration.write(out, made)
        fit_counts = about["fitted"]
        counts = {name: fit_counts[name] for name in ("pairs", "matches", "background")}
        outcome = stage.finish(outputs=[out], counts=counts, notes=sentences(made))
        for side in sides:
            side.parts.remove()
    return outcome


def sentences(made: Calibration) -> tuple[str, ...]:
    """Return what a calibration was fitted on and how good it is, for a person."""
    fitted = made.about["fitted"]
    terms = "features and their products" if made.products else "features"
    out = [
        f"Logistic regression over {len(made.features)} {terms}, {fitted['curve']} curve; fitted on "
        f"{fitted['pairs']:,} judged pairs of {fitted['split']} ({fitted['matches']:,} matches; {fitted['ratings']}) "
        f"and {fitted['background']:,} unlike pairs drawn at random.",
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
        judged: False for pairs drawn at random.
    """

    def __init__(self, images: np.ndarray, captions: np.ndarray, match: np.ndarray, judged: np.ndarray) -> None:
        order = np.lexsort((captions, images))
        self.images, self.captions = images[order], captions[order]
        self.match, self.judged = match[order].astype(bool), judged[order].astype(bool)

    def take(self, kept: np.ndarray) -> "_Pairs":
        """Return the pairs where `kept` is True."""
        return _Pairs(self.images[kept], self.captions[kept], self.match[kept], self.judged[kept])


def _pairs(split: Split, ratings: PairRatings, opened: Neighbourhoods, config: CalibrateConfig) -> _Pairs:
    """Choose the pairs to fit on.

    People rated pairs that were sampled by similarity, and the features are similarities: given the features, the
    share of matches is that of the rated pairs. Random pairs are added for the region that nobody rated; of those
    `_unlike` leaves the ones that hardly match. With a complete truth the candidates of random images are taken
    instead, as many as `config.pairs`, and random pairs with their true answer.
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


@dataclass(frozen=True)
class _Opened:
    """A split whose tables are read, and the pairs of it that are looked at."""

    split: Split
    neighbourhoods: Neighbourhoods
    pairs: _Pairs

    @property
    def unit_rows(self) -> list[range]:
        return units.pair_units(len(self.pairs.images))

    def prepare(self) -> units.Compared:
        return units.prepared(self.neighbourhoods.features(self.split), self.pairs.images, self.pairs.captions)


@dataclass(frozen=True)
class _Side:
    """One split of a calibration: people's judgements of it, and the parts of the features of its pairs.

    Attributes:
        split: the split.
        judged: what people said.
        encoders: as `choose` returns them.
        config: depth, pairs, seed.
        fits: whether the model is fitted on it, else tested.
        parts: of the features.
    """

    split: Split
    judged: PairRatings
    encoders: Encoders
    config: CalibrateConfig
    fits: bool
    parts: Parts

    def open(self) -> _Opened:
        """Read its tables and choose its pairs.

        Raises:
            DataError: if there are too few judgements to fit on.
        """
        opened = open_neighbourhoods(self.split, self.encoders, depth=self.config.neighbours)
        if not self.fits:
            return _Opened(self.split, opened, _tested_pairs(self.split, self.judged, opened))
        pairs = _pairs(self.split, self.judged, opened, self.config)
        self.judged.refuse_too_few(int(pairs.match.sum()), int((~pairs.match).sum()))
        return _Opened(self.split, opened, pairs)

    def make_some(self, stage: StageRun, on_event: OnEvent) -> Outcome:
        """Make the parts that this process was asked for."""
        opened = self.open()
        return self.parts.make_some(
            stage, opened.prepare, units.outside(self.split), opened.unit_rows, on_event=on_event
        )

    def values(self, opened: _Opened, on_event: OnEvent, *, force: bool) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the names of the features, and the features of its pairs, (P, F) float32.

        Raises:
            DataError: if one of them is no number.
        """
        compared = self.parts.prepare(opened.prepare, units.outside(self.split), force=force)
        names = compared.features.names
        tables = self.parts.make(compared, opened.unit_rows, on_event=on_event)
        values = np.concatenate([np.empty((0, len(names)), np.float32), *map(units.read_part, tables)])
        if not np.isfinite(values).all():
            pair, feature = np.argwhere(~np.isfinite(values))[0]
            split, image, caption = self.split, int(opened.pairs.images[pair]), int(opened.pairs.captions[pair])
            raise DataError(
                f"{split.image_keys[image]} with {split.caption_keys[caption]} has the {names[feature]} "
                f"{values[pair, feature]:g}, which nothing can be fitted on. Run `cusa index {split.work} "
                f"--split {split.name} --force`.",
                image_key=split.image_keys[image],
                caption_key=split.caption_keys[caption],
            )
        return names, values


def _unlike(values_PF: np.ndarray, names: tuple[str, ...], drawn_P: np.ndarray) -> np.ndarray:
    """Return which of the drawn pairs are in the less alike half of them.

    Among random pairs some match (2 % of Flickr8k's, by its experts), nearly all of them in the other half: taken for
    no match, they would teach that alike pairs do not match.
    """
    alike = values_PF[:, [names.index(name) for name in _SIMILARITIES if name in names]].astype(np.float64)
    alike = (alike - alike.mean(0)) / np.maximum(alike.std(0), 1e-9)
    mean = alike.mean(1)
    return np.asarray(drawn_P & (mean <= np.median(mean[drawn_P])) if drawn_P.any() else drawn_P)


def _tested_pairs(test: Split, ratings: PairRatings, opened: Neighbourhoods) -> _Pairs:
    """Return the judged pairs of a split that is tested on; with a complete truth, all its candidates."""
    if ratings.complete:
        parts = [(image, opened.finder.captions_near(image)) for image in range(test.num_images)]
        images = np.repeat([image for image, _ in parts], [len(captions) for _, captions in parts])
        captions = np.concatenate([captions for _, captions in parts])
        code = ratings.images * test.num_captions + ratings.captions
        match = np.isin(images * test.num_captions + captions, code)
    else:
        images, captions, match = ratings.images, ratings.captions, ratings.match
    return _Pairs(images, captions, match, np.ones(len(images), dtype=bool))


def _test(made: Calibration, side: _Side, on_event: OnEvent, *, force: bool) -> dict[str, Any]:
    """Measure a calibration on the judgements of another split."""
    opened = side.open()
    _, values = side.values(opened, on_event, force=force)
    figures = reliability(made.probability(values), opened.pairs.match)
    return {"split": side.split.name, "ratings": side.judged.source, "complete": side.judged.complete, **figures}
