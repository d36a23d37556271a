"""What people are asked about at once: single pairs for R@1, whole queries for R-Precision and mAP@R.

R@1 is a sum over pairs: a query's first answer is right or not. So a unit is one pair, and its answer serves every
query that it is the first answer of, in both runs and directions. R-Precision and mAP@R of a query depend on how many
right items it has, hence on all pairs of its pool together: there a unit is a query, whose open pairs are all asked.
Either way each score is a constant, which what is known decides, plus a sum over units.

Legend: P pairs of the pool, U units, Q queries of a direction, 2 runs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cusa.eval.judged.pool import Pool
from cusa.eval.judged.scores import AT_R, Score, at_r

_DRAWS = 64  # of truths by the judge, for the expectation of a query's score
_SPREAD = {"r@1": 0.1, "r_precision": 0.02, "map_at_r": 0.02}
"""Added to the variance of a unit by the judge, so that units of which it is certain are asked too, should it be wrong.
A smaller number helps a good judge little and makes the interval of a bad one unreliable."""


@dataclass(frozen=True)
class Term:
    """One score of both runs in one direction, as a sum over units.

    Attributes:
        score: which.
        direction: `image-to-text` or `text-to-image`.
        constant: (2,) what the pairs known at the draw decide.
        expected: (U, 2) what each unit adds by the judge's word.
        scale: (U, 2) what it adds for each 1 of its value: 0 where it decides nothing here.
        variance: (U, 2) of what it adds, by the judge's word and a margin.
        variance_of_difference: (U,) likewise of the first run less the second.
        values: from the truth of all pairs (P,) to what each unit adds (U, 2).
    """

    score: Score
    direction: str
    constant: np.ndarray
    expected: np.ndarray
    scale: np.ndarray
    variance: np.ndarray
    variance_of_difference: np.ndarray
    values: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Units:
    """Units and the scores that they decide.

    Attributes:
        unit: (E,) the unit of each entry, ascending.
        pair: (E,) the open pair of each entry.
        number: U.
        terms: the scores.
    """

    unit: np.ndarray
    pair: np.ndarray
    number: int
    terms: tuple[Term, ...]

    @property
    def pairs_of_unit(self) -> np.ndarray:
        """(U,) open pairs."""
        return np.bincount(self.unit, minlength=self.number)

    def sizes(self) -> np.ndarray:
        """Return how much each unit is worth asking about for its cost, (U,).

        It is the root of its share in the variance of all scores and differences, each counting alike, by the number of
        its pairs (Neyman's allocation with costs: Cochran, Sampling Techniques, 5.5).
        """
        weight = np.zeros(self.number)
        for term in self.terms:
            for variance in (*term.variance.T, term.variance_of_difference):
                weight += variance / max(float(variance.sum()), 1e-300)
        return np.asarray(np.sqrt(weight / np.maximum(self.pairs_of_unit, 1)))


def single_pairs(pool: Pool) -> Units:
    """Return the units of R@1: the open pairs that stand at a first place."""
    coefficients = {
        way: np.stack([_firsts(one.top, len(pool.judge)) for one in both]) for way, both in pool.places.items()
    }
    pairs = np.flatnonzero(pool.open & np.any([slopes.any(0) for slopes in coefficients.values()], axis=0))
    p = pool.judge[pairs]
    terms = []
    for way, slopes in coefficients.items():
        scale = slopes[:, pairs].T
        variance = (p * (1 - p) + _SPREAD["r@1"])[:, None]
        terms.append(
            Term(
                "r@1",
                way,
                constant=slopes @ np.nan_to_num(pool.known),
                expected=scale * p[:, None],
                scale=scale,
                variance=scale**2 * variance,
                variance_of_difference=(scale[:, 0] - scale[:, 1]) ** 2 * variance[:, 0],
                values=lambda truth, scale=scale: scale * truth[pairs][:, None],  # type: ignore[misc]
            )
        )
    return Units(np.arange(len(pairs)), pairs, len(pairs), tuple(terms))


def _firsts(top: np.ndarray, number: int) -> np.ndarray:
    first = top[:, 0] if top.shape[1] else np.empty(0, np.int64)
    return np.bincount(first[first >= 0], minlength=number) / max(len(top), 1)


def whole_queries(pool: Pool, *, seed: int) -> Units:
    """Return the units of R-Precision and mAP@R: the queries that have an open pair.

    Args:
        pool: the pool.
        seed: of the draws from which a query's expected scores come; whatever they are, estimates are unbiased.
    """
    rng = np.random.default_rng(seed)
    believed = np.where(pool.open, pool.judge, pool.known)
    drawn = [rng.random(len(believed)) < believed for _ in range(_DRAWS)]
    units, pairs, terms = [], [], []
    start = 0
    asked = {way: _open_pairs(pool, way) for way in pool.places}
    total = sum(len(queries) for queries, _, _ in asked.values())
    for way, (queries, entry, pair) in asked.items():
        rows = slice(start, start + len(queries))
        units.append(start + entry)
        pairs.append(pair)
        terms += _terms(pool, way, queries, rows=rows, total=total, drawn=drawn)
        start += len(queries)
    return Units(np.concatenate(units), np.concatenate(pairs), total, tuple(terms))


def _open_pairs(pool: Pool, way: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the queries of a direction that have open pairs; each such pair's query among them; and the pair."""
    members = np.concatenate([part for one in pool.places[way] for part in (one.top, one.rest)], axis=1)
    query = np.repeat(np.arange(len(members)), members.shape[1])
    flat = members.ravel()
    there = (flat >= 0) & np.append(pool.open, False)[flat]
    width = len(pool.judge) + 1
    query, pair = np.divmod(np.unique(query[there] * width + flat[there]), width)
    queries, entry = np.unique(query, return_inverse=True)
    return queries, entry, pair


def _terms(
    pool: Pool, way: str, queries: np.ndarray, *, rows: slice, total: int, drawn: list[np.ndarray]
) -> list[Term]:
    """Return R-Precision and mAP@R of one direction."""
    both = pool.places[way]
    num = max(len(both[0].top), 1)

    def scores(truth: np.ndarray) -> np.ndarray:
        """Return each query's two scores in both runs: (2 scores, Q, 2 runs)."""
        return np.stack([at_r(places, truth) for places in both], axis=-1)

    closed = np.ones(len(both[0].top), bool)
    closed[queries] = False
    known = scores(np.nan_to_num(pool.known))[:, closed].sum(1) / num
    sums = np.zeros((len(AT_R), len(queries), 2))
    squares, of_difference = np.zeros_like(sums), np.zeros(sums.shape[:2])
    for truth in drawn:
        some = scores(truth)[:, queries]
        sums += some
        squares += some**2
        of_difference += (some[..., 0] - some[..., 1]) ** 2
    mean = sums / len(drawn)
    variance = squares / len(drawn) - mean**2
    of_difference = of_difference / len(drawn) - (mean[..., 0] - mean[..., 1]) ** 2
    terms = []
    for at, score in enumerate(AT_R):

        def values(truth: np.ndarray, at: int = at) -> np.ndarray:
            return _spread_out(scores(truth)[at, queries] / num, rows, total)

        terms.append(
            Term(
                score,
                way,
                constant=known[at],
                expected=_spread_out(mean[at] / num, rows, total),
                scale=_spread_out(np.full((len(queries), 2), 1 / num), rows, total),
                variance=_spread_out((np.maximum(variance[at], 0) + _SPREAD[score]) / num**2, rows, total),
                variance_of_difference=_spread_out(
                    (np.maximum(of_difference[at], 0) + _SPREAD[score]) / num**2, rows, total
                ),
                values=values,
            )
        )
    return terms


def _spread_out(values: np.ndarray, rows: slice, total: int) -> np.ndarray:
    """Return values at their rows among all units, 0 elsewhere."""
    out = np.zeros((total, *values.shape[1:]))
    out[rows] = values
    return out
