"""Teacher rows as the search and the audit use them: float32, exactly unit length, proven finite."""

import numpy as np

from cusa.errors import DataError
from cusa.manifests.tables import TeacherTable


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
