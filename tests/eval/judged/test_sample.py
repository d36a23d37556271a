"""The order of asking: any beginning of it, weighted by the inverse chances, stands for the whole."""

import numpy as np

from cusa.eval.judged.sample import answers, priorities
from cusa.eval.judged.units import Units


def _units(unit: list[int], pair: list[int]) -> Units:
    return Units(np.array(unit), np.array(pair), max(unit) + 1, ())


def test_answers__end_before_the_first_unit_that_lacks_a_verdict() -> None:
    units = _units([0, 0, 1, 2, 3], [0, 1, 2, 3, 4])
    size, priority = np.array([1.0, 2.0, 1.0, 1.0]), np.array([0.3, 0.1, 0.2, 0.4])
    truth = np.array([1.0, 0.0, 1.0, 1.0, np.nan])
    said = answers(units, size, priority, truth, np.zeros(5, bool))
    assert said.units.tolist() == [1, 2, 0]
    assert said.threshold == 0.4
    np.testing.assert_allclose(said.chance, [0.8, 0.4, 0.4])
    truth[1] = np.nan  # half of unit 0: it is not answered, and ends the beginning
    said = answers(units, size, priority, truth, np.zeros(5, bool))
    assert said.units.tolist() == [1, 2]
    assert said.threshold == 0.3


def test_answers__a_skipped_pair_neither_ends_the_beginning_nor_counts() -> None:
    units = _units([0, 1, 2], [0, 1, 2])
    truth = np.array([1.0, np.nan, 0.0])
    said = answers(units, np.ones(3), np.array([0.1, 0.2, 0.3]), truth, np.array([False, True, False]))
    assert said.units.tolist() == [0, 2]
    assert said.passed == 1
    assert said.threshold == np.inf
    assert said.chance.tolist() == [1.0, 1.0]


def test_priorities__any_beginning_is_weighted_without_bias() -> None:
    """Of 40 units of very different sizes the first 8 stand for all: over 4,000 draws, within 4 standard errors."""
    rng = np.random.default_rng(0)
    size, value = rng.uniform(0.05, 1, 40), rng.normal(1, 2, 40)
    units = _units(list(range(40)), list(range(40)))
    totals, squares = [], []
    for seed in range(4000):
        priority = priorities(size, seed)
        truth = np.full(40, np.nan)
        truth[np.argsort(priority)[:8]] = 1.0
        said = answers(units, size, priority, truth, np.zeros(40, bool))
        assert len(said.units) == 8
        totals.append((value[said.units] / said.chance).sum())
        squares.append((value[said.units] ** 2 * (1 - said.chance) / said.chance**2).sum())
    error = np.std(totals) / np.sqrt(len(totals))
    assert abs(np.mean(totals) - value.sum()) < 4 * error
    assert abs(np.mean(squares) / np.var(totals) - 1) < 0.15, "the variance is estimated without bias as well"
