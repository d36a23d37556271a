"""The features of a pair that calibration uses: similarities, and how they stand out for this image and this caption.

A cosine says little by itself: a caption such as "a man is standing" is near to everything, and every teacher has its
own range. So similarities are centred on the split's mean, and set against the mean and spread of the image's row; a
caption also comes with how crowded its place is (the local scaling of CSLS, Conneau et al., arXiv 1710.04087, section
2.3, here against a sample of fixed size) and how near it is to its own siblings. None of them depends on the number of
rows of a split, so that they travel from one data set to another.

Shapes: N images, M captions, D width of a text embedding, P pairs, F features.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cusa.errors import DataError
from cusa.pipeline.index.neighbours import CrossModal, Modality
from cusa.pipeline.pairs.caption_words import CaptionWords
from cusa.pipeline.pairs.groups import Groups
from cusa.pipeline.pairs.products import PAIRS_A_BLOCK, best_two, couples, group_bounds, grouped_products
from cusa.pipeline.pairs.row_statistics import (
    ImageStatistics,
    MapStatistics,
    TextStatistics,
    mean_and_moments,
    over_others,
)

_SAMPLE = 1000  # captions that a caption's surroundings are measured against
_NEAREST = 10  # of them
_ROWS_A_BLOCK = 4096

IMAGE_FEATURES = (
    "image_centred",  # cosine of image and the caption's own image, both less the mean image
    "image_relative",  # that less its mean over other images, in standard deviations
)
TEXT_FEATURES = (
    "text_similarity",  # best cosine of the caption and a caption of the image
    "text_two",  # mean of the best two
    "text_set",  # cosine of the mean of the owner's captions and the mean of the image's, both centred
    "text_relative",  # mean centred cosine to the image's captions less that of other captions, in standard deviations
    "sibling_gap",  # text_similarity less the best cosine of the caption and a sibling of its own image
    "caption_level",  # mean cosine of the caption to its ten nearest of a thousand captions
    "image_level",  # the mean of that over the image's captions
    "words",  # weight of the caption's words
    "words_missing",  # of them, of those that no caption of the image has
    "words_covered",  # share of the weight of those that one has
)
MAP_FEATURES = (
    "map_similarity",  # centred cosine of the caption and the text embedding that a linear map makes of the image
    "map_relative",  # that less its mean over other captions, in standard deviations
)
CROSS_FEATURES = (
    "cross_similarity",  # cosine of image and caption by a student
    "cross_relative",  # that less its mean over other captions, in standard deviations
)


@dataclass(frozen=True)
class Encodings:
    """What pairs are compared by.

    Attributes:
        images: the image teacher, or None.
        texts: the text teacher, or None.
        cross: a student, or None.
        mapped: (N, D) the text embedding predicted from each image, see `cusa.pipeline.pairs.image_text_map`, or None.
        captions: (M,) the captions in words.
    """

    images: Modality | None
    texts: Modality | None
    cross: CrossModal | None
    mapped: np.ndarray | None
    captions: Sequence[str]


@dataclass(frozen=True)
class Compared:
    """What pairs come to.

    Attributes:
        features: (P, F) float32.
        image_similarity: (P,) cosines by the image teacher, or None where no feature needs them.
        text_similarity: (P,) by the text teacher, the best of the image's captions; 0 without captions; None likewise.
    """

    features: np.ndarray
    image_similarity: np.ndarray | None
    text_similarity: np.ndarray | None


class PairFeatures:
    """Computes the features of an image's pairs; what depends on one row alone is computed once, at first use.

    Args:
        owner: (M,) the image row that owns each caption.
        num_images: N.
        encodings: the teachers, and what they are compared with.
        names: of the features that are wanted, in this order; all that there are if None.

    Raises:
        DataError: if one of them cannot be computed from these encodings.
    """

    def __init__(
        self, owner: np.ndarray, *, num_images: int, encodings: Encodings, names: Sequence[str] | None = None
    ) -> None:
        self._owner, self._number, self._encodings = owner, num_images, encodings
        self._own = Groups(owner, num_images)
        self._counts = self._own.sizes
        self._there = (
            *(TEXT_FEATURES if encodings.texts is not None else ()),
            *(IMAGE_FEATURES if encodings.images is not None else ()),
            *(MAP_FEATURES if encodings.mapped is not None else ()),
            *(CROSS_FEATURES if encodings.cross is not None else ()),
        )
        self.names: tuple[str, ...] = self._there if names is None else self._known(names)

    def only(self, names: Sequence[str]) -> "PairFeatures":
        """Return the same with other features wanted, in their order; what is computed already is not computed again.

        Raises:
            DataError: if one of them cannot be computed from these encodings.
        """
        other = copy(self)
        other.names = self._known(names)
        return other

    def matrix(self, image: int | np.ndarray, captions: np.ndarray) -> np.ndarray:
        """Return the features of images with captions.

        Args:
            image: the image row of all pairs, or (P,) that of each; pairs of an image lie together, or it takes long.
            captions: (P,) caption rows.

        Returns:
            (P, F) float32, columns as in `names`; a pair's row depends on this pair alone.
        """
        return self.compare(image, captions).features

    def compare(self, image: int | np.ndarray, captions: np.ndarray) -> Compared:
        """Return the same features, and the similarities that were computed on the way.

        Args:
            image: the image row of all pairs, or (P,) that of each; pairs of an image lie together, or it takes long.
            captions: (P,) caption rows.
        """
        images = np.broadcast_to(image, captions.shape)
        out = np.empty((len(captions), len(self.names)), dtype=np.float32)
        raw: dict[str, list[np.ndarray]] = {"image_similarity": [], "text_similarity": []}
        for start in range(0, len(captions), PAIRS_A_BLOCK):
            block = slice(start, start + PAIRS_A_BLOCK)
            columns = self._columns(images[block], captions[block])
            for place, name in enumerate(self.names):
                out[block, place] = columns[name]
            for name, parts in raw.items():
                if name in columns:
                    parts.append(columns[name])
        similarities = {name: np.concatenate(parts) for name, parts in raw.items() if parts}
        return Compared(out, similarities.get("image_similarity"), similarities.get("text_similarity"))

    def map_skill(self) -> float | None:
        """Return how far the map sets an image's own captions apart: the mean of their `map_relative`; None without it.

        It needs no judgement, since each image is predicted by a map that did not see it; so it says how much of what
        captions tell an image teacher's features hold on this data.
        """
        if (mapped := self._mapped) is None or not len(self._owner):
            return None
        assert self._encodings.texts is not None
        assert self._encodings.mapped is not None
        products = np.einsum("md,md->m", self._encodings.texts.rows, self._encodings.mapped[self._owner])
        similarity = (products - mapped.shift[self._owner]) / self._text.norms
        return float(((similarity - mapped.mean[self._owner]) / mapped.spread[self._owner]).mean())

    def _known(self, names: Sequence[str]) -> tuple[str, ...]:
        there = self._there
        if missing := [name for name in names if name not in there]:
            raise DataError(
                f"The calibration has the features {', '.join(missing)}, which cannot be computed here: with these "
                f"teachers and pairs there are {', '.join(there)}. Calibrate again with `cusa calibrate`."
            )
        return tuple(names)

    def _columns(self, image: np.ndarray, caption: np.ndarray) -> dict[str, np.ndarray]:
        columns: dict[str, np.ndarray] = {}
        wanted, bounds = set(self.names), group_bounds(image)
        if wanted & {*TEXT_FEATURES, *MAP_FEATURES}:
            columns |= self._by_text(image, caption, bounds)
        if wanted & {"text_set", *IMAGE_FEATURES}:
            columns |= self._by_couple(image, self._owner[caption])
        if wanted & set(CROSS_FEATURES):
            columns |= self._by_student(image, caption, bounds)
        return columns

    def _by_text(self, image: np.ndarray, caption: np.ndarray, bounds: np.ndarray) -> dict[str, np.ndarray]:
        text, mapped = self._text, self._encodings.mapped
        assert self._encodings.texts is not None
        rows, images = self._encodings.texts.rows, image[bounds[:-1]]
        of_image = [text.family] if mapped is None else [text.family, mapped]
        against = [np.concatenate([*(one[i][None] for one in of_image), rows[self._own[i]]]) for i in images]
        products = grouped_products(rows, caption, bounds, against)
        described = self._counts[image] > 0
        if len(products) == len(of_image):  # none of the images has captions: nothing to compare with
            products = np.concatenate([products, np.zeros_like(products[:1])])
        best, two = best_two(products[len(of_image) :])
        centred_mean = (products[0] - text.family_shift[image]) / text.norms[caption]
        total, covered = self._words.total[caption], self._words.covered(images, bounds, caption)
        columns = {
            "text_similarity": best,
            "text_two": two,
            "text_relative": (centred_mean - text.family_mean[image]) / text.family_spread[image],
            "sibling_gap": best - self._sibling[caption],
            "caption_level": self._level[caption],
            "image_level": self._image_level[image],
            "words": total,
            "words_missing": total - covered,
            "words_covered": covered / np.maximum(total, 1e-6),
        }
        if (statistics := self._mapped) is not None:
            similarity = (products[1] - statistics.shift[image]) / text.norms[caption]
            columns["map_similarity"] = similarity
            columns["map_relative"] = (similarity - statistics.mean[image]) / statistics.spread[image]
        if not described.all():
            columns = {name: np.where(described, column, 0) for name, column in columns.items()}
        return columns

    def _by_couple(self, image: np.ndarray, owner: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is the same for all captions of an image: they share an owner, whose long row is read once."""
        columns: dict[str, np.ndarray] = {}
        first, second, back = couples(image, owner, self._number)
        bounds = group_bounds(first)
        images = first[bounds[:-1]]
        if self._encodings.texts is not None:
            centres = self._text.centres
            cosine = grouped_products(centres, second, bounds, [centres[i][None] for i in images])[0]
            columns["text_set"] = cosine[back]
        if self._encodings.images is not None:
            rows, stats = self._encodings.images.rows, self._image
            cosine = grouped_products(rows, second, bounds, [rows[i][None] for i in images])[0]
            columns["image_similarity"] = cosine[back]
            cosine = (cosine + stats.shift[second] + stats.shift[first]) / stats.norms[second] / stats.norms[first]
            columns["image_centred"] = cosine[back]
            columns["image_relative"] = ((cosine - stats.mean[first]) / stats.spread[first])[back]
        return columns

    def _by_student(self, image: np.ndarray, caption: np.ndarray, bounds: np.ndarray) -> dict[str, np.ndarray]:
        assert self._encodings.cross is not None
        images, captions = self._encodings.cross.images, self._encodings.cross.captions
        against = [images[i][None] for i in image[bounds[:-1]]]
        cosine = grouped_products(captions, caption, bounds, against)[0]
        mean, spread = self._cross
        return {"cross_similarity": cosine, "cross_relative": (cosine - mean[image]) / spread[image]}

    @cached_property
    def _words(self) -> CaptionWords:
        return CaptionWords(self._encodings.captions, self._owner, self._number)

    @cached_property
    def _text(self) -> "TextStatistics":
        assert self._encodings.texts is not None
        return TextStatistics.of(self._encodings.texts.rows, self._owner, self._number)

    @cached_property
    def _mapped(self) -> "MapStatistics | None":
        mapped = self._encodings.mapped
        if mapped is None or self._encodings.texts is None:
            return None
        return MapStatistics.of(mapped, self._encodings.texts.rows, self._text, self._owner)

    @cached_property
    def _image(self) -> "ImageStatistics":
        assert self._encodings.images is not None
        return ImageStatistics.of(self._encodings.images.rows)

    @cached_property
    def _cross(self) -> tuple[np.ndarray, np.ndarray]:
        assert self._encodings.cross is not None
        images, captions = self._encodings.cross.images, self._encodings.cross.captions
        own = np.einsum("md,md->m", captions, images[self._owner])
        return over_others(images, mean_and_moments(captions), own=own, owner=self._owner)

    @cached_property
    def _level(self) -> np.ndarray:
        """Return each caption's mean cosine to its ten nearest of a thousand captions of other images."""
        assert self._encodings.texts is not None
        rows = self._encodings.texts.rows
        sample = np.sort(np.random.default_rng(0).permutation(len(rows))[:_SAMPLE])
        out = np.zeros(len(rows), dtype=np.float32)
        for start in range(0, len(rows), _ROWS_A_BLOCK):
            block = slice(start, start + _ROWS_A_BLOCK)
            cosines = rows[block] @ rows[sample].T
            stranger = self._owner[block, None] != self._owner[sample]
            number = min(_NEAREST, cosines.shape[1])
            kept = np.partition(np.where(stranger, cosines, -np.inf), -number, axis=1)[:, -number:]
            there = np.isfinite(kept)
            out[block] = np.where(there, kept, 0).sum(1) / np.maximum(there.sum(1), 1)
        return out

    @cached_property
    def _image_level(self) -> np.ndarray:
        """Return the mean level of each image's captions; 0 without captions."""
        sums = np.bincount(self._owner, self._level, minlength=self._number)
        return np.asarray(sums / np.maximum(self._counts, 1), dtype=np.float32)

    @cached_property
    def _sibling(self) -> np.ndarray:
        """Return each caption's best cosine to another caption of its image; its level where it has none."""
        assert self._encodings.texts is not None
        rows, out = self._encodings.texts.rows, self._level.copy()
        for image in np.flatnonzero(self._counts > 1).tolist():
            own = self._own[image]
            cosines = rows[own] @ rows[own].T
            np.fill_diagonal(cosines, -np.inf)
            out[own] = cosines.max(1)
        return out
