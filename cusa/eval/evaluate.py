"""One evaluation of a student on a split: encoded once, every number with its protocol, every query's rank on disk."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cusa.eval import cross_modal, metrics, uni_modal
from cusa.eval.config import EvalConfig
from cusa.eval.ranking import Ranking
from cusa.eval.scores import Cosines, Scores
from cusa.manifests import ledger, schemas, store
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split

if TYPE_CHECKING:
    from cusa.eval.encode import Embeddings
    from cusa.models.student import Student

PROTOCOL = 2
"""Raised when a number changes its meaning; results of another protocol are computed again, never mixed."""

TIES = "a wrong item with the same score stands before a right one"

INTERVALS = "95 % percentile bootstrap over resampled images; captions move with their image, they are not independent"


def run(
    config: EvalConfig,
    *,
    load: Callable[[], "Student"],
    student_digest: str,
    split: Split,
    out: Path,
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
        force: score again even if nothing changed.
        on_event: hears of every batch.

    Returns:
        What `metrics.json` holds, and `fresh`: whether it was computed now.

    Raises:
        DataError: if an image does not decode or an embedding is not finite.
    """
    clock = ledger.Clock()
    book = out / "ledger.json"
    truth_path = split.folder / "truth.parquet"
    inputs = {
        "student": student_digest,
        "split": split.digest,
        "truth": store.sha256_file(truth_path) if truth_path.is_file() else "none",
    }
    parameters = {"protocol": PROTOCOL, "split": split.name, **config.model_dump(mode="json", exclude={"device"})}
    if not force and ledger.why_not_current(book, inputs=inputs, parameters=parameters) is None:
        return {**store.read_json(out / "metrics.json"), "fresh": False}
    from cusa.eval.encode import encode

    truth = store.read_table(truth_path, columns=schemas.TRUTH.names).to_pydict() if truth_path.is_file() else None
    student = load()
    embeddings = encode(student, split, config, on_event=on_event)
    scores, score = _cross_scores(student, split, config, embeddings, on_event)
    space, words = student.space_of("uni-modal")
    tasks, tables = [], []
    total = 4 if truth else 3
    on_event("rank", 0, total)
    for task, table in _tasks(config, split, scores, score, embeddings, space, words, truth):
        tasks.append(task)
        tables.append(table)
        on_event("rank", len(tasks), total)
    result = {
        "student": student.name,
        "split": split.name,
        "dataset": split.image_keys[0].partition("/")[0],
        "images": split.num_images,
        "captions": split.num_captions,
        "protocol": PROTOCOL,
        "ties": TIES,
        "interval": f"{INTERVALS}; {config.bootstrap:,} resamples, seed {config.seed}" if config.bootstrap else "none",
        "remarks": list(student.remarks()),
        "tasks": {task.pop("name"): task for task in tasks},
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

    if student.scores_pairs:
        return pairs.all_pairs(student, split, config, on_event=on_event), "pairs"
    first = Cosines(embeddings.image["cross"], embeddings.text["cross"])
    if student.reranks and config.rerank:
        return pairs.rerank(student, split, first, config, on_event=on_event), f"cross, top {config.rerank} re-ranked"
    return first, "cross"


def _tasks(
    config: EvalConfig,
    split: Split,
    scores: Scores,
    score: str,
    embeddings: "Embeddings",
    uni: str,
    uni_words: str,
    truth: Mapping[str, Sequence[str]] | None,
) -> Any:
    """Give each task's numbers and its per-query table."""
    image, text = embeddings.image, embeddings.text
    owner = split.caption_owner
    of_image, of_caption = cross_modal.owned(owner, split.num_images)
    both = cross_modal.rank_both_ways(scores, of_image, of_caption, config)
    i2t, t2i = both.image_to_text, both.text_to_image
    # The image that each query is or belongs to, by direction.
    image_of = {
        cross_modal.IMAGE_TO_TEXT: np.arange(split.num_images),
        cross_modal.TEXT_TO_IMAGE: owner,
        uni_modal.IMAGE_TO_IMAGE: np.arange(split.num_images),
        uni_modal.TEXT_TO_TEXT: owner,
    }

    task = _task(
        "cross-modal",
        cross_modal.recalls(both, config.ks),
        score,
        "R@K both ways: a query is a hit if any of its own captions (its own image) is among the first K; all "
        "captions of the split are ranked",
        split.num_images + split.num_captions,
    )
    directions = {cross_modal.IMAGE_TO_TEXT: i2t, cross_modal.TEXT_TO_IMAGE: t2i}
    task["intervals"] = _intervals(config, directions, image_of, config.ks, prefix=True, rsum=True)
    yield task, _per_query("cross-modal", split, {cross_modal.IMAGE_TO_TEXT: i2t, cross_modal.TEXT_TO_IMAGE: t2i})

    true_image: list[np.ndarray] | None = None
    if truth is not None:
        true_image, true_caption = cross_modal.matched(truth, split.image_keys, split.caption_keys)
        full = cross_modal.rank_both_ways(scores, true_image, true_caption, config, at_r=True)
        directions = {cross_modal.IMAGE_TO_TEXT: full.image_to_text, cross_modal.TEXT_TO_IMAGE: full.text_to_image}
        task = _task(
            "cross-modal-truth",
            cross_modal.under_truth(full),
            score,
            "every known match counts as right, not only the data set's own pairs; R-Precision and mAP@R look "
            "at the first R places, R being the query's number of right answers",
            len(owner) + split.num_images,
        )
        task["intervals"] = _intervals(config, directions, image_of, (1,), prefix=True, at_r=True)
        yield task, _per_query("cross-modal-truth", split, directions)

    ranking = uni_modal.rank_within(text[uni], uni_modal.siblings(owner, of_image), config)
    task = _task(
        "text-to-text",
        uni_modal.scores(ranking, config.ks),
        uni_words,
        "the other captions of the same image are right; the query itself is left out by identity",
        int((ranking.positives > 0).sum()),
    )
    task["intervals"] = _intervals(config, {uni_modal.TEXT_TO_TEXT: ranking}, image_of, config.ks, at_r=True)
    yield task, _per_query("uni-modal", split, {uni_modal.TEXT_TO_TEXT: ranking})

    labels = split.samples["label"].to_pylist()
    if any(labels):
        right, rule = uni_modal.same_label(labels), "images with the same label are right"
    elif true_image is not None:
        right = uni_modal.sharing_captions(true_image, true_caption, owner)
        rule = "two images belong together if each owns a caption that is true of the other"
    else:
        yield {"name": "image-to-image", "unavailable": "the split has neither labels nor a truth table"}, _empty()
        return
    ranking = uni_modal.rank_within(image[uni], right, config)
    task = _task(
        "image-to-image",
        uni_modal.scores(ranking, config.ks),
        uni_words,
        f"{rule}; the query itself is left out by identity; queries without a right image are left out",
        int((ranking.positives > 0).sum()),
    )
    task["intervals"] = _intervals(config, {uni_modal.IMAGE_TO_IMAGE: ranking}, image_of, config.ks, at_r=True)
    yield task, _per_query("uni-modal", split, {uni_modal.IMAGE_TO_IMAGE: ranking})


def _task(name: str, numbers: Mapping[str, float], space: str, protocol: str, queries: int) -> dict[str, Any]:
    return {
        "name": name,
        "space": space,
        "protocol": protocol,
        "queries": queries,
        # JSON has no NaN: a number that no query defines is null.
        "metrics": {key: None if math.isnan(value) else round(value, 4) for key, value in numbers.items()},
    }


def _intervals(
    config: EvalConfig,
    directions: Mapping[str, Ranking],
    image_of: Mapping[str, np.ndarray],
    ks: Sequence[int],
    *,
    prefix: bool = False,
    rsum: bool = False,
    at_r: bool = False,
) -> dict[str, list[float] | None]:
    """Return the interval of each mean over queries, by the metric's name; see `INTERVALS`.

    Args:
        config: resamples and their seed.
        directions: the rankings.
        image_of: for each direction, the image row that each query is or belongs to.
        ks: the K of R@K.
        prefix: whether a metric's name begins with its direction.
        rsum: whether the sum of all R@K is wanted.
        at_r: whether R-Precision and mAP@R are wanted; then queries without a right item do not count.
    """
    found: dict[str, list[float] | None] = {}
    recalls = []
    for direction, ranking in directions.items():
        start = f"{direction}/" if prefix else ""
        values = {f"r@{k}": ((ranking.rank >= 1) & (ranking.rank <= k)).astype(float) for k in ks}
        if at_r:
            values = {name: np.where(ranking.positives > 0, value, np.nan) for name, value in values.items()}
            values |= {"r_precision": ranking.r_precision, "map_at_r": ranking.average_precision}
        for name, value in values.items():
            by_image = _by_image(value, image_of[direction])
            found[start + name] = _interval(config, [by_image])
            if name.startswith("r@"):
                recalls.append(by_image)
    if rsum:
        found["rsum"] = _interval(config, recalls)
    return found


def _by_image(value_Q: np.ndarray, image_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's sum of its queries' values and their number, NaN left out."""
    known = ~np.isnan(value_Q)
    num = int(image_Q.max()) + 1
    return np.bincount(image_Q[known], value_Q[known], minlength=num), np.bincount(image_Q[known], minlength=num)


def _interval(config: EvalConfig, terms: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float] | None:
    """Return the interval of a sum of means in percent, or None where nothing was counted."""
    if not all(counts.any() for _, counts in terms):
        return None

    def statistic(images: np.ndarray) -> float:
        shares = [(sums[images].sum(), counts[images].sum()) for sums, counts in terms]
        return sum(100 * total / count if count else float("nan") for total, count in shares)

    found = metrics.bootstrap_interval(statistic, len(terms[0][0]), samples=config.bootstrap, seed=config.seed)
    return None if found is None else [round(found[0], 4), round(found[1], 4)]


def _per_query(task: str, split: Split, directions: Mapping[str, Ranking]) -> pa.Table:
    tables = []
    for direction, ranking in directions.items():
        source, target = direction.split("-to-")
        keys = {"image": split.image_keys, "text": split.caption_keys}
        columns = [
            pa.array([task] * len(ranking.rank), pa.string()),
            pa.array([direction] * len(ranking.rank), pa.string()),
            pa.array(keys[source], pa.string()),
            pa.array(ranking.rank),
            pa.array(ranking.positives),
            pa.array(ranking.r_precision, from_pandas=True),
            pa.array(ranking.average_precision, from_pandas=True),
            pa.array([[keys[target][row] for row in top if row >= 0] for top in ranking.top], pa.list_(pa.string())),
            pa.array(
                [scores[top >= 0] for scores, top in zip(ranking.top_scores, ranking.top, strict=True)],
                pa.list_(pa.float32()),
            ),
        ]
        tables.append(pa.Table.from_arrays(columns, schema=schemas.PER_QUERY))
    return pa.concat_tables(tables)


def _empty() -> pa.Table:
    return schemas.PER_QUERY.empty_table()
