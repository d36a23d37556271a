"""When an index goes to GPUs, and the check against the CPU; a copy on the CPU stands for the GPU."""

from typing import Any

import faiss
import numpy as np
import pytest

from cusa.errors import DataError
from cusa.pipeline.config import IndexConfig
from cusa.pipeline.index import approximate, exact, gpu


def _rows(number: int = 600, width: int = 16) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(number, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Make FAISS see a GPU, to which it copies by a clone; return what was copied."""
    copied: list[Any] = []

    def clone(index: Any) -> Any:
        copied.append(index)
        return faiss.clone_index(index)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", clone, raising=False)
    return copied


def _made(factory: str, rows: np.ndarray) -> Any:
    index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(rows)
    index.add(rows)
    return index


def test_this_machine_s_faiss_stays_on_the_cpu_unless_it_sees_a_gpu() -> None:
    index = exact.flat_index(_rows())
    if not gpu.gpus():
        assert gpu.on_gpu(index, _rows(), 5) is index
    else:  # the real thing: the check inside raises where they differ
        assert gpu.on_gpu(index, _rows(), 5) is not index


@pytest.mark.parametrize(
    ("factory", "goes"),
    [("Flat", True), ("IVF8,Flat", True), ("IVF8,SQ8", True), ("HNSW16,Flat", False), ("IVF8,PQ4x4", False)],
)
def test_flat_rows_and_lists_go_to_the_gpu_graphs_and_codes_do_not(factory: str, goes: bool, moved: list[Any]) -> None:
    rows = _rows()
    index = _made(factory, rows)
    searcher = gpu.on_gpu(index, rows, 7)
    assert (searcher is not index) == goes == bool(moved)
    for ours, theirs in zip(searcher.search(rows, 7), index.search(rows, 7), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_more_places_than_the_kernels_have_stay_on_the_cpu(moved: list[Any]) -> None:
    rows = _rows(3000)
    index = exact.flat_index(rows)
    assert gpu.on_gpu(index, rows, 2048) is not index
    assert gpu.on_gpu(index, rows, 2049) is index
    lists = _made("IVF8,Flat", rows)
    lists.nprobe = 4096
    assert gpu.on_gpu(lists, rows, 5) is lists


@pytest.mark.parametrize("method", ["exact", "ivf"])
def test_the_neighbours_are_the_cpu_s(method: str, moved: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows()

    def near() -> Any:
        if method == "exact":
            return exact.nearest_rows(rows, 9)
        index = approximate.build(rows, approximate.choose(len(rows), 16, IndexConfig(method="ivf")))
        return approximate.neighbours(index, rows, 9, exact_rows=True)

    there = near()
    assert moved
    block = exact.search_block(exact.RowSearcher(rows), rows, np.arange(50), 9)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    here = near()
    np.testing.assert_array_equal(there.ids, here.ids)
    np.testing.assert_array_equal(there.similarities, here.similarities)
    np.testing.assert_array_equal(block.ids, exact.search_block(exact.RowSearcher(rows), rows, np.arange(50), 9).ids)


def test_a_gpu_that_finds_others_is_refused(moved: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows()
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: exact.flat_index(rows[::-1][:300]))
    with pytest.raises(DataError, match="other neighbours on the GPU.*Set CUDA_VISIBLE_DEVICES="):
        gpu.on_gpu(exact.flat_index(rows), rows, 5)


def test_a_gpu_without_room_is_named(moved: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(index: Any) -> Any:
        raise RuntimeError("Error in alloc\nout of memory")

    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", full)
    with pytest.raises(DataError, match="cannot copy the index to the GPU: out of memory"):
        gpu.on_gpu(exact.flat_index(_rows()), _rows(), 5)
