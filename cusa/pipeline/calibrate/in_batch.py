"""Calibrating a batch's pairs: from two teachers' cosines to the probability that a pair that met by chance is true.

Shapes: P pairs of captions, each with its image; F features: cosine and level of each teacher.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cusa.errors import ConfigError
from cusa.manifests import batch_calibration, tables
from cusa.manifests.batch_calibration import BatchCalibration
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.pipeline.calibrate.reliability import reliability
from cusa.pipeline.config import CalibrateConfig
from cusa.pipeline.index.vectors import unit_rows
from cusa.pipeline.pairs.neighbourhoods import Encoders, choose, stamps
from cusa.pipeline.pairs.ratings import PairRatings, RatedSplit, read_ratings

FOLDER = Path(__file__).parent / "shipped" / "in_batch"

_FOLDS = 5
_RANDOM = 200_000  # pairs drawn where every match is known


def run(
    config: CalibrateConfig,
    *,
    split: Split,
    out: Path,
    ratings: Path | None = None,
    test: RatedSplit | None = None,
    encoders: Encoders = Encoders(),
    force: bool = False,
) -> Outcome:
    """Fit the probability that a random pair is true on the judged pairs of one split; training reads the file.

    Where every match is known, random pairs are drawn with their answers. Else the judged pairs are taken, and random
    ones beside them that count as no match.

    Args:
        config: random pairs, seed.
        split: whose pairs were judged.
        out: the calibration's file; its ledger lies beside it.
        ratings: see `cusa.pipeline.pairs.ratings.read_ratings`.
        test: a split on whose judgements it is tested, or None.
        encoders: which teachers to use, see `cusa.pipeline.pairs.neighbourhoods.choose`; no student.
        force: fit again even if nothing changed.

    Raises:
        ConfigError: if a student is named.
        DataError: if there are too few judgements of either kind, or a table is missing or broken.
        StaleError: if a table belongs to another state of a split, or the test split has other teachers.
    """
    if encoders.student:
        raise ConfigError("--in-batch knows teachers only: a student changes at every step. Leave --student out.")
    chosen = choose(split, encoders)
    rated = [RatedSplit(split, ratings), *([test] if test is not None else [])]
    sources = [(one.split, read_ratings(one.split, one.ratings)) for one in rated]
    inputs: dict[str, str] = {}
    for one, answers in sources:
        inputs |= {one.name: one.digest, f"ratings of {one.name}": answers.digest}
        inputs |= {
            f"teacher {name} of {one.name}": tables.teacher_digest(one, name) for name in chosen.teachers().values()
        }
    parameters = {**config.model_dump(), **asdict(chosen), "split": split.name, "test": test.split.name if test else ""}
    stage = StageRun(
        "calibrate", out.with_suffix(".ledger.json"), out=out, inputs=inputs, parameters=parameters, force=force
    )
    if stage.up_to_date:
        return stage.reuse(notes=sentences(batch_calibration.read(out)))
    with stage.begin(lock_path=out.with_name(f".{out.name}.lock")):
        judged = sources[0][1]
        items = Items.read(split, chosen)
        pairs = _pairs(split, judged, config)
        judged.refuse_too_few(int(pairs.match_of_pair().sum()), int((~pairs.match).sum()))
        values = items.values(pairs.captions, pairs.others)
        random = _random(split, 20_000, np.random.default_rng(config.seed))
        about: dict[str, Any] = {
            "fitted": {
                "split": split.name,
                "ratings": judged.source,
                "pairs": len(judged.images) if not judged.complete else len(pairs.match),
                "matches": int(pairs.match_of_pair().sum()),
                "caveat": judged.caveat,
            },
            "out_of_fold": reliability(_out_of_fold(values, pairs), pairs.match),
        }
        made = fit(items.modalities, stamps(split, chosen), values, pairs.match, weight_P=pairs.weight, about=about)
        about["random_pairs"] = float(items.probability(made, *random).mean())
        if test is not None:
            made.refuse_others(stamps(test.split, chosen), str(out))
            ratings_there = sources[1][1]
            there, held = Items.read(test.split, chosen), _pairs(test.split, ratings_there, config)
            figures = reliability(there.probability(made, held.captions, held.others), held.match)
            about["tested"] = {"split": test.split.name, "ratings": ratings_there.source, **figures}
        batch_calibration.write(out, made)
        counts = {"pairs": about["fitted"]["pairs"], "matches": about["fitted"]["matches"]}
        return stage.finish(outputs=[out], counts=counts, notes=sentences(made))


def sentences(made: BatchCalibration) -> tuple[str, ...]:
    """Return what a calibration was fitted on and what it expects, for a person."""
    fitted = made.about["fitted"]
    names = " and ".join(one["teacher"] for _, one in sorted(made.teachers.items()))
    share = made.about["random_pairs"]
    lines = [
        f"Logistic regression over the cosines and levels of {names}; fitted on {fitted['pairs']:,} pairs of "
        f"{fitted['split']} ({fitted['matches']:,} matches; {fitted['ratings']}).",
        f"Of random pairs it expects {100 * share:.3g} % to match: {share * 127:.2g} false negatives a row in a batch "
        "of 128.",
    ]
    for name, where in (("out_of_fold", "By folds of images"), ("tested", "On the test split")):
        if (measured := made.about.get(name)) is not None and measured["pairs"]:
            error = measured["expected_calibration_error"]
            lines.append(f"{where}: Brier score {measured['brier']:.3f}, expected calibration error {error:.3f}.")
    return (*lines, fitted["caveat"]) if fitted["caveat"] else tuple(lines)


@dataclass(frozen=True)
class Items:
    """The captions of a split, each with its image, as the teachers see them."""

    modalities: tuple[str, ...]
    rows: Mapping[str, np.ndarray]
    """Modality -> unit rows of the teacher."""
    place: Mapping[str, np.ndarray]
    """Modality -> for each caption its row there."""

    @staticmethod
    def read(split: Split, encoders: Encoders) -> "Items":
        """Read the teachers' tables."""
        named = encoders.teachers()
        rows = {modality: unit_rows(tables.read_teacher(split, name)) for modality, name in named.items()}
        place = {"image": split.caption_owner, "text": np.arange(split.num_captions)}
        return Items(tuple(named), rows, {modality: place[modality] for modality in named})

    def values(self, captions: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the features of pairs of captions, (P, F): the cosines of the modalities, then the sums of levels."""
        cosines, levels = [], []
        for modality in self.modalities:
            rows, place = self.rows[modality], self.place[modality]
            mean = rows.mean(0, dtype=np.float64)
            level = rows @ mean - mean @ mean
            out = np.empty(len(captions))
            for start in range(0, len(captions), 1 << 16):
                block = slice(start, start + (1 << 16))
                one, other = rows[place[captions[block]]], rows[place[others[block]]]
                out[block] = np.einsum("pd,pd->p", one, other)
            cosines.append(out)
            levels.append(level[place[captions]] + level[place[others]])
        return np.stack([*cosines, *levels], axis=1)

    def probability(self, made: BatchCalibration, captions: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the probability of each pair of captions that one is true of the other's image."""
        slopes = [made.cosines[name] for name in self.modalities] + [made.levels[name] for name in self.modalities]
        logit = self.values(captions, others) @ np.array(slopes) + made.intercept
        return np.asarray(1 / (1 + np.exp(-np.clip(logit, -500, 500))))


def fit(
    modalities: tuple[str, ...],
    teachers: Mapping[str, Mapping[str, str]],
    values_PF: np.ndarray,
    match_P: np.ndarray,
    *,
    weight_P: np.ndarray,
    about: Mapping[str, Any],
) -> BatchCalibration:
    """Fit the logistic regression.

    Args:
        modalities: in the order of the features.
        teachers: modality -> provenance.
        values_PF: see `Items.values`.
        match_P: True where the pair matches; or probabilities.
        weight_P: how much each pair counts.
        about: what is written down about it.
    """
    slopes, intercept = _regression(values_PF, match_P, weight_P)
    count = len(modalities)
    return BatchCalibration(
        teachers={modality: dict(teachers[modality]) for modality in modalities},
        cosines=dict(zip(modalities, slopes[:count].tolist(), strict=True)),
        levels=dict(zip(modalities, slopes[count:].tolist(), strict=True)),
        intercept=intercept,
        about=about,
    )


def _regression(values_PF: np.ndarray, match_P: np.ndarray, weight_P: np.ndarray) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression

    means, scales = values_PF.mean(0), values_PF.std(0)
    scales[scales < 1e-9] = 1.0
    scaled = (values_PF - means) / scales
    # A probability is a match and no match at once, each in part.
    twice = np.concatenate([scaled, scaled])
    weights = np.concatenate([weight_P * match_P, weight_P * (1 - match_P.astype(np.float64))])
    kept = weights > 0
    answers = np.repeat([True, False], len(scaled))
    model = LogisticRegression(C=1.0, max_iter=2000).fit(twice[kept], answers[kept], sample_weight=weights[kept])
    slopes = model.coef_[0] / scales
    return slopes, float(model.intercept_[0] - slopes @ means)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of captions: is the second one true of the first one's image?"""

    captions: np.ndarray
    others: np.ndarray
    match: np.ndarray
    weight: np.ndarray
    image: np.ndarray
    """The first one's image row: its pairs are in one fold."""

    def match_of_pair(self) -> np.ndarray:
        """Return the matches, an image and a caption counted once however many captions the image has."""
        codes = self.image[self.match] * (self.others.max(initial=0) + 1) + self.others[self.match]
        return np.ones(len(np.unique(codes)), dtype=bool)


def _pairs(split: Split, ratings: PairRatings, config: CalibrateConfig) -> _Pairs:
    """Choose the pairs to fit or test on; a judged pair stands once for each caption that its image has."""
    rng = np.random.default_rng(config.seed)
    code = ratings.images.astype(np.int64) * split.num_captions + ratings.captions
    captions, others = _random(split, _RANDOM if ratings.complete else config.background, rng)
    drawn = split.caption_owner[captions].astype(np.int64) * split.num_captions + others
    if ratings.complete:
        match, weight = np.isin(drawn, code), np.ones(len(drawn))
    else:
        unjudged = ~np.isin(drawn, code)
        captions, others = captions[unjudged], others[unjudged]
        order = np.argsort(split.caption_owner, kind="stable")
        first = np.searchsorted(split.caption_owner[order], ratings.images)
        count = np.bincount(split.caption_owner, minlength=split.num_images)[ratings.images]
        pair = np.repeat(np.arange(len(count)), count)
        nth = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
        match = np.concatenate([ratings.match[pair], np.zeros(len(captions), dtype=bool)])
        weight = np.concatenate([1 / count[pair], np.ones(len(captions))])
        captions = np.concatenate([order[first[pair] + nth], captions])
        others = np.concatenate([ratings.captions[pair], others])
    return _Pairs(captions, others, match.astype(bool), weight, split.caption_owner[captions])


def _random(split: Split, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of captions of different images."""
    captions, others = rng.integers(0, max(split.num_captions, 1), (2, number if split.num_images > 1 else 0))
    foreign = split.caption_owner[captions] != split.caption_owner[others]
    return captions[foreign], others[foreign]


def _out_of_fold(values_PF: np.ndarray, pairs: _Pairs) -> np.ndarray:
    """Return the probability of each pair by a fit without the pairs of its image; in sample for too few images."""
    from sklearn.model_selection import GroupKFold

    out = np.empty(len(values_PF))
    everything = np.arange(len(out))
    few = len(np.unique(pairs.image)) < _FOLDS
    folds = [(everything, everything)] if few else GroupKFold(_FOLDS).split(values_PF, pairs.match, pairs.image)
    for train, held in folds:
        if len(np.unique(pairs.match[train])) < 2:
            train = everything
        slopes, intercept = _regression(values_PF[train], pairs.match[train], pairs.weight[train])
        out[held] = 1 / (1 + np.exp(-np.clip(values_PF[held] @ slopes + intercept, -500, 500)))
    return out


def choose_shipped(teachers: Mapping[str, Mapping[str, str]]) -> BatchCalibration | None:
    """Return the shipped calibration that was fitted on these teachers, the one with more of them first; None: none.

    Args:
        teachers: modality -> provenance.
    """
    for path in sorted(FOLDER.glob("*.json"), key=lambda path: (-path.stem.count("+"), path.stem)):
        made = batch_calibration.read(path)
        if not made.misfit(teachers):
            return made
    return None
