"""Indexing: every row's nearest rows by a teacher, and an index file that any FAISS user can open.

Shapes: N rows of a teacher table, D its width, K neighbours kept a row; Q rows written at once.
"""

from dataclasses import dataclass
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
from cusa.pipeline.index.exact import extend, flat_index, nearest_rows
from cusa.pipeline.index.files import write_index
from cusa.pipeline.index.vectors import unit_rows

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
    if stage.up_to_date:
        return stage.reuse()
    table = tables.read_teacher(split, teacher)
    rows_ND = unit_rows(table)
    files = [folder / f"{teacher}.faiss", neighbour_path(split, teacher)]
    previous = stage.before
    usable = not force and previous is not None and _is_whole(files, previous, parameters)
    before = _before(files, config.neighbours, rows_ND) if usable else None
    with stage.begin(unless_held=split.locks):
        made = _made(rows_ND, config, before, f"index {teacher} of {split.name}", on_event)
        stamp |= write_index(files[0], made.index)
        store.write_table(files[1], _neighbour_table(table, made.near).replace_schema_metadata(stamp))
        number, depth = len(rows_ND), made.near.ids.shape[1]
        short = f"{teacher} has {number} rows, so each has {depth} neighbours, not the {config.neighbours} asked for."
        notes = (short,) if depth < config.neighbours else made.notes
        counts = {"rows": number, "neighbours": depth, **({"rows_added": made.added} if made.added else {})}
        return stage.finish(outputs=files, counts=counts, notes=notes)


@dataclass(frozen=True)
class _Made:
    index: "faiss.Index"
    near: Neighbours
    added: int
    notes: tuple[str, ...]


def _made(
    rows_ND: np.ndarray,
    config: IndexConfig,
    before: "tuple[faiss.Index, Neighbours] | None",
    what: str,
    on_event: OnEvent,
) -> _Made:
    """Build or extend the index, and find the neighbours."""
    number = len(rows_ND)
    exact = config.method == "exact" or (config.method == "auto" and number <= config.exact_up_to)
    if before is not None:
        index, near = before
        known = index.ntotal
        index.add(rows_ND[known:])
        if exact:
            near = extend(near, rows_ND, config.neighbours, what=what, on_event=on_event)
            return _Made(index, near, number - known, ())
    elif exact:
        index = flat_index(rows_ND)
        near = nearest_rows(rows_ND, config.neighbours, index=index, what=what, on_event=on_event)
        return _Made(index, near, 0, ())
    from cusa.pipeline.index import approximate

    plan = approximate.choose(number, rows_ND.shape[1], config)
    if before is None:
        index = approximate.build(rows_ND, plan)
    measured = approximate.tune(index, rows_ND, config.neighbours, config)
    near = approximate.neighbours(
        index, rows_ND, config.neighbours, exact_rows=plan.exact_rows, what=what, on_event=on_event
    )
    chosen = (
        f"{plan.factory}, about {plan.bytes / 2**20:,.0f} MiB, chosen for at most {config.memory:g} GiB and "
        f"{config.latency:g} ms a query; "
    )
    sentence = measured.sentence(config.neighbours, config.recall, config.latency)
    return _Made(index, near, 0 if before is None else number - known, (chosen + sentence,))


def _is_whole(files: list[Path], previous: ledger.Ledger, parameters: dict[str, Any]) -> bool:
    """Return whether the files are, byte for byte, those of a ledger, made with the same parameters."""
    return previous.parameters == parameters and all(
        file.is_file() and store.sha256_file(file) == previous.digests.get(file.name) for file in files
    )


def _before(files: list[Path], depth: int, rows_ND: np.ndarray) -> "tuple[faiss.Index, Neighbours] | None":
    """Return the index and the neighbours of the table's first rows, if rows were only added since.

    Args:
        files: the index and its neighbour table.
        depth: neighbours a row.
        rows_ND: (N, D) all rows as they are now.
    """
    import faiss

    column = store.read_table(files[1], columns=["neighbours"])["neighbours"].combine_chunks()
    known = len(column)
    if not 1 < known < len(rows_ND) or known - 1 < depth:
        return None
    index = faiss.read_index(str(files[0]))
    if index.ntotal != known or index.d != rows_ND.shape[1]:
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


def _neighbour_table(table: tables.TeacherTable, near: Neighbours) -> pa.Table:
    schema = schemas.neighbour_table(tables.KEY_OF[table.modality])
    keys = pa.array(table.keys, pa.string())
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
