"""Ranks of the right answers, query by query, in blocks: never a full sort, never all scores at once.

The tie rule, everywhere: a wrong item with the same score as a right one stands before it. So a student that gives all
items the same score finds nothing, and no score depends on the order of the rows.

Legend: Q queries, G gallery items, K kept per query, b queries of a block, n candidates of a block.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields

import numpy as np

from cusa.errors import DataError

_BLOCK_BYTES = 64 << 20  # of scores at once: large enough for the matrix product, small beside the embeddings
_CHUNK = 64  # gallery items that a chunk's maximum speaks for
_THREADS = min(4, os.cpu_count() or 1)
_CANDIDATES = 4_000_000  # of a block at once; only ties by the thousand come near it


@dataclass(frozen=True)
class Ranking:
    """What is known of each query's ranked gallery.

    Attributes:
        rank: (Q,) int64, of the best right item, 1 = first; 0 where a query has none.
        positives: (Q,) int64, right items of each query.
        r_precision: (Q,) share of right items among the first R, R being their number; NaN where R = 0.
        average_precision: (Q,) mAP@R's term: mean over the first R places of precision at the hits; NaN where R = 0.
        top: (Q, K) int64, rows of the best items, best first, the lower row first among equals; -1 where the gallery is
            shorter.
        top_scores: (Q, K) float32.
    """

    rank: np.ndarray
    positives: np.ndarray
    r_precision: np.ndarray
    average_precision: np.ndarray
    top: np.ndarray
    top_scores: np.ndarray

    def of(self, queries: np.ndarray) -> "Ranking":
        """Return some queries' ranking."""
        return Ranking(*(getattr(self, field.name)[queries] for field in fields(self)))


def check_finite(scores: np.ndarray, whose: str) -> None:
    """Refuse scores that no order follows from: NaN compares as nothing, so a ranking would call it the best.

    Args:
        scores: of any shape.
        whose: for the message.

    Raises:
        DataError: if one is NaN or infinite.
    """
    # The extremes show both, and need no memory of the table's size.
    if scores.size and not (np.isfinite(scores.min()) and np.isfinite(scores.max())):
        bad = int((~np.isfinite(scores)).sum())
        raise DataError(
            f"{bad:,} of {scores.size:,} scores ({whose}) are NaN or infinite: the model diverged or its weights are "
            "broken, its score layer where its embeddings are sound. Evaluate an earlier checkpoint."
        )


@dataclass(frozen=True)
class ScoreBlocks:
    """The inner products of queries and gallery, at most `block` queries at a time: (b, G) float32.

    A block is at most 64 MiB large, whatever the gallery, and good until the next one is asked for: all share their
    memory. Equal gallery rows get equal scores, to the bit. A matrix
    product alone does not give that: it rounds the columns at the edge of its tiles differently, and two images' copies
    of one caption would be ordered by where they lie.

    Raises:
        DataError: as blocks are asked for, if an embedding is not finite.
    """

    query_QD: np.ndarray
    gallery_GD: np.ndarray
    block: int

    @property
    def size(self) -> int:
        """Queries of a block; the last one may have fewer."""
        number, wide = len(self.query_QD), len(self.gallery_GD) * self.gallery_GD.itemsize
        return max(1, min(self.block, number, _BLOCK_BYTES // max(1, wide)))

    def __iter__(self) -> Iterator[np.ndarray]:
        for name, rows in (("query", self.query_QD), ("gallery", self.gallery_GD)):
            if bad := sum(int((~np.isfinite(some).all(1)).sum()) for some in _pieces(rows)):
                raise DataError(
                    f"{bad} {name} embeddings hold NaN or infinity: the model diverged or its weights are broken."
                )
        gallery, size = self.gallery_GD, self.size
        copies, originals = _copies(gallery)
        memory = np.empty((size, len(gallery)), np.result_type(self.query_QD, gallery))
        for start in range(0, len(self.query_QD), size):
            some = self.query_QD[start : start + size]
            scores = np.matmul(some, gallery.T, out=memory[: len(some)])
            if len(copies):
                scores[:, copies] = scores[:, originals]
            yield scores


def score_blocks(query_QD: np.ndarray, gallery_GD: np.ndarray, block: int) -> ScoreBlocks:
    """Return the inner products of queries and gallery in blocks of at most so many queries."""
    return ScoreBlocks(query_QD, gallery_GD, block)


def _pieces(rows_ND: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]:
    for start in range(0, len(rows_ND), size):
        yield rows_ND[start : start + size]


def _copies(rows_GD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that repeat an earlier one, and the first row that each repeats."""
    # Nearly all rows differ in their first eight bytes already; only the others are looked at whole.
    heads = np.ascontiguousarray(rows_GD[:, : max(1, 8 // rows_GD.itemsize)])
    head_G = heads.view(f"V{heads.shape[1] * heads.itemsize}").ravel()
    if head_G.itemsize == 8:
        head_G = head_G.view(np.uint64)  # sorts ten times as fast
    _, number_G, count = np.unique(head_G, return_inverse=True, return_counts=True)
    alike = np.flatnonzero(count[number_G] > 1)
    first: dict[bytes, int] = {}  # by digest: the rows themselves would be the gallery once more in memory
    digests = (hashlib.blake2b(rows_GD[row].tobytes(), digest_size=16).digest() for row in alike)
    of_alike = zip(alike.tolist(), digests, strict=True)
    originals = np.array([first.setdefault(digest, row) for row, digest in of_alike], np.int64)
    copies = originals != alike
    return alike[copies], originals[copies]


@dataclass(frozen=True)
class Truth:
    """What counts as right for the queries of one ranking.

    Attributes:
        relevant: for each query the gallery rows of its right items, none twice.
        num_right: R of each query where it is more than its right items in the gallery: a ground truth may name items
            that the gallery lacks, and they count as not found.
        at_r: whether R-Precision and mAP@R are wanted; NaN otherwise.
    """

    relevant: Sequence[np.ndarray]
    num_right: np.ndarray | None = None
    at_r: bool = True


Ranker = Callable[[ScoreBlocks, Sequence[Truth], np.ndarray | None, int], list["Ranking"]]
"""What `rank_by_each` does, done with the help of others: blocks, truths, what is left out, K."""
_ranker: ContextVar[Ranker | None] = ContextVar("ranker", default=None)


@contextmanager
def ranked_by(ranker: Ranker | None) -> Iterator[None]:
    """Within it, rankings of several blocks are made by `ranker`; by this process alone if None."""
    token = _ranker.set(ranker)
    try:
        yield
    finally:
        _ranker.reset(token)


def rank(
    blocks: Iterable[np.ndarray],
    relevant: Sequence[np.ndarray],
    *,
    exclude: np.ndarray | None = None,
    num_right: np.ndarray | None = None,
    top: int = 10,
    at_r: bool = True,
) -> Ranking:
    """Rank the gallery for each query.

    Args:
        blocks: consecutive rows of the score matrix, (b, G) each; higher is nearer.
        relevant: see `Truth`.
        exclude: for each query the one gallery row that is the query itself and is left out; -1 for none.
        num_right: see `Truth`.
        top: K.
        at_r: see `Truth`.

    Returns:
        The ranking; see the tie rule at the top of this file.

    Raises:
        DataError: if a score is NaN or infinite.
    """
    return rank_by_each(blocks, [Truth(relevant, num_right, at_r)], exclude=exclude, top=top)[0]


def rank_by_each(
    blocks: Iterable[np.ndarray], truths: Sequence[Truth], *, exclude: np.ndarray | None = None, top: int = 10
) -> list[Ranking]:
    """Rank the gallery once and judge it by several truths; see `rank`.

    Where others help (`ranked_by`), they rank the blocks of `ScoreBlocks` of which there are several.
    """
    num = len(truths[0].relevant)
    if (elsewhere := _ranker.get()) is not None and isinstance(blocks, ScoreBlocks) and num > blocks.size:
        return elsewhere(blocks, truths, exclude, top)
    rankings = []
    for truth in truths:
        positives = np.array([len(rows) for rows in truth.relevant], np.int64)
        rankings.append(
            Ranking(
                rank=np.zeros(num, np.int64),
                positives=positives if truth.num_right is None else truth.num_right,
                r_precision=np.full(num, np.nan),
                average_precision=np.full(num, np.nan),
                top=np.full((num, top), -1, np.int64),
                top_scores=np.full((num, top), np.nan, np.float32),
            )
        )
    row = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for block in blocks:
            check_finite(block, f"queries {row:,} and following")
            itself = np.full(len(block), -1) if exclude is None else exclude[row : row + len(block)]
            asked = np.flatnonzero(itself >= 0)
            themselves = (asked, itself[asked])
            if len(asked):
                block = block if block.flags.writeable else block.copy()
                kept = block[themselves]
                block[themselves] = -np.inf
            # Sweeps over memory gain from threads; each has its own rows.
            cuts = np.linspace(0, len(block), _THREADS + 1).astype(int).tolist()
            jobs = [
                pool.submit(
                    _rank_block,
                    block[start:stop],
                    truth.relevant[row + start : row + stop],
                    out,
                    row + start,
                    truth.at_r,
                )
                for truth, out in zip(truths, rankings, strict=True)
                for start, stop in zip(cuts[:-1], cuts[1:], strict=True)
                if start < stop
            ]
            for job in jobs:
                job.result()
            if len(asked):
                block[themselves] = kept  # it may be part of somebody's table
            row += len(block)
    assert row == num, (row, num)
    return rankings


def _rank_block(scores: np.ndarray, relevant: Sequence[np.ndarray], out: Ranking, first: int, at_r: bool) -> None:
    """Rank the gallery for the queries `first`, `first + 1`, ... of a block.

    All work on the whole block is three sweeps over it (chunks' maxima, candidates, items ahead of the best right
    one); whatever is sorted is a handful of candidates a query.
    """
    num, size = scores.shape
    if not num or not size:
        return
    rows = slice(first, first + num)
    places = np.minimum(out.positives[rows], size) if at_r else np.zeros(num, np.int64)
    wanted = np.clip(np.maximum(places, out.top.shape[1]), 1, size)
    floor = _floor(scores, wanted)
    candidates_n = np.flatnonzero(scores >= floor[:, None])
    if len(candidates_n) > _CANDIDATES and num > 1:
        half = num // 2
        _rank_block(scores[:half], relevant[:half], out, first, at_r)
        _rank_block(scores[half:], relevant[half:], out, first + half, at_r)
        return
    starts = np.searchsorted(candidates_n, np.arange(num) * size)
    query_n = np.repeat(np.arange(num), np.diff(starts, append=len(candidates_n)))
    item_n = candidates_n - query_n * size
    score_n = scores[query_n, item_n]
    _keep_top(out, first, query_n, item_n=item_n, score_n=score_n, starts=starts)

    lengths = np.array([len(right) for right in relevant], np.int64)
    if at_r:
        known = out.positives[rows] > 0
        out.r_precision[rows][known] = out.average_precision[rows][known] = 0.0
    if not lengths.any():
        return
    query_R = np.repeat(np.arange(num), lengths)
    item_R = np.concatenate([np.asarray(right, np.int64) for right in relevant])
    score_R = scores[query_R, item_R]
    asked = np.flatnonzero(lengths)
    best = np.full(num, np.inf, scores.dtype)
    best[asked] = np.maximum.reduceat(score_R, np.concatenate([[0], np.cumsum(lengths[asked])])[:-1])
    tied_right = np.bincount(query_R[score_R >= best[query_R]], minlength=num)
    ahead = np.bincount(query_n[score_n >= best[query_n]], minlength=num)  # all there are, if the best is a candidate
    behind = asked[best[asked] < floor[asked]]
    for some in _pieces(behind, max(1, _CANDIDATES // size)):
        # Counted row by row: that is several times as fast as along an axis.
        ahead[some] = [np.count_nonzero(row) for row in scores[some] >= best[some, None]]
    out.rank[rows][asked] = 1 + (ahead - tied_right)[asked]
    if at_r:
        right_n = np.isin(query_n * size + item_n, query_R * size + item_R)
        _at_r(out, first, places, query_n=query_n, score_n=score_n, right_n=right_n, starts=starts)


def _floor(scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return for each query a score that at least `wanted` items reach, and few more.

    The gallery is dealt into chunks; where `wanted` chunks have a maximum of at least x, as many items reach x.
    """
    num, size = scores.shape
    most = int(wanted.max())
    chunk = min(_CHUNK, size // (2 * most))
    if chunk < 4:
        maxima = scores
    else:
        across = size // chunk
        maxima = scores[:, : across * chunk].reshape(num, chunk, across).max(axis=1)
        if across * chunk < size:
            maxima = np.concatenate([maxima, scores[:, across * chunk :]], axis=1)
    width = maxima.shape[1]
    if (wanted == most).all():
        maxima, places = np.partition(maxima, width - most, axis=1), np.full(num, width - most)
    else:
        maxima, places = np.sort(maxima, axis=1), width - wanted
    floor: np.ndarray = maxima[np.arange(num), places]
    return floor


def _keep_top(
    out: Ranking, first: int, query_n: np.ndarray, *, item_n: np.ndarray, score_n: np.ndarray, starts: np.ndarray
) -> None:
    order = np.lexsort((-score_n, query_n))  # stable: the candidates of a query come by row
    place = np.arange(len(order)) - starts[query_n]  # sorting kept every query's candidates together
    kept = (place < out.top.shape[1]) & np.isfinite(score_n[order])
    where = (first + query_n[kept], place[kept])
    out.top[where] = item_n[order][kept]
    out.top_scores[where] = score_n[order][kept]


def _at_r(
    out: Ranking,
    first: int,
    places: np.ndarray,
    *,
    query_n: np.ndarray,
    score_n: np.ndarray,
    right_n: np.ndarray,
    starts: np.ndarray,
) -> None:
    """Fill in R-Precision and the precision averaged over the first R places."""
    order = np.lexsort((right_n, -score_n, query_n))  # a wrong item stands before a right one with its score
    place = 1 + np.arange(len(order)) - starts[query_n]
    hit = right_n[order] & (place <= places[query_n])
    before = np.cumsum(hit) - hit  # hits of this block so far
    hits = before - before[starts[query_n]] + hit
    num = len(places)
    right = out.positives[first : first + num]
    some = right > 0
    num_hits = np.bincount(query_n[hit], minlength=num)
    summed = np.bincount(query_n[hit], hits[hit] / place[hit], minlength=num)
    out.r_precision[first : first + num][some] = num_hits[some] / right[some]
    out.average_precision[first : first + num][some] = summed[some] / right[some]
