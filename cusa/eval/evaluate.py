"""One evaluation of a student on a split: encoded once, every number with its protocol, every query's rank on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cusa.errors import ConfigError, nearest
from cusa.eval import cross_modal, eccv, intervals
from cusa.eval.config import EvalConfig
from cusa.eval.scores import Cosines, Scores
from cusa.eval.tasks import COCO, TASKS, Embedded, answers, coco_ids
from cusa.manifests import ledger, schemas, settled, store
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split

if TYPE_CHECKING:
    from cusa.eval.encode import Embeddings
    from cusa.models.student import Student

PROTOCOL = 3
"""Raised when a number changes its meaning; results of another protocol are computed again, never mixed."""

TIES = "a wrong item with the same score stands before a right one"


def run(
    config: EvalConfig,
    *,
    load: Callable[[], "Student"],
    student_digest: str,
    split: Split,
    out: Path,
    tasks: Sequence[str] = (),
    ground_truth: Path | None = None,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Score a student on a split and write `metrics.json` and `per_query.parquet` into `out`.

    Args:
        config: K, blocks, resamples.
        load: makes the student; called only if there is something to compute.
        student_digest: of its weights, so that an unchanged evaluation is not repeated.
        split: what to score on; its `truth.parquet`, where there is one, gives every known match.
        out: for example `runs/tiny/eval`.
        tasks: names of `cusa.eval.tasks.TASKS`; those that the split's data allow when empty.
        ground_truth: folder of ECCV Caption's files; those of the installed package when None.
        force: score again even if nothing changed.
        on_event: hears of every batch.

    Returns:
        What `metrics.json` holds, and `fresh`: whether it was computed now.

    Raises:
        ConfigError: if there is no such task.
        DataError: if an image does not decode, an embedding is not finite, or a ground truth is broken.
    """
    for task in tasks:
        if task not in TASKS:
            raise ConfigError(f"There is no task {task!r} on a work folder. {nearest(task, TASKS)}.", task=task)
    clock = ledger.Clock()
    book = out / "ledger.json"
    truth_path = split.folder / "truth.parquet"
    judged = settled.judged(split)
    inputs = {
        "student": student_digest,
        "split": split.digest,
        "truth": store.sha256_file(truth_path) if truth_path.is_file() else "none",
        "ground truth": store.sha256_folder(ground_truth) if ground_truth else "package",
        "verdicts": judged.digest if judged.settled else "none",
    }
    wanted = list(tasks) or _allowed(split, truth_path.is_file(), ground_truth, bool(judged.settled))
    parameters = {
        "protocol": PROTOCOL,
        "split": split.name,
        "tasks": sorted(wanted),
        **config.model_dump(mode="json", exclude={"device"}),
    }
    if not force and ledger.why_not_current(book, inputs=inputs, parameters=parameters) is None:
        return {**store.read_json(out / "metrics.json"), "fresh": False}
    from cusa.eval.encode import encode

    truth = store.read_table(truth_path, columns=schemas.TRUTH.names).to_pydict() if truth_path.is_file() else None
    official = ground_truth or eccv.official_folder()
    truths = eccv.read(official) if official is not None and not set(COCO).isdisjoint(wanted) else None
    student = load()
    embeddings = encode(student, split, config, on_event=on_event)
    scores, score = _cross_scores(student, split, config, embeddings, on_event)
    space, words = student.space_of("uni-modal")
    audited = settled.true_pairs(split, judged) if judged.settled else None
    seen = Embedded(split, embeddings.image, embeddings.text, scores, score, space, words, truth, truths, audited)
    found, tables = {}, [schemas.PER_QUERY.empty_table()]
    on_event("rank", 0, len(wanted))
    for answer in answers(seen, config, wanted):
        found[answer.task] = dict(answer.summary)
        tables.append(answer.table)
        on_event("rank", len(found), len(wanted))
    resampled = f"{intervals.MEANING}; {config.bootstrap:,} resamples, seed {config.seed}"
    result = {
        "student": student.name,
        "split": split.name,
        "dataset": split.image_keys[0].partition("/")[0],
        "images": split.num_images,
        "captions": split.num_captions,
        "protocol": PROTOCOL,
        "ties": TIES,
        "interval": resampled if config.bootstrap else "none",
        "remarks": [*student.remarks(), *judged.notes()],
        "tasks": found,
    }
    store.write_json(out / "metrics.json", result)
    store.write_table(out / "per_query.parquet", pa.concat_tables(tables))
    clock.finish(
        book,
        stage="eval",
        inputs=inputs,
        parameters=parameters,
        outputs=[out / "metrics.json", out / "per_query.parquet"],
        counts={"images": split.num_images, "captions": split.num_captions},
    )
    return {**result, "fresh": True}


def validate(student: "Student", split: Split, config: EvalConfig) -> dict[str, float]:
    """Return R@K both ways and RSUM: what the training loop selects the best model by.

    The student is measured on the device it trains on, whatever the configuration says.
    """
    from cusa.eval.encode import encode

    here = config.model_copy(update={"device": str(next(student.parameters()).device)})
    embeddings = encode(student, split, here, uni=False)
    of_image, of_caption = cross_modal.owned(split.caption_owner, split.num_images)
    scores, _ = _cross_scores(student, split, here, embeddings)
    return cross_modal.recalls(cross_modal.rank_both_ways(scores, of_image, of_caption, config), config.ks)


def _cross_scores(
    student: "Student", split: Split, config: EvalConfig, embeddings: "Embeddings", on_event: OnEvent = ignore
) -> tuple[Scores, str]:
    """Return what ranks across modalities, and how to say so beside a number."""
    from cusa.eval import pairs

    first = Cosines(embeddings.image["cross"], embeddings.text["cross"])
    if not split.num_captions:
        return first, "cross"
    if student.scores_pairs:
        return pairs.all_pairs(student, split, config, on_event=on_event), "pairs"
    if student.reranks and config.rerank:
        return pairs.rerank(student, split, first, config, on_event=on_event), f"cross, top {config.rerank} re-ranked"
    return first, "cross"


def _allowed(split: Split, has_truth: bool, ground_truth: Path | None, is_judged: bool) -> list[str]:
    """Return the tasks that the split's data allow, and those that a user means by giving a ground truth."""
    names = ["text-to-text", "cross-modal"] if split.num_captions else []
    names += ["image-to-image", *(["cross-modal-truth"] if has_truth else []), *(["audited"] if is_judged else [])]
    official = eccv.official_folder()
    if ground_truth is not None or (official is not None and _is_official(split, official)):
        names += COCO
    return [name for name in TASKS if name in names]


def _is_official(split: Split, folder: Path) -> bool:
    """Tell whether a split holds every caption of COCO's official test list; the list alone is cheap to read."""
    there = set(coco_ids(split)[1])
    return len(there) >= 25_000 and there.issuperset(eccv.read(folder).caption_ids.tolist())
