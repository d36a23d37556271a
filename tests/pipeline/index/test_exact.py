"""Exact nearest rows: ties by row number over any blocks, and rows that come later."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.pipeline.index import exact as nearest


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(st.lists(st.integers(0, 3), min_size=n, max_size=n), st.integers(1, 45))
    )
)
def test_nearest_rows__ties_go_to_the_smaller_row_number(case: tuple[list[int], int]) -> None:
    kinds, k = case
    rows = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0][kinds].astype(np.float32)
    near = nearest.nearest_rows(rows, k)
    expected = [
        sorted((j for j in range(len(kinds)) if j != i), key=lambda j, i=i: (kinds[j] != kinds[i], j))[:k]
        for i in range(len(kinds))
    ]
    assert near.ids.tolist() == expected
    assert near.ids.shape == (len(kinds), min(k, len(kinds) - 1))


def test_nearest_rows__all_equal_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "ROWS_A_BLOCK", 7)
    events: list[int] = []
    rows = np.full((30, 4), 0.5, dtype=np.float32)
    near = nearest.nearest_rows(rows, 5, on_event=lambda what, done, total: events.append(done))
    assert near.ids[:6].tolist() == [[j for j in range(6) if j != i] for i in range(6)]
    assert (near.ids[6:] == np.arange(5)).all()
    assert (near.similarities == 1).all()
    assert events == [0, 7, 14, 21, 28, 30]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3, 40).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(0, 5), min_size=n, max_size=n), st.integers(2, n - 1), st.integers(1, n - 1)
        )
    )
)
def test_extend__rows_added_later_give_what_all_at_once_gives(case: tuple[list[int], int, int]) -> None:
    kinds, known, k = case
    k = min(k, known - 1)
    rows = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0][kinds].astype(np.float32)
    rows[1::2] += 0.01  # ties and others
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    before = nearest.nearest_rows(rows[:known], k)
    grown, whole = nearest.extend(before, rows, k), nearest.nearest_rows(rows, k)
    np.testing.assert_allclose(grown.similarities, whole.similarities, atol=2e-6)
    for row in range(len(rows)):
        ids = grown.ids[row].tolist()
        assert len({*ids, row}) == len(ids) + 1
        np.testing.assert_allclose(rows[ids] @ rows[row], whole.similarities[row], atol=1e-5)
        # A product may be rounded otherwise in another block, so a tie at the last place may be broken either way.
        sure = whole.similarities[row] > whole.similarities[row, -1] + 1e-5
        assert {*whole.ids[row][sure].tolist()} <= {*ids}
