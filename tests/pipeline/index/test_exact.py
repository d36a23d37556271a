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


class Contrary:
    """A flat index that keeps the last rows of those that are tied, as FAISS may."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.ntotal = rows, len(rows)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        products = np.round(queries @ self.rows.T, 6)
        ids = np.stack([np.lexsort((-np.arange(self.ntotal), -row))[:k] for row in products])
        return np.take_along_axis(products, ids, axis=1), ids


@pytest.mark.parametrize("k", [1, 3, 8, 23])
@pytest.mark.parametrize("seed", range(4))
def test_nearest_rows__of_tied_rows_the_first_stay_whichever_the_index_keeps(
    monkeypatch: pytest.MonkeyPatch, seed: int, k: int
) -> None:
    """Exact numbers in few directions: most last places are tied. Rows that are added later change nothing of it."""
    monkeypatch.setattr(nearest, "flat_index", Contrary)
    monkeypatch.setattr(nearest, "ROWS_A_BLOCK", 7)
    rng = np.random.default_rng(seed)
    rows = np.concatenate([np.eye(4), -np.eye(4), np.full((1, 4), 0.5)])[rng.integers(0, 9, 24)].astype(np.float32)
    products = rows @ rows.T
    expected = [
        sorted((j for j in range(24) if j != i), key=lambda j, i=i: (-products[i, j], j))[:k] for i in range(24)
    ]
    near = nearest.nearest_rows(rows, k)
    assert near.ids.tolist() == expected
    np.testing.assert_array_equal(near.similarities, np.take_along_axis(products, near.ids, axis=1))
    known = max(k + 1, 15)
    events: list[tuple[str, int, int]] = []
    before = nearest.nearest_rows(rows[:known], k)
    grown = nearest.extend(before, rows, k, what="more", on_event=lambda *event: events.append(event))
    assert grown.ids.tolist() == expected
    np.testing.assert_array_equal(grown.similarities, near.similarities)
    assert events == [("more", done, 24) for done in (0, 7, 14, 21, 24)]
