"""In which order people are asked: a random one in which any beginning is a sample with known chances.

Every unit gets a uniform random number, divided by its size: its priority. People are asked in ascending priority, for
as long as they like. Given the priority t of the first unit that was not asked, each unit was asked with the chance
min(1, t size), and weighting by the inverse of that chance is unbiased, and uncorrelated over units, after any number
of verdicts that was not chosen by their outcome.

Source: Duffield, Lund and Thorup, Priority sampling for estimation of arbitrary subset sums, J. ACM 2007, theorems 1
and 2; as sequential Poisson sampling: Ohlsson, J. Official Statistics 1998.

Legend: P pairs of the pool, U units.
"""

from dataclasses import dataclass

import numpy as np

from cusa.eval.judged.units import Units


def priorities(size_U: np.ndarray, seed: int) -> np.ndarray:
    """Return each unit's place in the order of asking, (U,): smaller is earlier.

    Args:
        size_U: larger = earlier on average, above 0.
        seed: the same seed gives the same order of the same sizes.
    """
    random = 1.0 - np.random.default_rng(seed).random(len(size_U))  # never 0
    return np.asarray(random / size_U)


@dataclass(frozen=True)
class Answers:
    """What people said of the beginning of an order.

    Attributes:
        units: (n,) that were asked and answered whole.
        chance: (n,) with which each was asked.
        threshold: priority of the first unit that was not asked; infinite where all were.
        passed: units of the beginning without a usable answer, because a pair was skipped or is disputed.
    """

    units: np.ndarray
    chance: np.ndarray
    threshold: float
    passed: int


def answers(
    units: Units, size_U: np.ndarray, priority_U: np.ndarray, truth_P: np.ndarray, passed_P: np.ndarray
) -> Answers:
    """Return the longest beginning of the order that people have answered.

    Args:
        units: what is asked.
        size_U: of each unit.
        priority_U: of each unit.
        truth_P: 1 or 0 by the verdict, NaN where there is none.
        passed_P: whether people were asked and gave no usable answer; such pairs end no beginning.
    """
    lacking, passed = (
        np.bincount(units.unit, without[units.pair], minlength=units.number) > 0
        for without in (np.isnan(truth_P) & ~passed_P, np.isnan(truth_P) & passed_P)
    )
    order = np.argsort(priority_U, kind="stable")
    open_places = np.flatnonzero(lacking[order])
    end = int(open_places[0]) if len(open_places) else len(order)
    threshold = float(priority_U[order[end]]) if end < len(order) else np.inf
    asked = order[:end]
    usable = asked[~passed[asked]]
    return Answers(usable, np.minimum(1.0, size_U[usable] * threshold), threshold, int(passed[asked].sum()))
