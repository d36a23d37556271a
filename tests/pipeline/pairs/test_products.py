"""Products of many pairs: as plain loops compute them, whether rows are copied or a part of the table multiplied."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.pipeline.pairs.caption_words import CaptionWords
from cusa.pipeline.pairs.products import best_two, couples, group_bounds, grouped_products


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.tuples(st.lists(st.integers(0, 29), min_size=1, max_size=40), st.integers(0, 3)), max_size=6),
    seed=st.integers(0, 3),
)
def test_grouped_products__equal_plain_loops(groups: list[tuple[list[int], int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(30, 4)).astype(np.float32)
    against = [rng.normal(size=(number, 4)).astype(np.float32) for _, number in groups]
    picked = np.array([row for some, _ in groups for row in some], dtype=np.int64)
    bounds = np.cumsum([0, *(len(some) for some, _ in groups)])
    got = grouped_products(rows, picked, bounds, against)
    most = max((number for _, number in groups), default=0)
    assert got.shape == (most, len(picked))
    place = 0
    for (some, number), others in zip(groups, against, strict=True):
        for row in some:
            expected = [float(rows[row] @ other) for other in others] + [-np.inf] * (most - number)
            assert got[:, place].tolist() == pytest.approx(expected, abs=1e-5)
            place += 1


def test_best_two__with_and_without_a_second() -> None:
    products = np.array([[0.1, 0.7, np.nan], [0.5, -np.inf, 0.2], [0.3, -np.inf, 0.1]], dtype=np.float32)
    best, two = best_two(products)
    np.testing.assert_allclose(best, [0.5, 0.7, np.nan])
    np.testing.assert_allclose(two, [0.4, 0.7, np.nan])


def test_couples_and_bounds() -> None:
    first, second, back = couples(np.array([3, 3, 1, 3]), np.array([0, 4, 4, 0]), 5)
    assert list(zip(first, second, strict=True)) == [(1, 4), (3, 0), (3, 4)]
    assert back.tolist() == [1, 2, 0, 1]
    assert group_bounds(first).tolist() == [0, 1, 3]
    assert group_bounds(first[:0]).tolist() == [0]


def test_covered__captions_and_images_without_words() -> None:
    words = CaptionWords(["red dog", "...", "a dog", "blue cat", "..."], np.array([0, 0, 1, 2, 3]), 5)
    captions = np.array([2, 1, 3, 0, 4])
    got = [words.covered(np.array([image]), np.array([0, 5]), captions).tolist() for image in range(5)]
    dog, one = np.log(5 / 2), np.log(5)
    expected = [[dog, 0, 0, dog + one, 0], [dog, 0, 0, dog, 0], [0, 0, 2 * one, 0, 0], [0] * 5, [0] * 5]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    both = words.covered(np.array([0, 2]), np.array([0, 2, 5]), captions)
    np.testing.assert_allclose(both, [*expected[0][:2], *expected[2][2:]], rtol=1e-6)
    nothing = CaptionWords(["...", "!"], np.array([0, 0]), 1)
    assert nothing.covered(np.array([0]), np.array([0, 2]), np.array([0, 1])).tolist() == [0, 0]
