"""The pool: every pair that either ranking shows or that is known, once; its places name the pairs as they stand."""

import numpy as np

from cusa.eval.judged import pool as pools
from cusa.eval.judged.pool import NONE, KnownPairs
from tests.eval.judged.drawn import CAPTIONS, make_pool, rankings, truth_of


def test_build__holds_the_places_of_both_runs_and_what_is_known() -> None:
    match = truth_of()
    pool, _ = make_pool(match, np.full(match.shape, 0.5), depth=3)
    pairs = set(zip(pool.images.tolist(), pool.captions.tolist(), strict=True))
    expected = {(caption // 2, caption) for caption in range(CAPTIONS)}
    for way, both in rankings(match, 3).items():
        for top in both:
            for query, row in enumerate(top.tolist()):
                expected |= {(query, item) if way == "image-to-text" else (item, query) for item in row}
    assert pairs == expected
    assert len(pool.images) == len(pairs)
    assert pool.open.sum() == len(pairs) - CAPTIONS


def test_build__places_and_rest_are_the_querys_pool() -> None:
    match = truth_of()
    pool, _ = make_pool(match, np.full(match.shape, 0.5), depth=3)
    for way, both in pool.places.items():
        query_of = pool.images if way == "image-to-text" else pool.captions
        item_of = pool.captions if way == "image-to-text" else pool.images
        for places, top in zip(both, rankings(match, 3)[way], strict=True):
            np.testing.assert_array_equal(item_of[places.top], top)
            for query in range(len(top)):
                rest = places.rest[query][places.rest[query] != NONE]
                assert (query_of[places.top[query]] == query).all()
                assert (query_of[rest] == query).all()
                assert not set(rest) & set(places.top[query])
                assert len(set(rest)) == len(rest)
                shown = {item for one in rankings(match, 3)[way] for item in one[query]}
                own = {2 * query, 2 * query + 1} if way == "image-to-text" else {query // 2}
                assert {int(item) for item in item_of[rest]} == (shown | own) - set(top[query])


def test_build__a_short_gallery_and_unknown_pairs() -> None:
    tops = {"image-to-text": (np.array([[0, NONE]]), np.array([[0, NONE]]))}
    pool = pools.build(tops, KnownPairs(np.array([0]), np.array([], int)), (np.array([], int), np.array([])), 1)
    assert pool.known.tolist() == [1.0]
    assert pool.places["image-to-text"][0].top.tolist() == [[0, NONE]]
    assert pool.places["image-to-text"][0].rest.shape == (1, 0)
    assert pool.judge.tolist() == [0.0]


def test_expected_outside__counts_what_the_pool_lacks() -> None:
    match = truth_of()
    judge = np.random.default_rng(3).random(match.shape)
    pool, _ = make_pool(match, judge, depth=3)
    inside = judge[pool.images, pool.captions].sum()
    outside = pools.expected_outside(pool, (np.arange(judge.size), judge.ravel()), CAPTIONS)
    np.testing.assert_allclose(outside, judge.sum() - inside)


def test_probabilities__a_pair_that_the_judge_does_not_know_has_none() -> None:
    known = {2: 0.25, 5: 0.5, 9: 0.75}
    codes = np.arange(12)
    got = pools.probabilities(codes, (np.array(list(known)), np.array(list(known.values()))))
    assert got.tolist() == [known.get(code, 0.0) for code in codes.tolist()]
