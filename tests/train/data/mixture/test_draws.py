from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.errors import ConfigError
from cusa.train.data.blocks import Blocks
from cusa.train.data.mixture.draws import Draws, draws_of_epoch, take_turns
from cusa.train.data.order import Order

SIZES = st.lists(st.integers(1, 60), min_size=2, max_size=4)


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Order, list[int]]:
    sizes = draw(SIZES)
    weights = draw(st.none() | st.lists(st.floats(0.2, 5), min_size=len(sizes), max_size=len(sizes)))
    batch = draw(st.integers(1, max(1, sum(sizes) // 4)))
    drop_last = draw(st.booleans())
    total = sum(sizes) // batch * batch if drop_last else sum(sizes)
    try:
        epoch = draws_of_epoch(sizes, weights or [None] * len(sizes), total)
    except ConfigError:  # a set that is never drawn
        epoch = draws_of_epoch(sizes, [1.0] * len(sizes), max(total, len(sizes)))
        drop_last, batch = False, 1
        return Order(sum(epoch), 1, 3, False, _Same(tuple(sizes), epoch)), list(epoch)
    return Order(sum(sizes), batch, draw(st.integers(0, 9)), drop_last, Draws(tuple(sizes), epoch)), list(epoch)


class _Same(Draws):
    """Draws whose epoch is longer than the sets."""

    @property
    def pairs(self) -> int:
        return sum(self.epoch)


@settings(max_examples=60, deadline=None)
@given(mixtures(), st.integers(0, 3))
def test_every_pair_of_a_set_is_seen_equally_often_within_its_own_passes(
    mixture: tuple[Order, list[int]], epochs: int
) -> None:
    order, epoch = mixture
    draws = order.blocks
    assert isinstance(draws, Draws)
    seen = Counter(int(row) for step in range(epochs * order.steps_per_epoch) for row in order.rows(step))
    for start, size, drawn in zip(draws.starts, draws.sizes, epoch, strict=True):
        counts = [seen[row] for row in range(start, start + size)]
        assert sum(counts) == epochs * drawn, "an epoch has each set's draws to the number"
        assert max(counts) - min(counts) <= 1
        assert min(counts) == epochs * drawn // size


@settings(max_examples=60, deadline=None)
@given(mixtures(), st.data())
def test_a_step_is_the_same_alone_in_shares_and_in_any_order_of_asking(
    mixture: tuple[Order, list[int]], data: st.DataObject
) -> None:
    order, _ = mixture
    step = data.draw(st.integers(0, 3 * order.steps_per_epoch - 1))
    whole = order.rows(step)
    world, parts = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    shares = [
        order.rows(step, rank=rank, world=world, part=part, parts=parts)
        for part in range(parts)
        for rank in range(world)
    ]
    np.testing.assert_array_equal(np.concatenate(shares), whole)
    assert order.size(step) == len(whole)


def _plain_turns(draws: list[int]) -> list[int]:
    """Whose turn it is, by exact fractions, one position after another."""
    out = []
    for turn in range(sum(draws)):
        left, rest = turn, sum(draws)
        for place, mine in enumerate(draws):
            before = int(Fraction(left * mine, rest) + Fraction(1, 2))
            if int(Fraction((left + 1) * mine, rest) + Fraction(1, 2)) > before:
                out.append(place)
                break
            left, rest = left - before, rest - mine
    return out


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_turns_come_at_even_distances(draws: list[int]) -> None:
    turns = np.arange(sum(draws))
    whose, number = take_turns(turns, draws)
    assert whose.tolist() == _plain_turns(draws)
    for place, mine in enumerate(draws):
        assert number[whose == place].tolist() == list(range(mine))
        so_far = np.cumsum(whose == place)
        assert np.abs(so_far - (turns + 1) * mine / len(turns)).max() <= 2, "shares hold in every batch"


def test_a_batch_has_the_shares_of_the_weights() -> None:
    order = Order(1100, 100, 0, True, Draws((1000, 100), draws_of_epoch([1000, 100], [3, 1], 1100)))
    for step in (0, 7, 123, 10**6):
        assert abs(int((order.rows(step) >= 1000).sum()) - 25) <= 1


def test_without_weights_an_epoch_is_one_pass_of_every_set() -> None:
    order = Order(90, 16, 5, False, Draws((60, 30), draws_of_epoch([60, 30], [None, None], 90)))
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        assert sorted(int(row) for step in steps for row in order.rows(step)) == list(range(90))


def test_a_far_step_costs_what_the_first_costs_and_is_written_down() -> None:
    # Resuming with a later version relies on these numbers.
    draws = Draws((50_000_000, 7), draws_of_epoch([50_000_000, 7], [1, 1], 50_000_000))
    order = Order(50_000_007, 1000, 1, True, draws)
    rows = order.rows(10**6)
    assert int((rows >= 50_000_000).sum()) == 500
    assert rows[:4].tolist() == [38936135, 50000002, 44402630, 50000006]
    assert rows[:4].tolist() == order.rows(10**6, world=250, rank=0).tolist()


def test_batches_of_one_set_alternate_by_the_weights() -> None:
    epoch = tuple(turns * 10 for turns in draws_of_epoch([200, 40], [3, 1], 24))
    order = Order(240, 10, 0, True, Draws((200, 40), epoch, run=10))
    whose = [{int(row >= 200) for row in order.rows(step)} for step in range(48)]
    assert all(len(one) == 1 for one in whose)
    assert sum(one == {1} for one in whose) == 12
    seen = Counter(int(row) for step in range(48) for row in order.rows(step) if row >= 200)
    assert set(seen.values()) == {3}, "120 draws of 40 pairs"


def test_a_pair_that_comes_twice_in_an_epoch_is_told_apart() -> None:
    order = Order(60, 10, 0, True, Draws((40, 20), (20, 40)))
    seen = [(int(row), order.visit(step)) for step in range(order.steps_per_epoch) for row in order.rows(step)]
    assert len({row for row, _ in seen}) < len(seen)
    assert len({*seen}) == len(seen)
    assert Order(60, 10, 0).visit(7) == 1


def test_windows_keep_a_set_s_reads_local() -> None:
    windows = (Blocks([10] * 20, window=2), None)
    draws = Draws((200, 50), (200, 50), windows=windows)
    rows = np.concatenate([Order(250, 25, 0, True, draws).rows(step) for step in range(10)])
    own = rows[rows < 200]
    assert sorted(own) == list(range(200))
    shards = [len({int(row) // 10 for row in own[start : start + 20]}) for start in range(0, 200, 20)]
    assert max(shards) == 2


def test_windows_of_each_set_are_shuffled_on_their_own() -> None:
    windows = (Blocks([10] * 20, window=2), Blocks([10] * 20, window=2))
    draws = Draws((200, 200), (200, 200), windows=windows)
    rows = draws.at(np.arange(400), seed=3, epoch=0)
    first, second = rows[rows < 200], rows[rows >= 200] - 200
    assert sorted(first) == sorted(second) == list(range(200))
    assert (first == second).sum() < 20, "one pair in 20 of the same window at the same place by chance, not each"


def test_a_stand_in_is_of_the_same_set() -> None:
    order = Order(60, 10, 0, True, Draws((40, 20), (40, 20)))
    for row in (0, 39, 40, 59):
        stands_in = order.substitute(row, 1)
        assert (stands_in >= 40) == (row >= 40)
        assert stands_in == order.substitute(row, 1)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.data())
def test_draws_of_an_epoch_are_the_weights_shares_to_one(sizes: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.5, 3), min_size=len(sizes), max_size=len(sizes)))
    epoch = draws_of_epoch(sizes, weights, 500)
    assert sum(epoch) == 500
    assert all(abs(drawn - 500 * weight / sum(weights)) < 1 for drawn, weight in zip(epoch, weights, strict=True))
    assert epoch == draws_of_epoch(sizes, [weight * 4 for weight in weights], 500), "only the ratio counts"


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 of 2 data sets a weight"):
        draws_of_epoch([10, 10], [1.0, None], 20)
    with pytest.raises(ConfigError, match="data set 2 has weight 0.001"):
        draws_of_epoch([10, 10], [1.0, 0.001], 20)
