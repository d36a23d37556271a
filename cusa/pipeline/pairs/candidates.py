"""Candidate false negatives: pairs the data set does not make although teachers say they belong together.

Shapes: N images, M captions, D/E widths of image and text teacher, K neighbours; C candidates of one image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from cusa.manifests.samples import Split
from cusa.pipeline.index.neighbours import CrossModal, Modality


@dataclass(frozen=True)
class Candidates:
    """Candidates, an array a field; a similarity of `nan` and a rank of 0 mean that there is none."""

    image: np.ndarray
    """Image rows."""
    caption: np.ndarray
    """Caption rows."""
    image_similarity: np.ndarray
    text_similarity: np.ndarray
    image_rank: np.ndarray
    text_rank: np.ndarray
    cross_similarity: np.ndarray
    score: np.ndarray
    p_positive: np.ndarray
    duplicate_image: np.ndarray
    duplicate_caption: np.ndarray

    def take(self, rows: np.ndarray | slice) -> "Candidates":
        """Return the candidates at `rows` (numbers, or True for those to keep)."""
        return Candidates(*(getattr(self, field.name)[rows] for field in fields(self)))


def merge(parts: list[Candidates]) -> Candidates:
    """Return all candidates, the best first: by `p_positive` where there is one, then by score, image and caption."""
    names = [field.name for field in fields(Candidates)]

    def whole(name: str) -> np.ndarray:
        values: list[np.ndarray] = [getattr(part, name) for part in parts]
        return np.concatenate(values)

    order = np.lexsort((whole("caption"), whole("image"), -whole("score"), -np.nan_to_num(whole("p_positive"))))
    # One field after the other: the numbers of many candidates are not held twice.
    return Candidates(*(whole(name)[order] for name in names))


def weighted_mean(similarities: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the weighted mean of similarities, clipped to [0, 1]; those that are not a number are left out.

    Args:
        similarities: (C,) each, of the same pairs.
        weights: one for each of them, at least 0; where all that are there weigh nothing, they weigh the same.
    """
    stacked = np.stack(similarities)
    there = ~np.isnan(stacked)
    shares = np.where(there, np.asarray(weights, dtype=np.float64)[:, None], 0)
    total = shares.sum(0)
    shares = np.where(total > 0, shares, there)
    mean = (np.where(there, stacked, 0) * shares).sum(0) / np.maximum(shares.sum(0), 1e-12)
    return np.asarray(np.clip(mean, 0, 1))


class Finder:
    """Finds the candidates of one image after the other; never all pairs at once.

    A pair of image i and caption c, whose own image j is another one, is a candidate if
    - i is among the nearest images of j or j among those of i, or
    - c is among the nearest captions of a caption of i, or one of those among the nearest of c, or
    - by a student, c is among the nearest captions of i, or i among the nearest images of c.

    Args:
        caption_owner: (M,) the image row that owns each caption.
        images: the image teacher over N images, or None.
        texts: the text teacher over M captions, or None.
        cross: a cross-modal student, or None.
        image_content: (N,) equal numbers for images with the same bytes.
        caption_content: (M,) equal numbers for captions with the same words.
        weights: of the image and the text similarity in the score, see `cusa.pipeline.pairs.default_order`.
    """

    def __init__(
        self,
        caption_owner: np.ndarray,
        *,
        images: Modality | None,
        texts: Modality | None,
        image_content: np.ndarray,
        caption_content: np.ndarray,
        cross: CrossModal | None = None,
        weights: tuple[float, float] = (0.5, 0.5),
    ) -> None:
        self._owner, self.weights = caption_owner, weights
        self._images, self._texts, self._cross = images, texts, cross
        self._image_content, self._caption_content = image_content, caption_content
        self._owned = _Groups(caption_owner, len(image_content))
        self._image_reverse = _Reverse(images.near.ids if images is not None else None)
        self._text_reverse = _Reverse(texts.near.ids if texts is not None else None)
        self._cross_reverse = _Reverse(cross.near_images if cross is not None else None, len(image_content))

    def captions_of(self, image: int) -> np.ndarray:
        """Return the caption rows of an image row."""
        return self._owned[image]

    def find(
        self, image: int, also: np.ndarray | None = None, *, depth: int | None = None, everything: bool = False
    ) -> Candidates:
        """Return the candidates of one image row, by caption row; similarities are exact, straight from the tables.

        Args:
            image: the image row.
            also: caption rows of other images to describe as well, candidates or not.
            depth: neighbours of a row that count; all that are there if None.
            everything: return every caption of other images, near or not.
        """
        own = self._owned[image]
        caption = np.flatnonzero(self._owner != image) if everything else self.captions_near(image, depth)
        if also is not None:
            caption = np.union1d(caption, also)
        owner = self._owner[caption]
        image_similarity, image_rank = self._by_image(image, owner)
        text_similarity, text_rank = self._by_text(image, own, caption)
        return Candidates(
            image=np.full(len(caption), image, dtype=np.int32),
            caption=caption.astype(np.int32),
            image_similarity=image_similarity,
            text_similarity=text_similarity,
            image_rank=image_rank,
            text_rank=text_rank,
            cross_similarity=self._by_cross(image, caption),
            score=weighted_mean((image_similarity, text_similarity), self.weights).astype(np.float32),
            p_positive=np.full(len(caption), np.nan, dtype=np.float32),
            duplicate_image=self._image_content[owner] == self._image_content[image],
            duplicate_caption=np.isin(self._caption_content[caption], self._caption_content[own]),
        )

    def nearest_own_caption(self, image: int, caption: int) -> int | None:
        """Return the image's own caption nearest to `caption` by the text teacher; its first without one."""
        own = self._owned[image]
        if not len(own):
            return None
        if self._texts is None:
            return int(own[0])
        return int(own[(self._texts.rows[own] @ self._texts.rows[caption]).argmax()])

    def captions_near(self, image: int, depth: int | None = None) -> np.ndarray:
        """Return the caption rows of the candidates of one image row.

        Args:
            image: the image row.
            depth: neighbours of a row that count; all that are there if None.
        """
        own = self._owned[image]
        parts = [np.empty(0, dtype=np.int64)]
        if self._images is not None:
            near = np.concatenate([self._images.near.ids[image, :depth], self._image_reverse.of([image], depth)])
            parts.append(self._owned.all_of(np.unique(near)))
        if self._texts is not None:
            parts += [self._texts.near.ids[own, :depth].reshape(-1), self._text_reverse.of(own, depth)]
        if self._cross is not None:
            parts += [self._cross.near_captions[image, :depth], self._cross_reverse.of([image], depth)]
        captions = np.unique(np.concatenate(parts))
        return np.asarray(captions[self._owner[captions] != image])

    def _by_image(self, image: int, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._images is None:
            return _nothing(len(owner))
        # Several captions share an owner, and a row can be 75 KB: each owner is multiplied once.
        owners, back = np.unique(owner, return_inverse=True)
        similarity = (self._images.rows[owners] @ self._images.rows[image]).astype(np.float32)
        rank = np.zeros(len(owners), dtype=np.int32)
        _, place, at = np.intersect1d(owners, self._images.near.ids[image], assume_unique=True, return_indices=True)
        rank[place] = at + 1
        return similarity[back], rank[back]

    def _by_text(self, image: int, own: np.ndarray, caption: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._texts is None or not len(own) or not len(caption):
            return _nothing(len(caption))
        similarity = (self._rows(caption) @ self._texts.rows[own].T).max(1).astype(np.float32)
        mine = self._owner[self._texts.near.ids[caption]] == image
        if not mine.shape[1]:
            return similarity, np.zeros(len(caption), dtype=np.int32)
        return similarity, np.where(mine.any(1), mine.argmax(1) + 1, 0).astype(np.int32)

    def _rows(self, caption: np.ndarray) -> np.ndarray:
        assert self._texts is not None
        return np.asarray(self._texts.rows[caption])

    def _by_cross(self, image: int, caption: np.ndarray) -> np.ndarray:
        if self._cross is None:
            return np.full(len(caption), np.nan, dtype=np.float32)
        cosines = self._cross.captions[caption] @ self._cross.images[image]
        return np.asarray(cosines, dtype=np.float32)


class _Groups:
    """The positions of each value in an array, without a Python list a value.

    Args:
        values: integers from 0 to `number` - 1.
        number: how many groups there are.
    """

    def __init__(self, values: np.ndarray, number: int) -> None:
        self._members = np.argsort(values, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(values, minlength=number))])

    def __getitem__(self, group: int) -> np.ndarray:
        return np.asarray(self._members[self._starts[group] : self._starts[group + 1]])

    def all_of(self, groups: np.ndarray) -> np.ndarray:
        """Return the members of several groups, one group after the other."""
        starts, stops = self._starts[groups], self._starts[groups + 1]
        counts = stops - starts
        shift = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) if len(groups) else starts
        return np.asarray(self._members[np.arange(counts.sum()) + shift])


class _Reverse:
    """For each row, the rows that have it in their lists of neighbours.

    Args:
        ids_RK: the lists, or None where there are none.
        number: rows that lists may name; as many as there are lists if 0.
    """

    def __init__(self, ids_RK: np.ndarray | None, number: int = 0) -> None:
        ids = np.empty((0, 1), dtype=np.int64) if ids_RK is None else ids_RK
        self._width = max(ids.shape[1], 1)
        order = np.argsort(ids.reshape(-1), kind="stable").astype(np.int32 if ids.size < 2**31 else np.int64)
        self._places = order
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(ids.reshape(-1), minlength=number or len(ids)))])

    def of(self, rows: Sequence[int] | np.ndarray, depth: int | None = None) -> np.ndarray:
        """Return the rows that name one of `rows` among their first `depth`."""
        parts = [self._places[self._starts[row] : self._starts[row + 1]] for row in rows]
        places = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        if depth is not None and depth < self._width:
            places = places[places % self._width < depth]
        return np.asarray(places // self._width)


def _nothing(number: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(number, np.nan, dtype=np.float32), np.zeros(number, dtype=np.int32)


def find_all(
    finder: Finder,
    *,
    num_images: int,
    minimum_score: float = 0.0,
    per_image: int = 0,
    images_a_block: int = 256,
    find: Callable[[int], Candidates] | None = None,
) -> Iterator[Candidates]:
    """Yield the candidates of some images at a time.

    Args:
        finder: finds them.
        num_images: images in all.
        minimum_score: those below are left out.
        per_image: the most that one image keeps, the best by `p_positive` or else by score; 0 = all.
        images_a_block: images a yield.
        find: called with an image row instead of `finder.find`; returns its candidates, with `p_positive` where there
            is a calibration, or raises where they cannot be ranked.
    """
    from threadpoolctl import threadpool_limits

    for start in range(0, num_images, images_a_block):
        parts = []
        # An image's products are small: more threads would only wait for each other.
        with threadpool_limits(1, user_api="blas"):
            for image in range(start, min(start + images_a_block, num_images)):
                here = (find or finder.find)(image)
                here = here.take(np.flatnonzero(here.score >= minimum_score))
                if per_image and len(here.score) > per_image:
                    here = here.take(np.lexsort((-here.score, -np.nan_to_num(here.p_positive)))[:per_image])
                parts.append(here)
        yield merge(parts)


def among(split: Split, candidates: Candidates, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Return for each candidate whether it is one of the given pairs."""
    width = max(split.num_captions, 1)
    return np.isin(candidates.image.astype(np.int64) * width + candidates.caption, images * width + captions)
