"""Fitting the calibrated model: logistic regression chosen by folds that never share an image, then a monotone curve.

Shapes: P pairs, F features.
"""

from dataclasses import dataclass

import numpy as np

from cusa.pipeline.calibrate.calibration import terms

_STRENGTHS = (0.003, 0.01, 0.03, 0.1, 1.0)  # scikit-learn's C; ratings are few, so strong penalties are among them
_FOLDS = 5
_FOR_PRODUCTS = 2000  # pairs from which on products of features are tried
_RESAMPLES = 20
_FOR_ISOTONIC = 1000  # scikit-learn's guide: below it, isotonic regression overfits and Platt's sigmoid does not


@dataclass(frozen=True)
class Fitted:
    """A fitted model; the fields are those of `cusa.pipeline.calibrate.calibration.Calibration`."""

    means: np.ndarray
    scales: np.ndarray
    products: bool
    coefficients: np.ndarray
    intercept: float
    decisions: np.ndarray
    probabilities: np.ndarray
    resampled: np.ndarray
    """(R, T + 1) coefficients and intercept of the same fit on images drawn with replacement."""
    strength: float
    curve: str
    out_of_fold: np.ndarray
    """(P,) the probability of each pair by a model that was fitted without the pairs of its image."""


def fit(values_PF: np.ndarray, match_P: np.ndarray, image_P: np.ndarray, *, seed: int = 0) -> Fitted:
    """Fit the model.

    Args:
        values_PF: features, finite.
        match_P: True where the pair is a match.
        image_P: the image row of each pair: pairs of an image are in the same fold.
        seed: of the folds.

    Returns:
        The model with the smallest log loss over the folds; its curve is fitted on decisions made out of the fold.
    """
    values = values_PF.astype(np.float64)
    means, scales = values.mean(0), values.std(0)
    scales[scales < 1e-9] = 1.0  # a feature that never changes says nothing; it must not divide by 0
    scaled = (values - means) / scales
    folds = _folds(match_P, image_P, seed)
    best: tuple[float, bool, float, np.ndarray] | None = None
    for products in (False, True) if len(values) >= _FOR_PRODUCTS else (False,):
        matrix = terms(scaled, products=products)
        for strength in _STRENGTHS:
            decisions = np.empty(len(values))
            for train, held in folds:
                coefficients, intercept = _regression(matrix[train], match_P[train], strength)
                decisions[held] = matrix[held] @ coefficients + intercept
            loss = float(np.logaddexp(0, np.where(match_P, -decisions, decisions)).mean())
            if best is None or loss < best[0]:
                best = (loss, products, strength, decisions)
    assert best is not None
    _, products, strength, decisions = best
    coefficients, intercept = _regression(terms(scaled, products=products), match_P, strength)
    curve = "isotonic" if len(values) >= _FOR_ISOTONIC and match_P.sum() >= 100 else "sigmoid"
    make = _isotonic if curve == "isotonic" else _sigmoid
    out_of_fold = np.empty(len(values))
    for train, held in folds:
        out_of_fold[held] = np.interp(decisions[held], *make(decisions[train], match_P[train]))
    knots, probabilities = make(decisions, match_P)
    resampled = _resampled(terms(scaled, products=products), match_P, image_P, strength, seed)
    return Fitted(
        means,
        scales,
        products,
        coefficients,
        intercept,
        knots,
        probabilities,
        resampled,
        strength,
        curve,
        out_of_fold,
    )


def _resampled(matrix: np.ndarray, match_P: np.ndarray, image_P: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Fit again on images drawn with replacement, all pairs of an image together (the cluster bootstrap)."""
    rng = np.random.default_rng(seed)
    images, place = np.unique(image_P, return_inverse=True)
    fits = []
    for _ in range(_RESAMPLES):
        drawn = np.bincount(rng.integers(0, len(images), len(images)), minlength=len(images))[place]
        rows = np.flatnonzero(drawn)
        if len(np.unique(match_P[rows])) < 2:
            continue
        coefficients, intercept = _regression(matrix[rows], match_P[rows], strength, weights=drawn[rows])
        fits.append(np.append(coefficients, intercept))
    return np.array(fits).reshape(len(fits), matrix.shape[1] + 1)


def _folds(match_P: np.ndarray, image_P: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut the pairs into folds by image; where possible, both parts of each fold have matches and others."""
    from sklearn.model_selection import StratifiedGroupKFold

    number = min(_FOLDS, len(np.unique(image_P[match_P])), len(np.unique(image_P[~match_P])))
    if number < 2:
        everything = np.arange(len(match_P))
        return [(everything, everything)]
    cut = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
    return [
        pair for pair in cut.split(np.zeros(len(match_P)), match_P, image_P) if len(np.unique(match_P[pair[0]])) > 1
    ]


def _regression(
    matrix: np.ndarray, match_P: np.ndarray, strength: float, *, weights: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=2000).fit(matrix, match_P, sample_weight=weights)
    return model.coef_[0], float(model.intercept_[0])


def _sigmoid(decisions: np.ndarray, match_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Platt's sigmoid as knots (Platt 1999), never falling."""
    slope, intercept = _regression(decisions[:, None], match_P, 1.0)
    knots = np.linspace(decisions.min() - 1, decisions.max() + 1, 257)
    return knots, 1 / (1 + np.exp(-(max(float(slope[0]), 0.0) * knots + intercept)))


def _isotonic(decisions: np.ndarray, match_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return isotonic regression with a knot at the centre of each level, so that it rises between the levels.

    Plain isotonic regression gives many pairs the very same probability, and a ranking by it would forget their order
    (Oron and Flournoy, "Centered isotonic regression", 2017). An outer level of 0 or 1 becomes (m + 1/2) / (n + 1), or
    half of the way to the next level if that is nearer: no pair is certain. Beyond the outer centres the curve goes on
    to the outer decisions by half of what is left to 0 and 1.
    """
    from sklearn.isotonic import IsotonicRegression

    levels = IsotonicRegression(y_min=0, y_max=1).fit_transform(decisions, match_P.astype(float))
    values, place, counts = np.unique(levels, return_inverse=True, return_counts=True)
    inner = values[(values > 0) & (values < 1)]
    lowest, highest = (inner[0], inner[-1]) if len(inner) else (1.0, 0.0)
    less = (values * counts + 0.5) / (counts + 1)
    values = np.where(values == 0, np.minimum(less, lowest / 2), values)
    values = np.where(values == 1, np.maximum(less, (1 + highest) / 2), values)
    centres = np.bincount(place, decisions) / counts
    low, high = values[0] / 2, values[-1] + (1 - values[-1]) / 2
    knots = np.concatenate([[decisions.min() - 1e-9], centres, [decisions.max() + 1e-9]])
    return knots, np.concatenate([[low], values, [high]])
