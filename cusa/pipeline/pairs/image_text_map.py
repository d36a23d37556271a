"""A linear map from an image teacher's features to a text teacher's, learned from the data's own pairs.

Two uni-modal teachers cannot compare an image with a caption. Ridge regression from an image's features to the mean
of its captions' embeddings can: it is solved in closed form, in seconds. Each image is predicted by a map that was
fitted without it, so its own captions do not vouch for it.

Shapes: N images, E/D widths of the image and the text teacher.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_FOLDS = 5
_WIDEST = 2048  # numbers of an image's features; wider ones are projected at random, or the normal equations explode
_ROWS_A_BLOCK = 4096
_FEWEST = 50  # images with captions that a map is fitted on at least


@dataclass(frozen=True)
class Examples:
    """Images and the means of their captions, by two teachers.

    Attributes:
        images: (N, E) unit rows.
        captions: (N, D) the mean of each image's caption embeddings.
        has_captions: (N,) whether the image has any.
    """

    images: np.ndarray
    captions: np.ndarray
    has_captions: np.ndarray


def predict_out_of_fold(
    examples: Examples, others: Sequence[Examples] = (), *, strength: float = 1.0, seed: int = 0
) -> np.ndarray | None:
    """Predict the text embedding of each image by a map that did not see it.

    W = (A'A + s t I)^-1 A'B over centred features A and centred caption means B, t being the mean of the diagonal of
    A'A. The images are cut into five folds at random; each is predicted by the map of the other four and of `others`.

    Args:
        examples: the split's own.
        others: of the work folder's other splits, all of which are learned from.
        strength: s, the ridge as a multiple of the mean variance of a feature.
        seed: of the folds and, for very wide features, of the projection.

    Returns:
        (N, D) float32 unit rows, or None where fewer than 50 images have captions.
    """
    number = len(examples.images)
    fold = np.random.default_rng(seed).permutation(number) % _FOLDS
    learned = [examples, *others]
    if sum(int(one.has_captions.sum()) for one in learned) < _FEWEST:
        return None
    project = _Project(examples.images.shape[1], seed)
    parts = [_moments(examples, project, (fold == f) & examples.has_captions) for f in range(_FOLDS)]
    rest = [_moments(other, project, other.has_captions) for other in others]
    out = np.zeros(examples.captions.shape, dtype=np.float32)
    for held in range(_FOLDS):
        total = _add([*(part for f, part in enumerate(parts) if f != held), *rest])
        weights, image_mean = _solve(total, strength)
        rows = np.flatnonzero(fold == held)
        for start in range(0, len(rows), _ROWS_A_BLOCK):
            block = rows[start : start + _ROWS_A_BLOCK]
            out[block] = (project(examples.images[block]) - image_mean) @ weights
    norms = np.linalg.norm(out, axis=1, keepdims=True)
    return np.asarray(out / np.maximum(norms, 1e-12))


@dataclass(frozen=True)
class _Moments:
    count: float
    image_sum: np.ndarray
    caption_sum: np.ndarray
    image_image: np.ndarray
    image_caption: np.ndarray


def _moments(examples: Examples, project: "_Project", wanted: np.ndarray) -> _Moments:
    rows = np.flatnonzero(wanted)
    width, out_width = project.width, examples.captions.shape[1]
    image_sum, caption_sum = np.zeros(width), np.zeros(out_width)
    image_image, image_caption = np.zeros((width, width)), np.zeros((width, out_width))
    for start in range(0, len(rows), _ROWS_A_BLOCK):
        block = rows[start : start + _ROWS_A_BLOCK]
        a, b = project(examples.images[block]), examples.captions[block]
        image_sum += a.sum(0)
        caption_sum += b.sum(0)
        image_image += a.T @ a
        image_caption += a.T @ b
    return _Moments(len(rows), image_sum, caption_sum, image_image, image_caption)


def _add(parts: list[_Moments]) -> _Moments:
    names = ("count", "image_sum", "caption_sum", "image_image", "image_caption")
    return _Moments(*(sum(getattr(part, name) for part in parts) for name in names))


def _solve(total: _Moments, strength: float) -> tuple[np.ndarray, np.ndarray]:
    count = max(total.count, 1.0)
    image_mean, caption_mean = total.image_sum / count, total.caption_sum / count
    covariance = total.image_image - count * np.outer(image_mean, image_mean)
    cross = total.image_caption - count * np.outer(image_mean, caption_mean)
    ridge = strength * max(float(np.trace(covariance)) / len(covariance), 1e-9)
    covariance[np.diag_indices_from(covariance)] += ridge
    return np.linalg.solve(covariance, cross).astype(np.float32), image_mean.astype(np.float32)


class _Project:
    """The features as they are, or a fixed random projection of very wide ones."""

    def __init__(self, width: int, seed: int) -> None:
        self.width = min(width, _WIDEST)
        self._matrix: np.ndarray | None = None
        if width > _WIDEST:
            draws = np.random.default_rng(seed).standard_normal((width, _WIDEST), dtype=np.float32)
            self._matrix = draws / np.float32(np.sqrt(_WIDEST))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return rows if self._matrix is None else np.asarray(rows @ self._matrix)
