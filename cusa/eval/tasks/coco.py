"""COCO under its ground truths: 5K and 1K as everybody does, CxC, ECCV Caption, plausible matches.

All are asked of one gallery: the 5,000 test images and their 25,000 official captions, five an image. COCO has
further captions (a sixth, a seventh); the official lists leave them out, and so do these tasks.

Legend: I images, C captions of the split; Q queries of a ground truth.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cusa.errors import DataError
from cusa.eval.config import EvalConfig
from cusa.eval.ranking import Ranking, Truth, rank_by_each
from cusa.eval.scores import Scores, part
from cusa.eval.tasks import cross_modal, intervals, metrics
from cusa.eval.tasks.by_source import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from cusa.eval.tasks.cross_modal import TwoWays
from cusa.eval.tasks.task import TEXTS_ALONE, Embedded, TaskResult, per_query, summarise, unavailable
from cusa.manifests import schemas
from cusa.manifests.judgements.eccv_truth import PLAUSIBLE, GroundTruths, Matches

FOLDS = 5


class Gallery:
    """The rows of a split that a ground truth speaks of, in the official order.

    Args:
        truths: the ground truths.
        image_ids: (I,) COCO id of each image row; -1 for none.
        caption_ids: (C,) COCO id of each caption row; -1 for none.

    Raises:
        DataError: if the split lacks an image or a caption of the official lists: the numbers would compare with
            nobody's.

    Attributes:
        images: image rows, in the order in which the official captions name them.
        captions: caption rows in the official order.
    """

    def __init__(self, truths: GroundTruths, image_ids: Sequence[int], caption_ids: Sequence[int]) -> None:
        image_row = {number: row for row, number in enumerate(image_ids) if number >= 0}
        caption_row = {number: row for row, number in enumerate(caption_ids) if number >= 0}
        own = truths.text_to_image["coco"]
        unowned = [int(number) for number in truths.caption_ids if int(number) not in own]
        if unowned:
            raise DataError(f"The ground truth gives caption {unowned[0]} no image ({len(unowned)} such captions).")
        owners = list(dict.fromkeys(own[int(number)][0] for number in truths.caption_ids))
        lost_captions = [number for number in truths.caption_ids if int(number) not in caption_row]
        lost_images = [number for number in owners if number not in image_row]
        if lost_captions or lost_images:
            raise DataError(
                f"the split has {len(owners) - len(lost_images):,} of the {len(owners):,} images and "
                f"{len(truths.caption_ids) - len(lost_captions):,} of the {len(truths.caption_ids):,} captions that "
                "this ground truth is defined on. Give the whole COCO test split, or a ground truth cut to this one "
                "with --data FOLDER"
            )
        self.images = np.array([image_row[number] for number in owners], np.int64)
        self.captions = np.array([caption_row[int(number)] for number in truths.caption_ids], np.int64)
        self.image_ids = owners
        self.caption_ids = [int(number) for number in truths.caption_ids]


@dataclass(frozen=True)
class Scored:
    """One ground truth's numbers, and what stands behind them.

    Attributes:
        name: `coco-5k`, `coco-1k`, `cxc`, `eccv-caption`, `plausible-matches`.
        protocol: in a sentence.
        numbers: metric -> percent.
        rankings: of the queries below; None for COCO 1K, which has five of them.
        image_queries: image rows of the split, as the image-to-text ranking has them.
        text_queries: caption rows of the split, likewise.
    """

    name: str
    protocol: str
    numbers: Mapping[str, float]
    rankings: TwoWays | None
    image_queries: np.ndarray
    text_queries: np.ndarray


def score(scores: Scores, gallery: Gallery, truths: GroundTruths, config: EvalConfig) -> Iterator[Scored]:
    """Give every family's numbers, equal to those of the `eccv_caption` package on whole rankings.

    Args:
        scores: of all images of the split with all its captions.
        gallery: which rows count.
        truths: the ground truths.
        config: block size and K.

    Source: Chun et al., ECCV 2022, arXiv:2204.03359 (ECCV Caption); Parekh et al., EACL 2021 (CxC); Chun et al., CVPR
    2021, arXiv:2101.05068 (PMRP). The authors of CUSA cut the rankings at 50; these are whole, which changes nothing
    but where R is larger than 50.
    """
    names = list(truths.image_to_text)
    images = {name: _asked(gallery.image_ids, gallery.caption_ids, truths.image_to_text[name]) for name in names}
    captions = {name: _asked(gallery.caption_ids, gallery.image_ids, truths.text_to_image[name]) for name in names}
    some = part(scores, gallery.images, gallery.captions)
    # One pass over the scores serves all three.
    first = _rank(some.of_images(config.block), images, len(gallery.images), config)
    second = _rank(some.of_captions(config.block), captions, len(gallery.captions), config)
    for name, title, protocol in (
        ("coco", "coco-5k", "COCO's own pairs; the five official captions an image are ranked"),
        ("cxc", "cxc", "COCO's own pairs and those that CxC's raters found as well"),
        ("eccv", "eccv-caption", "matches that machines proposed and people verified; queries of ECCV Caption alone"),
        (PLAUSIBLE, "plausible-matches", "whatever shows the same objects counts as right; nobody looked at it"),
    ):
        if name not in names:
            continue
        both = TwoWays(first[name], second[name])
        image_queries, text_queries = images[name].rows, captions[name].rows
        kind = KINDS.get(title, "pairs")
        numbers = cross_modal.recalls(both, config.ks) if kind == "pairs" else cross_modal.under_truth(both, kind=kind)
        sized = f"{protocol}; {len(image_queries):,} image and {len(text_queries):,} caption queries"
        yield Scored(title, sized, numbers, both, gallery.images[image_queries], gallery.captions[text_queries])
        if name == "coco":
            yield _folds(scores, gallery, truths, config)


KINDS: dict[str, metrics.Kind] = {"eccv-caption": "matches", "plausible-matches": "plausible"}
"""Task -> its kind, where that is not `pairs`."""


def _rank(
    blocks: Iterable[np.ndarray], asked: Mapping[str, "_Asked"], num: int, config: EvalConfig
) -> dict[str, Ranking]:
    """Rank the gallery for every query and judge it by each ground truth, its own queries alone."""
    judged = []
    for name, one in asked.items():
        relevant = [np.array([], np.int64)] * num
        num_right = np.zeros(num, np.int64)
        for row, right, number in zip(one.rows.tolist(), one.relevant, one.num_right.tolist(), strict=True):
            relevant[row] = right
            num_right[row] = number
        judged.append(Truth(relevant, num_right, at_r=name in ("eccv", PLAUSIBLE)))
    rankings = rank_by_each(blocks, judged, top=config.top)
    return {name: ranking.of(one.rows) for (name, one), ranking in zip(asked.items(), rankings, strict=True)}


class _Asked(NamedTuple):
    """The queries of one direction.

    Attributes:
        rows: (Q,) places in the gallery.
        relevant: places of their right answers.
        num_right: (Q,) right answers, those that the gallery lacks included.
    """

    rows: np.ndarray
    relevant: list[np.ndarray]
    num_right: np.ndarray


def _asked(query_ids: Sequence[int], answer_ids: Sequence[int], matches: Matches) -> _Asked:
    place = {number: row for row, number in enumerate(answer_ids)}
    rows = [row for row, number in enumerate(query_ids) if number in matches]
    right = [matches[query_ids[row]] for row in rows]
    relevant = [np.array([place[one] for one in answers if one in place], np.int64) for answers in right]
    return _Asked(np.array(rows, np.int64), relevant, np.array([len(answers) for answers in right], np.int64))


def _folds(scores: Scores, gallery: Gallery, truths: GroundTruths, config: EvalConfig) -> Scored:
    """Return COCO 1K: the mean over five folds of consecutive official captions, each with its own images."""
    own = truths.text_to_image["coco"]
    place = {number: row for row, number in enumerate(gallery.image_ids)}
    owner = np.array([place[own[number][0]] for number in gallery.caption_ids], np.int64)
    size = len(owner) // FOLDS
    per_fold: list[dict[str, float]] = []
    for fold in range(FOLDS):
        captions = np.arange(fold * size, (fold + 1) * size)
        members, local = np.unique(owner[captions], return_inverse=True)
        of_image, of_caption = cross_modal.owned(local, len(members))
        some = part(scores, gallery.images[members], gallery.captions[captions])
        both = cross_modal.rank_both_ways(some, of_image, of_caption, config)
        per_fold.append(cross_modal.recalls(both, config.ks))
    mean = {name: float(np.mean([numbers[name] for numbers in per_fold])) for name in per_fold[0]} if size else {}
    protocol = f"mean of {FOLDS} folds of {size:,} consecutive official captions and their images, each its own gallery"
    empty = np.array([], np.int64)
    return Scored("coco-1k", protocol, mean, None, empty, empty)


def task(name: str) -> Callable[[Embedded], TaskResult]:
    """Return what computes one of these tasks; all share one pass over the scores.

    Args:
        name: `coco-5k`, `coco-1k`, `cxc`, `eccv-caption`, `plausible-matches`.
    """

    def compute(seen: Embedded) -> TaskResult:
        try:
            if seen.scores is None:
                raise DataError(TEXTS_ALONE)
            if seen.evidence.official is None:
                raise DataError("no ground truth was given: install eccv-caption, or give its files with --data FOLDER")
            gallery, all_scored = seen.once("coco", lambda: _score_all(seen))
        except DataError as error:
            return unavailable(name, str(error))
        if name not in all_scored:
            return unavailable(name, "the ground truth has no pm_image_to_caption.json and pm_caption_to_image.json")
        return _result(seen, gallery, all_scored[name])

    return compute


def _score_all(seen: Embedded) -> tuple[Gallery, dict[str, Scored]]:
    assert seen.scores is not None
    assert seen.evidence.official is not None
    gallery = Gallery(seen.evidence.official, *seen.split.coco_ids)
    return gallery, {scored.name: scored for scored in score(seen.scores, gallery, seen.evidence.official, seen.config)}


def _result(seen: Embedded, gallery: Gallery, scored: Scored) -> TaskResult:
    split, config = seen.split, seen.config
    if scored.rankings is None:
        queries = len(gallery.images) + len(gallery.captions)
        summary = summarise(scored.numbers, {}, seen.score, scored.protocol, queries)
        return TaskResult(scored.name, summary, schemas.PER_QUERY.empty_table())
    rows = {IMAGE_TO_TEXT: scored.image_queries, TEXT_TO_IMAGE: scored.text_queries}
    directions = scored.rankings.by_direction
    # Only the images that a query stands for are resampled.
    asked = [scored.image_queries, split.caption_owner[scored.text_queries]]
    places = np.unique(np.concatenate(asked), return_inverse=True)[1]
    image_of = dict(zip(rows, np.split(places, [len(asked[0])]), strict=True))
    kind = KINDS.get(scored.name, "pairs")
    spans = intervals.of_rankings(
        config,
        directions,
        image_of,
        config.ks if kind == "pairs" else (1,),
        prefix=True,
        rsum=kind == "pairs",
        kind=kind,
    )
    summary = summarise(scored.numbers, spans, seen.score, scored.protocol, sum(map(len, rows.values())))
    galleries = {IMAGE_TO_TEXT: gallery.captions, TEXT_TO_IMAGE: gallery.images}
    return TaskResult(scored.name, summary, per_query(scored.name, split, directions, rows=rows, galleries=galleries))
