"""Ranks of the right answers, query by query, in blocks: never a full sort, never all scores at once.

The tie rule, everywhere: a wrong item with the same score as a right one stands before it. So a student that gives all
items the same score finds nothing, and no score depends on the order of the rows.

Legend: Q queries, G gallery items, K kept per query.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cusa.errors import DataError


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


def score_blocks(query_QD: np.ndarray, gallery_GD: np.ndarray, block: int) -> Iterator[np.ndarray]:
    """Give the inner products of queries and gallery, `block` queries at a time: (<= block, G) float32.

    Equal gallery rows get equal scores, to the bit. A matrix product alone does not give that: it rounds the columns at
    the edge of its tiles differently, and two images' copies of one caption would be ordered by where they lie.

    Raises:
        DataError: if an embedding is not finite.
    """
    for name, rows in (("query", query_QD), ("gallery", gallery_GD)):
        if not np.isfinite(rows).all():
            bad = int((~np.isfinite(rows).all(1)).sum())
            raise DataError(
                f"{bad} {name} embeddings hold NaN or infinity: the model diverged or its weights are broken."
            )
    copies, originals = _copies(gallery_GD)
    for start in range(0, len(query_QD), block):
        scores = query_QD[start : start + block] @ gallery_GD.T
        scores[:, copies] = scores[:, originals]
        yield scores


def _copies(rows_GD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that repeat an earlier one, and the first row that each repeats."""
    first: dict[bytes, int] = {}  # by digest: the rows themselves would be the gallery once more in memory
    digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows_GD)
    originals = np.array([first.setdefault(digest, number) for number, digest in enumerate(digests)], np.int64)
    copies = np.flatnonzero(originals != np.arange(len(rows_GD)))
    return copies, originals[copies]


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
        relevant: for each query the gallery rows of its right items.
        exclude: for each query the one gallery row that is the query itself and is left out; -1 for none.
        num_right: R of each query where it is more than its right items in the gallery: a ground truth may name items
            that the gallery lacks, and they count as not found.
        top: K.
        at_r: whether R-Precision and mAP@R are wanted; NaN otherwise.

    Returns:
        The ranking; see the tie rule at the top of this file.
    """
    num = len(relevant)
    out = Ranking(
        rank=np.zeros(num, np.int64),
        positives=np.array([len(rows) for rows in relevant], np.int64) if num_right is None else num_right,
        r_precision=np.full(num, np.nan),
        average_precision=np.full(num, np.nan),
        top=np.full((num, top), -1, np.int64),
        top_scores=np.full((num, top), np.nan, np.float32),
    )
    row = 0
    for block in blocks:
        for scores in block:
            if exclude is not None and exclude[row] >= 0:
                scores = scores.copy()
                scores[exclude[row]] = -np.inf
            _rank_one(scores, np.asarray(relevant[row]), out, row, at_r)
            row += 1
    assert row == num, (row, num)
    return out


def _rank_one(scores: np.ndarray, right: np.ndarray, out: Ranking, row: int, at_r: bool) -> None:
    kept = min(out.top.shape[1], int(np.isfinite(scores).sum()))
    if kept:
        threshold = np.partition(scores, len(scores) - kept)[len(scores) - kept]
        above = np.flatnonzero(scores > threshold)
        best = np.concatenate([above, np.flatnonzero(scores == threshold)[: kept - len(above)]])
        best = best[np.lexsort((best, -scores[best]))]
        out.top[row, :kept] = best
        out.top_scores[row, :kept] = scores[best]
    if not len(right):
        if at_r and out.positives[row]:
            out.r_precision[row] = out.average_precision[row] = 0
        return
    right_scores = scores[right]
    best_score = right_scores.max()
    ahead = np.count_nonzero(scores >= best_score) - np.count_nonzero(right_scores >= best_score)
    out.rank[row] = 1 + int(ahead)
    if at_r:
        num_right = int(out.positives[row])
        out.r_precision[row], out.average_precision[row] = _at_r(scores, right, right_scores, num_right)


def _at_r(scores: np.ndarray, right: np.ndarray, right_scores: np.ndarray, num_right: int) -> tuple[float, float]:
    """Return R-Precision and the precision averaged over the first R places."""
    places = min(num_right, len(scores))
    threshold = np.partition(scores, len(scores) - places)[len(scores) - places]
    above = scores > threshold
    hits_above = np.sort(right_scores[right_scores > threshold])[::-1]
    # Places left at the threshold go to wrong items first.
    tied_wrong = np.count_nonzero(scores == threshold) - np.count_nonzero(right_scores == threshold)
    left = places - np.count_nonzero(above)
    hits_at = max(0, int(left) - int(tied_wrong))
    wrong = np.sort(np.delete(scores, right)[np.delete(above, right)])
    # A hit's place: hits before it, itself, and wrong items that score at least as high.
    wrong_before = len(wrong) - np.searchsorted(wrong, hits_above, side="left")
    place = np.arange(1, len(hits_above) + 1) + wrong_before
    if hits_at:
        place = np.concatenate([place, places - hits_at + np.arange(1, hits_at + 1)])
    hits = len(place)
    return hits / num_right, float((np.arange(1, hits + 1) / place).sum() / num_right)
