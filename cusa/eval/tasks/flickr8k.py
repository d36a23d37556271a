"""Flickr8k's human judgements: whether a model's scores order pairs as experts and crowd do.

Legend: P judged pairs, A images, L levels of what people can say.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cusa.eval.config import EvalConfig
from cusa.eval.tasks import metrics
from cusa.eval.tasks.agreement import JudgedScores, draws
from cusa.eval.tasks.chance import Pool
from cusa.eval.tasks.task import TEXTS_ALONE, Embedded, TaskResult, summarise, unavailable
from cusa.manifests import schemas
from cusa.manifests.judgements.flickr8k import DESCRIBES, MOST_SAY_YES, JudgedPair, LocatedJudgements
from cusa.manifests.samples import Split

NAME = "flickr8k-judgements"

PROTOCOL = (
    "Kendall's tau x 100 of the model's scores with the experts' (tau-c, each expert's score a row of its own) and "
    "with the crowd's share of yes (tau-b); a pair is foreign where the caption is not the image's own; CLIPScore's "
    "paper gives tau-c of the experts' foreign pairs and tau-b of all of the crowd's; average precision and AUC of "
    f"calling a pair right: the experts' median is {DESCRIBES} or more (4: without error), more than "
    f"{100 * MOST_SAY_YES:.0f} % of the crowd say yes"
)


class Judged(NamedTuple):
    """One group of judged pairs.

    Attributes:
        rows: (P,) places among the located pairs.
        votes: (P, L) how many judges gave each level.
        right: name of a metric's end -> (P,) whether the pair counts as right.
    """

    rows: np.ndarray
    votes: np.ndarray
    right: dict[str, np.ndarray]


def groups(split: Split, located: LocatedJudgements) -> Iterator[tuple[str, str, Judged]]:
    """Give each group of judged pairs that has any: who judged and which pairs, the variant of tau, the pairs.

    A pair is foreign where neither the caption nor one of the same words is the image's own. By this rule CLIPScore
    (Hessel et al., EMNLP 2021, appendix A), as SPICE before it, leaves 158 of the experts' 5,822 pairs out; the crowd's
    47,830 pairs it takes as they are. It publishes 51.2 and 34.4 for CLIP ViT-B/32 on the whole files.

    Args:
        split: of the pairs.
        located: the pairs' rows.
    """
    words = [" ".join(text.split()) for text in split.texts]
    own: dict[int, set[str]] = {}
    for caption, image in enumerate(split.caption_owner.tolist()):
        own.setdefault(image, set()).add(words[caption])
    foreign = np.array(
        [
            words[caption] not in own.get(image, ())
            for image, caption in zip(located.images.tolist(), located.captions.tolist(), strict=True)
        ],
        dtype=bool,
    )
    experts = np.array([bool(pair.scores) for pair in located.pairs], dtype=bool)
    crowd = np.array([pair.share is not None for pair in located.pairs], dtype=bool)
    for judges, variant, seen in (("experts", "c", experts), ("crowd", "b", crowd)):
        for which, chosen in (("foreign", foreign), ("all", np.ones_like(foreign))):
            rows = np.flatnonzero(seen & chosen)
            if len(rows):
                pairs = [located.pairs[row] for row in rows.tolist()]
                yield f"{judges}-{which}", variant, _judged(judges, rows, pairs)


def _judged(judges: str, rows: np.ndarray, pairs: list[JudgedPair]) -> Judged:
    if judges == "experts":
        scores = np.array([pair.scores for pair in pairs])
        votes = np.stack([(scores == level).sum(1) for level in range(1, 5)], axis=1)
        median = np.median(scores, axis=1)
        return Judged(rows, votes, {"": median >= DESCRIBES, "_without_error": median == 4})
    shares = np.array([pair.share for pair in pairs], dtype=np.float64)
    levels, level = np.unique(shares, return_inverse=True)
    return Judged(rows, np.eye(len(levels), dtype=np.int64)[level], {"": shares > MOST_SAY_YES})


def judgements_task(seen: Embedded) -> TaskResult:
    """Measure how far the model's scores of the judged pairs agree with the judges."""
    located = seen.evidence.located
    if located is None:
        return unavailable(
            NAME,
            "no judgements of Flickr8k were given: --data FOLDER with ExpertAnnotations.txt or "
            "CrowdFlowerAnnotations.txt (`cusa download flickr8k` brings them)",
        )
    if not located.pairs:
        return unavailable(NAME, f"the {seen.split.name} split has none of the judged images and captions")
    if seen.scores is None and seen.match is None:
        return unavailable(NAME, TEXTS_ALONE)
    scores_P = seen.pair_scores(located.images, located.captions)
    numbers: dict[str, float] = {}
    spans: dict[str, list[float] | None] = {}
    chances: dict[str, float | None] = {}
    counts = []
    for group, variant, judged in groups(seen.split, located):
        values = agreement(scores_P, located.images, variant, judged, seen.config)
        for name, (value, span) in values.items():
            numbers[f"{group}/{name}"], spans[f"{group}/{name}"] = value, span
            right = judged.right["_without_error" if name.endswith("_without_error") else ""]
            chance = metrics.chance(f"{group}/{name}", [Pool(len(right), int(right.sum()))])
            chances[f"{group}/{name}"] = None if chance is None else round(chance, 4)
        counts.append(f"{metrics.WAYS[group][0]} {judged.right[''].sum():,} of {len(judged.rows):,}")
    assert seen.evidence.flickr8k_judgements is not None
    protocol = f"{PROTOCOL}. Right pairs: {'; '.join(counts)}. {seen.evidence.flickr8k_judgements.coverage}"
    if located.unknown:
        protocol += f" {located.unknown:,} judged pairs are of images or captions that the split lacks."
    summary = summarise(numbers, spans, seen.match_words or seen.score, protocol, len(located.pairs))
    return TaskResult(NAME, {**summary, "chance": chances}, schemas.PER_QUERY.empty_table())


def agreement(
    scores_P: np.ndarray, images_P: np.ndarray, variant: str, judged: Judged, config: EvalConfig
) -> dict[str, tuple[float, list[float] | None]]:
    """Return each number of a group of pairs with its interval over resampled images.

    Args:
        scores_P: of all located pairs.
        images_P: image row of each.
        variant: of Kendall's tau.
        judged: the group.
        config: resamples and their seed.
    """
    images, image_P = np.unique(images_P[judged.rows], return_inverse=True)
    pairs = JudgedScores(scores_P[judged.rows], image_P, len(images))
    once = np.ones((1, len(images)), np.int64)
    drawn = np.concatenate([once, draws(len(images), samples=config.bootstrap, seed=config.seed)])
    values = {f"tau_{variant}": pairs.tau("c" if variant == "c" else "b", judged.votes, drawn)}
    for end, right in judged.right.items():
        values[f"average_precision{end}"] = pairs.average_precision(right, drawn)
        values[f"auc{end}"] = pairs.auc(right, drawn)
    return {name: (float(every[0]), _interval(every[1:])) for name, every in values.items()}


def _interval(values_S: np.ndarray) -> list[float] | None:
    known = values_S[~np.isnan(values_S)]
    if not len(known):
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return [round(float(low), 4), round(float(high), 4)]
