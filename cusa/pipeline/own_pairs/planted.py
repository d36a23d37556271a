"""Pairs that are wrong for certain, made from the data itself, and the probabilities that they calibrate.

Shapes: N images, M captions, P pairs, F evidence.
"""

from dataclasses import dataclass

import numpy as np

from cusa.manifests.neighbours import Neighbours
from cusa.pipeline.own_pairs.features import NEIGHBOURHOOD, PairEvidence
from cusa.pipeline.own_pairs.probability import HIGHEST, WrongWay, way_of_being_wrong

_PLANTED = 4000  # foreign captions that are measured, and half as many images with all their captions
_WHOLE_ALIKE = 0.0005
"""Share of images that is taken to have all captions of a look-alike, at most. Their tails leave 5 % on clean
photographs, where nothing but the map tells them from right ones; so they are ranked before the rest, and not called
wrong."""
_SMALLEST = 20  # images below which a split calibrates nothing


@dataclass(frozen=True)
class WrongPairs:
    """How probable it is that each pair of a split is wrong.

    Attributes:
        evidence_MF: (M, F) of each caption with its image; not a number where there is none.
        names: (F,) of the evidence.
        p_wrong_M: (M,) not a number where the split is too small to tell.
        caption_alone: the way in which one caption is wrong, from anywhere; None where nothing was fitted.
        look_alike: the way in which one caption is, from an image that looks alike; None likewise, or without siblings.
        whole_image: the way in which all captions of an image are, from anywhere; None likewise, or where images have
            one caption.
        whole_alike: the way in which all captions of an image are, from an image that looks alike; None likewise.
    """

    evidence_MF: np.ndarray
    names: tuple[str, ...]
    p_wrong_M: np.ndarray
    caption_alone: WrongWay | None = None
    look_alike: WrongWay | None = None
    whole_image: WrongWay | None = None
    whole_alike: WrongWay | None = None

    def against(self) -> np.ndarray:
        """Return which evidence speaks against each pair: (M, F) bool, below halfway to what planted pairs have."""
        if self.caption_alone is None:
            return np.zeros(self.evidence_MF.shape, dtype=bool)
        return self.evidence_MF < self.caption_alone.middle_F


def find_wrong_pairs(
    evidence: PairEvidence,
    caption_owner: np.ndarray,
    *,
    num_images: int,
    near_images: Neighbours | None = None,
    seed: int = 0,
) -> WrongPairs:
    """Measure a split's own pairs, plant wrong ones, and tell how probable it is that each own pair is wrong.

    Args:
        evidence: of the same split.
        caption_owner: (M,) the image row that owns each caption.
        num_images: N.
        near_images: neighbours by the image teacher, from which captions of images that look alike are planted.
        seed: of what is planted.
    """
    every = np.arange(len(caption_owner))
    own = evidence.of_pairs(caption_owner, every, every)
    unknown = np.full(len(every), np.nan)
    if len(np.unique(caption_owner)) < _SMALLEST:
        return WrongPairs(own, evidence.names, unknown)
    draw = np.random.default_rng(seed)
    planted = _one_caption(evidence, caption_owner, None, draw)
    alone = way_of_being_wrong(own, planted)
    p_right = 1 - (unknown if alone is None else alone.probability_P)
    alike = None
    if alone is not None and near_images is not None and evidence.has_siblings:
        near = _one_caption(evidence, caption_owner, near_images.ids, draw)
        alike = way_of_being_wrong(own, near, known=(alone.share, planted))
    if alike is not None:
        p_right = p_right * (1 - alike.probability_P)
    whole = whole_alike = None
    if evidence.has_siblings and set(NEIGHBOURHOOD) <= set(evidence.names):
        images = np.unique(caption_owner)
        whole, whole_alike = _whole_images(
            evidence, own, caption_owner, images=images, near_images=near_images, draw=draw
        )
        for way in (whole, whole_alike):
            if way is not None:
                of_image = np.zeros(num_images)
                of_image[images] = way.probability_P
                p_right = p_right * (1 - of_image[caption_owner])
    return WrongPairs(own, evidence.names, np.minimum(1 - p_right, HIGHEST), alone, alike, whole, whole_alike)


def _whole_images(
    evidence: PairEvidence,
    own_MF: np.ndarray,
    owner: np.ndarray,
    *,
    images: np.ndarray,
    near_images: Neighbours | None,
    draw: np.random.Generator,
) -> tuple[WrongWay | None, WrongWay | None]:
    """Fit how probable it is that all captions of an image are wrong: from anywhere, and from one that looks alike."""
    columns = [evidence.names.index(name) for name in NEIGHBOURHOOD]
    means = _means(own_MF[:, columns], owner, int(images[-1]) + 1)[images]
    means = np.concatenate([means, evidence.of_images(images, images)], axis=1)
    anywhere = _all_captions(evidence, images, None, draw, columns)
    whole = way_of_being_wrong(means, anywhere)
    if whole is None or near_images is None:
        return whole, None
    near = _all_captions(evidence, images, near_images.ids, draw, columns)
    # What the neighbours say is no evidence here: their captions are like the right ones.
    means, near, anywhere = (rows[:, len(columns) :] for rows in (means, near, anywhere))
    return whole, way_of_being_wrong(means, near, known=(whole.share, anywhere), most=_WHOLE_ALIKE)


def _one_caption(
    evidence: PairEvidence, owner: np.ndarray, near_NK: np.ndarray | None, draw: np.random.Generator
) -> np.ndarray:
    """Measure captions that stand in for one of another image's: drawn from all, or from images that look alike."""
    replaced, foreign = draw.integers(len(owner), size=(2, _PLANTED))
    if near_NK is not None and near_NK.shape[1]:
        image = near_NK[owner[replaced], draw.integers(near_NK.shape[1], size=_PLANTED)]
        rows, there = evidence.siblings(image)
        place = (draw.random(_PLANTED) * there.sum(1)).astype(int)
        foreign = np.where(there.any(1), rows[np.arange(_PLANTED), place], replaced)
    apart = owner[replaced] != owner[foreign]
    replaced, foreign = replaced[apart], foreign[apart]
    return evidence.of_pairs(owner[replaced], foreign, replaced)


def _all_captions(
    evidence: PairEvidence,
    images: np.ndarray,
    near_NK: np.ndarray | None,
    draw: np.random.Generator,
    columns: list[int],
) -> np.ndarray:
    """Measure images with all captions of another, drawn from all or from those that look alike.

    Returns:
        (P, F) the mean over the captions of the evidence in `columns`, then what `PairEvidence.of_images` says.
    """
    image, source = images[draw.integers(len(images), size=(2, _PLANTED // 2))]
    if near_NK is not None and near_NK.shape[1]:
        source = near_NK[image, draw.integers(near_NK.shape[1], size=len(image))]
    _, there = evidence.siblings(source)
    kept = (image != source) & there.any(1)
    image, source = image[kept], source[kept]
    rows, there = evidence.siblings(source)
    group = np.repeat(np.arange(len(source)), there.sum(1))
    captions = rows[there]
    measured = evidence.of_pairs(image[group], captions, captions, moved_together=True)[:, columns]
    return np.concatenate([_means(measured, group, len(source)), evidence.of_images(image, source)], axis=1)


def _means(rows_PF: np.ndarray, group_P: np.ndarray, number: int) -> np.ndarray:
    """Return the mean of each group's rows."""
    counts = np.maximum(np.bincount(group_P, minlength=number), 1)
    return np.stack([np.bincount(group_P, column, minlength=number) / counts for column in rows_PF.T], axis=1)
