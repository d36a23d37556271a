"""How well probabilities agree with judgements: reliability curve, Brier score, calibration error, precision-recall."""

from typing import Any

import numpy as np

BINS = 10
"""Equal steps of probability in a reliability curve."""


def reliability(probability: np.ndarray, match: np.ndarray) -> dict[str, Any]:
    """Compare probabilities with what was judged.

    Args:
        probability: (P,) in [0, 1].
        match: (P,) whether each pair was judged a match.

    Returns:
        pairs, matches; brier: the mean squared difference, smaller is better, 0.25 for "one half" of everything;
        expected_calibration_error: the mean over pairs of |mean probability - share of matches| of their bin
        (Naeini et al., AAAI 2015), 0 is best; average_precision (null without a match); bins: from, to, pairs,
        probability (mean) and share (of matches), empty bins left out; precision_recall: up to 20 points.
    """
    match = np.asarray(match, dtype=bool)
    number = len(match)
    which = np.minimum((probability * BINS).astype(int), BINS - 1)
    bins = []
    for step in range(BINS):
        inside = which == step
        if inside.any():
            bins.append(
                {
                    "from": step / BINS,
                    "to": (step + 1) / BINS,
                    "pairs": int(inside.sum()),
                    "probability": float(probability[inside].mean()),
                    "share": float(match[inside].mean()),
                }
            )
    error = sum(one["pairs"] * abs(one["probability"] - one["share"]) for one in bins) / max(number, 1)
    return {
        "pairs": number,
        "matches": int(match.sum()),
        "brier": float(np.square(probability - match).mean()) if number else None,
        "expected_calibration_error": float(error) if number else None,
        "average_precision": _average_precision(probability, match),
        "bins": bins,
        "precision_recall": _precision_recall(probability, match),
    }


def _average_precision(probability: np.ndarray, match: np.ndarray) -> float | None:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(match, probability)) if match.any() else None


def _precision_recall(probability: np.ndarray, match: np.ndarray) -> list[dict[str, float]]:
    """Return precision and recall where 5, 10, ... 100 % of the matches are found."""
    if not match.any():
        return []
    ranks = np.flatnonzero(match[np.argsort(-probability, kind="stable")]) + 1
    matches = np.unique(np.ceil(np.linspace(0.05, 1, 20) * len(ranks)).astype(int))
    return [{"recall": float(n / len(ranks)), "precision": float(n / ranks[n - 1])} for n in matches]
