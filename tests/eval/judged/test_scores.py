"""Scores of a pool: the evaluation's own where the pool is the whole gallery, and a plain loop where it is not."""

import numpy as np
import pytest

from cusa.eval.judged import pool as pools
from cusa.eval.judged.pool import KnownPairs
from cusa.eval.judged.scores import at_r
from cusa.eval.ranking import rank
from tests.eval.judged.drawn import make_pool, truth_of


def test_at_r__equals_the_evaluations_where_every_pair_is_in_the_pool() -> None:
    rng = np.random.default_rng(0)
    match = rng.random((12, 9)) < 0.3
    match[:, 0] = True
    scores = rng.normal(size=match.shape)
    top = scores.argsort(1)[:, ::-1]
    ranking = rank([scores], [np.flatnonzero(row) for row in match])
    nothing = np.array([], np.int64)
    pool = pools.build({"image-to-text": (top, top)}, KnownPairs(nothing, nothing), (nothing, np.array([])), 9)
    truth = match[pool.images, pool.captions]
    precision, average = at_r(pool.places["image-to-text"][0], truth)
    np.testing.assert_allclose(precision, ranking.r_precision)
    np.testing.assert_allclose(average, ranking.average_precision)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_at_r__equals_a_plain_loop_at_a_depth(depth: int) -> None:
    match = truth_of()
    pool, truth = make_pool(match, np.full(match.shape, 0.5), depth=depth)
    for both in pool.places.values():
        for places in both:
            precision, average = at_r(places, truth)
            for query, (top, rest) in enumerate(zip(places.top, places.rest, strict=True)):
                right = sum(truth[pair] for pair in [*top, *rest] if pair >= 0)
                looked_at = int(min(right, depth))
                hits = [int(truth[pair]) for pair in top[:looked_at]]
                terms = [hit * sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits)]
                assert precision[query] == pytest.approx(sum(hits) / looked_at)
                assert average[query] == pytest.approx(sum(terms) / looked_at)


def test_at_r__a_query_without_a_right_item_scores_nothing() -> None:
    pool, truth = make_pool(truth_of(), np.full((30, 60), 0.5))
    precision, average = at_r(pool.places["image-to-text"][0], np.zeros_like(truth))
    assert not precision.any()
    assert not average.any()
