"""Image-to-image and text-to-text retrieval within one split, the query itself left out by identity.

Legend: I images, C captions.
"""

from collections.abc import Sequence

import numpy as np

from cusa.eval.config import EvalConfig
from cusa.eval.ranking import Ranking, rank, score_blocks
from cusa.eval.tasks import cross_modal, intervals, metrics
from cusa.eval.tasks.task import TEXTS_ALONE, Embedded, TaskResult, per_query, summarise, unavailable

IMAGE_TO_IMAGE = "image-to-image"
TEXT_TO_TEXT = "text-to-text"


def siblings(caption_owner_C: np.ndarray, of_image: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return, for each caption, the rows of the other captions of its image."""
    return [of_image[owner][of_image[owner] != row] for row, owner in enumerate(caption_owner_C)]


def same_label(labels: Sequence[str | int | None]) -> list[np.ndarray]:
    """Return, for each image, the rows of the other images with its label; none where the label is empty or None."""
    members: dict[str | int, list[int]] = {}
    for row, label in enumerate(labels):
        if label is not None and label != "":
            members.setdefault(label, []).append(row)
    right = [np.array([], dtype=np.int64) for _ in labels]
    for rows in members.values():
        of_label = np.array(rows)
        for row in rows:
            right[row] = of_label[of_label != row]
    return right


def labelled(queries: Sequence[str | int | None], gallery: Sequence[str | int | None]) -> list[np.ndarray]:
    """Return, for each query's label, the gallery rows that have it; none where the label is empty or None."""
    members: dict[str | int, list[int]] = {}
    for row, label in enumerate(gallery):
        if label is not None and label != "":
            members.setdefault(label, []).append(row)
    nothing: list[int] = []
    return [np.array(nothing if label is None else members.get(label, nothing), np.int64) for label in queries]


def sharing_captions(
    of_image: Sequence[np.ndarray], of_caption: Sequence[np.ndarray], caption_owner_C: np.ndarray
) -> list[np.ndarray]:
    """Return, for each image, the rows of other images that are as good an answer to it as words can tell.

    Two images belong together if each one owns a caption that is true of the other: one vague caption that fits both is
    not enough, unless it fits both ways round.

    Args:
        of_image: every true caption of each image.
        of_caption: every true image of each caption.
        caption_owner_C: image row of each caption.
    """
    fits: list[set[int]] = [set() for _ in of_image]
    for caption, owner in enumerate(caption_owner_C):
        fits[owner].update(int(image) for image in of_caption[caption])
    return [
        np.array(sorted(other for other in fits[row] if other != row and row in fits[other]), dtype=np.int64)
        for row in range(len(of_image))
    ]


def rank_within(rows_ND: np.ndarray, relevant: Sequence[np.ndarray], config: EvalConfig) -> Ranking:
    """Rank the other rows for each row.

    Exact duplicates of the query are other rows and may come first; the query is left out because it is the query, not
    because it came first. The authors' release drops the nearest row whatever it is, so that there a duplicate can
    stand for the query and the query count as its own answer.

    Args:
        rows_ND: unit rows.
        relevant: right rows of each row, itself not among them.
        config: block size and K.
    """
    itself = np.arange(len(rows_ND))
    return rank(score_blocks(rows_ND, rows_ND, config.block), relevant, exclude=itself, top=config.top)


def rank_between(
    queries_QD: np.ndarray, gallery_GD: np.ndarray, relevant: Sequence[np.ndarray], config: EvalConfig
) -> Ranking:
    """Rank a gallery that holds none of the queries (In-Shop).

    Args:
        queries_QD: unit rows.
        gallery_GD: unit rows.
        relevant: right gallery rows of each query.
        config: block size and K.
    """
    return rank(score_blocks(queries_QD, gallery_GD, config.block), relevant, top=config.top)


def second_nearest_rank1(rows_ND: np.ndarray, labels: Sequence[str | int | None], config: EvalConfig) -> float:
    """Return R@1 in percent as the authors' release computes it, to stand beside ours.

    The nearest row is dropped whatever it is and the second is judged: of two exact duplicates a query may be its own
    answer. Rows whose label no other row has stay in the denominator, as misses. Equal scores: the lower row first
    (the release's order among them is not defined). An image without a label is a miss.
    """
    nobody = [np.array([], np.int64)] * len(rows_ND)
    ranking = rank(score_blocks(rows_ND, rows_ND, config.block), nobody, top=2, at_r=False)
    second = ranking.top[:, 1]
    hits = [
        at >= 0 and labels[row] is not None and labels[row] != "" and labels[at] == labels[row]
        for row, at in enumerate(second)
    ]
    return float(100 * np.mean(hits)) if hits else float("nan")


def scores(ranking: Ranking, ks: Sequence[int]) -> dict[str, float]:
    """Return R@K, R-Precision and mAP@R in percent over the queries that have a right item at all."""
    return metrics.of_ranking(ranking, "matches", ks)


def text_to_text(seen: Embedded) -> TaskResult:
    """Score captions among captions: those of the same image are right."""
    name, split, config = "text-to-text", seen.split, seen.config
    if not split.num_captions:
        return unavailable(name, "the split has no captions")
    of_image, _ = cross_modal.owned(split.caption_owner, split.num_images)
    ranking = rank_within(seen.text[seen.uni], siblings(split.caption_owner, of_image), config)
    protocol = "the other captions of the same image are right; the query itself is left out by identity"
    spans = intervals.of_rankings(config, {name: ranking}, seen.image_of, config.ks, kind="matches")
    queries = int((ranking.positives > 0).sum())
    summary = summarise(scores(ranking, config.ks), spans, seen.uni_words, protocol, queries)
    chances = metrics.chances_of_rankings({name: (ranking, split.num_captions - 1)}, "matches", config.ks)
    return TaskResult(name, {**summary, "chance": chances}, per_query("uni-modal", split, {name: ranking}))


def image_to_image(seen: Embedded) -> TaskResult:
    """Score images among images, by their labels or by the known matches."""
    name, split, config = "image-to-image", seen.split, seen.config
    if not seen.image:
        return unavailable(name, TEXTS_ALONE)
    rows = seen.image[seen.uni]
    labels = split.samples["label"].to_pylist()
    roles = split.samples["role"].to_numpy(zero_copy_only=False)
    queries, gallery = np.flatnonzero(roles == "query"), np.flatnonzero(roles == "gallery")
    numbers: dict[str, float] = {}
    has_labels = any(label is not None and label != "" for label in labels)  # 0 is a label
    if has_labels and len(queries) and len(gallery):
        right = labelled([labels[row] for row in queries], [labels[row] for row in gallery])
        ranking = rank_between(rows[queries], rows[gallery], right, config)
        ranked = len(gallery)
        rule = f"gallery images with the query's label are right; {len(gallery):,} gallery images, no query among them"
    else:
        queries = gallery = np.arange(split.num_images)
        if has_labels:
            right, rule = same_label(labels), "images with the same label are right"
            theirs = second_nearest_rank1(rows, labels, config)
            numbers = {"release_r@1": theirs}
        elif seen.evidence.known_matches is not None:
            of_image, of_caption = cross_modal.matched(
                seen.evidence.known_matches, split.image_keys, split.caption_keys
            )
            right = sharing_captions(of_image, of_caption, split.caption_owner)
            rule = "two images belong together if each owns a caption that is true of the other"
        else:
            return unavailable(name, "the split has neither labels nor a truth table")
        rule += "; the query itself is left out by identity"
        ranking = rank_within(rows, right, config)
        ranked = len(gallery) - 1
    numbers = {**scores(ranking, config.ks), **numbers}
    spans = intervals.of_rankings(config, {name: ranking}, {name: np.arange(len(queries))}, config.ks, kind="matches")
    protocol = f"{rule}; queries without a right image are left out"
    if "release_r@1" in numbers:
        protocol += "; release R@1 = the authors' rule: the second nearest image, whatever the first is, of all queries"
    summary = summarise(numbers, spans, seen.uni_words, protocol, int((ranking.positives > 0).sum()))
    table = per_query("uni-modal", split, {name: ranking}, rows={name: queries}, galleries={name: gallery})
    chances = metrics.chances_of_rankings({name: (ranking, ranked)}, "matches", config.ks)
    return TaskResult(name, {**summary, "chance": chances}, table)
