from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.errors import DataError
from cusa.eval.scores import Cosines, Reranked, Table, candidates, of_pairs

RNG = np.random.default_rng(0)


def _all(blocks: Iterator[np.ndarray]) -> np.ndarray:
    return np.concatenate([block.copy() for block in blocks])


@pytest.mark.parametrize("block", [1, 3, 100])
def test_a_table_is_its_rows_and_columns(block: int) -> None:
    table = RNG.normal(size=(5, 7)).astype(np.float32)
    np.testing.assert_array_equal(_all(Table(table).of_images(block)), table)
    np.testing.assert_array_equal(_all(Table(table).of_captions(block)), table.T)


def test_cosines_are_inner_products() -> None:
    image, text = RNG.normal(size=(5, 4)).astype(np.float32), RNG.normal(size=(7, 4)).astype(np.float32)
    np.testing.assert_allclose(_all(Cosines(image, text).of_images(2)), image @ text.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(_all(Cosines(image, text).of_captions(2)), text @ image.T, rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=3, max_size=12), st.integers(1, 3))
def test_candidates_are_the_best_lower_rows_first(values: list[int], k: int) -> None:
    row = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda place: (-values[place], place))[:k]
    assert candidates(iter([row[None]]), k)[0].tolist() == expected


def test_reranked_candidates_stand_first_and_the_rest_keeps_its_order() -> None:
    first = Table(RNG.normal(size=(4, 9)).astype(np.float32))
    captions, images = candidates(first.of_images(2), 3), candidates(first.of_captions(2), 2)
    again, other = RNG.normal(size=captions.shape), RNG.normal(size=images.shape)
    reranked = Reranked(first, captions, again, images, other)
    for scores, old, rows, new in (
        (_all(reranked.of_images(3)), first.scores_IC, captions, again),
        (_all(reranked.of_captions(3)), first.scores_IC.T, images, other),
    ):
        for query in range(len(scores)):
            left = [row for row in np.argsort(-old[query]) if row not in rows[query]]
            expected = [*rows[query][np.argsort(-new[query])], *left]
            assert np.argsort(-scores[query]).tolist() == expected


def test_no_table_of_scores_holds_what_is_no_number() -> None:
    bad = np.zeros((2, 3), np.float32)
    bad[0, 1] = np.nan
    good, rows = Table(np.zeros((2, 3), np.float32)), np.zeros((2, 1), np.int64)
    with pytest.raises(DataError, match="pair scores"):
        Table(bad)
    with pytest.raises(DataError, match="the images' candidates"):
        Reranked(good, rows, np.full((2, 1), np.nan), rows, np.zeros((3, 1)))
    with pytest.raises(DataError, match="the captions' candidates"):
        Reranked(good, rows, np.zeros((2, 1)), rows, np.full((3, 1), np.inf))
    with pytest.raises(DataError, match="the first ranking"):
        candidates(iter([bad]), 2)


def test_of_pairs__whatever_the_student_ranks_by() -> None:
    images, texts = RNG.standard_normal((9, 4)).astype(np.float32), RNG.standard_normal((13, 4)).astype(np.float32)
    rows, columns = RNG.integers(0, 9, 30), RNG.integers(0, 13, 30)
    table = images @ texts.T
    none = np.zeros((9, 1), np.int64), table[:, :1], np.zeros((13, 1), np.int64), table[:1].T
    again = Reranked(Cosines(images, texts), *none)
    for scores in (Cosines(images, texts), Table(table)):
        np.testing.assert_allclose(of_pairs(scores, rows, columns, 2), table[rows, columns], rtol=1e-5)
    whole = _all(again.of_images(100))
    np.testing.assert_allclose(of_pairs(again, rows, columns, 2), whole[rows, columns], rtol=1e-6)
