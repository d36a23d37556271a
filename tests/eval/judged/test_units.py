"""Units: a score is what is known plus the sum of its units, whatever the truth."""

import numpy as np
import pytest

from cusa.eval.judged.pool import Pool
from cusa.eval.judged.scores import at_r
from cusa.eval.judged.units import Term, Units, single_pairs, whole_queries
from tests.eval.judged.drawn import make_pool, truth_of


def _units(pool: Pool, scores: str) -> Units:
    return single_pairs(pool) if scores == "r@1" else whole_queries(pool, seed=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_single_pairs__sum_to_the_share_of_right_first_answers(seed: int) -> None:
    match = truth_of(seed)
    pool, truth = make_pool(match, np.full(match.shape, 0.5))
    units = single_pairs(pool)
    assert pool.open[units.pair].all()
    assert len(set(units.pair.tolist())) == units.number
    for term in units.terms:
        expected = [truth[places.top[:, 0]].mean() for places in pool.places[term.direction]]
        np.testing.assert_allclose(term.constant + term.values(truth).sum(0), expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_whole_queries__sum_to_the_mean_score(seed: int) -> None:
    match = truth_of(seed)
    pool, truth = make_pool(match, np.full(match.shape, 0.5), depth=3)
    units = whole_queries(pool, seed=0)
    for term in units.terms:
        at = ["r_precision", "map_at_r"].index(term.score)
        expected = [at_r(places, truth)[at].mean() for places in pool.places[term.direction]]
        np.testing.assert_allclose(term.constant + term.values(truth).sum(0), expected)
    ways = list(pool.places)
    first = [pair for unit, pair in zip(units.unit, units.pair, strict=True) if unit == 0]
    members = np.concatenate([part[0] for one in pool.places[ways[0]] for part in (one.top, one.rest)])
    assert set(first) == {pair for pair in members if pair >= 0 and pool.open[pair]}


@pytest.mark.parametrize("scores", ["r@1", "at-r"])
def test_units__a_judge_that_knows_expects_the_truth(scores: str) -> None:
    match = truth_of()
    pool, truth = make_pool(match, match.astype(float), depth=3)
    units = _units(pool, scores)
    for term in units.terms:
        np.testing.assert_allclose(term.expected, term.values(truth), atol=1e-12)


@pytest.mark.parametrize("scores", ["r@1", "at-r"])
def test_sizes__are_positive_and_larger_where_the_judge_is_in_doubt(scores: str) -> None:
    match = truth_of()
    judge = np.where(np.arange(60) < 30, 0.5, 0.0)[None].repeat(30, 0)
    pool, _ = make_pool(match, judge, depth=3)
    units = _units(pool, scores)
    size = units.sizes()
    assert (size > 0).all()
    doubtful = np.bincount(units.unit, pool.judge[units.pair] > 0, minlength=units.number) / units.pairs_of_unit
    assert size[doubtful == 1].mean() > 1.2 * size[doubtful == 0].mean()


def test_sizes__are_the_roots_of_shares_in_the_variance_by_pairs() -> None:
    variance = np.array([[3.0, 1.0], [1.0, 3.0]])
    nothing = np.zeros((2, 2))
    term = Term("r_precision", "", np.zeros(2), nothing, nothing, variance, np.array([1.0, 1.0]), lambda truth: nothing)
    units = Units(np.array([0, 0, 0, 0, 1]), np.arange(5), 2, (term,))
    # Shares 3/4, 1/4 and 1/2 of the first unit, and 1/4, 3/4 and 1/2 of the second; four pairs against one.
    np.testing.assert_allclose(units.sizes(), [(1.5 / 4) ** 0.5, 1.5**0.5])


def test_units__nothing_open_decides_everything() -> None:
    match = truth_of()
    pool, truth = make_pool(match, match.astype(float))
    closed = Pool(pool.images, pool.captions, truth, pool.judge, pool.places)
    for scores in ("r@1", "at-r"):
        units = _units(closed, scores)
        assert units.number == 0
        assert units.sizes().shape == (0,)
        assert all(0 < term.constant[0] <= 1 for term in units.terms)
