"""Work shared among ranks: who does what, what all agree on, and rows brought together; ranks as threads."""

import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cusa.eval import share as sharing
from cusa.eval.share import ALONE, OtherRankError, Share


class _Ranks:
    """Stands for `torch.distributed` among threads: a mailbox for every pair of ranks."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._rank = threading.local()
        self._boxes: dict[tuple[int, int], queue.Queue[Any]] = {
            (source, target): queue.Queue() for source in range(world) for target in range(world)
        }

    def get_world_size(self) -> int:
        return self.world

    def get_rank(self) -> int:
        return int(self._rank.number)

    def broadcast_object_list(self, values: list[Any], src: int, device: torch.device) -> None:
        if self.get_rank() == src:
            for target in range(self.world):
                self._boxes[src, target].put(list(values))
        values[:] = self._boxes[src, self.get_rank()].get(timeout=20)

    def send(self, block: torch.Tensor, dst: int) -> None:
        self._boxes[self.get_rank(), dst].put(block)

    def recv(self, block: torch.Tensor, src: int) -> None:
        block.copy_(self._boxes[src, self.get_rank()].get(timeout=20))

    def run(self, work: Callable[[Share], Any]) -> list[Any]:
        """Return what each rank comes to; an error is what it comes to as well."""
        results: list[Any] = [None] * self.world

        def of_rank(number: int) -> None:
            self._rank.number = number
            try:
                results[number] = work(Share(together=True))
            except Exception as error:
                results[number] = error

        threads = [threading.Thread(target=of_rank, args=(number,)) for number in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        return results


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> _Ranks:
    made = _Ranks(3)
    monkeypatch.setattr(sharing, "dist", made)
    return made


def test_alone__decides_does_and_keeps_everything(ranks: _Ranks) -> None:
    assert (Share().world, Share().rank) == (1, 0), "whatever process group there is"
    assert (ALONE.world, ALONE.rank, ALONE.first) == (1, 0, True)
    assert ALONE.agree(lambda: 7) == 7
    assert all(ALONE.mine(number) for number in range(5))
    rows = np.ones((2, 3), np.float32)
    assert ALONE.collect(rows, [2])[0] is rows


def test_mine__each_piece_of_work_is_one_rank_s(ranks: _Ranks) -> None:
    does = ranks.run(lambda share: [number for number in range(7) if share.mine(number)])
    assert does == [[0, 3, 6], [1, 4], [2, 5]]
    assert ranks.run(lambda share: (share.rank, share.first, share.world)) == [
        *((0, True, 3), (1, False, 3), (2, False, 3)),
    ]


def test_agree__all_have_what_the_first_decides(ranks: _Ranks) -> None:
    asked: list[int] = []

    def decide(share: Share) -> Any:
        return share.agree(lambda: asked.append(share.rank) or {"rank": share.rank})  # type: ignore[func-returns-value]

    assert ranks.run(decide) == [{"rank": 0}] * 3
    assert asked == [0], "the others ask nobody"


def test_agree__an_error_of_the_first_ends_all(ranks: _Ranks) -> None:
    def refuse() -> None:
        raise KeyError("no such thing")

    first, *others = ranks.run(lambda share: share.agree(refuse))
    assert isinstance(first, KeyError)
    assert [type(error) for error in others] == [OtherRankError] * 2
    assert all("no such thing" in str(error) for error in others)


@pytest.mark.parametrize("counts", [[2, 1, 3], [0, 2, 0], [1, 0, 2]])
def test_collect__the_first_has_every_rank_s_rows_in_order(ranks: _Ranks, counts: list[int]) -> None:
    def rows_of(rank: int) -> np.ndarray:
        return np.full((counts[rank], 2), rank, np.float32) + np.arange(counts[rank], dtype=np.float32)[:, None] / 10

    found = ranks.run(lambda share: share.collect(rows_of(share.rank), counts))
    assert found[1:] == [[], []]
    assert len(found[0]) == 3
    for rank, block in enumerate(found[0]):
        np.testing.assert_array_equal(block, rows_of(rank))
