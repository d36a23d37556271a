"""Indexing: every row's nearest rows by a teacher, found exactly, and an index file that any FAISS user can open.

Shapes: N rows of a teacher table, D its width, K neighbours kept a row; Q rows searched at once, S places searched.
"""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cusa.manifests import ledger, schemas, store, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.neighbours import Neighbours, neighbour_path, neighbour_stamp
from cusa.manifests.samples import Split
from cusa.pipeline.config import IndexConfig
from cusa.pipeline.stage import Outcome, outcome
from cusa.pipeline.vectors import unit_rows

if TYPE_CHECKING:
    import faiss

_ROWS_A_BLOCK = 4096
_DECIMALS = 6  # similarities that agree so far are ties: float32 products differ in the 7th digit from block to block


def run(config: IndexConfig, *, split: Split, teacher: str, force: bool = False, on_event: OnEvent = ignore) -> Outcome:
    """Write `index/<teacher>.faiss` and `index/neighbours-<teacher>.parquet` of one split.

    Args:
        config: how many neighbours.
        split: the split.
        teacher: the name of a teacher whose tables lie there.
        force: search again even if nothing changed.
        on_event: hears of every block of rows.

    Returns:
        The outcome; counts has rows and neighbours a row, notes say where a split has fewer rows than were asked for.

    Raises:
        DataError: if there is no such teacher, or a table is broken.
        StaleError: if a table belongs to another state of its shard.
    """
    clock = ledger.Clock()
    folder = split.folder / "index"
    stamp = neighbour_stamp(split, teacher)
    inputs = {"split": stamp["split"], "teacher": stamp["teacher_digest"]}
    parameters = {"teacher": teacher, **config.model_dump()}
    book = folder / f"{teacher}.ledger.json"
    why = "--force" if force else ledger.why_not_current(book, inputs=inputs, parameters=parameters)
    old = ledger.read(book)
    if why is None and old is not None:
        return outcome(folder, old)

    book.unlink(missing_ok=True)
    store.sweep(folder)
    table = tables.read_teacher(split, teacher)
    rows_ND = unit_rows(table)
    index = _flat(rows_ND)
    files = [folder / f"{teacher}.faiss", neighbour_path(split, teacher)]
    with store.whole_file(files[0]) as temporary:
        import faiss

        faiss.write_index(index, str(temporary))
    found = _search(index, rows_ND, config.neighbours, f"index {teacher} of {split.name}", on_event)
    store.write_table(files[1], _neighbour_table(table, found).replace_schema_metadata(stamp))
    number, depth = len(rows_ND), found.ids.shape[1]
    short = f"{teacher} has {number} rows, so each has {depth} neighbours, not the {config.neighbours} asked for."
    notes = (short,) if depth < config.neighbours else ()
    counts = {"rows": number, "neighbours": depth}
    done = clock.finish(book, stage="index", inputs=inputs, parameters=parameters, outputs=files, counts=counts)
    return outcome(folder, done, why=str(why), notes=notes)


def nearest_rows(rows_ND: np.ndarray, k: int, *, what: str = "index", on_event: OnEvent = ignore) -> Neighbours:
    """Find the `k` rows of largest inner product to every row, exactly.

    A row leaves itself out by its number, so its duplicates stay. Ties (to six decimals) go to the smaller row number,
    also where they straddle the last place.

    Args:
        rows_ND: (N, D) float32 unit rows.
        k: neighbours a row; N - 1 where there are fewer others.
        what: what progress is called.
        on_event: hears of every block.

    Returns:
        (N, min(k, N - 1)) row numbers and cosines.
    """
    return _search(_flat(rows_ND), rows_ND, k, what, on_event)


def _flat(rows_ND: np.ndarray) -> "faiss.IndexFlatIP":
    import faiss  # here, so that "up to date" is said without it

    index = faiss.IndexFlatIP(rows_ND.shape[1])
    index.add(rows_ND)
    return index


def _search(index: "faiss.IndexFlatIP", rows_ND: np.ndarray, k: int, what: str, on_event: OnEvent) -> Neighbours:
    number = len(rows_ND)
    k = max(0, min(k, number - 1))
    ids_NK = np.empty((number, k), dtype=np.int64)
    similarities_NK = np.empty((number, k), dtype=np.float32)
    on_event(what, 0, number)
    for start in range(0, number if k else 0, _ROWS_A_BLOCK):
        rows_Q = np.arange(start, min(start + _ROWS_A_BLOCK, number))
        # One place more for the row itself, and one to see whether the last place is tied.
        near_QS: np.ndarray
        found_QS: np.ndarray
        near_QS, found_QS = index.search(rows_ND[rows_Q], min(k + 2, number))
        near_QS = np.round(near_QS, _DECIMALS)
        near_QS[found_QS == rows_Q[:, None]] = -np.inf  # itself goes last
        order_QS = np.lexsort((found_QS, -near_QS), axis=1)
        near_QS, found_QS = (np.take_along_axis(x, order_QS, axis=1) for x in (near_QS, found_QS))
        for row in np.flatnonzero(near_QS[:, k - 1] == near_QS[:, k]):
            near_QS[row, :k], found_QS[row, :k] = _untie(rows_ND, int(rows_Q[row]), k)
        ids_NK[rows_Q], similarities_NK[rows_Q] = found_QS[:, :k], near_QS[:, :k]
        on_event(what, int(rows_Q[-1]) + 1, number)
    return Neighbours(ids_NK, similarities_NK)


def _untie(rows_ND: np.ndarray, row: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search one row whose last place is tied: FAISS keeps any of the tied rows, the rule keeps the first ones."""
    near_N = np.round(rows_ND @ rows_ND[row], _DECIMALS)
    near_N[row] = -np.inf
    last = np.partition(near_N, -k)[-k]
    above = np.flatnonzero(near_N > last)
    kept = np.concatenate([above, np.flatnonzero(near_N == last)[: k - len(above)]])
    kept = kept[np.lexsort((kept, -near_N[kept]))]
    return near_N[kept], kept


def _neighbour_table(table: tables.TeacherTable, found: Neighbours) -> pa.Table:
    schema = schemas.neighbour_table(tables.KEY_OF[table.modality])
    keys = pa.array(table.keys, pa.string())
    blocks = [schema.empty_table()]
    # In blocks, so that the repeated keys of one array stay below 2 GiB.
    for start in range(0, len(keys), _ROWS_A_BLOCK):
        ids_QK = found.ids[start : start + _ROWS_A_BLOCK]
        similarities = found.similarities[start : start + _ROWS_A_BLOCK].reshape(-1)
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
