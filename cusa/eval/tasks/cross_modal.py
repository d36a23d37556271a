"""Image-to-text and text-to-image retrieval: R@K both ways, RSUM, and the same under every known match.

Legend: I images, C captions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cusa.eval import metrics
from cusa.eval.config import EvalConfig
from cusa.eval.ranking import Ranking, rank
from cusa.eval.scores import Scores

IMAGE_TO_TEXT = "image-to-text"
TEXT_TO_IMAGE = "text-to-image"


@dataclass(frozen=True)
class TwoWays:
    """The rankings of both directions."""

    image_to_text: Ranking
    text_to_image: Ranking


def owned(caption_owner_C: np.ndarray, num_images: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the data set's own matches: for each image its caption rows, for each caption its image row.

    Args:
        caption_owner_C: image row of each caption, in any order.
        num_images: I.
    """
    order = np.argsort(caption_owner_C, kind="stable")
    bounds = np.searchsorted(caption_owner_C[order], np.arange(num_images + 1))
    of_image = [order[bounds[row] : bounds[row + 1]] for row in range(num_images)]
    return of_image, [np.array([owner]) for owner in caption_owner_C]


def matched(
    pairs: Mapping[str, Sequence[str]], image_keys: Sequence[str], caption_keys: Sequence[str]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return known matches as rows: for each image its true captions, for each caption its true images.

    Args:
        pairs: `image_key` and `caption_key`, equally long; keys that are not in the split are passed over.
        image_keys: of the split.
        caption_keys: of the split.
    """
    image_row = {key: row for row, key in enumerate(image_keys)}
    caption_row = {key: row for row, key in enumerate(caption_keys)}
    of_image: list[list[int]] = [[] for _ in image_keys]
    of_caption: list[list[int]] = [[] for _ in caption_keys]
    for image_key, caption_key in zip(pairs["image_key"], pairs["caption_key"], strict=True):
        image, caption = image_row.get(image_key), caption_row.get(caption_key)
        if image is not None and caption is not None:
            of_image[image].append(caption)
            of_caption[caption].append(image)
    return [np.unique(rows) for rows in of_image], [np.unique(rows) for rows in of_caption]


def rank_both_ways(
    scores: Scores,
    of_image: Sequence[np.ndarray],
    of_caption: Sequence[np.ndarray],
    config: EvalConfig,
    *,
    at_r: bool = False,
) -> TwoWays:
    """Rank captions for every image and images for every caption.

    Args:
        scores: of all images with all captions.
        of_image: right caption rows of each image.
        of_caption: right image rows of each caption.
        config: block size and K.
        at_r: whether R-Precision and mAP@R are wanted.
    """
    return TwoWays(
        rank(scores.of_images(config.block), of_image, top=config.top, at_r=at_r),
        rank(scores.of_captions(config.block), of_caption, top=config.top, at_r=at_r),
    )


def recalls(both: TwoWays, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Return R@K both ways in percent, their sum, and the median ranks.

    Image-to-text counts an image once, by the best of its captions; text-to-image has one right image a caption. RSUM
    is the sum over both directions and all K (0 to 600 for three K). The authors' release computes the mean instead,
    a sixth of it, from recalls rounded to two decimals.
    """
    found: dict[str, float] = {}
    for direction, ranking in ((IMAGE_TO_TEXT, both.image_to_text), (TEXT_TO_IMAGE, both.text_to_image)):
        found |= {f"{direction}/r@{k}": metrics.recall_at_k(ranking.rank, k) for k in ks}
    rsum = sum(found.values())
    medians = {
        f"{IMAGE_TO_TEXT}/median_rank": metrics.median_rank(both.image_to_text.rank),
        f"{TEXT_TO_IMAGE}/median_rank": metrics.median_rank(both.text_to_image.rank),
    }
    return {**found, "rsum": rsum, **medians}


def under_truth(both: TwoWays) -> dict[str, float]:
    """Return R@1, R-Precision and mAP@R both ways, in percent, for rankings against every known match."""
    found: dict[str, float] = {}
    for direction, ranking in ((IMAGE_TO_TEXT, both.image_to_text), (TEXT_TO_IMAGE, both.text_to_image)):
        has = ranking.positives > 0
        found[f"{direction}/r@1"] = metrics.recall_at_k(ranking.rank[has], 1)
        found[f"{direction}/r_precision"] = metrics.mean_percent(ranking.r_precision)
        found[f"{direction}/map_at_r"] = metrics.mean_percent(ranking.average_precision)
    return found
