"""Metrics against counting by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.eval.metrics import bootstrap_interval, mean_percent, median_rank, recall_at_k


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(1, 12))
def test_recall_at_k__is_a_count(ranks: list[int], k: int) -> None:
    hits = sum(1 for rank in ranks if 1 <= rank <= k)
    assert recall_at_k(np.array(ranks), k) == pytest.approx(100 * hits / len(ranks))


def test_means_and_medians_leave_out_what_they_say() -> None:
    assert median_rank(np.array([0, 1, 5, 9])) == 5
    assert math.isnan(median_rank(np.array([0, 0])))
    assert mean_percent(np.array([0.5, np.nan, 1.0])) == 75
    assert math.isnan(mean_percent(np.array([np.nan])))
    assert math.isnan(recall_at_k(np.array([], dtype=np.int64), 1))


def test_bootstrap_interval__of_a_mean_is_the_textbook_s() -> None:
    values = np.random.default_rng(0).normal(10, 2, size=400)
    low, high = bootstrap_interval(lambda rows: float(values[rows].mean()), 400, samples=3000, seed=1) or (0, 0)
    error = values.std(ddof=1) / math.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.03)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.03)
    assert bootstrap_interval(lambda rows: 0.0, 400, samples=0, seed=1) is None
