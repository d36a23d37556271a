"""How a model's scores of pairs agree with what people said of them: Kendall's tau, average precision, AUC.

Every number is computed for many resamples of the images at once. Kendall's numerator and the AUC are sums over pairs
of pairs, so they are quadratic forms in how often each image was drawn, and the matrix is the same for all draws.

Legend: P pairs, A images, S draws of images, G groups of pairs with equal scores, L levels of what people can say, in
ascending order.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

_DRAWS = 64  # draws at a time, for the memory of (G, draws) numbers


def draws(num_images: int, *, samples: int, seed: int) -> np.ndarray:
    """Return how often each image was drawn in each resample: int64 (S, A).

    Args:
        num_images: A; as many are drawn, with replacement.
        samples: S.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    drawn = [np.bincount(rng.integers(num_images, size=num_images), minlength=num_images) for _ in range(samples)]
    return np.array(drawn, np.int64).reshape(samples, num_images)


class JudgedScores:
    """Pairs that people judged, in the order of a model's scores.

    Args:
        scores_P: the model's, finite.
        images_P: which image each pair belongs to, from 0.
        num_images: A.
    """

    def __init__(self, scores_P: np.ndarray, images_P: np.ndarray, num_images: int) -> None:
        self._order = np.argsort(scores_P, kind="stable")
        ordered = scores_P[self._order]
        self._images_P = images_P[self._order]
        self._group_P = np.cumsum(np.r_[False, ordered[1:] != ordered[:-1]])
        self._num_images = num_images

    def tau(self, variant: Literal["b", "c"], votes_PL: np.ndarray, drawn_SA: np.ndarray) -> np.ndarray:
        """Return Kendall's tau x 100 of the scores and the votes (S,); NaN where one of the two is constant.

        A pair with several votes counts once for each, with the same score: this equals
        `scipy.stats.kendalltau(scores, levels, variant=...)` on the votes written out one below the other, the pairs of
        an image as often as it was drawn.

        Args:
            variant: `b`, corrected for ties on both sides; `c`, Stuart's, for few levels beside many scores.
            votes_PL: how many people gave each pair each level.
            drawn_SA: see `draws`; `np.ones((1, A))` for the figure itself.
        """
        from scipy.sparse import csr_array  # here: the names of the tasks are known without it

        votes_PL = votes_PL[self._order].astype(np.float64)
        matrix_AA = self._concordance(votes_PL)
        of_image_AL = np.zeros((self._num_images, votes_PL.shape[1]))
        np.add.at(of_image_AL, self._images_P, votes_PL)
        votes_P = votes_PL.sum(1)
        of_group_GA = csr_array((votes_P, (self._group_P, self._images_P)), (self._group_P[-1] + 1, self._num_images))

        def some(drawn_SA: np.ndarray) -> np.ndarray:
            numerator = ((drawn_SA @ matrix_AA) * drawn_SA).sum(1)
            of_level, of_group = drawn_SA @ of_image_AL, (of_group_GA @ drawn_SA.T).T
            total = of_level.sum(1)
            if variant == "c":
                classes = np.minimum(np.count_nonzero(of_group, axis=1), np.count_nonzero(of_level, axis=1))
                return _divide(2 * numerator * classes, total**2 * (classes - 1))
            pairs, tied_scores, tied_levels = (
                (numbers * (numbers - 1)).sum(1) / 2 for numbers in (total[:, None], of_group, of_level)
            )
            return _divide(numerator, np.sqrt((pairs - tied_scores) * (pairs - tied_levels)))

        return 100 * _in_parts(some, drawn_SA)

    def auc(self, right_P: np.ndarray, drawn_SA: np.ndarray) -> np.ndarray:
        """Return the area under the ROC curve in percent (S,); chance is 50.

        That is how often a right pair has a higher score than a wrong one, equal scores counted half; NaN where one of
        the two kinds is missing. As `sklearn.metrics.roc_auc_score` has it.

        Args:
            right_P: bool.
            drawn_SA: as of `tau`.
        """
        votes_P2 = np.stack([~right_P, right_P], axis=1)[self._order].astype(np.float64)
        matrix_AA = self._concordance(votes_P2)
        of_image_A2 = np.zeros((self._num_images, 2))
        np.add.at(of_image_A2, self._images_P, votes_P2)

        def some(drawn_SA: np.ndarray) -> np.ndarray:
            both = (drawn_SA @ of_image_A2).prod(1)
            return _divide(both + ((drawn_SA @ matrix_AA) * drawn_SA).sum(1), 2 * both)

        return 100 * _in_parts(some, drawn_SA)

    def average_precision(self, right_P: np.ndarray, drawn_SA: np.ndarray) -> np.ndarray:
        """Return the average precision in percent (S,); chance is the share of right pairs.

        It is the sum of precision times gain in recall over falling scores, equal scores together, as
        `sklearn.metrics.average_precision_score` has it; NaN without a right pair.

        Args:
            right_P: bool.
            drawn_SA: as of `tau`.
        """
        order = self._order[::-1]  # from the highest score down
        images_P, group_P = self._images_P[::-1], self._group_P[::-1]
        rows = np.flatnonzero(right_P[order])
        # A right pair's precision counts all pairs whose score is no lower than its own.
        last = np.searchsorted(-group_P, -group_P[rows], side="right") - 1
        last_right = np.searchsorted(-group_P[rows], -group_P[rows], side="right") - 1

        def one(drawn_A: np.ndarray) -> float:
            weights_P = drawn_A[images_P]
            right, seen = weights_P[rows], np.cumsum(weights_P)[last]
            if not right.any():
                return float("nan")
            right_so_far = np.cumsum(right)[last_right]
            return float((right * _divide(right_so_far, seen, empty=0.0)).sum() / right.sum())

        return 100 * np.array([one(drawn_A) for drawn_A in drawn_SA])

    def _concordance(self, votes_PL: np.ndarray) -> np.ndarray:
        """Return concordant minus discordant votes of each image's pairs above each other image's: (A, A).

        Args:
            votes_PL: in the order of the scores.
        """
        levels = np.arange(votes_PL.shape[1])
        sign_LL = np.sign(levels[:, None] - levels).astype(np.float64)
        matrix_AA = np.zeros((self._num_images, self._num_images))
        below_LA = np.zeros(
            (votes_PL.shape[1], self._num_images)
        )  # of each level: the signs of the pairs below, by image
        signs_PL = votes_PL @ sign_LL.T
        ends = np.flatnonzero(np.r_[self._group_P[1:] != self._group_P[:-1], True]) + 1
        start = 0
        for end in ends.tolist():
            for row in range(start, end):
                matrix_AA[self._images_P[row]] += votes_PL[row] @ below_LA
            for row in range(start, end):
                below_LA[:, self._images_P[row]] += signs_PL[row]
            start = end
        return matrix_AA


def _in_parts(some: Callable[[np.ndarray], np.ndarray], drawn_SA: np.ndarray) -> np.ndarray:
    parts = [some(drawn_SA[at : at + _DRAWS].astype(np.float64)) for at in range(0, len(drawn_SA), _DRAWS)]
    return np.concatenate(parts) if parts else np.empty(0)


def _divide(above: np.ndarray, below: np.ndarray, *, empty: float = np.nan) -> np.ndarray:
    out: np.ndarray = np.divide(above, below, out=np.full(np.shape(above), empty), where=below > 0)
    return out
