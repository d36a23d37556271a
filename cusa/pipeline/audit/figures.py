"""How good a ranking of candidates is, measured against known matches, and what they mean for a training batch."""

from typing import Any

import numpy as np

CUT_OFFS = (100, 1000, 10_000)
"""Ranks at which precision and recall are measured."""


def ranking_figures(values: np.ndarray, known: np.ndarray, *, num_known: int, num_open: int) -> dict[str, Any]:
    """Measure how early a ranking shows the known false negatives.

    Ties keep the order of the candidates. A false negative outside the candidates counts as found at the very last of
    all open pairs, and as missed at every cut-off. Chance: a random order has the precision `num_known / num_open` at
    every cut-off, an average precision of about as much, and the median rank `num_open / 2`.

    Args:
        values: (C,) a number a candidate, larger = earlier; not a number = last.
        known: (C,) whether the candidate is a known false negative.
        num_known: known false negatives in all, candidates or not, at least 1.
        num_open: pairs the data set does not make itself.

    Returns:
        average_precision (0 to 1, larger is better), median_rank (1 = first), precision and recall at `CUT_OFFS`.
        Where the truth is not complete, precision and average precision are lower bounds.
    """
    order = np.argsort(-values, kind="stable")
    ranks = np.flatnonzero(known[order]) + 1
    hits = np.arange(1, len(ranks) + 1)
    with_missed = np.concatenate([ranks, np.full(num_known - len(ranks), num_open)])
    at = [(cut, int((ranks <= cut).sum())) for cut in CUT_OFFS]
    return {
        "average_precision": float((hits / ranks).sum() / num_known),
        "median_rank": float(np.median(with_missed)),
        "precision": {str(cut): number / cut for cut, number in at if cut <= len(values)},
        "recall": {str(cut): number / num_known for cut, number in at},
    }


def batch_false_negatives(
    images: np.ndarray,
    caption_owner: np.ndarray,
    *,
    num_images: int,
    batch: int,
    weights: np.ndarray | None = None,
) -> float:
    """Return how many false negatives a batch holds on average.

    A batch is `batch` different captions drawn at random, each with its own image. Each ordered couple of its pairs
    whose first image matches the second's caption, though it does not own it, counts once: it is one wrong negative
    of the image-to-text loss, and the same one of the text-to-image loss.

    Args:
        images: (P,) the image row of each false negative.
        caption_owner: (captions,) the image row that owns each caption.
        num_images: images of the split.
        batch: pairs in a batch, at most the number of captions.
        weights: (P,) the probability that each is one; all certain if None.

    Returns:
        The expectation, exact: B (B - 1) / (N (N - 1)) times the couples in the whole split, N captions.
    """
    number = len(caption_owner)
    batch = min(batch, number)
    if batch < 2:
        return 0.0
    of_image = np.bincount(caption_owner, minlength=num_images)[images]
    couples = of_image.sum() if weights is None else of_image @ weights
    return float(couples * batch * (batch - 1) / (number * (number - 1)))
