"""Ranks against a full sort in plain Python, and against the reference's stored figures."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.errors import DataError
from cusa.eval import ranking
from cusa.eval.ranking import Truth, rank, rank_by_each, score_blocks
from cusa.eval.tasks.cross_modal import TwoWays, owned, recalls

# Few distinct scores, so that ties are common.
SCORES = st.lists(st.integers(0, 4), min_size=1, max_size=9)


@settings(max_examples=300, deadline=None)
@given(scores=SCORES, data=st.data())
def test_rank__equals_a_full_sort_with_wrong_items_first_among_ties(scores: list[int], data: st.DataObject) -> None:
    gallery = range(len(scores))
    right = data.draw(st.sets(st.sampled_from(gallery), max_size=len(scores)))
    itself = data.draw(st.sampled_from([-1, *sorted(set(gallery) - right)]))
    found = rank(
        [np.array([scores], dtype=np.float32)],
        [np.array(sorted(right), dtype=np.int64)],
        exclude=np.array([itself]),
        top=3,
    )
    order = sorted((g for g in gallery if g != itself), key=lambda g: (-scores[g], g in right))
    places = [place for place, g in enumerate(order, 1) if g in right]
    assert found.rank[0] == (places[0] if places else 0)
    assert found.positives[0] == len(right)
    if right:
        inside = [place for place in places if place <= len(right)]
        assert found.r_precision[0] == pytest.approx(len(inside) / len(right))
        precision = [hits / place for hits, place in enumerate(inside, 1)]
        assert found.average_precision[0] == pytest.approx(sum(precision) / len(right))
    else:
        assert np.isnan(found.r_precision[0])
    best = sorted((g for g in gallery if g != itself), key=lambda g: (-scores[g], g))[:3]
    assert found.top[0][: len(best)].tolist() == best
    assert (found.top[0][len(best) :] == -1).all()


CASES = ["5cap", "5cap_asym", "unequal", "unequal_shuffled", "ties", "fewties", "rerank_fill"]
DIRECTIONS = (("i2t", "txt", "image-to-text"), ("t2i", "img", "text-to-image"))


@pytest.mark.parametrize("case", CASES)
def test_recalls__equal_the_reference_or_lie_within_its_ties(golden: Path, case: str) -> None:
    stored = np.load(golden / f"03_crossmodal/itm_{case}.npz", allow_pickle=False)
    expected = json.loads(str(stored["expected_json"]))
    of_image, of_caption = owned(stored["text_to_image"], len(stored["scores_i2t"]))
    both = TwoWays(rank([stored["scores_i2t"]], of_image), rank([stored["scores_t2i"]], of_caption))
    found = recalls(both)
    for short, theirs, ours in DIRECTIONS:
        for k in (1, 5, 10):
            value = found[f"{ours}/r@{k}"]
            if "ties" in case:
                # Our rule puts wrong items first among ties: the worst that any order attains.
                assert value == pytest.approx(expected["tie_bounds"][short][f"r{k}"][0], abs=1e-9)
            else:
                assert value == pytest.approx(expected["unrounded"][f"{theirs}_r{k}"], abs=1e-9)
    if "ties" not in case:
        assert found["rsum"] == pytest.approx(expected["rsum"], abs=1e-6)


def test_rank__blocks_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(23, 8)).astype(np.float32), rng.normal(size=(31, 8)).astype(np.float32)
    right = [rng.choice(31, 3, replace=False) for _ in range(23)]
    whole = rank(score_blocks(queries, gallery, 100), right)
    parts = rank(score_blocks(queries, gallery, 4), right)
    for name in ("rank", "r_precision", "average_precision", "top"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


@pytest.mark.parametrize("width", [64, 96, 512])
def test_score_blocks__equal_rows_get_equal_scores_to_the_bit(width: int) -> None:
    """A matrix product rounds columns at its edges differently, which would break ties by where a row lies."""
    rng = np.random.default_rng(0)
    queries, gallery = (rng.normal(size=(count, width)).astype(np.float32) for count in (64, 257))
    for copy in (1, 129, 256):
        gallery[copy] = gallery[0]
    scores = np.concatenate([block.copy() for block in score_blocks(queries, gallery, 20)])
    for copy in (1, 129, 256):
        np.testing.assert_array_equal(scores[:, copy], scores[:, 0])
    np.testing.assert_allclose(scores, queries.astype(np.float64) @ gallery.T.astype(np.float64), atol=2e-4)
    # And so three wrong copies stand before the right one, wherever it lies.
    ahead = (scores > scores[:, :1]).sum(1)
    for right in (0, 1, 129, 256):
        np.testing.assert_array_equal(rank([scores], [np.array([right])] * 64).rank, ahead + 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_score_blocks__rows_that_begin_alike_are_not_copies(dtype: type[np.floating]) -> None:
    """The first eight bytes only say which rows are looked at whole."""
    gallery = np.array([[1, 2, 3, 4], [1, 2, 4, 3], [1, 2, 3, 4], [2, 1, 3, 4]], dtype=dtype)
    query = np.array([[0, 0, 1, 0], [1, 1, 1, 1]], dtype=dtype)
    (scores,) = score_blocks(query, gallery, 5)
    assert scores.tolist() == [[3, 4, 3, 3], [10, 10, 10, 10]]


def test_rank__right_items_that_the_gallery_lacks_count_as_not_found() -> None:
    """Two right items of four stand in the gallery: R = 4, and only two of the first four places can be hits."""
    scores = np.array([[5, 4, 3, 2, 1, 0]], dtype=np.float32)
    found = rank([scores], [np.array([0, 3])], num_right=np.array([4]), top=3)
    assert found.rank.tolist() == [1]
    assert found.positives.tolist() == [4]
    assert found.r_precision.tolist() == [2 / 4]
    assert found.average_precision.tolist() == [pytest.approx((1 / 1 + 2 / 4) / 4)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_score_blocks__embeddings_that_are_no_numbers_are_refused(bad: float) -> None:
    rows = np.ones((3, 2), dtype=np.float32)
    rows[1, 0] = bad
    with pytest.raises(DataError, match="1 gallery embeddings hold NaN or infinity"):
        list(score_blocks(np.ones((2, 2), dtype=np.float32), rows, 8))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rank__refuses_scores_that_are_no_numbers(value: float) -> None:
    """NaN compares as nothing: every right item stood first, R@1 was 100."""
    scores = np.zeros((3, 4), np.float32)
    scores[1, 2] = value
    with pytest.raises(DataError, match="1 of 12 scores"):
        rank([scores], [np.array([0])] * 3)
    scores[1, 2] = 0
    assert rank([scores], [np.array([0])] * 3).rank.tolist() == [4, 4, 4]


@pytest.mark.parametrize("candidates", [1, 7, 40])
def test_rank__how_much_is_sorted_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch, candidates: int) -> None:
    """Ties by the hundred make many candidates: a block is halved until they fit, to the same ranking."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (9, 120)).astype(np.float32)
    right = [rng.choice(120, 1 + query % 4, replace=False) for query in range(9)]
    right[4] = right[4][:0]
    whole = rank([scores], right)
    monkeypatch.setattr(ranking, "_CANDIDATES", candidates)
    parts = rank([scores], right)
    for field in fields(whole):
        np.testing.assert_array_equal(getattr(whole, field.name), getattr(parts, field.name))


def test_rank__a_deep_gallery_equals_a_full_sort() -> None:
    """Enough items for chunks' maxima to set the floor, with a rest that fills no chunk."""
    rng = np.random.default_rng(1)
    for size, top in ((1500, 3), (1537, 10), (257, 40)):
        scores = rng.permuted(np.tile(np.arange(size, dtype=np.float32) // 2, (11, 1)), axis=1)
        right = [rng.choice(size, 1 + 3 * (query % 5), replace=False) for query in range(11)]
        found = rank([scores], right, top=top)
        for query in range(11):
            mine = set(right[query].tolist())
            order = sorted(range(size), key=lambda item: (-scores[query, item], item in mine))
            places = [place for place, item in enumerate(order, 1) if item in mine]
            assert found.rank[query] == places[0]
            inside = [place for place in places if place <= len(mine)]
            assert found.r_precision[query] == pytest.approx(len(inside) / len(mine))
            terms = [hits / place for hits, place in enumerate(inside, 1)]
            assert found.average_precision[query] == pytest.approx(sum(terms) / len(mine))
            best = sorted(range(size), key=lambda item: (-scores[query, item], item))[:top]
            assert found.top[query].tolist() == best
            assert found.top_scores[query].tolist() == scores[query, best].tolist()


def test_rank_by_each__one_pass_gives_what_a_pass_each_gives() -> None:
    rng = np.random.default_rng(2)
    blocks = [rng.normal(size=(size, 30)).astype(np.float32) for size in (5, 1, 7)]
    itself = np.array([query if query % 2 else -1 for query in range(13)])
    choices = [[i for i in range(30) if i != query] for query in range(13)]
    first = [rng.choice(choices[query], 2, replace=False) for query in range(13)]
    second = [rng.choice(choices[query], 1 + query % 3, replace=False) for query in range(13)]
    number = np.array([len(rows) + 1 for rows in second])
    before = [block.copy() for block in blocks]
    both = rank_by_each(blocks, [Truth(first), Truth(second, number, at_r=False)], exclude=itself, top=4)
    for block, copy in zip(blocks, before, strict=True):
        np.testing.assert_array_equal(block, copy, "the table is somebody's")
    alone = [
        rank(blocks, first, exclude=itself, top=4),
        rank(blocks, second, exclude=itself, num_right=number, top=4, at_r=False),
    ]
    for one, other in zip(both, alone, strict=True):
        for field in fields(one):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    assert np.isnan(both[1].r_precision).all()
    assert np.isnan(both[1].average_precision).all()
    some = both[0].of(np.array([3, 0]))
    assert some.rank.tolist() == both[0].rank[[3, 0]].tolist()
    assert some.top.tolist() == both[0].top[[3, 0]].tolist()


def test_score_blocks__their_sizes_and_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = np.eye(7, 4, dtype=np.float32), np.eye(5, 4, dtype=np.float32)
    assert [len(block) for block in score_blocks(queries, gallery, 3)] == [3, 3, 1]
    assert [len(block) for block in score_blocks(queries, gallery, 100)] == [7]
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 2 * 5 * 4)
    assert [len(block) for block in score_blocks(queries, gallery, 100)] == [2, 2, 2, 1]
    memory = {block.__array_interface__["data"][0] for block in score_blocks(queries, gallery, 100)}
    assert len(memory) == 1, "all blocks share theirs"
    assert list(score_blocks(queries[:0], gallery, 3)) == []
