"""Estimates: exact where everything is known, unbiased whatever the judge says, narrower with a good one."""

from collections.abc import Callable

import numpy as np
import pytest

from cusa.eval.judged import estimate as estimates
from cusa.eval.judged.estimate import Compared, compare
from cusa.eval.judged.pool import Pool
from cusa.eval.judged.sample import answers, priorities
from cusa.eval.judged.units import Units, single_pairs, whole_queries
from tests.eval.judged.drawn import make_pool, truth_of

Judge = Callable[[np.ndarray], np.ndarray]
JUDGES: dict[str, Judge] = {
    "good": lambda match: np.where(match, 0.9, 0.05),
    "inverted": lambda match: np.where(match, 0.05, 0.9),
    "random": lambda match: np.random.default_rng(9).random(match.shape),
    "silent": lambda match: np.zeros(match.shape),
}


def _asked(units: Units, truth: np.ndarray, pool: Pool, number: int, seed: int) -> list[Compared]:
    size = units.sizes()
    priority = priorities(size, seed)
    said = np.full(len(truth), np.nan)
    first = np.isin(units.unit, np.argsort(priority)[:number])
    said[units.pair[first]] = truth[units.pair[first]]
    said[~pool.open] = pool.known[~pool.open]
    return compare(units, size, answers(units, size, priority, said, np.zeros(len(truth), bool)), said)


def _true(units: Units, truth: np.ndarray) -> list[np.ndarray]:
    both = [100 * (term.constant + term.values(truth).sum(0)) for term in units.terms]
    return [np.array([*one, one[0] - one[1]]) for one in both]


@pytest.mark.parametrize("make", [single_pairs, lambda pool: whole_queries(pool, seed=0)])
@pytest.mark.parametrize("judge", JUDGES)
def test_compare__with_every_answer_is_the_score_itself(make: Callable[[Pool], Units], judge: str) -> None:
    match = truth_of()
    pool, truth = make_pool(match, JUDGES[judge](match))
    units = make(pool)
    for one, expected in zip(_asked(units, truth, pool, units.number, 0), _true(units, truth), strict=True):
        for estimate, value in zip((one.first, one.second, one.difference), expected, strict=True):
            assert estimate.value == pytest.approx(value)
            assert (estimate.low, estimate.high) == (pytest.approx(value), pytest.approx(value))
        assert one.answered == one.units


def test_compare__with_no_answer_is_the_judges_word_without_an_interval() -> None:
    match = truth_of()
    pool, truth = make_pool(match, JUDGES["good"](match))
    for one in _asked(single_pairs(pool), truth, pool, 0, 0):
        assert one.difference.value == pytest.approx(one.judge_alone[2])
        assert one.difference.low is None
        assert one.further is None
        assert one.weight == 1.0


@pytest.mark.parametrize("scores", ["r@1", "at-r"])
@pytest.mark.parametrize("judge", JUDGES)
def test_compare__redrawn_is_unbiased_and_covers(scores: str, judge: str) -> None:
    """300 redraws of half of the units: the mean within 5 standard errors of the truth, 90 % of intervals or more."""
    match = truth_of()
    pool, truth = make_pool(match, JUDGES[judge](match), depth=3)
    units = single_pairs(pool) if scores == "r@1" else whole_queries(pool, seed=0)
    true = np.array(_true(units, truth))
    values, covered = [], []
    for seed in range(300):
        estimates = [
            (one.first, one.second, one.difference) for one in _asked(units, truth, pool, units.number // 2, seed)
        ]
        values.append([[one.value for one in three] for three in estimates])
        covered.append(
            [
                [one.low is not None and one.high is not None and one.low <= value <= one.high for one, value in pairs]
                for pairs in (zip(three, row, strict=True) for three, row in zip(estimates, true, strict=True))
            ]
        )
    error = np.std(values, axis=0) / np.sqrt(len(values))
    assert (abs(np.mean(values, axis=0) - true) < 5 * error + 1e-9).all()
    assert np.mean(covered, axis=0).min() >= 0.9


def test_compare__a_good_judge_narrows_and_a_bad_one_costs_little() -> None:
    match = truth_of()
    width = {}
    for name, judge in JUDGES.items():
        pool, truth = make_pool(match, judge(match))
        units = single_pairs(pool)
        spans = []
        for seed in range(40):
            for one in _asked(units, truth, pool, units.number // 2, seed):
                assert one.difference.low is not None
                assert one.difference.high is not None
                spans.append(one.difference.high - one.difference.low)
        width[name] = float(np.mean(spans))
    assert width["good"] < 0.7 * width["silent"]
    assert width["random"] < 1.15 * width["silent"]
    assert width["inverted"] < 0.8 * width["silent"], "lambda turns it round"


def test_compare__tells_how_many_verdicts_are_lacking() -> None:
    match = truth_of()
    pool, truth = make_pool(match, JUDGES["silent"](match))
    units = single_pairs(pool)
    few, many = (_asked(units, truth, pool, number, 3)[1] for number in (12, units.number - 1))
    assert few.further is None or few.further > 0
    if few.further:
        assert few.further <= units.number
    assert many.further == 0, "the runs differ, and nearly everything is known"


@pytest.mark.parametrize(("terms", "quantile"), [(2, 4.303), (3, 4.303), (5, 2.776), (11, 2.228), (121, 1.980)])
def test_student__is_the_table_s_quantile_for_one_term_less(terms: int, quantile: float) -> None:
    """Student's t at 97.5 % from any table: n equal terms leave n - 1 degrees of freedom, two at the least."""
    assert estimates._student(np.full(terms, 0.3)) == pytest.approx(quantile, abs=5e-4)
    assert estimates._student(np.zeros(terms)) == 0.0


def test_estimate__the_interval_is_cut_to_what_a_score_can_be() -> None:
    terms = np.full(11, 0.04 / 11)  # a standard error of 0.2, so that half an interval is 44.56 points
    one = estimates._estimate(0.5, terms, 0.0)
    assert (one.value, one.low, one.high) == (50.0, pytest.approx(5.44, abs=0.01), pytest.approx(94.56, abs=0.01))
    assert estimates._estimate(0.1, terms, 0.0).low == 0.0
    assert estimates._estimate(0.1, terms, -100.0).low == pytest.approx(-34.56, abs=0.01)
    assert estimates._estimate(0.9, terms, 0.0).high == 100.0
    assert estimates._estimate(0.25, terms, None) == estimates.Estimate(25.0, None, None)
