import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.train.data.blocks import Blocks
from cusa.train.data.order import Order
from cusa.train.data.permutation import derive_key, permute

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=25).filter(lambda sizes: sum(sizes) > 0)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 6), st.integers(0, 9), st.integers(0, 2), st.booleans())
def test_an_epoch_is_a_permutation(sizes: list[int], window: int, seed: int, epoch: int, apart: bool) -> None:
    blocks = Blocks(sizes, window=window, apart=apart)
    pairs = sum(sizes)
    whole = blocks.at(np.arange(pairs), seed=seed, epoch=epoch)
    assert sorted(whole) == list(range(pairs))
    some = np.arange(pairs)[::-2]
    np.testing.assert_array_equal(blocks.at(some, seed=seed, epoch=epoch), whole[some])
    np.testing.assert_array_equal(
        Blocks(sizes, window=window, apart=apart).at(some, seed=seed, epoch=epoch), whole[some]
    )


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(1, 6), st.integers(0, 9))
def test_a_window_holds_its_blocks_and_nothing_else(sizes: list[int], window: int, seed: int) -> None:
    ends = np.cumsum(sizes)
    pairs_of = [range(int(end) - size, int(end)) for size, end in zip(sizes, ends, strict=True) if size]
    number = len(pairs_of)
    shuffled = permute(np.arange(number), size=number, key=derive_key(seed, "blocks", 0))
    whole = Blocks(sizes, window=window).at(np.arange(sum(sizes)), seed=seed, epoch=0).tolist()
    for first in range(0, number, window):
        expected = {pair for block in shuffled[first : first + window] for pair in pairs_of[block]}
        got, whole = whole[: len(expected)], whole[len(expected) :]
        assert set(got) == expected


def test_windows_shuffle_across_their_shards() -> None:
    sizes = [50] * 20
    shard_of = np.repeat(np.arange(20), 50)
    for window, most in ((1, 1), (4, 4), (20, 20)):
        order = Order(1000, 50, 0, blocks=Blocks(sizes, window=window))
        met = [len(set(shard_of[order.rows(step)])) for step in range(20)]
        assert max(met) <= most
        assert min(met) >= min(most, 3)


def test_epochs_and_seeds_differ() -> None:
    blocks = Blocks([20] * 30, window=3)
    first = blocks.at(np.arange(600), seed=0, epoch=0)
    assert (first == blocks.at(np.arange(600), seed=0, epoch=1)).mean() < 0.1
    assert (first == blocks.at(np.arange(600), seed=1, epoch=0)).mean() < 0.1


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(1, 12), st.integers(0, 9), st.booleans())
def test_apart_no_small_block_meets_itself(sizes: list[int], batch: int, seed: int, drop_last: bool) -> None:
    pairs = sum(sizes)
    order = Order(pairs, min(batch, pairs), seed, drop_last, blocks=Blocks(sizes, window=0, apart=True))
    block_of = np.repeat(np.arange(len(sizes)), sizes)
    seen: list[int] = []
    for step in range(order.steps_per_epoch):
        rows = order.rows(step)
        assert order.fewest <= len(rows) <= order.batch
        small = [block for block in block_of[rows] if sizes[block] <= order.steps_per_epoch]
        assert len(small) == len(set(small))
        seen += rows.tolist()
    assert len(seen) == len(set(seen)) == (pairs // order.batch * order.batch if drop_last else pairs)


def test_rows_are_looked_up_block_by_block() -> None:
    rows = np.array([7, 3, 0, 1, 2, 4, 5, 6])
    order = Order(8, 2, 0, blocks=Blocks([2, 2, 2, 2], window=0, rows=rows))
    met = {tuple(order.rows(step)) for step in range(4)}
    assert met == {(7, 3), (0, 1), (2, 4), (5, 6)}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("window", [0, 2])
def test_ranks_and_parts_share_out_the_batch(window: int, apart: bool) -> None:
    order = Order(97, 13, 2, drop_last=False, blocks=Blocks([30, 30, 30, 7], window=window, apart=apart))
    for step in range(16):
        shares = [order.rows(step, rank=rank, world=3, part=part, parts=2) for part in range(2) for rank in range(3)]
        np.testing.assert_array_equal(np.concatenate(shares), order.rows(step))


def test_windows_and_epochs_are_shuffled_each_in_its_own_way() -> None:
    blocks = Blocks([40] * 12, window=3)
    epochs = [blocks.at(np.arange(480), seed=0, epoch=epoch).reshape(4, 120) for epoch in range(3)]
    of_blocks = [tuple(map(frozenset, rows // 40)) for rows in epochs]
    assert len({*of_blocks}) == 3, "other blocks meet in a window"
    for windows in epochs:
        # Where a window's pairs stand within their blocks, and in which of its three blocks.
        patterns = [tuple(rows % 40) for rows in windows]
        assert len({*patterns}) == 4, "no two windows have the same permutation"


def test_apart_a_block_is_turned_by_another_amount_each_epoch() -> None:
    """Of two blocks as long as an epoch, which pairs meet is up to the turns alone."""
    blocks = Blocks([50, 50], window=0, apart=True)
    order = Order(100, 2, 0, blocks=blocks)
    met = [frozenset(frozenset(order.rows(step).tolist()) for step in range(50 * e, 50 * e + 50)) for e in range(6)]
    assert len(set(met)) > 4
