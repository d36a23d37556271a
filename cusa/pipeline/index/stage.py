"""Indexing: every row's nearest rows by a teacher, and an index file that any FAISS user can open.

Shapes: N rows of a teacher table, D its width, K neighbours kept a row; Q rows written at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cusa.manifests import ledger, schemas, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.neighbours import Neighbours, neighbour_path, neighbour_stamp
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.pipeline.config import IndexConfig
from cusa.pipeline.index import units
from cusa.pipeline.index.exact import extend, flat_index
from cusa.pipeline.index.files import write_index
from cusa.pipeline.index.gpu import gpus
from cusa.pipeline.index.units import Searched
from cusa.pipeline.index.vectors import unit_rows
from cusa.pipeline.units.parts import Parts

if TYPE_CHECKING:
    import faiss

_ROWS_A_BLOCK = 4096
_UNCHANGED = 1e-6  # rows that differ by no more were not changed


def run(config: IndexConfig, *, split: Split, teacher: str, force: bool = False, on_event: OnEvent = ignore) -> Outcome:
    """Write `index/<teacher>.faiss` and `index/neighbours-<teacher>.parquet` of one split.

    Rows that were added to the split since are added to the index; the neighbours of all rows are brought up to date
    from the new rows alone.

    Args:
        config: how many neighbours, and for large splits the method with its budget.
        split: the split.
        teacher: the name of a teacher whose tables lie there.
        force: search again even if nothing changed.
        on_event: called with every block of rows.

    Returns:
        The outcome; counts has rows, neighbours a row and rows added; notes say where a split has fewer rows than were
        asked for, and of an approximate index how it was chosen and its measured recall.

    Raises:
        ConfigError: if no approximate index fits its budget.
        DataError: if there is no such teacher, or a table is broken.
        StaleError: if a table belongs to another state of its shard.
    """
    folder = split.folder / "index"
    stamp = neighbour_stamp(split, teacher)
    inputs = {"split": stamp["split"], "teacher": stamp["teacher_digest"]}
    parameters = {"teacher": teacher, **config.model_dump()}
    stage = StageRun("index", folder / f"{teacher}.ledger.json", inputs=inputs, parameters=parameters, force=force)
    number = split.num_images if stamp["modality"] == "image" else split.num_captions
    rows_of_units = units.row_units(number if number > 1 else 0)
    parts = Parts(
        folder,
        name=teacher,
        what=f"index {teacher} of {split.name}",
        key=store.digest([inputs, parameters]),
        task=units.task(),
        locks=split.locks,
    )
    if stage.up_to_date:
        if not stage.asked:
            parts.remove(others=False)
        return stage.reuse()
    if parts.some_only:
        return parts.make_some(
            stage, lambda: _searched(_read(split, teacher), config), {}, rows_of_units, on_event=on_event
        )
    parts.check(rows_of_units)
    rows_ND = _read(split, teacher)
    files = [folder / f"{teacher}.faiss", neighbour_path(split, teacher)]
    previous = stage.before
    usable = not (force or parts.merges_only) and previous is not None and _is_whole(files, previous, parameters)
    before = _before(files, config, rows_ND) if usable else None
    with stage.begin(unless_held=parts.locks):
        added = len(rows_ND) - before[0].ntotal if before is not None else 0
        if before is not None and _is_exact(len(rows_ND), config):
            index, notes = before[0], tuple[str, ...]()
            index.add(rows_ND[index.ntotal :])
            near = extend(before[1], rows_ND, config.neighbours, what=parts.what, on_event=on_event)
        else:
            grown = before[0] if before is not None else None
            searched = parts.prepare(lambda: _searched(rows_ND, config, grown), {}, force=force)
            near, notes = _in_units(parts, searched, rows_of_units, on_event), searched.notes
            index = flat_index(rows_ND) if searched.index is None else approximate_index(searched.index)
        stamp |= write_index(files[0], index)
        keys = split.image_keys if stamp["modality"] == "image" else split.caption_keys
        written = _neighbour_table(tables.KEY_OF[stamp["modality"]], keys, near)
        store.write_table(files[1], written.replace_schema_metadata(stamp))
        number, depth = len(rows_ND), near.ids.shape[1]
        short = f"{teacher} has {number} rows, so each has {depth} neighbours, not the {config.neighbours} asked for."
        notes = (short,) if depth < config.neighbours else notes
        counts = {"rows": number, "neighbours": depth, **({"rows_added": added} if added else {})}
        outcome = stage.finish(outputs=files, counts=counts, notes=notes)
        parts.remove()
    return outcome


def _read(split: Split, teacher: str) -> np.ndarray:
    return unit_rows(tables.read_teacher(split, teacher))


def _is_exact(number: int, config: IndexConfig) -> bool:
    return config.method == "exact" or (config.method == "auto" and number <= config.exact_up_to)


def _searched(rows_ND: np.ndarray, config: IndexConfig, grown: "faiss.Index | None" = None) -> Searched:
    """Return what is searched: the rows themselves, or an index of them that is built, or grown, and tuned here."""
    number = len(rows_ND)
    depth = max(0, min(config.neighbours, number - 1))
    if _is_exact(number, config):
        return Searched(rows_ND, depth)
    import faiss

    from cusa.pipeline.index import approximate

    plan = approximate.choose(number, rows_ND.shape[1], config)
    if grown is None:
        index = approximate.build(rows_ND, plan)
    else:
        index = grown
        index.add(rows_ND[index.ntotal :])
    measured = approximate.tune(index, rows_ND, config.neighbours, config)
    chosen = (
        f"{plan.factory}, about {plan.bytes / 2**20:,.0f} MiB, chosen for at most {config.memory:g} GiB and "
        f"{config.latency:g} ms a query; "
    )
    sentence = measured.sentence(config.neighbours, config.recall, config.latency)
    return Searched(rows_ND, depth, faiss.serialize_index(index), plan.exact_rows, (chosen + sentence,))


def _in_units(parts: Parts, searched: Searched, rows: list[range], on_event: OnEvent) -> Neighbours:
    """Find the neighbours of all rows, a unit a thread where no other process helps."""
    import faiss
    from threadpoolctl import threadpool_limits

    number, depth = len(searched.rows), searched.neighbours
    near = Neighbours(np.empty((number, depth), np.int64), np.empty((number, depth), np.float32))
    if not depth:
        return near
    threads = 1 if gpus() else faiss.omp_get_max_threads()
    # Several threads that each set and restore BLAS's number of threads would meet; here it is set for all of them.
    with threadpool_limits(1, user_api="blas"):
        for some, table in zip(rows, parts.make(searched, rows, on_event=on_event, threads=threads), strict=True):
            nearest = units.read_part(table, depth)
            near.ids[some.start : some.stop] = nearest.ids
            near.similarities[some.start : some.stop] = nearest.similarities
    return near


def approximate_index(index_bytes: np.ndarray) -> "faiss.Index":
    """Return an index of the bytes that FAISS writes."""
    import faiss

    return faiss.deserialize_index(np.asarray(index_bytes))


def _is_whole(files: list[Path], previous: ledger.Ledger, parameters: dict[str, Any]) -> bool:
    """Return whether the files are, byte for byte, those of a ledger, made with the same parameters."""
    return previous.parameters == parameters and all(
        file.is_file() and store.sha256_file(file) == previous.digests.get(file.name) for file in files
    )


def _before(files: list[Path], config: IndexConfig, rows_ND: np.ndarray) -> "tuple[faiss.Index, Neighbours] | None":
    """Return the index and the neighbours of the table's first rows, if rows were only added since.

    None too where so many rows need an index of another kind.

    Args:
        files: the index and its neighbour table.
        config: neighbours a row, and the budget of an approximate index.
        rows_ND: (N, D) all rows as they are now.
    """
    import faiss

    column = store.read_table(files[1], columns=["neighbours"])["neighbours"].combine_chunks()
    known = len(column)
    if not 1 < known < len(rows_ND) or known - 1 < config.neighbours:
        return None
    index = faiss.read_index(str(files[0]))
    if index.ntotal != known or index.d != rows_ND.shape[1]:
        return None
    if not _is_exact(len(rows_ND), config):
        from cusa.pipeline.index import approximate

        if not approximate.can_grow(index, approximate.choose(len(rows_ND), rows_ND.shape[1], config)):
            return None
    first_rows = _first_rows(index, known)
    if first_rows is None or not np.allclose(first_rows, rows_ND[:known], atol=_UNCHANGED):
        return None
    ids, distances = (column.field(name).flatten().to_numpy() for name in ("ids", "distances"))
    return index, Neighbours(ids.reshape(known, -1), (1 - distances).reshape(known, -1).astype(np.float32))


def _first_rows(index: "faiss.Index", number: int) -> np.ndarray | None:
    """Return the rows that an index holds as they are; None where it holds codes: then it is built anew."""
    import faiss

    lists = faiss.try_extract_index_ivf(index)
    if lists is not None:
        if lists.code_size != 4 * index.d:
            return None
        lists.make_direct_map()
    return np.asarray(index.reconstruct_n(0, number))


def _neighbour_table(key_column: str, row_keys: list[str], near: Neighbours) -> pa.Table:
    schema = schemas.neighbour_table(key_column)
    keys = pa.array(row_keys, pa.string())
    blocks = [schema.empty_table()]
    # In blocks, so that the repeated keys of one array stay below 2 GiB.
    for start in range(0, len(keys), _ROWS_A_BLOCK):
        ids_QK = near.ids[start : start + _ROWS_A_BLOCK]
        similarities = near.similarities[start : start + _ROWS_A_BLOCK].reshape(-1)
        ids = pa.array(ids_QK.reshape(-1))
        offsets = pa.array(np.arange(len(ids_QK) + 1, dtype=np.int32) * ids_QK.shape[1])
        pair = [pa.ListArray.from_arrays(offsets, values) for values in (ids, pa.array(1 - similarities))]
        columns = [
            keys.slice(start, len(ids_QK)),
            pa.ListArray.from_arrays(offsets, keys.take(ids)),
            pa.ListArray.from_arrays(offsets, pa.array(similarities)),
            pa.StructArray.from_arrays(pair, fields=list(schema.field("neighbours").type)),
        ]
        blocks.append(pa.Table.from_arrays(columns, schema=schema))
    return pa.concat_tables(blocks)
