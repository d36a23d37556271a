"""Crisscrossed Captions beyond pairs of image and caption: retrieval within a modality, and agreement with ratings.

Legend: P rated pairs, Q queries, S estimates.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cusa.errors import DataError
from cusa.eval.config import EvalConfig
from cusa.eval.ranking import Ranking, rank, score_blocks
from cusa.eval.scores import of_pairs
from cusa.eval.tasks import intervals, uni_modal
from cusa.eval.tasks import metrics as table
from cusa.eval.tasks.sts import spearman
from cusa.eval.tasks.task import Embedded, TaskResult, per_query, summarise, unavailable
from cusa.manifests import schemas
from cusa.manifests.judgements.cxc_ratings import FILES, MATCH, CxcRatings

ESTIMATES = 1000
"""Correlations whose mean is the figure, as CxC defines it."""

RETRIEVAL = (
    "image to image: images that people rated 3 or higher together; text to text: the image's other captions, and "
    "captions rated 3 or higher together; all rated images (captions) of the split are the gallery, the query itself "
    "is left out by identity, queries without a right answer are left out"
)
CORRELATION = (
    f"Spearman x 100 of the model's scores with people's ratings, as CxC estimates it: mean over {ESTIMATES:,} draws "
    "of half of the queries (the file's first column) and one rated pair of each, since a query's ratings depend on "
    "each other; the interval spans 95 % of the draws; mean = of the three"
)


class Rated(NamedTuple):
    """Ratings as rows of a split.

    Attributes:
        images: image rows that some rating names, ascending.
        captions: caption rows, likewise.
        pairs: what is rated -> rows of both ends (P,) and scores (P,).
    """

    images: np.ndarray
    captions: np.ndarray
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def rows_of(ratings: Mapping[str, CxcRatings], image_ids: Sequence[int], caption_ids: Sequence[int]) -> Rated:
    """Look a split's rows up.

    Args:
        ratings: what is rated -> ratings.
        image_ids: COCO id of each image row; -1 for none.
        caption_ids: likewise.

    Raises:
        DataError: if the split lacks a rated image or caption: the numbers would compare with nobody's.
    """
    row = {
        "image": {number: at for at, number in enumerate(image_ids) if number >= 0},
        "text": {number: at for at, number in enumerate(caption_ids) if number >= 0},
    }
    named: dict[str, set[int]] = {"image": set(), "text": set()}
    for what, rated in ratings.items():
        for end, ids in zip(what.split("-to-"), (rated.first, rated.second), strict=True):
            named[end].update(ids)
    lost = {end: len(ids - row[end].keys()) for end, ids in named.items()}
    if any(lost.values()):
        raise DataError(
            f"the split has {len(named['image']) - lost['image']:,} of the {len(named['image']):,} images and "
            f"{len(named['text']) - lost['text']:,} of the {len(named['text']):,} captions that these ratings name. "
            "Give the whole COCO split, or ratings cut to this one with --data FOLDER"
        )
    pairs = {}
    for what, rated in ratings.items():
        first, second = what.split("-to-")
        ends = [
            np.array([row[end][one] for one in ids], np.int64)
            for end, ids in ((first, rated.first), (second, rated.second))
        ]
        pairs[what] = (ends[0], ends[1], rated.score)
    images, captions = (np.array(sorted(row[end][one] for one in named[end]), np.int64) for end in ("image", "text"))
    return Rated(images, captions, pairs)


def retrieval(
    what: str, rows_ND: np.ndarray, rated: Rated, caption_owner: np.ndarray, config: EvalConfig
) -> tuple[Ranking, np.ndarray, np.ndarray]:
    """Rank one modality within itself.

    Args:
        what: `image-to-image` or `text-to-text`.
        rows_ND: the split's uni-modal rows of that modality.
        rated: the ratings.
        caption_owner: image row of each caption.
        config: block size, K.

    Returns:
        The ranking, the split's rows that were asked (Q,), and those that were ranked.
    """
    members = rated.images if what == uni_modal.IMAGE_TO_IMAGE else rated.captions
    place = {int(row): at for at, row in enumerate(members)}
    right: list[set[int]] = [set() for _ in members]
    first, second, score = rated.pairs[what]
    for one, other in zip(first[score >= MATCH].tolist(), second[score >= MATCH].tolist(), strict=True):
        if one != other:
            right[place[one]].add(place[other])
            right[place[other]].add(place[one])
    if what == uni_modal.TEXT_TO_TEXT:
        siblings = uni_modal.same_label(caption_owner[members].tolist())
        right = [others_of | set(others.tolist()) for others_of, others in zip(right, siblings, strict=True)]
    asked = np.array([at for at, others_of in enumerate(right) if others_of], np.int64)
    gallery = rows_ND[members]
    relevant = [np.array(sorted(right[at]), np.int64) for at in asked]
    ranking = rank(score_blocks(gallery[asked], gallery, config.block), relevant, exclude=asked, top=config.top)
    return ranking, members[asked], members


def correlation(first: np.ndarray, rating_P: np.ndarray, score_P: np.ndarray, *, seed: int) -> np.ndarray:
    """Return CxC's estimates of Spearman's correlation x 100: (S,); their mean is the figure.

    Args:
        first: (P,) the query of each pair.
        rating_P: people's scores.
        score_P: the model's.
        seed: of the draws.

    Source: Parekh et al., EACL 2021, section 5, doi 10.18653/v1/2021.eacl-main.249.
    """
    order = np.argsort(first, kind="stable")
    _, starts, counts = np.unique(first[order], return_index=True, return_counts=True)
    rng = np.random.default_rng(seed)
    half = max(1, len(starts) // 2)
    estimates = np.empty(ESTIMATES)
    for number in range(ESTIMATES):
        some = rng.permutation(len(starts))[:half]
        drawn = order[starts[some] + rng.integers(counts[some])]
        estimates[number] = spearman(rating_P[drawn], score_P[drawn])
    return estimates


def mean_interval(estimates_S: np.ndarray) -> tuple[float, list[float] | None]:
    """Return the mean of the estimates and what 95 % of them span; NaN and None where nothing was ordered."""
    known = estimates_S[~np.isnan(estimates_S)]
    if not len(known):
        return float("nan"), None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(known.mean()), [round(float(low), 4), round(float(high), 4)]


def uni_modal_task(seen: Embedded) -> TaskResult:
    """Score retrieval within each modality by the ratings."""
    name, split, config = "cxc-uni-modal", seen.split, seen.config
    try:
        rated = seen.once("cxc", lambda: _rated(seen))
    except DataError as error:
        return unavailable(name, str(error))
    numbers: dict[str, float] = {}
    directions, rows, galleries, image_of = {}, {}, {}, {}
    modalities = (
        (uni_modal.IMAGE_TO_IMAGE, seen.image, np.arange(split.num_images)),
        (uni_modal.TEXT_TO_TEXT, seen.text, split.caption_owner),
    )
    for what, embedded, owner in modalities:
        if what not in rated.pairs or not embedded:
            continue
        ranking, asked, members = retrieval(what, embedded[seen.uni], rated, split.caption_owner, config)
        directions[what], rows[what], galleries[what], image_of[what] = ranking, asked, members, owner[asked]
        numbers |= {f"{what}/{key}": value for key, value in table.of_ranking(ranking, "pairs", config.ks).items()}
    spans = intervals.of_rankings(config, directions, image_of, config.ks, prefix=True)
    summary = summarise(numbers, spans, seen.uni_words, RETRIEVAL, sum(map(len, rows.values())))
    return TaskResult(name, summary, per_query(name, split, directions, rows=rows, galleries=galleries))


def ratings_task(seen: Embedded) -> TaskResult:
    """Correlate the model's scores with the ratings."""
    name, config = "cxc-ratings", seen.config
    try:
        rated = seen.once("cxc", lambda: _rated(seen))
    except DataError as error:
        return unavailable(name, str(error))
    numbers: dict[str, float] = {}
    spans: dict[str, list[float] | None] = {}
    pairs = 0
    for what, (first, second, score) in rated.pairs.items():
        if what == "image-to-text":
            if seen.scores is None:
                continue
            model = of_pairs(seen.scores, first, second, config.block)
            asked = second  # the file begins with the caption
        else:
            embedded = (seen.image if what == uni_modal.IMAGE_TO_IMAGE else seen.text).get(seen.uni)
            if embedded is None:
                continue
            model, asked = np.einsum("pd,pd->p", embedded[first], embedded[second]), first
        mean, interval = mean_interval(correlation(asked, score, model, seed=config.seed))
        numbers[f"{what}/spearman"], spans[f"{what}/spearman"] = mean, interval
        pairs += len(score)
    if len(numbers) == len(FILES):
        numbers["mean"] = float(np.mean(list(numbers.values())))
    space = seen.uni_words if seen.scores is None else f"{seen.uni_words}; image-to-text: {seen.score}"
    summary = summarise(numbers, spans, space, CORRELATION, pairs)
    return TaskResult(name, summary, schemas.PER_QUERY.empty_table())


def _rated(seen: Embedded) -> Rated:
    if not seen.evidence.ratings:
        raise DataError(
            f"no ratings of the {seen.split.name} split were given: `cusa download cxc --out raw/cxc` says where they "
            "are, then --data raw/cxc"
        )
    return rows_of(seen.evidence.ratings, *seen.split.coco_ids)
