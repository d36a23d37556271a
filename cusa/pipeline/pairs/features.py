"""The features of a pair that calibration uses: similarities, and how they stand out for this image and this caption.

A cosine says little by itself: a caption such as "a man is standing" is near to everything, and every teacher has its
own range. So similarities are centred on the split's mean, and set against the mean and spread of the image's row; a
caption also comes with how crowded its place is (the local scaling of CSLS, Conneau et al., arXiv 1710.04087, section
2.3, here against a sample of fixed size) and how near it is to its own siblings. None of them depends on the number of
rows of a split, so that they travel from one data set to another.

Shapes: N images, M captions, D width of a text embedding, C captions of one image's pairs, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cusa.errors import DataError
from cusa.pipeline.index.neighbours import CrossModal, Modality
from cusa.pipeline.pairs.caption_words import CaptionWords

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
        order = np.argsort(owner, kind="stable")
        self._own = np.split(order, np.cumsum(np.bincount(owner, minlength=num_images))[:-1])
        there = (
            *(TEXT_FEATURES if encodings.texts is not None else ()),
            *(IMAGE_FEATURES if encodings.images is not None else ()),
            *(MAP_FEATURES if encodings.mapped is not None else ()),
            *(CROSS_FEATURES if encodings.cross is not None else ()),
        )
        self.names: tuple[str, ...] = there if names is None else tuple(names)
        if missing := [name for name in self.names if name not in there]:
            raise DataError(
                f"The calibration has the features {', '.join(missing)}, which cannot be computed here: with these "
                f"teachers and pairs there are {', '.join(there)}. Calibrate again with `cusa calibrate`."
            )
        self._wanted = frozenset(self.names)

    def matrix(self, image: int, captions: np.ndarray) -> np.ndarray:
        """Return the features of an image with captions.

        Args:
            image: the image row.
            captions: (C,) caption rows.

        Returns:
            (C, F) float32, columns as in `names`; a pair's row depends on this pair alone.
        """
        columns: dict[str, np.ndarray] = {}
        if self._wanted & {*TEXT_FEATURES, *MAP_FEATURES}:
            columns |= self._by_text(image, captions)
        if self._wanted & set(IMAGE_FEATURES):
            columns |= self._by_image(image, self._owner[captions])
        if self._wanted & set(CROSS_FEATURES):
            columns |= self._by_student(image, captions)
        out = np.empty((len(captions), len(self.names)), dtype=np.float32)
        for place, name in enumerate(self.names):
            out[:, place] = columns[name]
        return out

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

    def _by_text(self, image: int, captions: np.ndarray) -> dict[str, np.ndarray]:
        own, text = self._own[image], self._text
        if not len(own):  # an image without captions: nothing to compare with
            names = (*TEXT_FEATURES, *(MAP_FEATURES if self._encodings.mapped is not None else ()))
            return {name: np.zeros(len(captions), dtype=np.float32) for name in names}
        assert self._encodings.texts is not None
        rows = self._encodings.texts.rows
        against = [rows[own], text.family[image][None]]
        if self._encodings.mapped is not None:
            against.append(self._encodings.mapped[image][None])
        products = rows[captions] @ np.concatenate(against).T
        cosines = products[:, : len(own)]
        best = cosines.max(1)
        two = np.partition(cosines, -2, axis=1)[:, -2:].mean(1) if len(own) > 1 else best
        centred_mean = (products[:, len(own)] - text.family_shift[image]) / text.norms[captions]
        total = self._words.total[captions]
        covered = self._words.covered(captions, own)
        columns = {
            "text_similarity": best,
            "text_two": two,
            "text_set": self._by_set(image, self._owner[captions]),
            "text_relative": (centred_mean - text.family_mean[image]) / text.family_spread[image],
            "sibling_gap": best - self._sibling[captions],
            "caption_level": self._level[captions],
            "image_level": np.broadcast_to(self._level[own].mean(), best.shape),
            "words": total,
            "words_missing": total - covered,
            "words_covered": covered / np.maximum(total, 1e-6),
        }
        if (mapped := self._mapped) is not None:
            similarity = (products[:, len(own) + 1] - mapped.shift[image]) / text.norms[captions]
            columns["map_similarity"] = similarity
            columns["map_relative"] = (similarity - mapped.mean[image]) / mapped.spread[image]
        return columns

    def _by_set(self, image: int, owner: np.ndarray) -> np.ndarray:
        owners, back = np.unique(owner, return_inverse=True)
        return np.asarray((self._text.centres[owners] @ self._text.centres[image])[back])

    def _by_image(self, image: int, owner: np.ndarray) -> dict[str, np.ndarray]:
        assert self._encodings.images is not None
        rows, stats = self._encodings.images.rows, self._image
        owners, back = np.unique(owner, return_inverse=True)
        cosine = (rows[owners] @ rows[image] + stats.shift[owners] + stats.shift[image]) / stats.norms[owners]
        cosine = (cosine / stats.norms[image])[back]
        return {"image_centred": cosine, "image_relative": (cosine - stats.mean[image]) / stats.spread[image]}

    def _by_student(self, image: int, captions: np.ndarray) -> dict[str, np.ndarray]:
        assert self._encodings.cross is not None
        cosine = self._encodings.cross.captions[captions] @ self._encodings.cross.images[image]
        mean, spread = self._cross
        return {"cross_similarity": cosine, "cross_relative": (cosine - mean[image]) / spread[image]}

    @cached_property
    def _words(self) -> CaptionWords:
        return CaptionWords(self._encodings.captions, self._owner)

    @cached_property
    def _text(self) -> "_Text":
        assert self._encodings.texts is not None
        return _Text.of(self._encodings.texts.rows, self._owner, self._number)

    @cached_property
    def _mapped(self) -> "_Rows | None":
        mapped = self._encodings.mapped
        if mapped is None or self._encodings.texts is None:
            return None
        return _Rows.of(mapped, self._encodings.texts.rows, self._text, self._owner)

    @cached_property
    def _image(self) -> "_Image":
        assert self._encodings.images is not None
        return _Image.of(self._encodings.images.rows)

    @cached_property
    def _cross(self) -> tuple[np.ndarray, np.ndarray]:
        assert self._encodings.cross is not None
        images, captions = self._encodings.cross.images, self._encodings.cross.captions
        own = np.einsum("md,md->m", captions, images[self._owner])
        return _over_others(images, _mean_and_moments(captions), own=own, owner=self._owner)

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
    def _sibling(self) -> np.ndarray:
        """Return each caption's best cosine to another caption of its image; its level where it has none."""
        assert self._encodings.texts is not None
        rows, out = self._encodings.texts.rows, self._level.copy()
        for own in self._own:
            if len(own) > 1:
                cosines = rows[own] @ rows[own].T
                np.fill_diagonal(cosines, -np.inf)
                out[own] = cosines.max(1)
        return out


@dataclass(frozen=True)
class _Text:
    """What the text features need of each row: t is a caption's embedding, m the mean of all, u = (t - m) / |t - m|.

    Attributes:
        mean: (D,) m.
        norms: (M,) |t - m|.
        moments: mean and second moments of u.
        family: (N, D) the mean u of an image's captions.
        family_shift: (N,) its product with m.
        family_mean: (N,) the mean of its products with u of other images' captions.
        family_spread: (N,) their standard deviation.
        centres: (N, D) the mean t of an image's captions less m, of unit length; zero without captions.
    """

    mean: np.ndarray
    norms: np.ndarray
    moments: tuple[np.ndarray, np.ndarray]
    family: np.ndarray
    family_shift: np.ndarray
    family_mean: np.ndarray
    family_spread: np.ndarray
    centres: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, owner: np.ndarray, number: int) -> "_Text":
        mean = rows.mean(0)
        norms = _lengths(np.sqrt(np.maximum(1 - 2 * (rows @ mean) + mean @ mean, 0)))
        moments = _mean_and_moments(rows, mean, norms)
        counts = np.maximum(np.bincount(owner, minlength=number), 1).astype(np.float32)[:, None]
        family = group_sums(rows, owner, number, 1 / norms)
        family -= group_sums(np.ones((len(rows), 1), np.float32), owner, number, 1 / norms) * mean
        family /= counts
        shift = family @ mean
        own = (np.einsum("md,md->m", rows, family[owner]) - shift[owner]) / norms
        family_mean, spread = _over_others(family, moments, own=own, owner=owner)
        centres = group_sums(rows, owner, number) / counts
        centres -= mean * (np.bincount(owner, minlength=number) > 0)[:, None].astype(np.float32)
        centres /= _lengths(np.linalg.norm(centres, axis=1))[:, None]
        return cls(mean, norms, moments, family, shift, family_mean, spread, centres)


@dataclass(frozen=True)
class _Rows:
    """Image rows in the space of captions, compared with u as in `_Text`."""

    shift: np.ndarray
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, mapped: np.ndarray, rows: np.ndarray, text: _Text, owner: np.ndarray) -> "_Rows":
        shift = mapped @ text.mean
        own = (np.einsum("md,md->m", rows, mapped[owner]) - shift[owner]) / text.norms
        return cls(shift, *_over_others(mapped, text.moments, own=own, owner=owner))


@dataclass(frozen=True)
class _Image:
    """What the image features need: a is an image's embedding, m their mean; (a - m)(b - m) = ab + shift_a + shift_b.

    Attributes:
        shift: (N,) mm / 2 - am.
        norms: (N,) |a - m|.
        mean: (N,) the mean of its centred cosines to other images.
        spread: (N,) their standard deviation.
    """

    shift: np.ndarray
    norms: np.ndarray
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> "_Image":
        centre = rows.mean(0)
        shift = centre @ centre / 2 - rows @ centre
        norms = _lengths(np.sqrt(np.maximum(1 + 2 * shift, 0)))
        weights = 1 / norms
        # The mean centred unit row and its products with each row, without a centred copy of all rows.
        centred_mean = (weights @ rows - weights.sum() * centre) / len(rows)
        first = (rows @ centred_mean - centre @ centred_mean) / norms
        squares = _mean_squares(rows, centre, norms)
        number = max(len(rows) - 1, 1)
        mean = (len(rows) * first - 1) / number
        spread = np.sqrt(np.maximum((len(rows) * squares - 1) / number - mean**2, 0))
        return cls(shift, norms, mean, _lengths(spread))


def _mean_squares(rows: np.ndarray, centre: np.ndarray, norms: np.ndarray, sample: int = 2048) -> np.ndarray:
    """Return the mean of each centred unit row's squared products with all of them; with a sample of wide rows."""
    step = max(1, len(rows) // sample) if rows.shape[1] > sample else 1
    some = (rows[::step] - centre) / norms[::step, None]
    if rows.shape[1] <= sample:
        second = some.T @ some / len(some)
        out = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), _ROWS_A_BLOCK):
            block = slice(start, start + _ROWS_A_BLOCK)
            unit = (rows[block] - centre) / norms[block, None]
            out[block] = np.einsum("nd,nd->n", unit @ second, unit)
        return out
    out = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _ROWS_A_BLOCK):
        block = slice(start, start + _ROWS_A_BLOCK)
        unit = (rows[block] - centre) / norms[block, None]
        out[block] = np.square(unit @ some.T).mean(1)
    return out


def _mean_and_moments(
    rows: np.ndarray, centre: np.ndarray | None = None, norms: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the mean outer product of rows, centred and scaled if asked for, a block at a time."""
    total, second = np.zeros(rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _ROWS_A_BLOCK):
        block = rows[start : start + _ROWS_A_BLOCK]
        if centre is not None and norms is not None:
            block = (block - centre) / norms[start : start + _ROWS_A_BLOCK, None]
        total += block.sum(0)
        second += block.T @ block
    number = max(len(rows), 1)
    return (total / number).astype(np.float32), (second / number).astype(np.float32)


def _over_others(
    queries: np.ndarray, moments: tuple[np.ndarray, np.ndarray], *, own: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each query's products with the captions of other images, in closed form.

    Args:
        queries: (N, D), one an image.
        moments: (D,) mean and (D, D) mean outer product of all captions.
        own: (M,) the product of each caption with its own image's query.
        owner: (M,) its image row.
    """
    (mean, second), images, number = moments, len(queries), len(own)
    rest = np.maximum(number - np.bincount(owner, minlength=images), 1)
    first = (number * (queries @ mean) - np.bincount(owner, own, minlength=images)) / rest
    squares = number * np.einsum("nd,nd->n", queries @ second, queries) - np.bincount(owner, own**2, minlength=images)
    return first.astype(np.float32), _lengths(np.sqrt(np.maximum(squares / rest - first**2, 0)).astype(np.float32))


def _lengths(values: np.ndarray) -> np.ndarray:
    """Return values that may be divided by: where all rows are the same, nothing stands out."""
    return np.asarray(np.where(values > 1e-4, values, 1), dtype=np.float32)


def group_sums(rows_MD: np.ndarray, group_M: np.ndarray, number: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the (weighted) sum of the rows of each group: (number, D) float32."""
    from scipy.sparse import csr_array

    values = np.ones(len(group_M), dtype=np.float32) if weights is None else weights.astype(np.float32)
    groups = csr_array((values, (group_M, np.arange(len(group_M)))), shape=(number, len(group_M)))
    return np.asarray(groups @ rows_MD)
