"""Figures of a ranking: plain loops, a library's average precision, and a simulated batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from cusa.pipeline.audit.figures import batch_false_negatives, ranking_figures


@settings(max_examples=60, deadline=None)
@given(known=st.lists(st.booleans(), min_size=1, max_size=300).filter(any), seed=st.integers(0, 99))
def test_ranking_figures__equal_scikit_learn_and_loops(known: list[bool], seed: int) -> None:
    values = np.random.default_rng(seed).permutation(len(known)).astype(float)
    got = ranking_figures(values, np.array(known), num_known=sum(known), num_open=1000)
    assert got["average_precision"] == pytest.approx(average_precision_score(known, values))
    ranks = [1 + sum(other > value for other in values) for value, true in zip(values, known, strict=True) if true]
    assert got["median_rank"] == np.median(ranks)
    assert got["recall"]["100"] == sum(rank <= 100 for rank in ranks) / len(ranks)
    if len(known) >= 100:
        assert got["precision"]["100"] == sum(rank <= 100 for rank in ranks) / 100
    else:
        assert got["precision"] == {}


def test_ranking_figures__what_is_no_candidate_counts_as_last() -> None:
    got = ranking_figures(np.array([0.9, 0.5]), np.array([True, False]), num_known=4, num_open=77)
    assert got["median_rank"] == 77
    assert got["average_precision"] == 0.25
    assert got["recall"] == {"100": 0.25, "1000": 0.25, "10000": 0.25}


def test_ranking_figures__ties_keep_their_order_and_nan_goes_last() -> None:
    values = np.array([np.nan, 0.5, 0.5, 0.5])
    at = [ranking_figures(values, np.arange(4) == row, num_known=1, num_open=9)["median_rank"] for row in range(4)]
    assert at == [4, 1, 2, 3]


def test_batch_false_negatives__equals_drawn_batches() -> None:
    rng = np.random.default_rng(0)
    owner = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 4])
    true = rng.random((5, 10)) < 0.3
    true[owner, np.arange(10)] = False
    images, _ = np.nonzero(true)
    expected = batch_false_negatives(images, owner, num_images=5, batch=4)
    drawn = []
    for _ in range(20_000):
        batch = rng.permutation(10)[:4]
        drawn.append(sum(true[owner[a], b] for a in batch for b in batch if a != b))
    assert expected == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(len(drawn)))
    whole = batch_false_negatives(images, owner, num_images=5, batch=10)
    assert whole == sum(true[owner[a], b] for a in range(10) for b in range(10))
    assert batch_false_negatives(images, owner, num_images=5, batch=999) == whole
    assert batch_false_negatives(images, owner[:1], num_images=5, batch=128) == 0
