"""The evidence for and against a pair of the data set, from uni-modal teachers alone.

The evidence is computed for any image and caption, so that pairs which are certainly wrong (a caption put to an image
drawn at random) are measured the same way as the data set's own.

Shapes: N images, M captions, P pairs, K neighbours, S siblings.
"""

from collections.abc import Iterator

import numpy as np

from cusa.pipeline.index.neighbours import Modality
from cusa.pipeline.own_pairs.cross_modal import flattened, predict_out_of_fold, unit
from cusa.pipeline.pairs.products import group_bounds, grouped_products

NEIGHBOURS = 20
"""Depth of the neighbourhoods that are compared."""
_SHARPNESS = 10.0  # a neighbour that is nearer by a cosine of 0.1 weighs e times as much
_SIBLINGS = 16  # captions of an image that a caption is compared with at most
_IMAGE_WIDTH, _TEXT_WIDTH = 512, 256  # directions of the rows that are compared; the rest is mostly noise
_PAIRS_A_BLOCK = 4096

SIBLINGS = ("sibling_mean", "sibling_best")
"""Mean and best cosine of the caption and the image's other captions."""
NEIGHBOURHOOD = ("caption_neighbours", "image_neighbours", "cross_modal")
"""Similarity of the image and the images whose captions read like this one; of the caption and the captions of images
that look like this one; of the caption and what is predicted of the image out of fold."""

LOOK_ALIKES = ("better_elsewhere", "better_here")
"""Of all captions of an image together: how much better they fit it than any image that looks alike; how much better
they fit it than what any image that looks alike is described by."""


class PairEvidence:
    """Computes the evidence of pairs; what depends on one row alone is computed once, by the constructor.

    Args:
        caption_owner: (M,) the image row that owns each caption.
        num_images: N.
        images: the image teacher, or None: then only siblings say anything.
        texts: the text teacher.
    """

    def __init__(self, caption_owner: np.ndarray, *, num_images: int, images: Modality | None, texts: Modality) -> None:
        self._owner, self._near = caption_owner, texts.near
        self._counts = np.bincount(caption_owner, minlength=num_images)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)])
        self._by_owner = np.argsort(caption_owner, kind="stable")
        self._captions = unit(texts.rows - texts.rows.mean(0))
        self.has_siblings = bool((self._counts > 1).any())
        self.names: tuple[str, ...] = (
            *(SIBLINGS if self.has_siblings else ()),
            *(NEIGHBOURHOOD if images is not None else ()),
        )
        if images is not None:
            self._texts = flattened(texts.rows, _TEXT_WIDTH)
            self._images = flattened(images.rows, _IMAGE_WIDTH)
            means = self._means(self._texts)
            self._predicted = predict_out_of_fold(self._images, means)
            self._described, self._look_alikes = unit(means), images.near.ids[:, :NEIGHBOURS]
            self._context = self._context_of_neighbours(images, self._described)
            # How far a random image's or caption's score strays, for each caption and image: CSLS's idea of a level.
            self._caption_spread = _spread(self._texts, self._predicted)
            self._image_spread = _spread(self._predicted, self._texts)

    def of_pairs(
        self, image_P: np.ndarray, caption_P: np.ndarray, without_P: np.ndarray, *, moved_together: bool = False
    ) -> np.ndarray:
        """Return the evidence of pairs.

        Args:
            image_P: image rows.
            caption_P: caption rows, the image's own or of other images.
            without_P: a caption row of each image that does not count as a sibling: the pair's own caption, or the one
                that a foreign caption stands in for.
            moved_together: a foreign caption came with all captions of its image, so that these are no neighbours of
                it that belong elsewhere.

        Returns:
            (P, evidence) float32, columns as in `names`; larger speaks for the pair; the siblings' is not a number
            where the image has no other caption.
        """
        out = np.zeros((len(image_P), len(self.names)), dtype=np.float32)
        for start in range(0, len(image_P), _PAIRS_A_BLOCK):
            block = slice(start, start + _PAIRS_A_BLOCK)
            columns = self._block(image_P[block], caption_P[block], without_P[block], moved_together)
            out[block] = np.stack(list(columns), axis=1)
        return out

    def prediction(self, image: int, captions: np.ndarray) -> np.ndarray:
        """Return the cross-modal evidence of one image and many captions."""
        return self._cross(np.full(len(captions), image), captions)

    def of_images(self, image_G: np.ndarray, source_G: np.ndarray) -> np.ndarray:
        """Return what tells an image that has the captions of another from those that look like it.

        Args:
            image_G: image rows.
            source_G: for each, the image row whose captions it has: its own, or another.

        Returns:
            (G, 2) float32, columns as in `LOOK_ALIKES`; larger speaks for the captions.
        """
        out = np.zeros((len(image_G), len(LOOK_ALIKES)), dtype=np.float32)
        for start in range(0, len(image_G) if self._look_alikes.shape[1] else 0, _PAIRS_A_BLOCK):
            block = slice(start, start + _PAIRS_A_BLOCK)
            image, source = image_G[block], source_G[block]
            alike, described = self._look_alikes[image], self._described[source]
            own = np.einsum("gd,gd->g", self._predicted[image], described)
            there = np.einsum("gkd,gd->gk", self._predicted[alike], described)
            here = np.einsum("gkd,gd->gk", self._described[alike], self._predicted[image])
            # Mixed up pictures have each other's captions.
            swapped = np.einsum("gd,gd->g", self._predicted[image], self._described[image])
            here = np.where((alike == source[:, None]) & (image != source)[:, None], swapped[:, None], here)
            out[block] = np.stack([own - there.max(1), own - here.max(1)], axis=1)
        return out

    def captions_of(self, image: int) -> np.ndarray:
        """Return the caption rows of an image row."""
        return self._by_owner[self._starts[image] : self._starts[image + 1]]

    def siblings(self, image_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the captions of images: rows (P, S), and where there is one."""
        width = int(min(_SIBLINGS, self._counts.max(initial=1)))
        place = np.arange(width)
        there = place < self._counts[image_P][:, None]
        rows = self._by_owner[np.minimum(self._starts[image_P][:, None] + place, len(self._by_owner) - 1)]
        return rows, there

    def _block(
        self, image: np.ndarray, caption: np.ndarray, without: np.ndarray, moved_together: bool
    ) -> Iterator[np.ndarray]:
        if self.has_siblings:
            rows, there = self.siblings(image)
            bounds = group_bounds(image)
            own = [self._captions[rows[first, there[first]]] for first in bounds[:-1].tolist()]
            products = grouped_products(self._captions, caption, bounds, own).T
            cosines = np.zeros(rows.shape, dtype=np.float32)
            cosines[:, : products.shape[1]] = products
            there &= rows != without[:, None]
            number = there.sum(1)
            yield np.where(number > 0, np.where(there, cosines, 0).sum(1) / np.maximum(number, 1), np.nan)
            yield np.where(number > 0, np.where(there, cosines, -1).max(1), np.nan)
        if "cross_modal" in self.names:
            ids = self._near.ids[caption, :NEIGHBOURS]
            near = self._near.similarities[caption, :NEIGHBOURS]
            owners = self._owner[ids]
            elsewhere = owners != image[:, None]
            if moved_together:
                elsewhere &= owners != self._owner[caption][:, None]
            weights = np.exp(_SHARPNESS * (near - near[:, :1])) * elsewhere
            yield self._mean_cosine(image, owners, weights)
            yield np.einsum("pd,pd->p", self._context[image], self._texts[caption])
            yield self._cross(image, caption)

    def _mean_cosine(self, image: np.ndarray, others_PK: np.ndarray, weights_PK: np.ndarray) -> np.ndarray:
        """Return the weighted mean of the products of images with others: one sum of rows a pair, then one product."""
        from scipy.sparse import csr_array

        number, width = others_PK.shape
        starts = np.arange(0, number * width + 1, width) if width else np.zeros(number + 1, dtype=np.int64)
        values = weights_PK.astype(np.float32).reshape(-1)
        sums = csr_array((values, others_PK.reshape(-1), starts), shape=(number, len(self._images))) @ self._images
        return np.asarray(np.einsum("pd,pd->p", sums, self._images[image]) / np.maximum(weights_PK.sum(1), 1e-9))

    def _cross(self, image: np.ndarray, caption: np.ndarray) -> np.ndarray:
        cosines = np.einsum("pd,pd->p", self._predicted[image], self._texts[caption])
        return np.asarray(cosines / self._caption_spread[caption] + cosines / self._image_spread[image])

    def _means(self, rows_ME: np.ndarray) -> np.ndarray:
        """Return the mean row of each image's captions; 0 where it has none."""
        from scipy.sparse import csr_array

        ones, number = np.ones(len(self._owner), dtype=np.float32), len(self._counts)
        owned = csr_array((ones, (self._owner, np.arange(len(self._owner)))), shape=(number, len(self._owner)))
        return np.asarray((owned @ rows_ME) / np.maximum(self._counts, 1)[:, None], dtype=np.float32)

    def _context_of_neighbours(self, images: Modality, described: np.ndarray) -> np.ndarray:
        """Return the mean of what the neighbours of each image are described by, nearer ones weighing more."""
        out = np.zeros_like(described)
        for start in range(0, len(out), _PAIRS_A_BLOCK):
            block = slice(start, start + _PAIRS_A_BLOCK)
            near = images.near.similarities[block, :NEIGHBOURS]
            weights = np.exp(_SHARPNESS * (near - near[:, :1]))
            out[block] = np.einsum("nk,nkd->nd", weights, described[images.near.ids[block, :NEIGHBOURS]])
        return unit(unit(out) - unit(out).mean(0))


def _spread(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each row the root mean square of its products with other rows."""
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", rows @ (others.T @ others / max(len(others), 1)), rows)) + 1e-6)
