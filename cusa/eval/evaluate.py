"""One evaluation of a student on a split: encoded once, every number with its protocol, every query's rank on disk."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cusa.errors import ConfigError, DataError, nearest
from cusa.eval import leakage
from cusa.eval.cache import EmbeddingCache
from cusa.eval.config import NOT_IN_THE_NUMBERS, EvalConfig
from cusa.eval.scores import Cosines, Scores
from cusa.eval.share import ALONE, Share
from cusa.eval.tasks import cross_modal, intervals
from cusa.eval.tasks.registry import COCO, CXC, TASKS, results
from cusa.eval.tasks.task import Embedded, Need
from cusa.manifests import datasets, schemas
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.judgements import cxc_ratings, eccv_truth, pair_judgements
from cusa.manifests.samples import Split
from cusa.manifests.stage import StageRun
from cusa.manifests.storage import store

if TYPE_CHECKING:
    from cusa.eval.encode import Embeddings, PartsCache, TextModel
    from cusa.models.students.base import Student

PROTOCOL = 3
"""Raised when a number changes its meaning; results of another protocol are computed again, never mixed."""

TIES = "a wrong item with the same score stands before a right one"


def run(
    config: EvalConfig,
    *,
    load: Callable[[], "Student | TextModel"],
    student_digest: str,
    split: Split,
    out: Path,
    tasks: Sequence[str] = (),
    ground_truth: Path | None = None,
    ratings: Path | None = None,
    train: Split | None = None,
    cache: Path | None = None,
    share: Share = ALONE,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Score a student on a split and write `metrics.json` and `per_query.parquet` into `out`.

    Args:
        config: K, blocks, resamples.
        load: makes the student, or a model of texts alone; called only if there is something to compute.
        student_digest: of its weights, so that an unchanged evaluation is not repeated.
        split: what to score on; its `truth.parquet`, where there is one, gives every known match.
        out: for example `runs/tiny/eval`.
        tasks: names of `cusa.eval.tasks.registry.TASKS`; those that the split's data allow when empty.
        ground_truth: folder of ECCV Caption's files; those of the installed package when None.
        ratings: folder of Crisscrossed Captions' files.
        train: what the student was trained on, where that is known, to count what it has seen before.
        cache: folder of embeddings kept for the next evaluation; None keeps none.
        share: the ranks that evaluate together.
        force: score again even if nothing changed.
        on_event: hears of every batch.

    Returns:
        What `metrics.json` holds, and `fresh`: whether it was computed now.

    Raises:
        ConfigError: if there is no such task.
        DataError: if an image does not decode, an embedding is not finite, a key comes twice, or a ground truth is
            broken.
    """
    for task in tasks:
        if task not in TASKS:
            raise ConfigError(f"There is no task {task!r} on a work folder. {nearest(task, TASKS)}.", task=task)
    truth_path = split.folder / "truth.parquet"
    rated = cxc_ratings.files(ratings, split.name) if ratings is not None else {}
    judged = pair_judgements.read(split)
    inputs = {
        "student": student_digest,
        "split": split.digest,
        "truth": store.sha256_file(truth_path) if truth_path.is_file() else "none",
        "ground truth": store.sha256_folder(ground_truth) if ground_truth else "package",
        "verdicts": judged.digest if judged.judgements else "none",
        "training split": "unknown" if train is None else train.digest,
        **{path.name: store.sha256_file(path) for path in rated.values()},
    }
    wanted = list(tasks) or _allowed(split, truth_path.is_file(), ground_truth, bool(rated), bool(judged.judgements))
    parameters = {
        "protocol": PROTOCOL,
        "split": split.name,
        "tasks": sorted(wanted),
        **config.model_dump(mode="json", exclude=NOT_IN_THE_NUMBERS),
    }
    stage = StageRun("eval", out / "ledger.json", inputs=inputs, parameters=parameters, force=force)

    def kept() -> dict[str, Any] | None:
        return store.read_json(out / "metrics.json") if stage.up_to_date else None

    if (old := share.agree(kept)) is not None:
        return {**old, "fresh": False}
    from cusa.eval.encode import PartsCache, cache_key, encode

    _refuse_doubles(split)
    truth = store.read_table(truth_path, columns=schemas.TRUTH.names).to_pydict() if truth_path.is_file() else None
    official = ground_truth or eccv_truth.official_folder()
    truths = eccv_truth.read(official) if official is not None and not set(COCO).isdisjoint(wanted) else None
    known = {what: cxc_ratings.read(path) for what, path in rated.items()}
    model = load()
    rows = None
    if cache is not None and config.cache_mib:
        rows = EmbeddingCache(cache, cache_key(model, config), limit=config.cache_mib << 20)
    parts = PartsCache() if share.first and _reranks(model, config) else None
    embeddings = encode(model, split, config, cache=rows, share=share, kept=parts, on_event=on_event)
    if not share.first:
        return {**share.agree(dict), "fresh": True}
    if rows is not None:
        rows.finish()
    return share.agree(
        lambda: _finish(
            config,
            model,
            split,
            embeddings,
            parts,
            truth,
            truths,
            known,
            judged,
            train,
            wanted,
            out,
            stage,
            rows.name if rows is not None else None,
            on_event,
        )
    )


def _finish(
    config: EvalConfig,
    model: "Student | TextModel",
    split: Split,
    embeddings: "Embeddings",
    kept: "PartsCache | None",
    truth: Mapping[str, Sequence[str]] | None,
    truths: eccv_truth.GroundTruths | None,
    ratings: Mapping[str, cxc_ratings.CxcRatings],
    judged: pair_judgements.Judgements,
    train: Split | None,
    wanted: Sequence[str],
    out: Path,
    stage: StageRun,
    kept_in: str | None,
    on_event: OnEvent,
) -> dict[str, Any]:
    """Rank, count, and write the results."""
    scores, score = _cross_scores(model, split, config, embeddings, kept, on_event)
    space, words = model.space_of("uni-modal")
    seen = Embedded(
        split,
        config,
        embeddings.image,
        embeddings.text,
        scores,
        score,
        space,
        words,
        truth,
        truths,
        ratings=ratings or None,
        audited=pair_judgements.true_pairs(split, judged) if judged.judgements else None,
    )
    found, tables = {}, [schemas.PER_QUERY.empty_table()]
    on_event("rank", 0, len(wanted))
    for task_result in results(seen, wanted):
        found[task_result.task] = dict(task_result.summary)
        tables.append(task_result.table)
        on_event("rank", len(found), len(wanted))
    leaked = None if train is None or train.digest == split.digest else leakage.of_split(train, split)
    resampled = f"{intervals.MEANING}; {config.bootstrap:,} resamples, seed {config.seed}"
    result = {
        "student": model.name,
        "split": split.name,
        "dataset": split.image_keys[0].partition("/")[0],
        "ids": store.digest(sorted(split.image_keys)),
        "images": split.num_images,
        "captions": split.num_captions,
        "protocol": PROTOCOL,
        "ties": TIES,
        "interval": resampled if config.bootstrap else "none",
        "remarks": [*_remarks(model, split, leaked, wanted), *judged.notes()],
        "leakage": leaked,
        "embeddings": kept_in,
        "tasks": found,
    }
    with stage.begin():
        store.write_json(out / "metrics.json", result)
        store.write_table(out / "per_query.parquet", pa.concat_tables(tables))
        store.write_text(out / "ids.txt", "".join(f"{key}\n" for key in sorted(split.image_keys)))
        stage.finish(
            outputs=[out / "metrics.json", out / "per_query.parquet", out / "ids.txt"],
            counts={"images": split.num_images, "captions": split.num_captions},
        )
    return {**result, "fresh": True}


def _refuse_doubles(split: Split) -> None:
    """Refuse a split whose keys do not name one row each: every number would count something twice."""
    for what, keys in (("image", split.image_keys), ("caption", split.caption_keys)):
        if len(set(keys)) != len(keys):
            double = Counter(keys).most_common(1)[0][0]
            raise DataError(
                f"{split.folder}: the {what} key {double!r} comes twice. Make the split again with "
                "`cusa shard ... --force`, which refuses such rows.",
                key=double,
            )


def _remarks(
    model: "Student | TextModel", split: Split, leaked: dict[str, Any] | None, wanted: Sequence[str]
) -> list[str]:
    """Return the sentences a person should read beside the numbers."""
    found = list(model.remarks())
    if not getattr(model, "has_uni", True) and not {"text-to-text", "image-to-image", *CXC}.isdisjoint(wanted):
        found.append(
            "There are no uni-modal heads: uni-modal tasks use the cross-modal space, as the paper's baseline."
        )
    name = split.image_keys[0].partition("/")[0]
    official = datasets.official_images(name, split.name)
    if official is not None and official != split.num_images:
        found.append(
            f"This {split.name} split has {split.num_images:,} images and the official one of {name} has "
            f"{official:,}: its numbers compare with nobody's."
        )
    if leaked is not None and (leaked["images"] or leaked["captions"]):
        found.append(leakage.sentence(leaked))
    return found


def validate(student: "Student", split: Split, config: EvalConfig) -> dict[str, float]:
    """Return R@K both ways and RSUM: what the training loop selects the best model by.

    The student is measured on the device it trains on, whatever the configuration says.
    """
    from cusa.eval.encode import PartsCache, encode

    here = config.model_copy(update={"device": str(next(student.parameters()).device)})
    kept = PartsCache() if _reranks(student, here) else None
    embeddings = encode(student, split, here, uni=False, kept=kept)
    of_image, of_caption = cross_modal.owned(split.caption_owner, split.num_images)
    scores, _ = _cross_scores(student, split, here, embeddings, kept)
    assert scores is not None
    return cross_modal.recalls(cross_modal.rank_both_ways(scores, of_image, of_caption, config), config.ks)


def _cross_scores(
    student: "Student | TextModel",
    split: Split,
    config: EvalConfig,
    embeddings: "Embeddings",
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
    if student.scores_pairs:
        return pairs.all_pairs(student, split, config, on_event=on_event), "pairs"
    if _reranks(student, config):
        again = pairs.rerank(student, split, first, config, kept=kept, on_event=on_event)
        return again, f"cross, top {config.rerank} re-ranked"
    return first, "cross"


def _reranks(model: "Student | TextModel", config: EvalConfig) -> bool:
    return bool(config.rerank and getattr(model, "reranks", False))


def _allowed(split: Split, has_truth: bool, ground_truth: Path | None, rated: bool, is_judged: bool) -> list[str]:
    """Return the tasks that the split's data allow, and those that a user means by giving a ground truth."""
    official = eccv_truth.official_folder()
    there: dict[Need, bool] = {
        "captions": bool(split.num_captions),
        "more than five captions": bool(split.num_captions) and int(np.bincount(split.caption_owner).max()) > 5,
        "truth": has_truth,
        "verdicts": is_judged,
        "CxC's ratings": rated,
        "COCO's lists": ground_truth is not None or (official is not None and _is_official(split, official)),
    }
    return [task.name for task in TASKS.values() if all(there[need] for need in task.needs)]


def _is_official(split: Split, folder: Path) -> bool:
    """Tell whether a split holds every caption of COCO's official test list; the list alone is cheap to read."""
    there = set(split.coco_ids.captions)
    return len(there) >= 25_000 and there.issuperset(eccv_truth.read(folder).caption_ids.tolist())
