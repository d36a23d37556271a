"""How much the image and the text teacher weigh in the score, measured on the data's own pairs, without a judgement.

Captions of one image are known to belong together, so they show how far above chance true pairs lie by the text
teacher. Pairs of different images that lie as far show how far true pairs lie by the image teacher. For two normal
distributions with the same spreads and correlation the log likelihood ratio is linear in the similarities (Fisher's
linear discriminant): with distances d in standard deviations and the correlation r of both similarities among pairs
that do not read alike, the weights are (d_image - r d_text) / spread_image and (d_text - r d_image) / spread_text. What
the image teacher says only because the text teacher says it too weighs nothing, nor does a teacher that says nothing.

Shapes: N images, M captions; S images and C captions of a sample.
"""

import numpy as np

from cusa.pipeline.index.neighbours import Modality

_IMAGES, _CAPTIONS = 300, 3000  # of the sample
_FEWEST = 20  # captions with a sibling
_CLEAR = 1.0  # standard deviations that a text teacher sets siblings apart by, or it is not trusted
_NOISE = 0.3  # standard deviations below which an image teacher's distance is taken for chance
_EQUAL = 1e-6  # spread below which all similarities are the same
_SAME = 0.5
"""Correlation from which the image teacher is left out. The data show no pair that is known to be true and looks alike,
so where both teachers see nearly the same, the difference of two large numbers is mostly error: on `scenes` (0.65) any
weight of the image teacher lowers the average precision, at 0.44 and less the rule raises it or leaves it."""
_CAUTION = 0.5
"""Of an image teacher's weight: pairs that read alike look alike, true or not, so its distance comes out too large."""
_BEST = 0.001  # share of pairs taken for alike where none lies as high as siblings do


def similarity_weights(
    owner: np.ndarray, num_images: int, images: Modality | None, texts: Modality | None, *, seed: int = 0
) -> tuple[float, float]:
    """Return the weights of the image and the text similarity in the score, their sum 1.

    Args:
        owner: (M,) the image row that owns each caption.
        num_images: N.
        images: the image teacher, or None.
        texts: the text teacher, or None.
        seed: of the sample.
    """
    if images is None or texts is None or num_images < 2:
        return (1.0, 0.0) if texts is None else (0.0, 1.0) if images is None else (0.5, 0.5)
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(np.unique(owner))[:_IMAGES])
    captions = np.sort(rng.permutation(len(owner))[:_CAPTIONS])
    text, image, siblings = [], [], []
    for row in some.tolist():
        own = np.flatnonzero(owner == row)
        strangers = captions[owner[captions] != row]
        text.append((texts.rows[strangers] @ texts.rows[own].T).max(1))
        image.append(images.rows[owner[strangers]] @ images.rows[row])
        if len(own) > 1:
            cosines = texts.rows[own] @ texts.rows[own].T
            np.fill_diagonal(cosines, -np.inf)
            siblings.append(cosines.max(1))
    by_text, by_image = np.concatenate(text), np.concatenate(image)
    if len(by_text) < _FEWEST or sum(map(len, siblings)) < _FEWEST:
        return (0.5, 0.5)
    text_spread, image_spread = float(by_text.std()), float(by_image.std())
    if min(image_spread, text_spread) < _EQUAL:  # a teacher to which everything is alike
        return (
            (0.5, 0.5)
            if max(image_spread, text_spread) < _EQUAL
            else (float(text_spread < _EQUAL), float(image_spread < _EQUAL))
        )
    bar = float(np.concatenate(siblings).mean())
    text_distance = (bar - float(by_text.mean())) / text_spread
    if text_distance < _CLEAR:
        return (1.0, 0.0)
    alike = by_text >= min(bar, float(np.quantile(by_text, 1 - _BEST)), float(by_text.max()))
    image_distance = (float(by_image[alike].mean()) - float(by_image.mean())) / image_spread
    if image_distance < _NOISE:
        return (0.0, 1.0)
    together = _correlation(by_text[~alike], by_image[~alike])
    if together > _SAME:
        return (0.0, 1.0)
    image_weight = _CAUTION * max(image_distance - together * text_distance, 0) / image_spread
    text_weight = max(text_distance - together * image_distance, 0) / text_spread
    if not image_weight + text_weight:
        return (0.0, 1.0)
    return image_weight / (image_weight + text_weight), text_weight / (image_weight + text_weight)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Pearson's correlation; 0 where there is too little to measure one."""
    if len(first) < _FEWEST or min(first.std(), second.std()) < _EQUAL:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
