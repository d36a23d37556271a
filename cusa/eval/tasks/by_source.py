"""Retrieval by what made the captions: the same rankings, told apart by the source of the right caption."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from cusa.eval.ranking import Ranking, rank
from cusa.eval.tasks import intervals
from cusa.eval.tasks.task import Embedded, summarise

IMAGE_TO_TEXT = "image-to-text"
TEXT_TO_IMAGE = "text-to-image"

PROTOCOL = (
    "text to image: the captions of the source ask, every image is ranked; image to text: images that own such a "
    "caption ask, every caption of other images and their own ones of the source are ranked, their own ones of other "
    "sources are not"
)


def measure(
    seen: Embedded,
    of_image: Sequence[np.ndarray],
    text_to_image: Ranking,
    recalls: Callable[[Ranking, Ranking], dict[str, float]],
) -> dict[str, Any]:
    """Return the numbers of each source; nothing where all captions have one source.

    Args:
        seen: the embedded split, which has scores.
        of_image: caption rows of each image.
        text_to_image: the ranking of every caption.
        recalls: the metrics of the rankings image to text and text to image.

    Returns:
        Source -> captions, and what a task's summary holds.
    """
    split, config = seen.split, seen.config
    if len(split.source_rows) < 2:
        return {}
    assert seen.scores is not None
    results: dict[str, Any] = {}
    for source, rows in split.source_rows.items():
        is_of_source = np.zeros(split.num_captions, dtype=bool)
        is_of_source[rows] = True
        right = [own[is_of_source[own]] for own in of_image]
        others = [own[~is_of_source[own]] for own in of_image]
        asking = np.flatnonzero([len(own) > 0 for own in right])
        blocks = _behind(seen.scores.of_images(config.block), others)
        images, captions = rank(blocks, right, top=1, at_r=False).of(asking), text_to_image.of(rows)
        directions = {IMAGE_TO_TEXT: images, TEXT_TO_IMAGE: captions}
        image_of = {IMAGE_TO_TEXT: asking, TEXT_TO_IMAGE: split.caption_owner[rows]}
        spans = intervals.of_rankings(config, directions, image_of, config.ks, prefix=True, rsum=True)
        queries = len(asking) + len(rows)
        summary = summarise(recalls(images, captions), spans, seen.score, PROTOCOL, queries)
        results[source] = {"captions": len(rows), **summary}
    return results


def _behind(blocks: Iterable[np.ndarray], left_out: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Give blocks of scores in which some items of each query stand behind all others."""
    row = 0
    for block in blocks:
        scores = block.copy()
        lowest = scores.min(axis=1, initial=0) - 1
        for place, items in enumerate(left_out[row : row + len(block)]):
            scores[place, items] = lowest[place]
        row += len(block)
        yield scores
