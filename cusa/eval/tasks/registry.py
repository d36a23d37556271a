"""The tasks on one embedded split: what is asked, what counts as right, in which space.

Legend: Q queries of a task.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cusa.errors import DataError
from cusa.eval import intervals
from cusa.eval.answers import TaskResult, per_query, summarise, unavailable
from cusa.eval.config import EvalConfig
from cusa.eval.scores import Scores, part
from cusa.eval.tasks import coco, cross_modal, cxc, uni_modal
from cusa.manifests import schemas
from cusa.manifests.judgements import eccv_truth
from cusa.manifests.judgements.cxc_ratings import FILES, CxcRatings
from cusa.manifests.samples import Split

TASKS = {
    "cross-modal": "R@K both ways and RSUM by the data set's own pairs, all captions",
    "cross-modal-first-five": "the same with the first five captions an image",
    "cross-modal-truth": "R@1, R-Precision and mAP@R both ways by every known match",
    "audited": "R@K, RSUM, R-Precision and mAP@R both ways by own pairs and what people judged to match",
    "coco-5k": "R@K on COCO's 5,000 test images, five captions each",
    "coco-1k": "the mean of five folds of it",
    "cxc": "R@K by the matches of Crisscrossed Captions",
    "eccv-caption": "R@1, R-Precision and mAP@R by the matches of ECCV Caption",
    "cxc-uni-modal": "R@K image to image and text to text by the ratings of Crisscrossed Captions",
    "cxc-ratings": "rank correlation with its ratings of texts, images, and images with texts",
    "text-to-text": "captions of the same image, in the uni-modal space",
    "image-to-image": "images of the same class (CUB, SOP, In-Shop, iNaturalist) or match, in the uni-modal space",
}
"""Tasks on a work folder, in the order they are told in."""

CXC = ("cxc-uni-modal", "cxc-ratings")
"""Those that need the ratings of Crisscrossed Captions."""

COCO = ("coco-5k", "coco-1k", "cxc", "eccv-caption")
"""Those that need the official lists of COCO's test split."""

_OWN_PAIRS = "R@K both ways: a query is a hit if any of its own captions (its own image) is among the first K; "
_ALL_CAPTIONS = _OWN_PAIRS + "all captions: every caption of the split is ranked"
_FIRST_FIVE = _OWN_PAIRS + "first five: the sixth and later captions of an image are neither asked nor ranked"
_TEXTS_ALONE = "the model embeds texts alone"


@dataclass(frozen=True)
class Embedded:
    """A split as a student sees it, and what is known of it.

    Attributes:
        image: space -> (images, D) unit rows.
        text: space -> (captions, D) unit rows.
        scores: of all images with all captions: cosines, or whatever else the student ranks by; None for a model of
            texts alone.
        score: the same for people.
        uni: the space of uni-modal tasks.
        uni_words: the same for people.
        truth: every known match (`image_key`, `caption_key`), or None.
        audited: (P, 2) image and caption rows of own pairs and of those that people judged to match, or None.
        truths: the ground truths of COCO's test split, or None.
        ratings: Crisscrossed Captions' ratings of the split, by what is rated.
    """

    split: Split
    image: Mapping[str, np.ndarray]
    text: Mapping[str, np.ndarray]
    scores: Scores | None
    score: str
    uni: str
    uni_words: str
    truth: Mapping[str, Sequence[str]] | None = None
    truths: eccv_truth.GroundTruths | None = None
    ratings: Mapping[str, CxcRatings] | None = None
    audited: np.ndarray | None = None


def answers(seen: Embedded, config: EvalConfig, wanted: Container[str]) -> Iterator[TaskResult]:
    """Give each wanted task's outcome; one that cannot be done says why, and the others go on.

    Args:
        seen: the embedded split.
        config: K, block, resamples.
        wanted: names of `TASKS`.
    """
    groups: tuple[
        tuple[tuple[str, ...], Callable[[Embedded, EvalConfig, Container[str]], Iterator[TaskResult]]], ...
    ] = (
        (("cross-modal",), _cross_modal),
        (("cross-modal-first-five",), _first_five),
        (("cross-modal-truth",), _under_truth),
        (("audited",), _audited),
        (COCO, _coco),
        (CXC, _cxc),
        (("text-to-text",), _text_to_text),
        (("image-to-image",), _image_to_image),
    )
    for names, ask in groups:
        if any(name in wanted for name in names):
            yield from ask(seen, config, wanted)


def _cross_modal(seen: Embedded, config: EvalConfig, wanted: Container[str]) -> Iterator[TaskResult]:
    yield _own_pairs("cross-modal", seen, np.arange(seen.split.num_captions), config, _ALL_CAPTIONS)


def _first_five(seen: Embedded, config: EvalConfig, wanted: Container[str]) -> Iterator[TaskResult]:
    rows = first_captions(seen.split.caption_owner, 5)
    left_out = seen.split.num_captions - len(rows)
    told = f"{_FIRST_FIVE} ({left_out:,} captions here)" if left_out else f"{_FIRST_FIVE} (there are none here)"
    yield _own_pairs("cross-modal-first-five", seen, rows, config, told)


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


def _own_pairs(name: str, seen: Embedded, captions: np.ndarray, config: EvalConfig, protocol: str) -> TaskResult:
    split = seen.split
    if seen.scores is None:
        return unavailable(name, _TEXTS_ALONE)
    if not split.num_captions:
        return unavailable(name, "the split has no captions")
    whole = len(captions) == split.num_captions
    scores = seen.scores if whole else part(seen.scores, np.arange(split.num_images), captions)
    owner = split.caption_owner[captions]
    of_image, of_caption = cross_modal.owned(owner, split.num_images)
    both = cross_modal.rank_both_ways(scores, of_image, of_caption, config)
    directions = {cross_modal.IMAGE_TO_TEXT: both.image_to_text, cross_modal.TEXT_TO_IMAGE: both.text_to_image}
    image_of = {cross_modal.IMAGE_TO_TEXT: np.arange(split.num_images), cross_modal.TEXT_TO_IMAGE: owner}
    found = intervals.of_rankings(config, directions, image_of, config.ks, prefix=True, rsum=True)
    queries = split.num_images + len(captions)
    summary = summarise(cross_modal.recalls(both, config.ks), found, seen.score, protocol, queries)
    images = np.arange(split.num_images)
    rows = {cross_modal.IMAGE_TO_TEXT: images, cross_modal.TEXT_TO_IMAGE: captions}
    galleries = {cross_modal.IMAGE_TO_TEXT: captions, cross_modal.TEXT_TO_IMAGE: images}
    return TaskResult(name, summary, per_query(name, split, directions, rows=rows, galleries=galleries))


def _under_truth(seen: Embedded, config: EvalConfig, wanted: Container[str]) -> Iterator[TaskResult]:
    name, split = "cross-modal-truth", seen.split
    if seen.scores is None:
        yield unavailable(name, _TEXTS_ALONE)
        return
    if seen.truth is None:
        yield unavailable(name, f"{split.folder / 'truth.parquet'} does not exist: no match is known beyond the pairs")
        return
    of_image, of_caption = cross_modal.matched(seen.truth, split.image_keys, split.caption_keys)
    both = cross_modal.rank_both_ways(seen.scores, of_image, of_caption, config, at_r=True)
    directions = {cross_modal.IMAGE_TO_TEXT: both.image_to_text, cross_modal.TEXT_TO_IMAGE: both.text_to_image}
    found = intervals.of_rankings(config, directions, _image_of(split), (1,), prefix=True, at_r=True)
    protocol = (
        "every known match counts as right, not only the data set's own pairs; R-Precision and mAP@R look at the first "
        "R places, R being the query's number of right answers"
    )
    summary = summarise(
        cross_modal.under_truth(both), found, seen.score, protocol, split.num_images + split.num_captions
    )
    yield TaskResult(name, summary, per_query(name, split, directions))


def _audited(seen: Embedded, config: EvalConfig, wanted: Container[str]) -> Iterator[TaskResult]:
    name, split = "audited", seen.split
    if seen.scores is None:
        yield unavailable(name, _TEXTS_ALONE)
        return
    if seen.audited is None:
        yield unavailable(name, f"nobody has judged a pair of {split.folder}: `cusa review` asks for verdicts")
        return
    images, captions = seen.audited.T
    of_image, of_caption = _grouped(images, captions, split.num_images), _grouped(captions, images, split.num_captions)
    both = cross_modal.rank_both_ways(seen.scores, of_image, of_caption, config, at_r=True)
    directions = {cross_modal.IMAGE_TO_TEXT: both.image_to_text, cross_modal.TEXT_TO_IMAGE: both.text_to_image}
    found = intervals.of_rankings(config, directions, _image_of(split), config.ks, prefix=True, rsum=True)
    found |= intervals.of_rankings(config, directions, _image_of(split), (), prefix=True, at_r=True)
    at_r = {key: value for key, value in cross_modal.under_truth(both).items() if not key.endswith("r@1")}
    more = len(images) - split.num_captions
    protocol = (
        f"the data set's own pairs and {more:,} more that people judged to match count as right; who was not asked "
        "about stays wrong; R@K and RSUM: a query is a hit if any right answer is among the first K"
    )
    queries = split.num_images + split.num_captions
    summary = summarise({**cross_modal.recalls(both, config.ks), **at_r}, found, seen.score, protocol, queries)
    yield TaskResult(name, summary, per_query(name, split, directions))


def _grouped(queries: np.ndarray, answers: np.ndarray, number: int) -> list[np.ndarray]:
    """Return the answers of each of `number` queries."""
    order = np.argsort(queries, kind="stable")
    return np.split(answers[order], np.searchsorted(queries[order], np.arange(1, number)))


def _coco(seen: Embedded, config: EvalConfig, wanted: Container[str]) -> Iterator[TaskResult]:
    split = seen.split
    try:
        if seen.scores is None:
            raise DataError(_TEXTS_ALONE)
        if seen.truths is None:
            raise DataError("no ground truth was given: install eccv-caption, or give its files with --data FOLDER")
        gallery = coco.Gallery(seen.truths, *split.coco_ids)
    except DataError as error:
        yield from (unavailable(name, str(error)) for name in COCO if name in wanted)
        return
    for scored in coco.score(seen.scores, gallery, seen.truths, config):
        if scored.name not in wanted:
            continue
        if scored.rankings is None:
            summary = summarise(
                scored.numbers, {}, seen.score, scored.protocol, len(gallery.images) + len(gallery.captions)
            )
            yield TaskResult(scored.name, summary, schemas.PER_QUERY.empty_table())
            continue
        rows = {cross_modal.IMAGE_TO_TEXT: scored.image_queries, cross_modal.TEXT_TO_IMAGE: scored.text_queries}
        directions = {
            cross_modal.IMAGE_TO_TEXT: scored.rankings.image_to_text,
            cross_modal.TEXT_TO_IMAGE: scored.rankings.text_to_image,
        }
        # Only the images that a query stands for are resampled.
        asked = [scored.image_queries, split.caption_owner[scored.text_queries]]
        places = np.unique(np.concatenate(asked), return_inverse=True)[1]
        image_of = dict(zip(rows, np.split(places, [len(asked[0])]), strict=True))
        at_r = scored.name == "eccv-caption"
        found = intervals.of_rankings(
            config, directions, image_of, (1,) if at_r else config.ks, prefix=True, rsum=not at_r, at_r=at_r
        )
        summary = summarise(scored.numbers, found, seen.score, scored.protocol, sum(map(len, rows.values())))
        galleries = {cross_modal.IMAGE_TO_TEXT: gallery.captions, cross_modal.TEXT_TO_IMAGE: gallery.images}
        yield TaskResult(
            scored.name, summary, per_query(scored.name, split, directions, rows=rows, galleries=galleries)
        )


def _cxc(seen: Embedded, config: EvalConfig, wanted: Container[str]) -> Iterator[TaskResult]:
    split = seen.split
    try:
        if not seen.ratings:
            raise DataError(
                f"no ratings of the {split.name} split were given: `cusa download cxc --out raw/cxc` says where they "
                "are, then --data raw/cxc"
            )
        rated = cxc.rows_of(seen.ratings, *split.coco_ids)
    except DataError as error:
        yield from (unavailable(name, str(error)) for name in CXC if name in wanted)
        return
    if "cxc-uni-modal" in wanted:
        yield _cxc_retrieval(seen, rated, config)
    if "cxc-ratings" in wanted:
        yield _cxc_correlation(seen, rated, config)


def _cxc_retrieval(seen: Embedded, rated: cxc.Rated, config: EvalConfig) -> TaskResult:
    name, split = "cxc-uni-modal", seen.split
    numbers: dict[str, float] = {}
    directions, rows, galleries, image_of = {}, {}, {}, {}
    sides = (
        (uni_modal.IMAGE_TO_IMAGE, seen.image, np.arange(split.num_images)),
        (uni_modal.TEXT_TO_TEXT, seen.text, split.caption_owner),
    )
    for what, embedded, owner in sides:
        if what not in rated.pairs or not embedded:
            continue
        ranking, asked, members = cxc.retrieval(what, embedded[seen.uni], rated, split.caption_owner, config)
        directions[what], rows[what], galleries[what], image_of[what] = ranking, asked, members, owner[asked]
        numbers |= cxc.recalls(ranking, config.ks, what)
    found = intervals.of_rankings(config, directions, image_of, config.ks, prefix=True)
    summary = summarise(numbers, found, seen.uni_words, cxc.RETRIEVAL, sum(map(len, rows.values())))
    return TaskResult(name, summary, per_query(name, split, directions, rows=rows, galleries=galleries))


def _cxc_correlation(seen: Embedded, rated: cxc.Rated, config: EvalConfig) -> TaskResult:
    numbers: dict[str, float] = {}
    found: dict[str, list[float] | None] = {}
    pairs = 0
    for what, (first, second, score) in rated.pairs.items():
        if what == cross_modal.IMAGE_TO_TEXT:
            if seen.scores is None:
                continue
            model = cxc.pair_scores(seen.scores, first, second, config)
            asked = second  # the file begins with the caption
        else:
            embedded = (seen.image if what == uni_modal.IMAGE_TO_IMAGE else seen.text).get(seen.uni)
            if embedded is None:
                continue
            model, asked = np.einsum("pd,pd->p", embedded[first], embedded[second]), first
        mean, interval = cxc.told(cxc.correlation(asked, score, model, seed=config.seed))
        numbers[f"{what}/spearman"], found[f"{what}/spearman"] = mean, interval
        pairs += len(score)
    if len(numbers) == len(FILES):
        numbers["mean"] = float(np.mean(list(numbers.values())))
    space = seen.uni_words if seen.scores is None else f"{seen.uni_words}; image-to-text: {seen.score}"
    return TaskResult(
        "cxc-ratings", summarise(numbers, found, space, cxc.CORRELATION, pairs), schemas.PER_QUERY.empty_table()
    )


def _text_to_text(seen: Embedded, config: EvalConfig, wanted: Container[str]) -> Iterator[TaskResult]:
    name, split = "text-to-text", seen.split
    if not split.num_captions:
        yield unavailable(name, "the split has no captions")
        return
    of_image, _ = cross_modal.owned(split.caption_owner, split.num_images)
    ranking = uni_modal.rank_within(seen.text[seen.uni], uni_modal.siblings(split.caption_owner, of_image), config)
    protocol = "the other captions of the same image are right; the query itself is left out by identity"
    found = intervals.of_rankings(config, {name: ranking}, _image_of(split), config.ks, at_r=True)
    queries = int((ranking.positives > 0).sum())
    summary = summarise(uni_modal.scores(ranking, config.ks), found, seen.uni_words, protocol, queries)
    yield TaskResult(name, summary, per_query("uni-modal", split, {name: ranking}))


def _image_to_image(seen: Embedded, config: EvalConfig, wanted: Container[str]) -> Iterator[TaskResult]:
    name, split = "image-to-image", seen.split
    if not seen.image:
        yield unavailable(name, _TEXTS_ALONE)
        return
    rows = seen.image[seen.uni]
    labels = split.samples["label"].to_pylist()
    roles = split.samples["role"].to_numpy(zero_copy_only=False)
    queries, gallery = np.flatnonzero(roles == "query"), np.flatnonzero(roles == "gallery")
    numbers: dict[str, float] = {}
    if any(labels) and len(queries) and len(gallery):
        right = uni_modal.labelled([labels[row] for row in queries], [labels[row] for row in gallery])
        ranking = uni_modal.rank_between(rows[queries], rows[gallery], right, config)
        rule = f"gallery images with the query's label are right; {len(gallery):,} gallery images, no query among them"
    else:
        queries = gallery = np.arange(split.num_images)
        if any(labels):
            right, rule = uni_modal.same_label(labels), "images with the same label are right"
            theirs = uni_modal.second_nearest_rank1(rows, labels, config)
            numbers = {"release_r@1": theirs}
        elif seen.truth is not None:
            of_image, of_caption = cross_modal.matched(seen.truth, split.image_keys, split.caption_keys)
            right = uni_modal.sharing_captions(of_image, of_caption, split.caption_owner)
            rule = "two images belong together if each owns a caption that is true of the other"
        else:
            yield unavailable(name, "the split has neither labels nor a truth table")
            return
        rule += "; the query itself is left out by identity"
        ranking = uni_modal.rank_within(rows, right, config)
    numbers = {**uni_modal.scores(ranking, config.ks), **numbers}
    found = intervals.of_rankings(config, {name: ranking}, {name: np.arange(len(queries))}, config.ks, at_r=True)
    protocol = f"{rule}; queries without a right image are left out"
    if "release_r@1" in numbers:
        protocol += "; release R@1 = the authors' rule: the second nearest image, whatever the first is, of all queries"
    summary = summarise(numbers, found, seen.uni_words, protocol, int((ranking.positives > 0).sum()))
    table = per_query("uni-modal", split, {name: ranking}, rows={name: queries}, galleries={name: gallery})
    yield TaskResult(name, summary, table)


def _image_of(split: Split) -> dict[str, np.ndarray]:
    """Return the image that each query is or belongs to, by direction."""
    images, owner = np.arange(split.num_images), split.caption_owner
    return {
        cross_modal.IMAGE_TO_TEXT: images,
        cross_modal.TEXT_TO_IMAGE: owner,
        uni_modal.IMAGE_TO_IMAGE: images,
        uni_modal.TEXT_TO_TEXT: owner,
    }
