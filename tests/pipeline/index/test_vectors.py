"""Rows that a similarity can be computed from, and those that are refused by key."""

from pathlib import Path

import numpy as np
import pytest

from cusa.errors import DataError
from cusa.pipeline.index.vectors import refuse_unusable_rows


@pytest.mark.parametrize(
    "row",
    [[0.0, 0.0], [0.5, 0.0], [0.0, 2.0], [np.nan, 1.0], [np.inf, 0.0]],
    ids=["zero", "short", "long", "nan", "inf"],
)
def test_refuse_unusable_rows__a_row_that_is_not_of_length_1(row: list[float]) -> None:
    rows = np.array([[0.6, 0.8], row, [1.0, 0.001]], dtype=np.float32)  # half precision loses a thousandth
    with pytest.raises(DataError, match=r"table: the embedding of 'b' has the length .* \(1 such rows\)\. Mend it\."):
        refuse_unusable_rows(rows, ["a", "b", "c"], path=Path("table"), way_out="Mend it.")
    refuse_unusable_rows(rows[::2], ["a", "c"], path=Path("table"), way_out="Mend it.")
