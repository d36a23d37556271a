from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.errors import DataError
from cusa.eval.scores import Cosines, Reranked, Table, candidates, of_pairs, part

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


def test_part__of_any_scores_the_rows_and_columns_in_the_order_wanted() -> None:
    images, texts = RNG.standard_normal((9, 4)).astype(np.float32), RNG.standard_normal((13, 4)).astype(np.float32)
    rows, columns = RNG.permutation(9)[:5], RNG.permutation(13)[:7]
    table = images @ texts.T
    captions, pictures = candidates(iter([table]), 2), candidates(iter([table.T]), 3)
    again = RNG.normal(size=captions.shape), RNG.normal(size=pictures.shape)
    reranked = Reranked(Table(table), captions, again[0], pictures, again[1])
    wholes = {
        "cosines": (Cosines(images, texts), table, table.T),
        "table": (Table(table), table, table.T),
        "reranked": (reranked, _all(reranked.of_images(9)), _all(reranked.of_captions(13))),
    }
    for name, (scores, of_images, of_captions) in wholes.items():
        some = part(scores, rows, columns)
        for block in (2, 100):
            found = _all(some.of_images(block)), _all(some.of_captions(block))
            np.testing.assert_allclose(found[0], of_images[np.ix_(rows, columns)], rtol=1e-5, atol=1e-6, err_msg=name)
            np.testing.assert_allclose(found[1], of_captions[np.ix_(columns, rows)], rtol=1e-5, atol=1e-6, err_msg=name)


def test_of_pairs__of_a_second_ranking_are_its_own_scores() -> None:
    table = RNG.standard_normal((7, 9)).astype(np.float32)
    captions, pictures = candidates(iter([table]), 2), candidates(iter([table.T]), 3)
    scores = Reranked(Table(table), captions, RNG.normal(size=(7, 2)), pictures, RNG.normal(size=(9, 3)))
    rows, columns = RNG.integers(0, 7, 40), RNG.integers(0, 9, 40)
    whole = _all(scores.of_images(7))
    for block in (1, 3, 7):
        np.testing.assert_array_equal(of_pairs(scores, rows, columns, block), whole[rows, columns])
