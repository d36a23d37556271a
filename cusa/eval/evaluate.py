"""One evaluation of a student on a split: encoded once, every number with its protocol, every query's rank on disk."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cusa.errors import ConfigError, nearest
from cusa.eval import leakage
from cusa.eval.config import NOT_IN_THE_NUMBERS, RETRIEVAL_PROTOCOL, EvalConfig
from cusa.eval.evidence import Evidence
from cusa.eval.job import Evaluated, Job, ModelSource, previous, writing
from cusa.eval.ranking import ranked_by
from cusa.eval.scores import Cosines, Scores
from cusa.eval.tasks import cross_modal, intervals
from cusa.eval.tasks.registry import COCO, CXC, JUDGED, TASKS, results
from cusa.eval.tasks.task import TEXTS_ALONE, Embedded
from cusa.manifests import datasets, schemas
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split
from cusa.manifests.stage import StageRun
from cusa.manifests.storage import store
from cusa.models import features

if TYPE_CHECKING:
    from cusa.eval.cache import EmbeddingCache
    from cusa.eval.encode import Embeddings, PartsCache, TextModel
    from cusa.eval.share import Share
    from cusa.models.students.base import Student

TIES = "a wrong item with the same score stands before a right one"


def run(
    config: EvalConfig, model: ModelSource, evidence: Evidence, job: Job, *, on_event: OnEvent = ignore
) -> Evaluated:
    """Score a student on a split and write `metrics.json`, `per_query.parquet` and `ids.txt`.

    Args:
        config: K, blocks, resamples.
        model: what is scored.
        evidence: the split, and what answers are judged by.
        job: where the results go, which tasks, who computes.
        on_event: called with every batch.

    Returns:
        The outcome, and what `metrics.json` holds.

    Raises:
        ConfigError: if there is no such task.
        DataError: if an image does not decode, an embedding or a score is not finite, a key comes twice, or a ground
            truth is broken.
        BusyError: if another process evaluates into the same folder.
    """
    for task in job.tasks:
        if task not in TASKS:
            raise ConfigError(f"There is no task {task!r} on a work folder. {nearest(task, TASKS)}.", task=task)
    assert job.out is not None
    wanted = list(job.tasks) or [
        task.name for task in TASKS.values() if all(evidence.met_needs[need] for need in task.needs)
    ]
    parameters = {
        "protocol": RETRIEVAL_PROTOCOL,
        "split": evidence.split.name,
        "tasks": sorted(wanted),
        **config.model_dump(mode="json", exclude=NOT_IN_THE_NUMBERS),
    }
    texts = {name: texts for name in wanted if (texts := _texts(name, evidence, config)) is not None}
    inputs = {
        "student": model.digest,
        **evidence.digests,
        **features.digests(evidence.split, model.features),
        "training split": model.training_digest,
        **{f"texts of {name}": store.digest(list(of_task)) for name, of_task in texts.items()},
    }
    stage = StageRun("eval", job.out / "ledger.json", inputs=inputs, parameters=parameters, force=job.force)
    old: Evaluated | None = job.share.agree(lambda: previous(stage))
    if old is not None:
        return old
    evidence.refuse_doubles()
    evidence.read(official=not set(COCO).isdisjoint(wanted))
    with writing(stage, job.share):
        if job.helpers is not None:
            job.helpers.embed()
        student = model.load()
        ranked = not set(JUDGED).issuperset(wanted)
        seen = _embed(config, student, evidence, job, ranked=ranked, texts=texts, on_event=on_event)

        def finish() -> Evaluated:
            with ranked_by(None if job.helpers is None else job.helpers.ranker):
                result, table = score(seen, student, wanted, on_event=on_event)
            if job.helpers is not None:
                job.helpers.clean()
            result["leakage"] = leaked = _leakage(model.trained_on, evidence.split)
            result["remarks"] = [*_remarks(student, evidence.split, leaked, wanted), *evidence.judgements.notes()]
            return write(stage, seen, result, table)

        done: Evaluated = job.share.agree(finish)
    return done


def _embed(
    config: EvalConfig,
    student: "Student | TextModel",
    evidence: Evidence,
    job: Job,
    *,
    ranked: bool,
    texts: Mapping[str, Sequence[str]],
    on_event: OnEvent,
) -> Embedded:
    """Encode the split, and on the first rank make what ranks across modalities, where a task ranks."""
    from cusa.eval.encode import PartsCache, encode

    split, share = evidence.split, job.share
    cache = job.open_cache(student, config)
    parts = PartsCache() if ranked and share.first and _reranks(student, config) else None
    embeddings = encode(student, split, config, cache=cache, share=share, kept=parts, on_event=on_event)
    no_texts = _no_texts(student) if any(texts.values()) else ""
    rows = {} if no_texts else _embed_texts(student, texts, config, cache, share, on_event=on_event)
    if cache is not None and share.first:
        cache.finish()
    scores, score = (None, "")
    match, match_words = _match(student, split, config, ranked=ranked, on_event=on_event)
    if share.first and (ranked or match is None):
        scores, score = _cross_scores(student, split, config, embeddings, kept=parts, on_event=on_event)
    space, words = student.space_of("uni-modal")
    return Embedded(
        config,
        evidence,
        embeddings.image,
        embeddings.text,
        scores=scores,
        score=score,
        uni=space,
        uni_words=words,
        match=match,
        match_words=match_words,
        cache_name=cache.name if cache is not None else None,
        notes=tuple(cache.notes()) if cache is not None else (),
        texts=rows,
        no_texts=no_texts,
    )


def _texts(name: str, evidence: Evidence, config: EvalConfig) -> Sequence[str] | None:
    """Return the texts that a task asks of its own; None where it asks none."""
    of_task = TASKS[name].texts
    return None if of_task is None else of_task(evidence, config)


def _no_texts(student: "Student | TextModel") -> str:
    """Return why a model embeds no new texts in the space of images; empty where it does."""
    from cusa.eval.encode import TextModel

    if isinstance(student, TextModel):
        return TEXTS_ALONE
    table = student.features.get("text")
    if table is None or table.encoder:
        return ""
    return (
        f"the model reads rows of the table {table.table!r} and knows no encoder of new texts: `cusa export RUN "
        "--to folder --out MODEL --text ENCODER` gives the run a model that does, --set "
        "student.heads.text_encoder=ENCODER the next one"
    )


def _embed_texts(
    student: "Student | TextModel",
    texts: Mapping[str, Sequence[str]],
    config: EvalConfig,
    cache: "EmbeddingCache | None",
    share: "Share",
    *,
    on_event: OnEvent,
) -> dict[str, np.ndarray]:
    """Return, on the first rank, each task's texts as (T, D) unit rows of the cross-modal space."""
    from cusa.eval.encode import embed_texts

    every = [text for of_task in texts.values() for text in of_task]
    if not every:
        return {}
    rows = embed_texts(
        student,
        every,
        config,
        cache=cache,
        share=share,
        on_done=lambda done: on_event("encode the tasks' texts", done, len(every)),
    )
    if not share.first:
        return {}
    ends = np.cumsum([len(of_task) for of_task in texts.values()])
    return dict(zip(texts, np.split(rows["cross"], ends[:-1]), strict=True))


def score(
    seen: Embedded, student: "Student | TextModel", wanted: Sequence[str], *, on_event: OnEvent = ignore
) -> tuple[dict[str, Any], pa.Table]:
    """Compute the wanted tasks of an embedded split.

    Args:
        seen: the embedded split.
        student: for its name.
        wanted: names of tasks.
        on_event: called after every task.

    Returns:
        What `metrics.json` holds, and a row a query (`schemas.PER_QUERY`).
    """
    config, split = seen.config, seen.split
    summaries: dict[str, Any] = {}
    tables = [schemas.PER_QUERY.empty_table()]
    on_event("rank", 0, len(wanted))
    for task_result in results(seen, wanted):
        summaries[task_result.task] = dict(task_result.summary)
        tables.append(task_result.table)
        on_event("rank", len(summaries), len(wanted))
    resampled = f"{intervals.MEANING}; {config.bootstrap:,} resamples, seed {config.seed}"
    result = {
        "student": student.name,
        "split": split.name,
        "dataset": split.image_keys[0].partition("/")[0],
        "ids": store.digest(sorted(split.image_keys)),
        "images": split.num_images,
        "captions": split.num_captions,
        "protocol": RETRIEVAL_PROTOCOL,
        "ties": TIES,
        "interval": resampled if config.bootstrap else "none",
        "embeddings": seen.cache_name,
        "tasks": summaries,
    }
    return result, pa.concat_tables(tables)


def write(stage: StageRun, seen: Embedded, result: dict[str, Any], table: pa.Table) -> Evaluated:
    """Write the results and the ledger.

    Args:
        stage: begun.
        seen: the embedded split.
        result: what `metrics.json` holds.
        table: a row a query.
    """
    out, split = stage.out, seen.split
    files = [out / name for name in ("metrics.json", "per_query.parquet", "ids.txt")]
    store.write_json(files[0], result)
    store.write_table(files[1], table)
    store.write_text(files[2], "".join(f"{key}\n" for key in sorted(split.image_keys)))
    counts = {"images": split.num_images, "captions": split.num_captions}
    return Evaluated(stage.finish(outputs=files, counts=counts, notes=seen.notes), result)


def _leakage(trained: Sequence[Split], split: Split) -> dict[str, Any] | None:
    others = [train for train in trained if train.digest != split.digest]
    return leakage.of_split(others, split) if others else None


def _remarks(
    model: "Student | TextModel", split: Split, leaked: dict[str, Any] | None, wanted: Sequence[str]
) -> list[str]:
    """Return the sentences a person should read beside the numbers."""
    remarks = list(model.remarks())
    if not getattr(model, "has_uni", True) and not {"text-to-text", "image-to-image", *CXC}.isdisjoint(wanted):
        remarks.append(
            "There are no uni-modal heads: uni-modal tasks use the cross-modal space, as the paper's baseline."
        )
    name = split.image_keys[0].partition("/")[0]
    official = datasets.official_images(name, split.name)
    if official is not None and official != split.num_images:
        remarks.append(
            f"This {split.name} split has {split.num_images:,} images and the official one of {name} has "
            f"{official:,}: its numbers compare with nobody's."
        )
    if leaked is not None and (leaked["images"] or leaked["captions"]):
        remarks.append(leakage.sentence(leaked))
    return remarks


def validate(student: "Student", split: Split, config: EvalConfig) -> dict[str, float]:
    """Return R@K both ways and RSUM: what the training loop selects the best model by; see `validation_names`.

    The student is measured on the device it trains on, whatever the configuration says.
    """
    from cusa.eval.encode import PartsCache, encode

    here = config.model_copy(update={"device": str(next(student.parameters()).device)})
    kept = PartsCache() if _reranks(student, here) else None
    embeddings = encode(student, split, here, uni=False, kept=kept)
    of_image, of_caption = cross_modal.owned(split.caption_owner, split.num_images)
    scores, _ = _cross_scores(student, split, here, embeddings, kept=kept)
    assert scores is not None
    return cross_modal.recalls(cross_modal.rank_both_ways(scores, of_image, of_caption, config), config.ks)


def validation_names(config: EvalConfig) -> list[str]:
    """Return the names of the numbers that `validate` gives."""
    return cross_modal.recall_names(config.ks)


def _cross_scores(
    student: "Student | TextModel",
    split: Split,
    config: EvalConfig,
    embeddings: "Embeddings",
    *,
    kept: "PartsCache | None",
    on_event: OnEvent = ignore,
) -> tuple[Scores | None, str]:
    """Return what ranks across modalities, and how to say so beside a number; None for a model of texts alone."""
    from cusa.eval import pairs
    from cusa.eval.encode import TextModel

    if isinstance(student, TextModel):
        return None, ""

    first = Cosines(embeddings.image["cross"], embeddings.text["cross"])
    if not split.num_captions:
        return first, "cross"
    if student.scores_pairs and not _reranks(student, config):
        return pairs.all_pairs(student, split, config, on_event=on_event), "pairs"
    if _reranks(student, config):
        again = pairs.rerank(student, split, first, config, kept=kept, on_event=on_event)
        return again, f"cross, top {config.rerank} re-ranked"
    return first, "cross"


def _match(
    student: "Student | TextModel", split: Split, config: EvalConfig, *, ranked: bool, on_event: OnEvent
) -> tuple[Callable[[np.ndarray, np.ndarray], np.ndarray] | None, str]:
    """Return what scores single pairs, and how to say so; None where the scores of all pairs say it."""
    from cusa.eval import pairs
    from cusa.eval.encode import TextModel

    if isinstance(student, TextModel) or not split.num_captions:
        return None, ""
    again = _reranks(student, config)
    if student.scores_pairs and (again or not ranked):
        return partial(pairs.scored, student, split, config=config, on_event=on_event), "pairs"
    if again:
        return partial(pairs.matched, student, split, config=config, on_event=on_event), "matching head's log-odds"
    return None, ""


def _reranks(model: "Student | TextModel", config: EvalConfig) -> bool:
    """Return whether first candidates are scored again.

    Raises:
        ConfigError: if it is asked for, and the student's embeddings find no candidates.
    """
    if not getattr(model, "scores_pairs", False):
        return bool(config.rerank and getattr(model, "reranks", False))
    if config.pairs == "all":
        return False
    if not (config.rerank and getattr(model, "reranks", False) and getattr(model, "pooled_weight", 0)):
        raise ConfigError(
            f"eval.pairs is 'candidates', and eval.rerank is {config.rerank}; {model.name} finds candidates by its "
            "embeddings only where it re-ranks and they were trained (student.kind=late-interaction, "
            "student.late.pooled_weight above 0), and where eval.rerank is above 0. Set eval.pairs=all.",
            key="eval.pairs",
        )
    return True
