import hashlib
import itertools
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from cusa.errors import ConfigError
from cusa.train.data.blocks import Blocks
from cusa.train.data.order import Order, shares
from cusa.train.data.permutation import permute

SIZES = st.integers(1, 700)
KEYS = st.integers(0, 2**64 - 1)


@settings(max_examples=60, deadline=None)
@given(SIZES, KEYS)
def test_permute_is_a_permutation(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size=size, key=key)) == list(range(size))


@settings(max_examples=40, deadline=None)
@given(SIZES, KEYS, st.data())
def test_permute_sees_each_position_alone(size: int, key: int, data: st.DataObject) -> None:
    whole = permute(np.arange(size), size=size, key=key)
    some = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=9)))
    np.testing.assert_array_equal(permute(some, size=size, key=key), whole[some])


def test_permute_is_written_down() -> None:
    # Resuming with a later version relies on these numbers; they were the same by a loop over plain integers.
    size, key, mask = 300, 12345, 2**64 - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    keys = [mix((key + r * 0x9E3779B97F4A7C15) & mask) for r in range(1, 11)]
    expected = []
    for number in range(size):
        while True:
            left, right = number >> 5, number & 31
            for k in keys:
                left, right = right, left ^ (mix((right + k) & mask) & 31)
            number = (left << 5) | right
            if number < size:
                break
        expected.append(number)
    assert permute(np.arange(size), size=size, key=key).tolist() == expected


def test_all_orders_of_four_come_equally_often() -> None:
    trials = 1200
    counts = Counter(tuple(permute(np.arange(4), size=4, key=key * 7919)) for key in range(trials))
    expected = trials / 24
    statistic = sum((counts[order] - expected) ** 2 / expected for order in itertools.permutations(range(4)))
    assert statistic < chi2.ppf(0.9999, 23)


def test_neighbours_part() -> None:
    # In a random order of n, two consecutive numbers are neighbours again about twice in the whole order.
    order = permute(np.arange(20_000), size=20_000, key=1)
    assert (np.abs(np.diff(order)) == 1).sum() < 12
    ranks = np.corrcoef(np.arange(20_000), order)[0, 1]
    assert abs(ranks) < 0.03


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 99), st.booleans(), st.integers(0, 2))
def test_an_epoch_shows_every_pair_once(pairs: int, batch: int, seed: int, drop_last: bool, epoch: int) -> None:
    if drop_last and batch > pairs:
        batch = pairs
    order = Order(pairs, batch, seed, drop_last)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    seen = [int(row) for step in steps for row in order.rows(step)]
    assert len(seen) == len(set(seen)) == (pairs // batch * batch if drop_last else pairs)
    assert set(seen) <= set(range(pairs))
    assert {order.epoch(step) for step in steps} == {epoch}


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 200), st.integers(1, 40), st.integers(1, 7), st.integers(0, 40), st.booleans())
def test_ranks_share_out_the_batch_of_one(pairs: int, batch: int, world: int, step: int, drop_last: bool) -> None:
    order = Order(pairs, min(batch, pairs), 3, drop_last)
    parts = [order.rows(step, rank=rank, world=world) for rank in range(world)]
    np.testing.assert_array_equal(np.concatenate(parts), order.rows(step))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [order.size(step, part=part, parts=world) for part in range(world)] == [*map(len, parts)]


def test_epochs_and_seeds_differ() -> None:
    order = Order(1000, 100, 0)
    first, second = (np.concatenate([order.rows(s) for s in range(e * 10, e * 10 + 10)]) for e in (0, 1))
    assert (first == second).mean() < 0.02
    assert (Order(1000, 100, 1).rows(0) == order.rows(0)).mean() < 0.1


def test_seeking_costs_nothing() -> None:
    start = time.perf_counter()
    rows = Order(100_000_000, 512, 0).rows(1_000_000)
    assert time.perf_counter() - start < 1
    assert len(set(rows.tolist())) == 512


def test_substitutes_are_fixed_and_new() -> None:
    order = Order(500, 10, 4)
    chain = [order.substitute(7, attempt) for attempt in range(1, 20)]
    assert chain == [Order(500, 99, 4).substitute(7, attempt) for attempt in range(1, 20)]
    assert len(set(chain)) > 15


def test_a_batch_that_never_fills_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.batch is 128.*only 60 pairs.*train\.drop_last=false"):
        Order(60, 128, 0)
    assert Order(60, 128, 0, drop_last=False).rows(0).size == 60


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [10, 10, 10]), (False, [9, 9, 8, 8])])
def test_rows__of_blocks_kept_apart_every_step_is_a_batch(drop_last: bool, sizes: list[int]) -> None:
    """Of 34 pairs in batches of 10 the last 4 are left out, or every step has a little less."""
    order = Order(34, 10, 3, drop_last, blocks=Blocks([17, 17], window=0, apart=True))
    for epoch in range(3):
        rows = [order.rows(epoch * len(sizes) + step).tolist() for step in range(len(sizes))]
        assert [len(each) for each in rows] == sizes == [order.size(step) for step in range(len(sizes))]
        assert len(set(itertools.chain(*rows))) == sum(sizes)


def test_rows__are_written_down() -> None:
    """A run goes on only if a later version draws the same pairs: keys by `sha256sum`, positions by counting."""
    pairs, batch, seed = 23, 5, 7
    order = Order(pairs, batch, seed)
    for step in range(12):
        epoch, within = divmod(step, 4)
        key = int.from_bytes(hashlib.sha256(f"epoch/{seed}/{epoch}".encode()).digest()[:8], "little")
        places = np.arange(5 * within, 5 * within + 5)
        assert order.rows(step).tolist() == permute(places, size=pairs, key=key).tolist()
    for attempt in (1, 2):
        key = int.from_bytes(hashlib.sha256(f"substitute/{seed}/{attempt}".encode()).digest()[:8], "little")
        assert order.substitute(4, attempt) == permute(np.array([4]), size=pairs, key=key)[0]


@pytest.mark.parametrize("size", [0, 1, 7, 24, 100])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares__consecutive_and_as_even_as_can_be(size: int, world: int) -> None:
    sizes = shares(size, world)
    assert len(sizes) == world
    assert sum(sizes) == size
    assert max(sizes) - min(sizes) <= 1
    order = Order(max(size, 1), max(size, 1), 0)
    if size:
        assert sizes == tuple(len(order.rows(0, rank=rank, world=world)) for rank in range(world))


@pytest.mark.parametrize("apart", [None, False, True])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("pairs", [30, 31, 34, 39])
def test_fewest__is_the_smallest_step_of_an_epoch(pairs: int, drop_last: bool, apart: bool | None) -> None:
    blocks = None if apart is None else Blocks([pairs - 13, 13], window=0, apart=apart)
    order = Order(pairs, 10, 1, drop_last, blocks=blocks)
    sizes = [len(order.rows(step)) for step in range(order.steps_per_epoch)]
    assert order.fewest == min(sizes)
    assert sizes == [order.size(step) for step in range(order.steps_per_epoch)]
    assert sum(sizes) == (30 if drop_last else pairs)


@pytest.mark.parametrize("step", [0, 2, 3])
def test_rows__parts_of_the_batch_and_of_each_the_shares_of_the_ranks(step: int) -> None:
    order = Order(37, 10, 2, drop_last=False)
    parts = [np.concatenate([order.rows(step, rank=r, world=2, part=p, parts=3) for r in (0, 1)]) for p in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), order.rows(step))
    assert [len(part) for part in parts] == [order.size(step, part=p, parts=3) for p in range(3)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
