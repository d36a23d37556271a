"""Scores of all images with all captions, whatever the student scores by, in blocks of queries.

Legend: I images, C captions, D width of the embedding, K candidates of a query.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cusa.eval.ranking import check_finite, score_blocks


class Scores(Protocol):
    """What ranks captions for images and images for captions."""

    def of_images(self, block: int) -> Iterable[np.ndarray]:
        """Give (<= block, C) scores, image by image."""
        ...

    def of_captions(self, block: int) -> Iterable[np.ndarray]:
        """Give (<= block, I) scores, caption by caption."""
        ...


@dataclass(frozen=True)
class Cosines:
    """Inner products of embeddings: what a dual encoder ranks by."""

    image_ID: np.ndarray
    text_CD: np.ndarray

    def of_images(self, block: int) -> Iterable[np.ndarray]:
        """Give (<= block, C) inner products."""
        return score_blocks(self.image_ID, self.text_CD, block)

    def of_captions(self, block: int) -> Iterable[np.ndarray]:
        """Give (<= block, I) inner products."""
        return score_blocks(self.text_CD, self.image_ID, block)


@dataclass(frozen=True)
class Table:
    """Every score, computed once: what a student that scores pairs ranks by.

    Raises:
        DataError: if a score is NaN or infinite.
    """

    scores_IC: np.ndarray

    def __post_init__(self) -> None:
        check_finite(self.scores_IC, "pair scores")

    def of_images(self, block: int) -> Iterator[np.ndarray]:
        """Give rows."""
        for start in range(0, len(self.scores_IC), block):
            yield self.scores_IC[start : start + block]

    def of_captions(self, block: int) -> Iterator[np.ndarray]:
        """Give columns."""
        for start in range(0, self.scores_IC.shape[1], block):
            yield self.scores_IC[:, start : start + block].T


@dataclass(frozen=True)
class Reranked:
    """A first ranking whose K best candidates of each query were scored again.

    The candidates stand first, by their second score; all others keep the order of the first ranking behind them. (The
    reference gives them all the same score, which is the same for R@K up to K.)

    Raises:
        DataError: if a second score is NaN or infinite.
    """

    first: Scores
    captions_IK: np.ndarray
    """Caption rows of each image's candidates."""
    caption_scores_IK: np.ndarray
    images_CK: np.ndarray
    """Image rows of each caption's candidates."""
    image_scores_CK: np.ndarray

    def __post_init__(self) -> None:
        check_finite(self.caption_scores_IK, "second scores of the images' candidates")
        check_finite(self.image_scores_CK, "second scores of the captions' candidates")

    def of_images(self, block: int) -> Iterator[np.ndarray]:
        """Give (<= block, C) scores, float64."""
        return _rerank(self.first.of_images(block), self.captions_IK, self.caption_scores_IK)

    def of_captions(self, block: int) -> Iterator[np.ndarray]:
        """Give (<= block, I) scores, float64."""
        return _rerank(self.first.of_captions(block), self.images_CK, self.image_scores_CK)


@dataclass(frozen=True)
class _Part:
    """Some images and captions of other scores, in the order given."""

    whole: Scores
    images: np.ndarray
    captions: np.ndarray

    def of_images(self, block: int) -> Iterator[np.ndarray]:
        return _some(self.whole.of_images(block), self.images, self.captions, block)

    def of_captions(self, block: int) -> Iterator[np.ndarray]:
        return _some(self.whole.of_captions(block), self.captions, self.images, block)


def _some(blocks: Iterable[np.ndarray], queries: np.ndarray, answers: np.ndarray, block: int) -> Iterator[np.ndarray]:
    """Give the rows of some queries, in their order, each with some answers."""
    kept: dict[int, np.ndarray] = {}
    wanted, start = np.sort(queries), 0
    for scores in blocks:
        mine = wanted[(wanted >= start) & (wanted < start + len(scores))]
        kept.update(zip(mine.tolist(), scores[mine - start][:, answers], strict=True))
        start += len(scores)
    for at in range(0, len(queries), block):
        yield np.stack([kept[int(query)] for query in queries[at : at + block]])


def part(scores: Scores, images: np.ndarray, captions: np.ndarray) -> Scores:
    """Return the scores of some images with some captions.

    Args:
        scores: of everything.
        images: rows, in the order wanted, none twice.
        captions: likewise. A second ranking (`Reranked`) keeps the candidates it had among everything.
    """
    if isinstance(scores, Cosines):
        return Cosines(scores.image_ID[images], scores.text_CD[captions])
    if isinstance(scores, Table):
        return Table(scores.scores_IC[np.ix_(images, captions)])
    return _Part(scores, images, captions)


def of_pairs(scores: Scores, images: np.ndarray, captions: np.ndarray, block: int) -> np.ndarray:
    """Return the score of each pair (P,).

    Args:
        scores: of everything.
        images: (P,) image rows.
        captions: (P,) caption rows.
        block: images at a time, where all their scores have to be computed.
    """
    if isinstance(scores, Cosines):
        cosine_P: np.ndarray = np.einsum("pd,pd->p", scores.image_ID[images], scores.text_CD[captions])
        return cosine_P
    if isinstance(scores, Table):
        scored_P: np.ndarray = scores.scores_IC[images, captions]
        return scored_P
    score_P, start = np.empty(len(images)), 0
    for of_images in scores.of_images(block):
        mine = np.flatnonzero((images >= start) & (images < start + len(of_images)))
        score_P[mine] = of_images[images[mine] - start, captions[mine]]
        start += len(of_images)
    return score_P


def candidates(blocks: Iterable[np.ndarray], k: int) -> np.ndarray:
    """Return the rows of each query's k best items, best first, the lower row first among equals: (queries, k)."""
    best_rows = []
    for block in blocks:
        check_finite(block, "the first ranking")
        for scores in block:
            threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
            above = np.flatnonzero(scores > threshold)
            best = np.concatenate([above, np.flatnonzero(scores == threshold)[: k - len(above)]])
            best_rows.append(best[np.lexsort((best, -scores[best]))])
    return np.stack(best_rows)


def _rerank(blocks: Iterable[np.ndarray], rows: np.ndarray, again: np.ndarray) -> Iterator[np.ndarray]:
    start = 0
    for block in blocks:
        some = slice(start, start + len(block))
        scores = block.astype(np.float64)
        # The best of the others ends one below the lowest second score.
        scores -= scores.max(1, keepdims=True) - again[some].min(1, keepdims=True) + 1.0
        np.put_along_axis(scores, rows[some], again[some].astype(np.float64), axis=1)
        start += len(block)
        yield scores
