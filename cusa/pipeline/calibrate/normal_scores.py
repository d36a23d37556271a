"""Features as normal scores: how far a pair stands out of the random pairs of its own split.

A cosine of 0.6 says one thing of Flickr8k's short captions and another of COCO's longer ones, so a calibration that was
fitted on one data set is too sure on the other. That a pair lies above 99.9 % of a split's random pairs says nearly the
same on both.

Shapes: P pairs, F features, K knots.
"""

from dataclasses import dataclass

import numpy as np

from cusa.pipeline.pairs.features import PairFeatures

_IMAGES, _CAPTIONS = 256, 256  # of the random pairs
_KNOTS = 161
_BEYOND = 5  # pairs that lie above the last knot: fewer would place it by chance
_TAIL = 0.99  # share of pairs above which the curve's slope is taken beyond the last knot
_FEWEST = 20  # pairs below which nothing can be said of a tail


@dataclass(frozen=True)
class NormalScores:
    """A rising curve a feature, from its value to its normal score.

    Attributes:
        values: (F, K) rising.
        scores: (F, K) the normal score of each value; that of a value which many pairs share is the mean of theirs.
        slopes: (F,) by which a score rises beyond the last value.
    """

    values: np.ndarray
    scores: np.ndarray
    slopes: np.ndarray

    @classmethod
    def of_split(cls, features: PairFeatures, owner: np.ndarray, num_images: int, *, seed: int = 0) -> "NormalScores":
        """Measure the random pairs of a split.

        Args:
            features: of the split's pairs.
            owner: (captions,) the image row that owns each caption.
            num_images: images of the split.
            seed: of the pairs that are drawn.
        """
        rng = np.random.default_rng(seed)
        images = np.sort(rng.permutation(num_images)[:_IMAGES])
        captions = np.stack([rng.permutation(len(owner))[:_CAPTIONS] for _ in images])
        image = np.repeat(images, captions.shape[1])
        caption = captions.reshape(-1)
        foreign = owner[caption] != image
        return cls.of(features.matrix(image[foreign], caption[foreign]))

    @classmethod
    def of(cls, values_PF: np.ndarray) -> "NormalScores":
        """Measure the features of random pairs."""
        from scipy.special import ndtr, ndtri

        number, width = max(len(values_PF), _FEWEST), values_PF.shape[1]
        nodes = np.linspace(-1, 1, _KNOTS) * ndtri(1 - _BEYOND / number)
        sample = values_PF.astype(np.float64) if len(values_PF) else np.zeros((1, width))
        values = np.quantile(sample, ndtr(nodes), axis=0).T
        scores = np.empty_like(values)
        for row, out in zip(values, scores, strict=True):
            _, place, counts = np.unique(row, return_inverse=True, return_counts=True)
            out[:] = (np.bincount(place, nodes) / counts)[place]
        tail = int(np.searchsorted(nodes, ndtri(_TAIL))) if nodes[-1] > ndtri(_TAIL) else _KNOTS // 2
        rise, run = scores[:, -1] - scores[:, tail], values[:, -1] - values[:, tail]
        return cls(values, scores, np.where(run > 0, rise / np.where(run > 0, run, 1), 0))

    def __call__(self, values_PF: np.ndarray) -> np.ndarray:
        """Return the normal scores of pairs, (P, F) float64; below the first value there is no lower score."""
        out = np.empty(values_PF.shape)
        for place, (values, scores) in enumerate(zip(self.values, self.scores, strict=True)):
            column = values_PF[:, place].astype(np.float64)
            beyond = np.maximum(column - values[-1], 0) * self.slopes[place]
            out[:, place] = np.interp(column, values, scores) + beyond
        return out
