"""Approximate nearest rows for splits that an exact search would take days for: chosen, trained, tuned and measured.

Shapes: N rows, D their width, K neighbours kept a row, Q queries held for measuring.
"""

import importlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cusa.errors import ConfigError
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.neighbours import Neighbours
from cusa.pipeline.config import IndexConfig
from cusa.pipeline.index.exact import ROWS_A_BLOCK, in_order
from cusa.pipeline.index.gpu import on_gpu

if TYPE_CHECKING:
    import faiss

_HELD = 256  # rows whose exact neighbours say what an approximate search finds
_ROWS_A_LIST = 64  # training rows an inverted list; FAISS asks for 39 and uses 256 at most
_LINKS = 32  # of HNSW a row, twice that in its lowest layer
_BYTES_A_SECOND = 4e9  # rows that one core reads and multiplies while scanning lists: for the choice alone
_EXACT_A_BLOCK = 128  # rows whose neighbours' own rows are gathered at once


@dataclass(frozen=True)
class Plan:
    """An index that fits its budget."""

    kind: str
    """`ivf` or `hnsw`."""
    factory: str
    """As `faiss.index_factory` reads it."""
    lists: int
    """Inverted lists; 0 for HNSW."""
    bytes: int
    """Estimated size in memory and on disk."""
    exact_rows: bool
    """Whether the index holds the rows as they are; else similarities are computed again from the table."""


def choose(number: int, width: int, config: IndexConfig) -> Plan:
    """Choose an index from a budget of memory and latency.

    Rows are kept as they are where memory allows, else as 8-bit numbers, else as product codes. A graph (HNSW) is
    chosen where it fits and scanning the inverted lists that a good recall asks for would exceed the latency.

    Args:
        number: N.
        width: D.
        config: method, memory (GiB), latency (milliseconds a query on one core).

    Raises:
        ConfigError: if nothing fits; the message names the least memory.
    """
    budget = config.memory * 2**30
    lists = max(1, min(round(4 * number**0.5), number // _ROWS_A_LIST or 1))
    ids = number * 8
    graph = number * (4 * width + 8 * _LINKS + 8)
    scan = number * width * 4 * 0.03 / _BYTES_A_SECOND * 1000  # three in a hundred rows are looked at
    if config.method == "hnsw" or (config.method == "auto" and graph <= budget and scan > config.latency):
        if graph > budget:
            raise ConfigError(
                f"HNSW over {number:,} rows of {width} numbers takes {graph / 2**30:.1f} GiB and --memory allows "
                f"{config.memory:g}. Allow more, or take --method ivf.",
                option="--memory",
            )
        return Plan("hnsw", f"HNSW{_LINKS},Flat", 0, graph, True)
    codes = [code for code in (width // 2, width // 4, width // 8) if code and width % code == 0]
    whole = 0.0
    for storage, size in (("Flat", 4 * width), ("SQ8", width), *((f"PQ{code}", code) for code in codes)):
        if (whole := number * size + ids + lists * width * 4) <= budget:
            return Plan("ivf", f"IVF{lists},{storage}", lists, int(whole), storage == "Flat")
    raise ConfigError(
        f"Even product codes of {number:,} rows take {whole / 2**30:.2f} GiB and --memory allows {config.memory:g}. "
        "Allow more memory.",
        option="--memory",
    )


@dataclass(frozen=True)
class Measured:
    """What tuning found on held queries."""

    recall: float
    """Share of the exact nearest that the search returns; any row of a tied similarity counts."""
    milliseconds: float
    """A query, one after the other on this machine's threads."""
    setting: str
    """For example `nprobe=16`."""

    def sentence(self, k: int, goal: float, latency: float) -> str:
        """Return the measurement as a sentence."""
        short = "" if self.recall >= goal else f", below the {goal:g} asked for"
        slow = "" if self.milliseconds <= latency else f", above the {latency:g} ms allowed"
        return (
            f"recall@{k} against exact search on held queries: {self.recall:.3f}{short}; {self.milliseconds:.2f} ms a "
            f"query{slow} ({self.setting})."
        )


def can_grow(index: "faiss.Index", plan: Plan) -> bool:
    """Return whether rows may be added to an index in place of building what a plan says.

    Args:
        index: holds its rows as they are.
        plan: for all rows.
    """
    import faiss

    if plan.kind == "hnsw":
        return isinstance(faiss.downcast_index(index), faiss.IndexHNSWFlat)
    return plan.exact_rows and faiss.try_extract_index_ivf(index) is not None


def build(rows_ND: np.ndarray, plan: Plan, *, seed: int = 0) -> "faiss.Index":
    """Train an index on a sample of the rows and add all of them."""
    import faiss

    index = faiss.index_factory(rows_ND.shape[1], plan.factory, faiss.METRIC_INNER_PRODUCT)
    if plan.lists:
        wanted = min(len(rows_ND), max(_ROWS_A_LIST * plan.lists, 20_000))
        sample = np.sort(np.random.default_rng(seed).choice(len(rows_ND), wanted, replace=False))
        faiss.extract_index_ivf(index).cp.min_points_per_centroid = 1
        index.train(rows_ND[sample])
    index.add(rows_ND)
    return index


def tune(index: "faiss.Index", rows_ND: np.ndarray, k: int, config: IndexConfig, *, seed: int = 1) -> Measured:
    """Look at more lists (or more of the graph) until the recall is reached, and leave the index set so.

    Args:
        index: as `build` returned it.
        rows_ND: the rows it holds.
        k: neighbours that are wanted.
        config: the recall to reach and the latency allowed: more is not tried beyond it.
        seed: draws the held queries.
    """
    import faiss

    number = len(rows_ND)
    held = np.sort(np.random.default_rng(seed).choice(number, min(_HELD, number), replace=False))
    places = min(k + 1, number)
    exact, _ = faiss.knn(rows_ND[held], rows_ND, places, metric=faiss.METRIC_INNER_PRODUCT)
    lists = faiss.try_extract_index_ivf(index)
    setting, value = ("nprobe", 1) if lists is not None else ("efSearch", max(16, places))
    limit = lists.nlist if lists is not None else 4096
    space = faiss.ParameterSpace()
    while True:
        space.set_index_parameter(index, setting, value)
        start = time.perf_counter()
        _, ids = index.search(rows_ND[held], places)
        spent = 1000 * (time.perf_counter() - start) / len(held)
        # By similarity and not by row number: which of several equal rows was returned does not matter.
        similarities = np.einsum("qd,qkd->qk", rows_ND[held], rows_ND[np.maximum(ids, 0)])
        good = (similarities >= exact[:, -1:] - 1e-5) & (ids >= 0)
        measured = Measured(float(good.sum() / exact.size), spent, f"{setting}={value}")
        if measured.recall >= config.recall or value >= limit or (spent > config.latency and value > 1):
            return measured
        value = min(2 * value, limit)


def neighbours(
    index: "faiss.Index",
    rows_ND: np.ndarray,
    k: int,
    *,
    exact_rows: bool,
    what: str = "index",
    on_event: OnEvent = ignore,
) -> Neighbours:
    """Find about the `k` nearest of every row, as `cusa.pipeline.index.exact.nearest_rows` finds exactly those.

    Where the search returns fewer than `k` rows, the last one is repeated, so that the table keeps its width.
    Similarities are computed from the rows themselves.

    Args:
        index: tuned.
        rows_ND: the rows it holds.
        k: neighbours a row.
        exact_rows: whether the index's own similarities are exact.
        what: the name of the work in progress reports.
        on_event: called with every block of rows.
    """
    number = len(rows_ND)
    k = max(0, min(k, number - 1))
    searcher = on_gpu(index, rows_ND, k + 1)
    ids_NK = np.empty((number, k), dtype=np.int64)
    similarities_NK = np.empty((number, k), dtype=np.float32)
    on_event(what, 0, number)
    for start in range(0, number if k else 0, ROWS_A_BLOCK):
        rows_Q = np.arange(start, min(start + ROWS_A_BLOCK, number))
        near = search_block(searcher, rows_ND, rows_Q, k, exact_rows=exact_rows)
        ids_NK[rows_Q], similarities_NK[rows_Q] = near.ids, near.similarities
        on_event(what, int(rows_Q[-1]) + 1, number)
    return Neighbours(ids_NK, similarities_NK)


def search_block(
    searcher: "faiss.Index", rows_ND: np.ndarray, rows_Q: np.ndarray, k: int, *, exact_rows: bool
) -> Neighbours:
    """Find about the `k` nearest of some rows; see `neighbours`."""
    near_QS, ids_QS = searcher.search(rows_ND[rows_Q], k + 1)
    if not exact_rows:
        near_QS = _exact(rows_ND, rows_Q, ids_QS)
    near_QS, ids_QS = in_order(near_QS, ids_QS, rows_Q)
    there = np.isfinite(near_QS[:, :k])
    last = np.maximum(there.sum(1) - 1, 0)[:, None]
    place = np.minimum(np.arange(k)[None], last)
    return Neighbours(np.take_along_axis(ids_QS, place, axis=1), np.take_along_axis(near_QS, place, axis=1))


def opened(index_bytes: np.ndarray, rows_ND: np.ndarray, k: int) -> "faiss.Index":
    """Return an index of the bytes that FAISS writes, where it can without a copy of its vectors; on GPUs if any.

    Args:
        index_bytes: uint8; they must stay where they are as long as the index is used.
        rows_ND: the rows it holds.
        k: neighbours that will be asked for.
    """
    faiss_module: Any = importlib.import_module("faiss")  # its types do not know the reader
    flat = np.asarray(index_bytes)
    index = faiss_module.read_index(faiss_module.ZeroCopyIOReader(faiss_module.swig_ptr(flat), flat.size))
    return on_gpu(index, rows_ND, k + 1)


def _exact(rows_ND: np.ndarray, rows_Q: np.ndarray, ids_QS: np.ndarray) -> np.ndarray:
    out = np.empty(ids_QS.shape, dtype=np.float32)
    for start in range(0, len(rows_Q), _EXACT_A_BLOCK):
        block = slice(start, start + _EXACT_A_BLOCK)
        out[block] = np.einsum("qd,qsd->qs", rows_ND[rows_Q[block]], rows_ND[np.maximum(ids_QS[block], 0)])
    return out
