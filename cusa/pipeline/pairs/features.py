"""The features of a pair that calibration uses: similarities, local scaling, ranks, and whether neighbours are mutual.

Shapes: N images, M captions, K neighbours of a row; C captions considered for one image.

A cosine says little by itself: a caption such as "a man is standing" is near to everything. So each similarity also
comes less the mean similarity of both rows to their nearest rows (local scaling: CSLS of Conneau et al., arXiv
1710.04087, section 2.3, there between two languages, here between an image's captions and a caption).
"""

import numpy as np

from cusa.pipeline.index.neighbours import Modality
from cusa.pipeline.pairs.candidates import Candidates, Finder

_LOCAL = 10  # nearest rows whose mean similarity is a row's own level; CSLS takes ten

IMAGE_FEATURES = (
    "image_similarity",  # cosine of the image and the caption's own image
    "image_local",  # twice that, less the level of both
    "image_rank",  # logarithm of the owner's rank among the image's neighbours
    "image_rank_back",  # and of the image's among the owner's
    "image_mutual",  # 1 where each is among the other's neighbours
)
TEXT_FEATURES = (
    "text_similarity",  # best cosine of the caption and a caption of the image
    "text_mean",  # mean cosine of the caption and the image's captions
    "text_set",  # mean cosine of all the owner's captions and all the image's
    "text_set_best",  # best cosine of any considered caption of the owner and one of the image's
    "text_local",  # twice text_similarity, less the level of both
    "text_rank",  # logarithm of the rank of the image's first caption among the caption's neighbours
    "text_rank_back",  # logarithm of the caption's rank for the image among the captions considered
    "text_mutual",  # 1 where the caption is among the neighbours of one of the image's and one of those among its own
    "caption_level",  # how near the caption is to its nearest captions of other images
    "image_level",  # the mean of that over the image's captions
    "sibling",  # best cosine of the caption and another caption of its own image
    "sibling_gap",  # text_similarity less that: how close it comes to being one of the family
)
CROSS_FEATURES = ("cross_similarity",)  # cosine of image and caption by a student


class PairFeatures:
    """Computes the features of an image's pairs; what depends on one row alone is computed once, by the constructor.

    Args:
        finder: the finder of the same split and teachers.
        caption_owner: (M,) the image row that owns each caption.
        num_images: N.
        images: the image teacher, or None.
        texts: the text teacher, or None.
        cross: whether pairs have a student's similarity.
    """

    def __init__(
        self,
        finder: Finder,
        caption_owner: np.ndarray,
        *,
        num_images: int,
        images: Modality | None,
        texts: Modality | None,
        cross: bool = False,
    ) -> None:
        self._finder, self._owner, self._images, self._texts = finder, caption_owner, images, texts
        self.names: tuple[str, ...] = (
            *(IMAGE_FEATURES if images is not None else ()),
            *(TEXT_FEATURES if texts is not None else ()),
            *(CROSS_FEATURES if cross else ()),
        )
        if images is not None:
            self._image_level = _level(images, np.arange(num_images))
        if texts is not None:
            counts = np.maximum(np.bincount(caption_owner, minlength=num_images), 1)
            self._caption_level = _level(texts, caption_owner)
            self._level_of_image = np.bincount(caption_owner, self._caption_level, minlength=num_images) / counts
            self._centres = _sums(texts.rows, caption_owner, num_images) / counts[:, None].astype(np.float32)
            self._sibling = self._siblings(num_images)

    def matrix(self, image: int, pairs: Candidates) -> np.ndarray:
        """Return the features of pairs of one image.

        Args:
            image: the image row.
            pairs: as `Finder.find` gives them: ranks among the considered captions need all of them at once.

        Returns:
            (C, features) float32, columns as in `names`.
        """
        columns: dict[str, np.ndarray] = {}
        owner = self._owner[pairs.caption]
        if self._images is not None:
            depth = self._images.near.ids.shape[1]
            back = _rank_of(self._images.near.ids[owner], image)
            columns |= {
                "image_similarity": pairs.image_similarity,
                "image_local": 2 * pairs.image_similarity - self._image_level[owner] - self._image_level[image],
                "image_rank": _log_rank(pairs.image_rank, depth),
                "image_rank_back": _log_rank(back, depth),
                "image_mutual": (pairs.image_rank > 0) & (back > 0),
            }
        if self._texts is not None:
            columns |= self._by_text(image, pairs, owner)
        if "cross_similarity" in self.names:
            columns["cross_similarity"] = pairs.cross_similarity
        return np.stack([np.asarray(columns[name], dtype=np.float32) for name in self.names], axis=1)

    def _by_text(self, image: int, pairs: Candidates, owner: np.ndarray) -> dict[str, np.ndarray]:
        assert self._texts is not None
        best, near = pairs.text_similarity, self._texts.near.ids
        own = self._finder.captions_of(image)
        if not len(own):  # an image without captions: nothing to compare with
            return {name: np.zeros(len(best), dtype=np.float32) for name in TEXT_FEATURES}
        owners, place = np.unique(owner, return_inverse=True)
        set_best = np.full(len(owners), -np.inf, dtype=np.float32)
        np.maximum.at(set_best, place, best)
        order = np.argsort(-best, kind="stable")
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(1, len(order) + 1)
        level, of_image = self._caption_level[pairs.caption], self._level_of_image[image]
        return {
            "text_similarity": best,
            "text_mean": self._texts.rows[pairs.caption] @ self._centres[image],
            "text_set": (self._centres[owners] @ self._centres[image])[place],
            "text_set_best": set_best[place],
            "text_local": 2 * best - level - of_image,
            "text_rank": _log_rank(pairs.text_rank, near.shape[1]),
            "text_rank_back": np.log(back),
            "text_mutual": (pairs.text_rank > 0) & np.isin(pairs.caption, near[own]),
            "caption_level": level,
            "image_level": np.full(len(best), of_image),
            "sibling": self._sibling[pairs.caption],
            "sibling_gap": best - self._sibling[pairs.caption],
        }

    def _siblings(self, num_images: int) -> np.ndarray:
        """Return each caption's best cosine to another caption of its image; its level where it has none."""
        assert self._texts is not None
        out = self._caption_level.copy()
        for image in range(num_images):
            own = self._finder.captions_of(image)
            if len(own) > 1:
                cosines = self._texts.rows[own] @ self._texts.rows[own].T
                np.fill_diagonal(cosines, -np.inf)
                out[own] = cosines.max(1)
        return out


def _sums(rows_MD: np.ndarray, group_M: np.ndarray, number: int) -> np.ndarray:
    """Return the sum of the rows of each group: (number, D) float32."""
    from scipy.sparse import csr_array

    ones = np.ones(len(group_M), dtype=np.float32)
    groups = csr_array((ones, (group_M, np.arange(len(group_M)))), shape=(number, len(group_M)))
    return np.asarray(groups @ rows_MD)


def _level(modality: Modality, family: np.ndarray) -> np.ndarray:
    """Return each row's mean similarity to its nearest rows of other families; 0 where it has no such neighbour."""
    ids, similarities = modality.near.ids, modality.near.similarities
    out = np.zeros(len(ids), dtype=np.float32)
    for start in range(0, len(ids), 4096):
        block = slice(start, start + 4096)
        strange = family[ids[block]] != family[block, None]
        strange &= np.cumsum(strange, axis=1) <= _LOCAL
        total = np.where(strange, similarities[block], 0).sum(1)
        out[block] = total / np.maximum(strange.sum(1), 1)
    return out


def _rank_of(ids_CK: np.ndarray, row: int) -> np.ndarray:
    """Return the place of `row` in each list, 1 = first, 0 where it is not in it."""
    if not ids_CK.shape[1]:
        return np.zeros(len(ids_CK), dtype=np.int64)
    hit_CK = ids_CK == row
    return np.where(hit_CK.any(1), hit_CK.argmax(1) + 1, 0)


def _log_rank(rank: np.ndarray, depth: int) -> np.ndarray:
    return np.log(np.where(rank > 0, rank, depth + 1))
