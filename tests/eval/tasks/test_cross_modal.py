"""Which captions and images count as right for each other."""

import numpy as np

from cusa.eval.tasks import cross_modal


def test_matched__a_row_that_is_listed_twice_counts_once() -> None:
    """R is the number of right items: doubled, R-Precision would look at twice the places."""
    pairs = {"image_key": ["a", "b", "a", "a", "z"], "caption_key": ["a#0", "a#0", "b#0", "a#0", "a#0"]}
    of_image, of_caption = cross_modal.matched(pairs, ["a", "b"], ["a#0", "a#1", "b#0"])
    assert [rows.tolist() for rows in of_image] == [[0, 2], [0]]
    assert [rows.tolist() for rows in of_caption] == [[0, 1], [], [0]]


def test_owned__captions_in_any_order_belong_to_their_image() -> None:
    of_image, of_caption = cross_modal.owned(np.array([2, 0, 2, 0]), 3)
    assert [rows.tolist() for rows in of_image] == [[1, 3], [], [0, 2]]
    assert [rows.tolist() for rows in of_caption] == [[2], [0], [2], [0]]


def test_first_captions__of_each_image_in_the_data_set_s_order() -> None:
    owner = np.array([1, 0, 1, 1, 0, 1])
    assert cross_modal.first_captions(owner, 2).tolist() == [0, 1, 2, 4]
