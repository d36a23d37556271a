"""Agreement with people's judgements: against scipy's and scikit-learn's figures on pairs written out."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score, roc_auc_score

from cusa.eval.tasks.agreement import JudgedScores, draws

SEEDS = st.integers(0, 10_000)


def _world(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return scores with ties, the image of each pair, votes, and draws of the images, the first of each once."""
    rng = np.random.default_rng(seed)
    num_pairs, levels, num_images = (int(rng.integers(2, most)) for most in (60, 6, 12))
    scores = np.round(rng.normal(size=num_pairs), int(rng.integers(0, 3)))
    votes = rng.integers(0, 3, (num_pairs, levels))
    votes[0] += 1
    drawn = np.concatenate([np.ones((1, num_images), int), draws(num_images, samples=3, seed=seed)])
    return scores, rng.integers(0, num_images, num_pairs), votes, drawn


def _written_out(scores: np.ndarray, votes: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = [
        (score, level)
        for score, of_pair, number_of_times in zip(scores, votes, times, strict=True)
        for level, number in enumerate(of_pair)
        for _ in range(number * number_of_times)
    ]
    both = np.array(rows).reshape(-1, 2)
    return both[:, 0], both[:, 1]


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS)
def test_tau__is_scipy_s_on_the_votes_written_out(seed: int) -> None:
    scores, images, votes, drawn = _world(seed)
    judged = JudgedScores(scores, images, drawn.shape[1])
    for variant in ("b", "c"):
        ours = judged.tau(variant, votes, drawn)
        for value, times in zip(ours, drawn, strict=True):
            x, y = _written_out(scores, votes, times[images])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = kendalltau(x, y, variant=variant).statistic if len(x) > 1 else np.nan
            assert value == pytest.approx(100 * theirs, nan_ok=True)


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS)
def test_ranking__is_scikit_learn_s(seed: int) -> None:
    scores, images, votes, drawn = _world(seed)
    right = votes[:, 0] > 0
    judged = JudgedScores(scores, images, drawn.shape[1])
    found = zip(judged.auc(right, drawn), judged.average_precision(right, drawn), drawn, strict=True)
    for auc, average_precision, times in found:
        weights = times[images]
        kinds = set(right[weights > 0].tolist())
        assert np.isnan(auc) == (len(kinds) < 2)
        assert np.isnan(average_precision) == (True not in kinds)
        if len(kinds) == 2:
            assert auc == pytest.approx(100 * roc_auc_score(right, scores, sample_weight=weights))
            theirs = average_precision_score(right, scores, sample_weight=weights)
            assert average_precision == pytest.approx(100 * theirs)


def test_perfect_opposite_and_constant_scores() -> None:
    votes = np.repeat(np.eye(4, dtype=int), 5, axis=0)
    levels, images, once = votes.argmax(1), np.arange(20), np.ones((1, 20), int)
    for scores, value in ((levels, 100.0), (-levels, -100.0)):
        judged = JudgedScores(scores, images, 20)
        assert [judged.tau("b", votes, once)[0], judged.tau("c", votes, once)[0]] == pytest.approx([value, value])
    constant = JudgedScores(np.zeros(20), images, 20)
    assert np.isnan([constant.tau("b", votes, once)[0], constant.tau("c", votes, once)[0]]).all()
    assert constant.auc(levels >= 2, once)[0] == constant.average_precision(levels >= 2, once)[0] == 50


def test_draws__as_many_as_there_are_and_none_where_none_are_wanted() -> None:
    drawn = draws(7, samples=5, seed=0)
    assert drawn.shape == (5, 7)
    assert (drawn.sum(1) == 7).all()
    assert (
        len(JudgedScores(np.arange(3.0), np.arange(3), 7).tau("b", np.eye(3, dtype=int), draws(7, samples=0, seed=0)))
        == 0
    )
