"""Exact nearest rows: ties by row number over any blocks, and rows that come later."""

import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.errors import DataError, StaleError
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
    monkeypatch.setattr(nearest, "_ROWS_A_BLOCK", 7)
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


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_read_index__maps_the_vectors_and_finds_the_same(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(50_000, 256)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    path = tmp_path / "one.faiss"
    faiss.write_index(nearest.flat_index(rows), str(path))
    before = _own_memory()
    opened = nearest.read_index(path, rows=len(rows), made_by="cusa index")
    assert opened.search(rows[:3], 1)[1][:, 0].tolist() == [0, 1, 2]
    assert _own_memory() - before < rows.nbytes / 2
    with pytest.raises(StaleError, match=r"one\.faiss has 50000 rows and the split 5. Run `cusa index`"):
        nearest.read_index(path, rows=5, made_by="cusa index")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="is no readable index. Run `cusa index --force`"):
        nearest.read_index(path, rows=len(rows), made_by="cusa index")


def _own_memory() -> int:
    """Return the bytes of this process that are no file's."""
    return next(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon")
    )
