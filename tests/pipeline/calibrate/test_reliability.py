"""Reliability figures against plain loops and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss

from cusa.pipeline.calibrate.reliability import reliability


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60))
def test_reliability__as_plain_loops_say(pairs: list[tuple[float, bool]]) -> None:
    p, match = np.array([a for a, _ in pairs], dtype=float), np.array([b for _, b in pairs])
    measured = reliability(p, match)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for one in pairs:
        bins.setdefault(min(int(one[0] * 10), 9), []).append(one)
    error = sum(abs(sum(a for a, _ in inside) - sum(b for _, b in inside)) for inside in bins.values()) / len(pairs)
    assert measured["expected_calibration_error"] == pytest.approx(error, abs=1e-9)
    assert measured["brier"] == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / len(pairs))
    assert measured["bins"] == [
        {
            "from": key / 10,
            "to": (key + 1) / 10,
            "pairs": len(inside),
            "probability": pytest.approx(sum(a for a, _ in inside) / len(inside)),
            "share": pytest.approx(sum(b for _, b in inside) / len(inside)),
        }
        for key, inside in sorted(bins.items())
    ]
    assert (measured["pairs"], measured["matches"]) == (len(pairs), sum(b for _, b in pairs))
    order = sorted(range(len(pairs)), key=lambda pair: -p[pair])  # stable
    places = [rank for rank, pair in enumerate(order, 1) if match[pair]]
    points = sorted({math.ceil(round(step * len(places) / 20, 9)) for step in range(1, 21)}) if places else []
    assert measured["precision_recall"] == [
        {"recall": pytest.approx(n / len(places)), "precision": pytest.approx(n / places[n - 1])} for n in points
    ]


def test_reliability__agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p = rng.permutation(np.linspace(0.001, 0.999, 500))
    match = rng.random(500) < p
    measured = reliability(p, match)
    assert measured["brier"] == pytest.approx(brier_score_loss(match, p))
    assert measured["average_precision"] == pytest.approx(average_precision_score(match, p))
    assert measured["precision_recall"][-1] == {
        "recall": 1.0,
        "precision": pytest.approx(measured["matches"] / _last(p, match)),
    }
    assert measured["expected_calibration_error"] < 0.08


def _last(p: np.ndarray, match: np.ndarray) -> int:
    return int((p >= p[match].min()).sum())


def test_reliability__nothing_judged_and_nothing_true() -> None:
    assert reliability(np.zeros(0), np.zeros(0)) == {
        "pairs": 0,
        "matches": 0,
        "brier": None,
        "expected_calibration_error": None,
        "average_precision": None,
        "bins": [],
        "precision_recall": [],
    }
    measured = reliability(np.full(4, 0.25), np.zeros(4))
    assert (measured["average_precision"], measured["precision_recall"]) == (None, [])
    assert measured["expected_calibration_error"] == 0.25
