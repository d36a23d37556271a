"""One unit of an extraction: decode and tokenise ahead of the model, embed, copy what is known, write the part."""

import functools
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.errors import DataError
from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.captions import TRANSFORMS
from cusa.models.teachers.base import MeasuringTeacher, PreparingTeacher, Teacher
from cusa.models.teachers.registry import load_teacher
from cusa.pipeline.config import ExtractConfig
from cusa.pipeline.engine import available_cores
from cusa.pipeline.extract.plan import Unit, contents, holds_rows

_SAMPLE = 32  # rows of a part whose fidelity is measured


@dataclass(frozen=True)
class Job:
    """The settings that all units of one extraction share; small, and picklable for a worker."""

    work: Path
    split: str
    split_digest: str
    teacher: str
    modality: str
    transform: str
    config: ExtractConfig


@dataclass(frozen=True)
class Done:
    """A finished unit: rows of its file, and how many of them were embedded now."""

    rows: int
    computed: int


def do_unit_in_worker(job: Job, unit: Unit) -> Done:
    """Do one unit in a worker process, which keeps the split and the teacher from one unit to the next."""
    split = _opened(job.work, job.split, job.split_digest)
    load = functools.partial(_loaded, job.teacher, job.modality, job.config.weights, job.config.precision)
    return do_unit(job, unit, split=split, load=load)


@functools.lru_cache(maxsize=1)
def _opened(work: Path, name: str, digest: str) -> Split:
    return Split(work, name)


@functools.lru_cache(maxsize=1)
def _loaded(name: str, modality: str, weights: str, precision: Any) -> Teacher:
    return load_teacher(name, modality, weights=weights, precision=precision)


def do_unit(
    job: Job,
    unit: Unit,
    *,
    split: Split,
    load: Callable[[], Teacher],
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Done:
    """Write one part, unless it is there: a whole file made from the same plan.

    Args:
        job: what all units share.
        unit: the file and where its rows come from.
        split: the job's split.
        load: gives the teacher; called only if there is something to embed.
        on_rows: called with the number of rows after every batch.

    Raises:
        DataError: if an image's bytes are not those that were sharded, or do not decode; if the teacher gives a row
            that is not of unit length.
    """
    at = list(unit.keys) if unit.keys else unit.compute.tolist()
    all_keys = split.image_keys if job.modality == "image" else split.caption_keys
    keys, row_contents = [all_keys[row] for row in at], contents(split, job.modality, job.transform, rows=at)
    if _is_done(unit, keys, row_contents, tables.KEY_OF[job.modality]):
        on_rows(len(unit.compute))
        return Done(unit.rows, 0)
    blocks: list[tuple[np.ndarray, np.ndarray]] = []
    fidelity = "{}"
    made: dict[str, str] = {}
    if len(unit.compute):
        teacher = load()
        embedded, fidelity = _embed(job, unit.compute, split, teacher, on_rows)
        blocks.append((unit.places, embedded))
        made = teacher.provenance()
    for reused in unit.reused:
        table = store.read_table(reused.path, columns=["embedding"], made_by=f"cusa extract-teachers {job.work}")
        blocks.append((reused.places, tables.embedding_matrix(table)[reused.rows]))
        made = made or _provenance(reused.path)
    tables.write_teacher_part(
        unit.path,
        modality=job.modality,
        keys=keys,
        contents=row_contents,
        embeddings=_assembled(unit, blocks),
        metadata={**made, **unit.stamp, "fidelity": fidelity},
    )
    return Done(unit.rows, len(unit.compute))


def _is_done(unit: Unit, keys: list[str], row_contents: pa.Array, key_column: str) -> bool:
    """Tell whether the unit's part is there: made from the same plan by a run that was killed later.

    Its stamp must be the unit's, its keys and contents those of the unit's rows, and every page what was written.
    """
    metadata, rows = tables.describe_part(unit.path)
    if rows != unit.rows or any(metadata.get(key) != value for key, value in unit.stamp.items()):
        return False
    return holds_rows(unit.path, keys, row_contents, key_column)


def _assembled(unit: Unit, blocks: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Put the distinct rows together, and repeat those that stand several times in the file."""
    places, rows = blocks[0]
    if len(blocks) > 1 or not np.array_equal(places, np.arange(len(places))):
        rows = np.empty((sum(len(block) for _, block in blocks), blocks[0][1].shape[1]), dtype=blocks[0][1].dtype)
        for places, block in blocks:
            rows[places] = block
    return rows if np.array_equal(unit.order, np.arange(len(rows))) else rows[unit.order]


def _provenance(path: Path) -> dict[str, str]:
    metadata = tables.read_part_metadata(path)
    return {key: metadata[key] for key in metadata if not key.startswith("shard") and key != "fidelity"}


def _embed(
    job: Job, rows: np.ndarray, split: Split, teacher: Teacher, on_rows: Callable[[int], None]
) -> tuple[np.ndarray, str]:
    """Embed rows of the split; return (n, width) in the table's numbers, and the fidelity card of a sample as JSON."""
    order = np.arange(len(rows))
    if isinstance(teacher, MeasuringTeacher):
        # Equal lengths side by side: a batch is padded to its longest, and what is padded is work for nothing.
        order = np.argsort(-teacher.lengths(_items(job, split, rows.tolist())), kind="stable")
    out = np.empty((len(rows), teacher.width), dtype=job.config.dtype)
    sampled = set(np.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows))).astype(int).tolist())
    exact: dict[int, np.ndarray] = {}
    for places, prepared in _batches(job, split, teacher, rows, order):
        wanted = [(n, place) for n, place in enumerate(places.tolist()) if place in sampled]
        if isinstance(teacher, PreparingTeacher):
            embedded = teacher.embed(prepared)
            again = bool(wanted) and teacher.precision != "float32"
            precise = teacher.embed(prepared, exact=True) if again else embedded
        else:
            precise = embedded = teacher.encode(prepared)
        if embedded.shape != (len(places), teacher.width):
            raise DataError(
                f"Teacher {job.teacher!r} gave an array of shape {embedded.shape} for {len(places)} items; it says its "
                f"width is {teacher.width}.",
                teacher=job.teacher,
            )
        exact |= {place: precise[n].copy() for n, place in wanted}
        # A row that overflows is refused when the part is written, with its key.
        with np.errstate(over="ignore"):
            out[places] = embedded
        on_rows(len(places))
    at = sorted(exact)
    return out, json.dumps(fidelity(out[at], np.stack([exact[place] for place in at])), sort_keys=True)


def fidelity(stored_ND: np.ndarray, exact_ND: np.ndarray) -> dict[str, float]:
    """Say how far stored rows are from exact ones.

    Args:
        stored_ND: (N, D) rows as the table keeps them.
        exact_ND: (N, D) float32 unit rows, computed in float32.

    Returns:
        rows; mean_row and worst_row: 1 less the cosine of a stored and its exact row; worst_pair: the largest error of
        a cosine between two rows, which is what soft labels are made of.
    """
    stored, exact = stored_ND.astype(np.float64), exact_ND.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        stored /= np.linalg.norm(stored, axis=1, keepdims=True)
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        rows = np.clip(1 - (stored * exact).sum(1), 0, None)
        pairs = np.abs(stored @ stored.T - exact @ exact.T)
    return {
        "rows": len(rows),
        "mean_row": float(rows.mean()),
        "worst_row": float(rows.max()),
        "worst_pair": float(pairs.max()),
    }


def _batches(
    job: Job, split: Split, teacher: Teacher, rows: np.ndarray, order: np.ndarray
) -> Iterator[tuple[np.ndarray, Any]]:
    """Give batches, made ready by threads while the model works: their places in `rows`, and the prepared items."""

    def ready(places: np.ndarray) -> Any:
        items = _items(job, split, rows[places].tolist())
        return teacher.prepare(items) if isinstance(teacher, PreparingTeacher) else items

    size = job.config.batch_size
    batches = iter([order[start : start + size] for start in range(0, len(order), size)])
    threads = available_cores()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[np.ndarray, Future[Any]]] = deque()
        try:
            for places in batches:
                waiting.append((places, pool.submit(ready, places)))
                if len(waiting) > threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _items(job: Job, split: Split, rows: list[int]) -> list[Any]:
    """Return what the teacher reads: texts, or decoded images."""
    if job.modality == "text":
        return [TRANSFORMS[job.transform](split.texts[row]) for row in rows]
    from cusa.models.preprocess import UNDECODABLE, decode_rgb

    pictures = []
    for row in rows:
        try:
            # A wrong embedding must never be stored under the content of the right picture.
            pictures.append(decode_rgb(split.checked_image_bytes(row)))
        except UNDECODABLE as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{split.image_keys[row]} in {split.folder} does not decode ({error}), though its bytes are those that "
                "were sharded. `cusa shard ... --check decode` drops such images.",
                key=split.image_keys[row],
            ) from error
    return pictures
