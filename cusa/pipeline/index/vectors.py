"""Teacher rows as the search and the audit use them: float32, exactly unit length, proven finite."""

from pathlib import Path

import numpy as np

from cusa.errors import DataError
from cusa.manifests.tables import TeacherTable

_UNIT = 1e-2  # how far an embedding's length may be from 1: float16 students lose the last digits


def unit_rows(table: TeacherTable) -> np.ndarray:
    """Return a teacher's rows as float32 of unit length; float16 tables lose it in their last digits.

    Args:
        table: what `cusa.manifests.tables.read_teacher` gave.

    Returns:
        (rows, width) float32, contiguous.

    Raises:
        DataError: if a row is not finite or is zero, with its key.
    """
    rows_ND = np.ascontiguousarray(table.embeddings, dtype=np.float32)
    if rows_ND is table.embeddings:
        rows_ND = rows_ND.copy()
    norms_N = np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND))
    bad = np.flatnonzero(~(np.isfinite(norms_N) & (norms_N > 0)))
    if bad.size:
        key = table.keys[int(bad[0])]
        raise DataError(
            f"Teacher {table.teacher!r} has a row that is zero or not finite, for {key!r} ({bad.size} such rows). "
            "Run `cusa extract-teachers ... --force`.",
            key=key,
            teacher=table.teacher,
        )
    rows_ND /= norms_N[:, None]
    return rows_ND


def refuse_unusable_rows(rows_ND: np.ndarray, keys: list[str], *, path: Path, way_out: str) -> None:
    """Refuse embeddings that no similarity can be computed from.

    Args:
        rows_ND: (N, D) embeddings.
        keys: (N,) whose they are.
        path: where they come from, for the message.
        way_out: a sentence that says what to do.

    Raises:
        DataError: if a row is not finite or not of unit length, with its key.
    """
    norms_N = np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND))
    bad = np.flatnonzero(~(np.abs(norms_N - 1) < _UNIT))
    if bad.size:
        key = keys[int(bad[0])]
        raise DataError(
            f"{path}: the embedding of {key!r} has the length {norms_N[bad[0]]:.6g} instead of 1 ({bad.size} such "
            f"rows). {way_out}",
            key=key,
            path=path,
        )
