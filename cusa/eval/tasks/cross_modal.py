"""Image-to-text and text-to-image retrieval: R@K both ways, RSUM, and the same under every known match.

Legend: I images, C captions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cusa.eval.config import EvalConfig
from cusa.eval.ranking import Ranking, rank
from cusa.eval.scores import Scores, part
from cusa.eval.tasks import by_source, intervals, metrics
from cusa.eval.tasks.by_source import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from cusa.eval.tasks.task import TEXTS_ALONE, Embedded, TaskResult, per_query, summarise, unavailable

_LANGUAGES = (
    "each language alone: its captions and the images that have one ask and are ranked; languages compare where they "
    "have as many of both; captions of unknown language (und) are left out"
)
_OWN_PAIRS = "R@K both ways: a query is a hit if any of its own captions (its own image) is among the first K; "


@dataclass(frozen=True)
class TwoWays:
    """The rankings of both directions."""

    image_to_text: Ranking
    text_to_image: Ranking

    @property
    def by_direction(self) -> dict[str, Ranking]:
        """Direction -> its ranking."""
        return {IMAGE_TO_TEXT: self.image_to_text, TEXT_TO_IMAGE: self.text_to_image}

    def chances(self, kind: metrics.Kind, ks: Sequence[int]) -> dict[str, float | None]:
        """Return what random rankings of the same queries get, where every item of one side is ranked for the other.

        Args:
            kind: of the task.
            ks: the K of R@K.
        """
        images, captions = len(self.image_to_text.rank), len(self.text_to_image.rank)
        galleries = {IMAGE_TO_TEXT: (self.image_to_text, captions), TEXT_TO_IMAGE: (self.text_to_image, images)}
        return metrics.chances_of_rankings(galleries, kind, ks, prefix=True, rsum=kind == "pairs")


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
    hits: dict[str, float] = {}
    others: dict[str, float] = {}
    for direction, ranking in both.by_direction.items():
        for name, value in metrics.of_ranking(ranking, "pairs", ks).items():
            (hits if name.startswith("r@") else others)[f"{direction}/{name}"] = value
    return {**hits, "rsum": sum(hits.values()), **others}


def recall_names(ks: Sequence[int] = (1, 5, 10)) -> list[str]:
    """Return the names that `recalls` gives."""
    names = metrics.names_of_ranking("pairs", ks)
    return ["rsum", *(f"{direction}/{name}" for direction in (IMAGE_TO_TEXT, TEXT_TO_IMAGE) for name in names)]


def under_truth(both: TwoWays, ks: Sequence[int] = (1,), kind: metrics.Kind = "matches") -> dict[str, float]:
    """Return R@1, R-Precision and mAP@R both ways, in percent, for rankings against every known match.

    Args:
        both: the rankings.
        ks: the K of R@K.
        kind: of the task; `plausible` gives PMRP instead.
    """
    return {
        f"{direction}/{name}": value
        for direction, ranking in both.by_direction.items()
        for name, value in metrics.of_ranking(ranking, kind, ks).items()
    }


def own_pairs(seen: Embedded) -> TaskResult:
    """Score the data set's own pairs, every caption ranked."""
    protocol = f"{_OWN_PAIRS}all captions: every caption of the split is ranked"
    return _own_pairs("cross-modal", seen, np.arange(seen.split.num_captions), protocol)


def first_five(seen: Embedded) -> TaskResult:
    """Score the data set's own pairs, each image with its first five captions."""
    rows = first_captions(seen.split.caption_owner, 5)
    left_out = seen.split.num_captions - len(rows)
    there = f"{left_out:,} captions here" if left_out else "there are none here"
    rule = f"first five: the sixth and later captions of an image are neither asked nor ranked ({there})"
    return _own_pairs("cross-modal-first-five", seen, rows, _OWN_PAIRS + rule)


def first_captions(caption_owner: np.ndarray, most: int) -> np.ndarray:
    """Return the rows of each image's first captions, as the data set orders them.

    Args:
        caption_owner: image row of each caption.
        most: captions an image.
    """
    order = np.argsort(caption_owner, kind="stable")
    owner = caption_owner[order]
    position = np.arange(len(order)) - np.searchsorted(owner, owner)
    return np.sort(order[position < most])


def _own_pairs(name: str, seen: Embedded, captions: np.ndarray, protocol: str) -> TaskResult:
    split, config = seen.split, seen.config
    if seen.scores is None:
        return unavailable(name, TEXTS_ALONE)
    if not split.num_captions:
        return unavailable(name, "the split has no captions")
    whole = len(captions) == split.num_captions
    scores = seen.scores if whole else part(seen.scores, np.arange(split.num_images), captions)
    owner = split.caption_owner[captions]
    of_image, of_caption = owned(owner, split.num_images)
    both = rank_both_ways(scores, of_image, of_caption, config)
    image_of = {IMAGE_TO_TEXT: np.arange(split.num_images), TEXT_TO_IMAGE: owner}
    spans = intervals.of_rankings(config, both.by_direction, image_of, config.ks, prefix=True, rsum=True)
    queries = split.num_images + len(captions)
    summary = summarise(recalls(both, config.ks), spans, seen.score, protocol, queries)
    images = np.arange(split.num_images)
    rows = {IMAGE_TO_TEXT: images, TEXT_TO_IMAGE: captions}
    galleries = {IMAGE_TO_TEXT: captions, TEXT_TO_IMAGE: images}
    table = per_query(name, split, both.by_direction, rows=rows, galleries=galleries)
    summary["chance"] = both.chances("pairs", config.ks)
    if whole and (sources := by_source.measure(seen, of_image, both.text_to_image, partial(_recalls, ks=config.ks))):
        summary["by_source"] = sources
    if whole and len(seen.evidence.language_rows) > 1:
        summary["by_language"] = _by_language(seen, seen.scores)
    return TaskResult(name, summary, table)


def _by_language(seen: Embedded, scores: Scores) -> dict[str, Any]:
    """Return the numbers of each language, by its code, with the number of its captions: each is a retrieval alone."""
    split, config = seen.split, seen.config
    results: dict[str, Any] = {}
    for language, captions in seen.evidence.language_rows.items():
        images, owner = np.unique(split.caption_owner[captions], return_inverse=True)
        of_image, of_caption = owned(owner, len(images))
        both = rank_both_ways(part(scores, images, captions), of_image, of_caption, config)
        image_of = {IMAGE_TO_TEXT: np.arange(len(images)), TEXT_TO_IMAGE: owner}
        spans = intervals.of_rankings(config, both.by_direction, image_of, config.ks, prefix=True, rsum=True)
        queries = len(images) + len(captions)
        summary = summarise(recalls(both, config.ks), spans, seen.score, _LANGUAGES, queries)
        results[language] = {"captions": len(captions), **summary, "chance": both.chances("pairs", config.ks)}
    return results


def _recalls(image_to_text: Ranking, text_to_image: Ranking, ks: Sequence[int]) -> dict[str, float]:
    return recalls(TwoWays(image_to_text, text_to_image), ks)


def known_matches(seen: Embedded) -> TaskResult:
    """Score every known match of `truth.parquet`."""
    name, split, config = "cross-modal-truth", seen.split, seen.config
    if seen.scores is None:
        return unavailable(name, TEXTS_ALONE)
    if seen.evidence.known_matches is None:
        return unavailable(name, f"{split.folder / 'truth.parquet'} does not exist: no match is known beyond the pairs")
    of_image, of_caption = matched(seen.evidence.known_matches, split.image_keys, split.caption_keys)
    both = rank_both_ways(seen.scores, of_image, of_caption, config, at_r=True)
    spans = intervals.of_rankings(config, both.by_direction, seen.image_of, (1,), prefix=True, kind="matches")
    protocol = (
        "every known match counts as right, not only the data set's own pairs; R-Precision and mAP@R look at the first "
        "R places, R being the query's number of right answers"
    )
    summary = summarise(under_truth(both), spans, seen.score, protocol, split.num_images + split.num_captions)
    chances = both.chances("matches", (1,))
    return TaskResult(name, {**summary, "chance": chances}, per_query(name, split, both.by_direction))


def audited(seen: Embedded) -> TaskResult:
    """Score own pairs together with those that people judged to match."""
    name, split, config = "audited", seen.split, seen.config
    if seen.scores is None:
        return unavailable(name, TEXTS_ALONE)
    if seen.evidence.judged_pairs is None:
        return unavailable(name, f"nobody has judged a pair of {split.folder}: `cusa review` asks for verdicts")
    images, captions = seen.evidence.judged_pairs.T
    of_image, of_caption = _grouped(images, captions, split.num_images), _grouped(captions, images, split.num_captions)
    both = rank_both_ways(seen.scores, of_image, of_caption, config, at_r=True)
    spans = intervals.of_rankings(config, both.by_direction, seen.image_of, config.ks, prefix=True, rsum=True)
    spans |= intervals.of_rankings(config, both.by_direction, seen.image_of, (), prefix=True, kind="matches")
    more = len(images) - split.num_captions
    protocol = (
        f"the data set's own pairs and {more:,} more that people judged to match count as right; who was not asked "
        "about stays wrong; R@K and RSUM: a query is a hit if any right answer is among the first K"
    )
    queries = split.num_images + split.num_captions
    numbers = {**recalls(both, config.ks), **under_truth(both, ())}
    summary = summarise(numbers, spans, seen.score, protocol, queries)
    chances = {**both.chances("pairs", config.ks), **both.chances("matches", ())}
    return TaskResult(name, {**summary, "chance": chances}, per_query(name, split, both.by_direction))


def _grouped(queries: np.ndarray, answers: np.ndarray, number: int) -> list[np.ndarray]:
    """Return the answers of each of `number` queries."""
    order = np.argsort(queries, kind="stable")
    return np.split(answers[order], np.searchsorted(queries[order], np.arange(1, number)))
