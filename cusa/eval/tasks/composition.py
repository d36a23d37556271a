"""Composition and robustness: captions of which one thing was changed, by rule or in official files, beside true ones.

Composition asks, as SugarCrepe does (Hsieh et al., NeurIPS 2023, arXiv:2306.14610), whether a picture's own caption has
a higher score than the same caption with one thing changed. Robustness asks, as RoCOCO does (Park et al.,
arXiv:2304.10727), what is left of image-to-text retrieval where the changed captions stand among all others. By
rule the changes are those of `cusa.models.edits.rules`; the papers' own are written by language models or drawn from
word lists.

Legend: I images, C captions, E edited captions, D width of the embedding.
"""

from typing import NamedTuple

import numpy as np

from cusa.eval import metrics
from cusa.eval.config import EvalConfig
from cusa.eval.evidence import Evidence
from cusa.eval.ranking import rank, score_blocks
from cusa.eval.tasks import cross_modal, intervals
from cusa.eval.tasks.task import TEXTS_ALONE, Embedded, TaskResult, per_query, summarise, unavailable
from cusa.manifests import schemas
from cusa.manifests.judgements.altered_captions import KINDS, Entry
from cusa.manifests.samples import Split
from cusa.manifests.words import counted
from cusa.models.edits.rules import RULES, TITLES

NAME = "composition"
SUGARCREPE, ROCOCO = "sugarcrepe", "rococo"
AMONG = "among-edits"
"""Direction of the retrieval whose gallery holds the edited captions too."""

SCORES_PAIRS = "the model scores pairs, and this task compares embeddings"


class Edit(NamedTuple):
    """One caption of which one thing was changed."""

    kind: str
    """Of `RULES`."""
    caption: int
    """Row of the true caption."""
    text: str
    """No longer true of the picture."""


def edits(split: Split) -> list[Edit]:
    """Return of each picture the first caption that a rule fits, edited, once a rule: pictures are independent."""
    made: list[Edit] = []
    owners = split.caption_owner.tolist()
    for kind, rule in RULES.items():
        of_image: dict[int, Edit] = {}
        for row, (owner, text) in enumerate(zip(owners, split.texts, strict=True)):
            if owner not in of_image and (words := rule(text)) is not None:
                of_image[owner] = Edit(kind, row, words)
        made += of_image.values()
    return made


def texts(evidence: Evidence, config: EvalConfig) -> list[str]:
    """Return the edited captions."""
    return [edit.text for edit in edits(evidence.split)]


def composition(seen: Embedded) -> TaskResult:
    """Score true captions against edited ones, and retrieval among both."""
    config, split = seen.config, seen.split
    if why := _no_cosines(seen):
        return unavailable(NAME, why)
    every = edits(split)
    if not every:
        return unavailable(NAME, "no caption fits a rule: they are for English sentences")
    if seen.no_texts:
        return unavailable(NAME, seen.no_texts)
    edit_ED, image_ID, caption_CD = seen.texts[NAME], seen.image["cross"], seen.text["cross"]
    caption_E = np.array([edit.caption for edit in every])
    image_E = split.caption_owner[caption_E]
    true_E, false_E = (
        (image_ID[image_E] * rows_ED).sum(1, dtype=np.float64) for rows_ED in (caption_CD[caption_E], edit_ED)
    )
    kind_E = np.array([edit.kind for edit in every])
    numbers, spans, chances = preferences(true_E > false_E, kind_E, image_E, config)

    of_image, _ = cross_modal.owned(split.caption_owner, split.num_images)
    gallery = np.concatenate([caption_CD, edit_ED])
    asked = np.flatnonzero([len(own) > 0 for own in of_image])
    blocks = score_blocks(image_ID[asked], gallery, config.block)
    ranking = rank(blocks, [of_image[row] for row in asked], top=max(config.top, 1), at_r=False)
    values = {f"{AMONG}/r@{k}": metrics.hits_at_k(ranking.rank, k) for k in config.ks}
    values[f"{AMONG}/false_first"] = (ranking.top[:, 0] >= len(caption_CD)).astype(np.float64)
    for name, value_I in values.items():
        numbers[name] = float(100 * value_I.mean())
        spans[name] = intervals.of_sum(config, [intervals.by_image(value_I, np.arange(len(asked)))])
        chances[name] = None
    kinds = ", ".join(f"{TITLES[kind]} {int((kind_E == kind).sum()):,}" for kind in RULES if (kind_E == kind).any())
    protocol = (
        f"of each image the first caption that a rule fits, once a rule ({kinds}); a true caption with the score of "
        "its edited one is not preferred; the mean is over kinds of edit. Among edits: image to text, ranked are all "
        f"{counted(split.num_captions, 'caption')} and all {counted(len(every), 'edited one')}"
    )
    table = per_query(
        NAME,
        split,
        {"image-to-text": ranking},
        rows={"image-to-text": asked},
        galleries={"image-to-text": np.arange(len(gallery))},
        keys={"text": [*split.caption_keys, *(f"{split.caption_keys[edit.caption]}~{edit.kind}" for edit in every)]},
    )
    summary = summarise(numbers, spans, "cross", protocol, len(every) + len(asked))
    counts = {kind: int((kind_E == kind).sum()) for kind in RULES}
    return TaskResult(NAME, {**summary, "chance": chances, "edits": counts}, table)


def preferences(
    preferred_E: np.ndarray, kind_E: np.ndarray, image_E: np.ndarray, config: EvalConfig
) -> tuple[dict[str, float], dict[str, list[float] | None], dict[str, float | None]]:
    """Return how often true captions are preferred, by kind and over kinds, with intervals over images and chance.

    Args:
        preferred_E: whether the true caption has the higher score.
        kind_E: name of each edit's kind.
        image_E: image of each edit.
        config: resamples and their seed.
    """
    numbers: dict[str, float] = {}
    spans: dict[str, list[float] | None] = {}
    images, place_E = np.unique(image_E, return_inverse=True)
    kinds = list(dict.fromkeys(kind_E.tolist()))
    of_kind: list[tuple[np.ndarray, np.ndarray]] = []
    for kind in kinds:
        chosen = kind_E == kind
        hits = np.bincount(place_E[chosen], preferred_E[chosen], minlength=len(images))
        counts = np.bincount(place_E[chosen], minlength=len(images))
        of_kind.append((hits, counts))
        name = f"{kind}/preferred"
        numbers[name] = float(100 * hits.sum() / counts.sum())
        spans[name] = intervals.of_sum(config, [(hits[counts > 0], counts[counts > 0])])

    def mean_over_kinds(drawn: np.ndarray) -> float:
        shares = [100 * hits[drawn].sum() / number for hits, counts in of_kind if (number := counts[drawn].sum())]
        return float(np.mean(shares)) if shares else float("nan")

    numbers["preferred"] = mean_over_kinds(np.arange(len(images)))
    span = metrics.bootstrap_interval(mean_over_kinds, len(images), samples=config.bootstrap, seed=config.seed)
    spans["preferred"] = None if span is None else [round(span[0], 4), round(span[1], 4)]
    return numbers, spans, dict.fromkeys(numbers, 50.0)


def sugarcrepe_texts(evidence: Evidence, config: EvalConfig) -> list[str]:
    """Return true and altered caption of each of SugarCrepe's entries of the split, in turn."""
    return [text for _, one in _located(evidence, SUGARCREPE) for text in (*one.true, *one.false)]


def sugarcrepe(seen: Embedded) -> TaskResult:
    """Score SugarCrepe's true captions against its altered ones, as its own evaluation does: a tie is a miss."""
    why = _why_not(seen, SUGARCREPE)
    if why:
        return unavailable(SUGARCREPE, why)
    located = _located(seen.evidence, SUGARCREPE)
    image_E = np.array([row for row, _ in located])
    pair_E2D = seen.texts[SUGARCREPE].reshape(len(located), 2, -1)
    score_E2 = (seen.image["cross"][image_E][:, None] * pair_E2D).sum(2, dtype=np.float64)
    kind_E = np.array([one.kind for _, one in located])
    numbers, spans, chances = preferences(score_E2[:, 0] > score_E2[:, 1], kind_E, image_E, seen.config)
    protocol = (
        "SugarCrepe's files: how often the true caption has a higher score than the altered one; the mean is over "
        f"kinds. {_coverage(seen.evidence, SUGARCREPE, len(located))}"
    )
    summary = summarise(numbers, spans, "cross", protocol, len(located))
    return TaskResult(SUGARCREPE, {**summary, "chance": chances}, schemas.PER_QUERY.empty_table())


def rococo_texts(evidence: Evidence, config: EvalConfig) -> list[str]:
    """Return true and altered captions of each of RoCOCO's entries of the split, file by file."""
    return [text for _, one in _located(evidence, ROCOCO) for text in (*one.true, *one.false)]


def rococo(seen: Embedded) -> TaskResult:
    """Rank the captions of each of RoCOCO's files, altered ones among them, for its images."""
    why = _why_not(seen, ROCOCO)
    if why:
        return unavailable(ROCOCO, why)
    located = _located(seen.evidence, ROCOCO)
    config, rows_TD = seen.config, seen.texts[ROCOCO]
    ends = np.cumsum([len(one.true) + len(one.false) for _, one in located])
    starts = np.r_[0, ends[:-1]]
    numbers: dict[str, float] = {}
    spans: dict[str, list[float] | None] = {}
    for kind in dict.fromkeys(one.kind for _, one in located):
        places = [place for place, (_, one) in enumerate(located) if one.kind == kind]
        first = int(starts[places[0]])
        gallery = rows_TD[first : int(ends[places[-1]])]
        right = [np.arange(starts[place], starts[place] + len(located[place][1].true)) - first for place in places]
        true = np.zeros(len(gallery), bool)
        true[np.concatenate(right)] = True
        image_Q = np.array([located[place][0] for place in places])
        ranking = rank(score_blocks(seen.image["cross"][image_Q], gallery, config.block), right, top=1, at_r=False)
        values = {f"{kind}/r@{k}": metrics.hits_at_k(ranking.rank, k) for k in config.ks}
        values[f"{kind}/false_first"] = (~true[ranking.top[:, 0]]).astype(np.float64)
        for name, value_Q in values.items():
            numbers[name] = float(100 * value_Q.mean())
            spans[name] = intervals.of_sum(config, [intervals.by_image(value_Q, image_Q)])
    protocol = (
        "RoCOCO's files: image to text, each file's true and altered captions ranked; a query is a hit if any of its "
        f"true ones is among the first K. {_coverage(seen.evidence, ROCOCO, len(located))}"
    )
    summary = summarise(numbers, spans, "cross", protocol, len(located))
    return TaskResult(ROCOCO, summary, schemas.PER_QUERY.empty_table())


def _located(evidence: Evidence, whose: str) -> list[tuple[int, Entry]]:
    files = evidence.altered.get(whose)
    return [] if files is None else files.located(evidence.split)


def _no_cosines(seen: Embedded) -> str:
    """Return why the model has no embeddings of both kinds to compare; empty where it has."""
    if seen.scores is None:
        return TEXTS_ALONE
    return SCORES_PAIRS if seen.score == "pairs" else ""


def _why_not(seen: Embedded, whose: str) -> str:
    """Return why a task on official files has no numbers; empty where it has."""
    if why := _no_cosines(seen):
        return why
    if whose not in seen.evidence.altered:
        kinds = ", ".join(f"{kind}.json" for kind in KINDS["sugarcrepe" if whose == SUGARCREPE else "rococo"][:3])
        return f"its files were not given: --data FOLDER with {kinds}..."
    if not _located(seen.evidence, whose):
        return f"the {seen.split.name} split has none of its images of COCO"
    return seen.no_texts


def _coverage(evidence: Evidence, whose: str, there: int) -> str:
    every = len(evidence.altered[whose].entries)
    return f"{there:,} of {counted(every, 'entry', 'entries')} are of images of this split"
