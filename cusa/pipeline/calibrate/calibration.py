"""The calibrated probability that a person calls a pair a match, and the JSON file that holds its numbers.

Shapes: P pairs, F features, T terms (the features, and their products where the model has them).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cusa.errors import DataError, StaleError
from cusa.manifests.storage import store
from cusa.manifests.tables import PROVENANCE

FORMAT = "cusa calibration 2"


@dataclass(frozen=True)
class Calibration:
    """A logistic regression over standardised features, its decision mapped to a probability by a rising curve."""

    teachers: Mapping[str, Mapping[str, str]]
    """Modality (and `student`) -> provenance; a modality that was not used is not there."""
    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    products: bool
    """Whether the products of any two features (squares among them) are terms too."""
    coefficients: tuple[float, ...]
    intercept: float
    decisions: tuple[float, ...]
    """Knots of the curve from decision to probability, rising; none for the logistic function itself."""
    probabilities: tuple[float, ...]
    resampled: tuple[tuple[float, ...], ...]
    """Coefficients and, last, the intercept of the same fit on images drawn with replacement: how sure it is."""
    unselected: tuple[float, ...]
    """Slope and intercept from the decision to the logit by the strictest reading of pairs that nobody chose; empty
    without such a reading."""
    about: Mapping[str, Any]
    """What it was fitted on and how well it does, for people and reports."""
    normal_scores: bool = False
    """Whether the features are normal scores among the split's own random pairs, as
    `cusa.pipeline.calibrate.normal_scores.NormalScores` gives them."""

    def decision(self, values_PF: np.ndarray) -> np.ndarray:
        """Return the logit of the regression, (P,) float64."""
        return np.asarray(self._terms(values_PF) @ np.asarray(self.coefficients) + self.intercept)

    def probability(self, values_PF: np.ndarray) -> np.ndarray:
        """Return the probability that a person calls each pair a match, (P,) in [0, 1]."""
        return self._curve(self.decision(values_PF))

    def score(self, values_PF: np.ndarray) -> "Scored":
        """Return the probability of pairs, and the sums that tell how sure it is."""
        terms_PT = self._terms(values_PF)
        decision = terms_PT @ np.asarray(self.coefficients) + self.intercept
        probability = self._curve(decision)
        fits = np.asarray(self.resampled, dtype=np.float64).reshape(-1, len(self.coefficients) + 1)
        resampled = np.zeros(len(fits))
        if len(fits) and len(values_PF):
            resampled = self._curve(terms_PT @ fits[:, :-1].T + fits[:, -1]).sum(0)
        at_least = float(probability.sum())
        if self.unselected:
            slope, intercept = self.unselected
            at_least = float(_logistic(slope * decision + intercept).sum())
        return Scored(probability, at_least, resampled)

    def _terms(self, values_PF: np.ndarray) -> np.ndarray:
        scaled = (values_PF.astype(np.float64) - np.asarray(self.means)) / np.asarray(self.scales)
        return terms(scaled, products=self.products)

    def _curve(self, decision: np.ndarray) -> np.ndarray:
        if not self.decisions:
            return _logistic(decision)
        return np.asarray(np.interp(decision, self.decisions, self.probabilities))

    def refuse_others(self, teachers: Mapping[str, Mapping[str, str]], path: Path) -> None:
        """Refuse similarities that the calibration was not fitted on.

        Args:
            teachers: modality (and `student`) -> provenance of the encoders in use.
            path: the calibration's file, for the message.

        Raises:
            StaleError: if a teacher, its revision, weights or transform differs.
        """
        again = "Calibrate again with `cusa calibrate`, or audit without --calibration: one that is shipped may fit."
        for modality in sorted({*self.teachers, *teachers}):
            mine, other = self.teachers.get(modality), teachers.get(modality)
            if mine is None or other is None:
                has, lacks = ("the calibration", "the audit") if other is None else ("the audit", "the calibration")
                name = (mine or other or {}).get("teacher", "?")
                raise StaleError(f"{path}: {has} has a {modality} teacher, {name!r}, {lacks} has none. {again}")
            for key in PROVENANCE:
                if mine.get(key, "") != other.get(key, ""):
                    raise StaleError(
                        f"{path} was fitted on another {modality} teacher: its {key} is {mine.get(key, '')!r}, here it "
                        f"is {other.get(key, '')!r}. {again}",
                        path=path,
                    )


@dataclass(frozen=True)
class Scored:
    """Probabilities of pairs, and sums over them.

    Attributes:
        probability: (P,) that a person calls each pair a match.
        at_least: the sum of probabilities by the strictest reading; by the probabilities themselves without one.
        resampled: (R,) the sum of probabilities by each of the resampled fits.
    """

    probability: np.ndarray
    at_least: float
    resampled: np.ndarray


def _logistic(decision: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(decision, -500, 500))))


def terms(scaled_PF: np.ndarray, *, products: bool) -> np.ndarray:
    """Return the terms of the regression: the features, then the products of each with itself and the later ones."""
    if not products:
        return scaled_PF
    first, second = np.triu_indices(scaled_PF.shape[1])
    return np.concatenate([scaled_PF, scaled_PF[:, first] * scaled_PF[:, second]], axis=1)


def write(path: Path, calibration: Calibration) -> None:
    """Write a calibration as JSON, whole."""
    store.write_json(path, {"format": FORMAT, **asdict(calibration)})


def read(path: Path) -> Calibration:
    """Read a calibration.

    Raises:
        DataError: if the file is missing, broken, or no calibration.
    """
    content = store.read_json(path)
    again = "Make it with `cusa calibrate`."
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise DataError(f"{path} is no calibration of this kind ({FORMAT}). {again}", path=path)
    try:
        lists = ("features", "means", "scales", "coefficients", "decisions", "probabilities", "unselected")
        resampled = tuple(tuple(float(value) for value in one) for one in content["resampled"])
        fields = {name: tuple(content[name]) for name in lists}
        calibration = Calibration(**{**content, **fields, "resampled": resampled})
        numbers = [np.asarray(getattr(calibration, name), dtype=np.float64) for name in lists[1:]]
        features = len(calibration.features)
        expected = features + (features * (features + 1) // 2 if calibration.products else 0)
        whole = [len(x) for x in numbers] == [
            *(features, features, expected),
            *(len(numbers[4]), len(numbers[3]), 2 if calibration.unselected else 0),
        ]
        whole &= all(np.isfinite(x).all() for x in numbers) and bool((numbers[1] > 0).all())
        whole &= all(len(one) == expected + 1 and bool(np.isfinite(one).all()) for one in resampled)
        whole &= bool((np.diff(numbers[3]) >= 0).all() and (np.diff(numbers[4]) >= 0).all())
        whole &= bool(((numbers[4] >= 0) & (numbers[4] <= 1)).all())
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is a broken calibration ({error}). {again}", path=path) from error
    if not whole:
        raise DataError(f"{path} is a broken calibration: its numbers do not fit together. {again}", path=path)
    return calibration
