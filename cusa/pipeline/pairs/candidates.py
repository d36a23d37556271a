"""Candidate false negatives: pairs the data set does not make although teachers say they belong together.

Shapes: N images, M captions, D/E widths of image and text teacher, K neighbours, C candidates, P pairs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from cusa.manifests.samples import Split
from cusa.pipeline.index.neighbours import CrossModal, Modality
from cusa.pipeline.pairs.groups import Groups, Reverse
from cusa.pipeline.pairs.products import PAIRS_A_BLOCK, best_two, couples, group_bounds, grouped_products

IMAGES_A_BLOCK = 256
"""Images whose candidates are found at once."""
_MOST_THREADS = 4  # more would wait for Python's lock, and each holds the numbers of a block


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


def concatenate(parts: Sequence[Candidates], order: np.ndarray | slice = slice(None)) -> Candidates:
    """Return the candidates of several parts, in their order or another one.

    Args:
        parts: at least one.
        order: places among all candidates.
    """

    def whole(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    # One field after the other: the numbers of many candidates are not held twice.
    return Candidates(*(whole(field.name)[order] for field in fields(Candidates)))


def merge(parts: Sequence[Candidates]) -> Candidates:
    """Return all candidates, the best first: by `p_positive` where there is one, then by score, image and caption."""
    caption, image, score, p = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("caption", "image", "score", "p_positive")
    )
    return concatenate(parts, np.lexsort((caption, image, -score, -np.nan_to_num(p))))


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
    """Finds the candidates of some images at a time; never all pairs at once.

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
        self.images, self.texts, self._cross = images, texts, cross
        self._image_content, self._caption_content = image_content, caption_content
        self._owned = Groups(caption_owner, len(image_content))
        self._image_reverse = Reverse(images.near.ids if images is not None else None)
        self._text_reverse = Reverse(texts.near.ids if texts is not None else None)
        self._cross_reverse = Reverse(cross.near_images if cross is not None else None, len(image_content))

    def captions_of(self, image: int) -> np.ndarray:
        """Return the caption rows of an image row."""
        return self._owned[image]

    def find(
        self, images: Sequence[int] | np.ndarray, *, depth: int | None = None, everything: bool = False
    ) -> Candidates:
        """Return the candidates of some image rows, by image and caption row.

        Args:
            images: image rows.
            depth: neighbours of a row that count; all that are there if None.
            everything: return every caption of other images, near or not.
        """
        candidates = [self.describe(*pairs) for pairs in self.blocks(images, depth=depth, everything=everything)]
        return concatenate(candidates) if candidates else self.describe(*(np.empty(0, dtype=np.int64),) * 2)

    def blocks(
        self, images: Sequence[int] | np.ndarray, *, depth: int | None = None, everything: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the pairs that are candidates, some ten thousand at a time: image rows and caption rows.

        Args:
            images: image rows.
            depth: neighbours of a row that count; all that are there if None.
            everything: yield every caption of other images, near or not.
        """
        held: list[tuple[int, np.ndarray]] = []
        pairs = 0
        for image in np.asarray(images, dtype=np.int64).tolist():
            captions = np.flatnonzero(self._owner != image) if everything else self.captions_near(image, depth)
            if held and pairs + len(captions) > PAIRS_A_BLOCK:
                yield _pairs(held)
                held, pairs = [], 0
            held.append((image, captions))
            pairs += len(captions)
        if held:
            yield _pairs(held)

    def describe(
        self,
        image: np.ndarray,
        caption: np.ndarray,
        *,
        p_positive: np.ndarray | None = None,
        image_similarity: np.ndarray | None = None,
        text_similarity: np.ndarray | None = None,
    ) -> Candidates:
        """Return pairs as candidates; similarities are exact, straight from the tables.

        Args:
            image: (P,) image rows; pairs of an image lie together.
            caption: (P,) caption rows of other images.
            p_positive: (P,) the probability of each; not a number if None.
            image_similarity: (P,) of the image and the caption's own image; computed if None.
            text_similarity: (P,) of the caption and the nearest of the image's; computed if None.
        """
        owner, bounds = self._owner[caption], group_bounds(image)
        if image_similarity is None:
            image_similarity = self._by_image(image, owner)
        if text_similarity is None:
            text_similarity = self._by_text(image, caption, bounds)
        text_similarity = np.where(self._owned.sizes[image] > 0, text_similarity, np.float32(np.nan))
        image_rank, text_rank, same_words = self._per_image(image[bounds[:-1]], bounds, caption)
        unknown = np.full(len(caption), np.nan)
        return Candidates(
            image=image.astype(np.int32),
            caption=caption.astype(np.int32),
            image_similarity=image_similarity,
            text_similarity=text_similarity,
            image_rank=image_rank,
            text_rank=text_rank,
            cross_similarity=self._by_cross(image, caption, bounds),
            score=weighted_mean((image_similarity, text_similarity), self.weights).astype(np.float32),
            p_positive=(unknown if p_positive is None else p_positive).astype(np.float32),
            duplicate_image=self._image_content[owner] == self._image_content[image],
            duplicate_caption=same_words,
        )

    def nearest_own_caption(self, image: int, caption: int) -> int | None:
        """Return the image's own caption nearest to `caption` by the text teacher; its first without one."""
        own = self._owned[image]
        if not len(own):
            return None
        if self.texts is None:
            return int(own[0])
        return int(own[(self.texts.rows[own] @ self.texts.rows[caption]).argmax()])

    def captions_near(self, image: int, depth: int | None = None) -> np.ndarray:
        """Return the caption rows of the candidates of one image row.

        Args:
            image: the image row.
            depth: neighbours of a row that count; all that are there if None.
        """
        own = self._owned[image]
        parts = [np.empty(0, dtype=np.int64)]
        if self.images is not None:
            near = np.concatenate([self.images.near.ids[image, :depth], self._image_reverse.of([image], depth)])
            parts.append(self._owned.all_of(np.unique(near)))
        if self.texts is not None:
            parts += [self.texts.near.ids[own, :depth].reshape(-1), self._text_reverse.of(own, depth)]
        if self._cross is not None:
            parts += [self._cross.near_captions[image, :depth], self._cross_reverse.of([image], depth)]
        captions = np.unique(np.concatenate(parts))
        return np.asarray(captions[self._owner[captions] != image])

    def _by_image(self, image: np.ndarray, owner: np.ndarray) -> np.ndarray:
        if self.images is None or not len(image):
            return np.full(len(owner), np.nan, dtype=np.float32)
        # Several captions share an owner, and a row can be 75 KB: each owner is multiplied once.
        rows = self.images.rows
        first, second, back = couples(image, owner, len(self._image_content))
        bounds = group_bounds(first)
        products = grouped_products(rows, second, bounds, [rows[i][None] for i in first[bounds[:-1]]])
        return np.asarray(products[0][back])

    def _by_text(self, image: np.ndarray, caption: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        products = np.empty((0, 0))
        if self.texts is not None:
            rows = self.texts.rows
            own = [rows[self._owned[i]] for i in image[bounds[:-1]].tolist()]
            products = grouped_products(rows, caption, bounds, own)
        return best_two(products)[0] if len(products) else np.full(len(caption), np.nan, dtype=np.float32)

    def _per_image(
        self, images: np.ndarray, bounds: np.ndarray, caption: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the image ranks, the text ranks, and whether an image has a caption of the same words."""
        image_rank, text_rank = np.zeros((2, len(caption)), dtype=np.int32)
        same_words = np.zeros(len(caption), dtype=bool)
        # Looked up by row number, and emptied again after every image.
        of_image, of_caption = (np.zeros(len(x), dtype=np.int32) for x in (self._image_content, self._caption_content))
        has_words = np.zeros(int(self._caption_content.max(initial=0)) + 1, dtype=bool)
        for image, start, stop in zip(images.tolist(), bounds[:-1], bounds[1:], strict=True):
            here, own = caption[start:stop], self._owned[image]
            if self.images is not None:
                near = self.images.near.ids[image]
                of_image[near] = np.arange(1, len(near) + 1)
                image_rank[start:stop] = of_image[self._owner[here]]
                of_image[near] = 0
            if self.texts is not None:
                rows, places = self._text_reverse.lists_with(own)
                order = np.argsort(-places, kind="stable")  # of several places the first is written last, and stays
                of_caption[rows[order]] = places[order] + 1
                text_rank[start:stop] = of_caption[here]
                of_caption[rows] = 0
            words = self._caption_content[own]
            has_words[words] = True
            same_words[start:stop] = has_words[self._caption_content[here]]
            has_words[words] = False
        return image_rank, text_rank, same_words

    def _by_cross(self, image: np.ndarray, caption: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        if self._cross is None or not len(caption):
            return np.full(len(caption), np.nan, dtype=np.float32)
        against = [self._cross.images[i][None] for i in image[bounds[:-1]]]
        return np.asarray(grouped_products(self._cross.captions, caption, bounds, against)[0])


def _pairs(held: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = [len(captions) for _, captions in held]
    return np.repeat([image for image, _ in held], lengths), np.concatenate([captions for _, captions in held])


def find_all(
    finder: Finder,
    *,
    num_images: int,
    first: int = 0,
    minimum_score: float = 0.0,
    per_image: int = 0,
    images_a_block: int = IMAGES_A_BLOCK,
    find: Callable[[np.ndarray], Candidates] | None = None,
) -> Iterator[Candidates]:
    """Yield the candidates of some images at a time, the best first.

    Blocks are worked on by as many threads as matrix products would take, four at most, and come in their order.

    Args:
        finder: finds them.
        num_images: images in all, or the image row to stop before.
        first: the first image row; blocks are counted from there.
        minimum_score: those below are left out.
        per_image: the most that one image keeps, the best by `p_positive` or else by score; 0 = all.
        images_a_block: images a yield.
        find: called with image rows instead of `finder.find`; returns their candidates, with `p_positive` where there
            is a calibration, or raises where they cannot be ranked.
    """
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_info, threadpool_limits

    def block(start: int) -> Candidates:
        images = np.arange(start, min(start + images_a_block, num_images))
        candidates = (find or finder.find)(images)
        return merge([_best_of_each(candidates.take(candidates.score >= minimum_score), per_image)])

    threads = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    threads = min(threads, _MOST_THREADS)
    # An image's products are small: the threads of one product would only wait for each other.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(block, start) for start in range(first, num_images, images_a_block)]
        try:
            for one in waiting:
                yield one.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _best_of_each(candidates: Candidates, per_image: int) -> Candidates:
    """Return the best of each image, at most `per_image` of them; all if 0."""
    if not per_image or np.bincount(candidates.image).max(initial=0) <= per_image:
        return candidates
    order = np.lexsort((-candidates.score, -np.nan_to_num(candidates.p_positive), candidates.image))
    bounds = group_bounds(candidates.image[order])
    place = np.arange(len(order)) - np.repeat(bounds[:-1], np.diff(bounds))
    return candidates.take(np.sort(order[place < per_image]))


def among(split: Split, candidates: Candidates, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Return for each candidate whether it is one of the given pairs."""
    width = max(split.num_captions, 1)
    return np.isin(candidates.image.astype(np.int64) * width + candidates.caption, images * width + captions)
