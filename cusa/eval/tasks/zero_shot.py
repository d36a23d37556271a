"""Zero-shot classification: each image beside the names of all classes, put into prompts.

A class is the mean of the unit embeddings of its prompts, brought to unit length again, as CLIP's release has it.

Legend: I labelled images, K classes, T templates, D width of the embedding.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
arXiv:2103.00020, section 3.1.
"""

from collections.abc import Sequence

import numpy as np

from cusa.errors import DataError
from cusa.eval import metrics
from cusa.eval.config import EvalConfig
from cusa.eval.evidence import Evidence
from cusa.eval.ranking import Ranking, rank, score_blocks
from cusa.eval.tasks import intervals
from cusa.eval.tasks.task import TEXTS_ALONE, Embedded, TaskResult, per_query, summarise, unavailable
from cusa.eval.texts import templates
from cusa.eval.texts.classes import Classes, of_labels
from cusa.manifests.words import counted

NAME = "zero-shot"
KS = (1, 5)
DIRECTION = "image-to-class"

SCORES_PAIRS = "the model scores pairs, and a class is a mean of embeddings"


def texts(evidence: Evidence, config: EvalConfig) -> list[str]:
    """Return the prompts of all classes, those of the first one first; none where the split has no classes.

    Raises:
        DataError: if a file that was named, of templates or of names, is broken or does not fit the split.
    """
    prompts = templates.read(config.templates)
    try:
        classes = _classes(evidence, config)
    except DataError:
        if config.class_names and any(_labels(evidence)):
            raise
        return []
    return templates.fill(prompts, classes.names)


def zero_shot(seen: Embedded) -> TaskResult:
    """Score the classes of a labelled split."""
    config, split = seen.config, seen.split
    if seen.scores is None:
        return unavailable(NAME, TEXTS_ALONE)
    if seen.score == "pairs":
        return unavailable(NAME, SCORES_PAIRS)
    try:
        classes = _classes(seen.evidence, config)
    except DataError as error:
        return unavailable(NAME, str(error))
    if seen.no_texts:
        return unavailable(NAME, seen.no_texts)
    prompts = templates.read(config.templates)
    class_KD = class_embeddings(seen.texts[NAME], len(prompts))
    rows_I = np.flatnonzero(classes.of_image >= 0)
    class_I = classes.of_image[rows_I]
    blocks = score_blocks(seen.image["cross"][rows_I], class_KD, config.block)
    ranking = rank(blocks, [np.array([number]) for number in class_I], top=config.top, at_r=False)
    numbers, spans, chances = scored(ranking, class_I, len(classes.names), config)
    summary = summarise(numbers, spans, "cross", _protocol(classes, prompts), len(rows_I))
    table = per_query(
        NAME,
        split,
        {DIRECTION: ranking},
        rows={DIRECTION: rows_I},
        galleries={DIRECTION: np.arange(len(classes.names))},
        keys={"class": classes.labels},
    )
    return TaskResult(NAME, {**summary, "classes": len(classes.names), "chance": chances}, table)


def class_embeddings(prompt_ND: np.ndarray, num_templates: int) -> np.ndarray:
    """Return (K, D) float32 unit rows: the mean of each class's prompts.

    Args:
        prompt_ND: (K T, D) unit rows, those of the first class first.
        num_templates: T.
    """
    mean_KD = prompt_ND.reshape(-1, num_templates, prompt_ND.shape[1]).astype(np.float64).mean(1)
    length_K1 = np.linalg.norm(mean_KD, axis=1, keepdims=True)
    return np.asarray(mean_KD / np.maximum(length_K1, np.finfo(np.float32).tiny), np.float32)


def scored(
    ranking: Ranking, class_I: np.ndarray, num_classes: int, config: EvalConfig
) -> tuple[dict[str, float], dict[str, list[float] | None], dict[str, float | None]]:
    """Return the numbers, their intervals over resampled images, and what a random choice gets.

    Args:
        ranking: of the classes, for each image.
        class_I: the right one of each.
        num_classes: K.
        config: resamples and their seed.
    """
    images = np.arange(len(class_I))
    numbers: dict[str, float] = {}
    spans: dict[str, list[float] | None] = {}
    chances: dict[str, float | None] = {}
    for k in [k for k in KS if k < num_classes]:
        hit_I = metrics.hits_at_k(ranking.rank, k)
        name = f"top@{k}"
        numbers[name], chances[name] = float(100 * hit_I.mean()), round(100 * k / num_classes, 4)
        spans[name] = intervals.of_sum(config, [intervals.by_image(hit_I, images)])
    hit_I = metrics.hits_at_k(ranking.rank, 1)

    def mean_over_classes(drawn: np.ndarray) -> float:
        count_K = np.bincount(class_I[drawn], minlength=num_classes)
        hit_K = np.bincount(class_I[drawn], hit_I[drawn], minlength=num_classes)
        there = count_K > 0
        return float(100 * (hit_K[there] / count_K[there]).mean())

    span = metrics.bootstrap_interval(mean_over_classes, len(images), samples=config.bootstrap, seed=config.seed)
    numbers["class_mean"], chances["class_mean"] = mean_over_classes(images), round(100 / num_classes, 4)
    spans["class_mean"] = None if span is None else [round(span[0], 4), round(span[1], 4)]
    return numbers, spans, chances


def _labels(evidence: Evidence) -> list[str]:
    labels: list[str] = evidence.split.samples["label"].to_pylist()
    return labels


def _classes(evidence: Evidence, config: EvalConfig) -> Classes:
    return of_labels(_labels(evidence), config.class_names)


def _protocol(classes: Classes, prompts: Sequence[str]) -> str:
    unlabelled = int((classes.of_image < 0).sum())
    return (
        f"each image beside all {counted(len(classes.names), 'class', 'classes')}: a class is the mean of the unit "
        f"embeddings of its name in {counted(len(prompts), 'prompt')} ({prompts[0]!r}"
        f"{' and others' if len(prompts) > 1 else ''}), brought to unit length; {classes.source}"
        + (f"; {counted(unlabelled, 'image')} without a label left out" if unlabelled else "")
    )
