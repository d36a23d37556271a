"""Prediction-powered estimates of two runs' scores and of their difference, from a machine judge and people's answers.

A score is a constant plus a sum over units (`units`). Each unit's value is estimated by m + (y - m) / chance where
people answered y, and by m elsewhere; m is a + lambda times what the judge expects. Whatever the judge says, the
expectation is the truth: a bad judge costs width, never validity. a and lambda are tuned such that the estimate varies
least (PPI++'s lambda; with the intercept, a constant replaces a useless judge), for each fifth of the units by the
answers on the others, so that no answer corrects itself.

The interval is of the split's own queries: what is uncertain is what people would say of what was not asked, not which
images were tested. The variance is the sum of the answered units' terms, which is unbiased; the interval takes
Student's t with as many degrees of freedom as these terms allow (Satterthwaite's).

Source: Angelopoulos et al., Prediction-powered inference, Science 2023, arXiv:2301.09633; Angelopoulos, Duchi and
Zrnic, PPI++, arXiv:2311.01453, for lambda. Different: there a simple random sample of a superpopulation, here the
units of a finite pool, each asked with its own known chance.

Legend: P pairs of the pool, U units, n answered ones, 2 runs.
"""

from dataclasses import dataclass

import numpy as np

from cusa.eval.judged.sample import Answers
from cusa.eval.judged.units import Term, Units

_FOLDS = 5
_PRIOR = 3.0  # answers that the untouched judge (a = 0, lambda = 1) weighs as much as
_FEWEST = 5  # answered units that decide a score, below which no interval is given
CONFIDENCE = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of two.

    Attributes:
        value: in percent.
        low: lower end of the 95 % interval; None where too little was answered for one.
        high: upper end.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Compared:
    """One score of both runs in one direction.

    Attributes:
        score: `r@1`, `r_precision` or `map_at_r`.
        direction: `image-to-text` or `text-to-image`.
        first: of the first run.
        second: of the second.
        difference: first less second.
        judge_alone: both and their difference by what was known at the draw and the judge's word for the rest.
        units: pairs (R@1) or queries that decide the score and were open at the draw.
        answered: how many of them people have answered.
        weight: lambda, the mean of the folds'.
        further: pairs after whose verdicts an interval of the difference leaves out 0 with a probability of 80 %, if
            the difference is what it now seems to be; 0 where it does already; None where nothing can be said.
    """

    score: str
    direction: str
    first: Estimate
    second: Estimate
    difference: Estimate
    judge_alone: tuple[float, float, float]
    units: int
    answered: int
    weight: float
    further: int | None


def compare(units: Units, size_U: np.ndarray, answers: Answers, truth_P: np.ndarray) -> list[Compared]:
    """Estimate every score that the units decide.

    Args:
        units: what was asked.
        size_U: of each unit in the draw.
        answers: what people said.
        truth_P: 1 or 0 where a pair was known at the draw or has a verdict; what stands elsewhere is not read.
    """
    return [_compare(term, units, size_U, answers, truth_P) for term in units.terms]


def _compare(term: Term, units: Units, size_U: np.ndarray, answers: Answers, truth_P: np.ndarray) -> Compared:
    asked, chance = answers.units, answers.chance
    answered = term.values(np.nan_to_num(truth_P))[asked]
    model, weight = _tuned(term, answers, answered)
    residual = answered - model[asked]
    values = term.constant + model.sum(0) + (residual / chance[:, None]).sum(0)
    alone = term.constant + term.expected.sum(0)
    residuals = np.column_stack([residual, residual[:, 0] - residual[:, 1]])
    terms = residuals**2 * ((1 - chance) / chance**2)[:, None]
    decides = (term.scale != 0).any(axis=1)
    counted = int(decides[asked].sum())
    enough = counted >= min(_FEWEST, int(decides.sum()))
    first, second, difference = (
        _estimate(value, column, lowest if enough else None)
        for value, column, lowest in zip((*values, values[0] - values[1]), terms.T, (0.0, 0.0, -100.0), strict=True)
    )
    return Compared(
        term.score,
        term.direction,
        first,
        second,
        difference,
        judge_alone=(100 * float(alone[0]), 100 * float(alone[1]), 100 * float(alone[0] - alone[1])),
        units=int(decides.sum()),
        answered=counted,
        weight=weight,
        further=_further(difference, residuals[:, 2], units, size_U, answers),
    )


def _tuned(term: Term, answers: Answers, answered: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the tuned expectation of each unit (U, 2), and the mean lambda.

    Args:
        term: the score.
        answers: what people said.
        answered: (n, 2) what each answered unit adds.
    """
    fold_U = np.arange(len(term.expected)) % _FOLDS
    fold_n = fold_U[answers.units]
    weight_n = (1 - answers.chance) / answers.chance**2

    def with_difference(values: np.ndarray) -> np.ndarray:
        return np.column_stack([values, values[:, 0] - values[:, 1]])

    one, judge = (with_difference(values[answers.units]) for values in (term.scale, term.expected))
    said = with_difference(answered)
    intercepts, slopes = np.zeros(_FOLDS), np.ones(_FOLDS)
    for fold in range(_FOLDS):
        weight = np.where(fold_n != fold, weight_n, 0.0)[:, None]
        strength = float((weight * one**2).sum())
        counted = int((weight * one**2).any(1).sum())
        if not counted:
            continue
        # The prior pulls to a = 0 and lambda = 1 as agreeing answers of expectation 0 and of 1 would.
        prior = _PRIOR * strength / counted / 2
        left = np.array([[strength, (weight * one * judge).sum()], [0.0, (weight * judge**2).sum()]])
        left[1, 0] = left[0, 1]
        right = np.array([(weight * one * said).sum(), (weight * judge * said).sum()])
        intercepts[fold], slopes[fold] = np.linalg.solve(
            left + prior * np.array([[2.0, 1.0], [1.0, 1.0]]), right + prior
        )
    model = intercepts[fold_U, None] * term.scale + slopes[fold_U, None] * term.expected
    return model, float(slopes.mean())


def _estimate(value: float, terms: np.ndarray, lowest: float | None) -> Estimate:
    """Return an estimate in percent with its interval, cut to what the score can be."""
    middle = 100 * float(value)
    if lowest is None:
        return Estimate(middle, None, None)
    half = 100 * _student(terms) * float(np.sqrt(terms.sum()))
    return Estimate(middle, max(middle - half, lowest), min(middle + half, 100.0))


def _student(terms: np.ndarray) -> float:
    """Return Student's quantile for a variance that is the sum of some terms."""
    from scipy.stats import t

    if not terms.any():
        return 0.0
    freedom = max(float(terms.sum() ** 2 / (terms**2).sum()) - 1, 2.0)
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def _further(
    difference: Estimate, residual_n: np.ndarray, units: Units, size_U: np.ndarray, answers: Answers
) -> int | None:
    """Return how many further verdicts would tell the runs apart; see `Compared.further`."""
    from scipy.stats import norm

    if difference.low is None or difference.high is None:
        return None
    if difference.low > 0 or difference.high < 0:
        return 0
    if not np.isfinite(answers.threshold):
        return None  # everything was asked: they are as far apart as they are
    size_n = size_U[answers.units]
    square_n = residual_n**2 / answers.chance
    wanted = (abs(difference.value) / 100 / float(norm.ppf((1 + CONFIDENCE) / 2) + norm.ppf(POWER))) ** 2

    def pairs(threshold: float) -> float:
        return float((np.minimum(1.0, size_U * threshold) * units.pairs_of_unit).sum())

    low, high = answers.threshold, 1 / float(size_U.min())
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        chance = np.minimum(1.0, size_n * middle)
        enough = float((square_n * (1 - chance) / chance).sum()) <= wanted
        low, high = (low, middle) if enough else (middle, high)
    return max(int(np.ceil(pairs(high) - pairs(answers.threshold))), 1)
