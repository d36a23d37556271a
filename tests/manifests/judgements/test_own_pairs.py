"""The table of a split's own pairs: read only for the state of the split that it was made of, and only whole."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cusa.errors import DataError, StaleError
from cusa.manifests import schemas
from cusa.manifests.judgements.own_pairs import pairs_digest, pairs_path, read_p_wrong
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests.worlds import make_work


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(make_work(tmp_path, images=2, splits=("train",), captions=2), "train")


def _write(split: Split, keys: Sequence[str], p_wrong: Sequence[float | None], *, state: str = "") -> None:
    rows = [{"caption_key": key, "p_wrong": value} for key, value in zip(keys, p_wrong, strict=True)]
    table = pa.Table.from_pylist(rows, schema=schemas.PAIRS)
    store.write_table(pairs_path(split), table.replace_schema_metadata({"split": state or split.digest}))


def test_read_p_wrong__in_the_order_of_the_captions(split: Split) -> None:
    _write(split, split.caption_keys[::-1], [0.75, 0.5, 0.25, 0.0])
    np.testing.assert_array_equal(read_p_wrong(split), np.array([0.0, 0.25, 0.5, 0.75], dtype=np.float32))


def test_read_p_wrong__of_another_state_of_the_split_is_stale(split: Split) -> None:
    _write(split, split.caption_keys, [0.1] * 4, state="0" * 64)
    with pytest.raises(StaleError, match="of another state of the split 'train'.* --pairs"):
        read_p_wrong(split)


def test_read_p_wrong__a_table_that_lacks_anything_is_refused(split: Split) -> None:
    with pytest.raises(DataError, match="nobody has looked for wrong pairs"):
        read_p_wrong(split)
    _write(split, split.caption_keys[:3], [0.1] * 3)
    with pytest.raises(DataError, match="not one row for each of 4 pairs"):
        read_p_wrong(split)
    _write(split, [*split.caption_keys[:3], "mini/other#0"], [0.1] * 4)
    with pytest.raises(DataError, match="not one row for each of 4 pairs"):
        read_p_wrong(split)
    _write(split, split.caption_keys, [0.1, 0.2, None, 0.3])
    with pytest.raises(DataError, match="too small to tell wrong pairs"):
        read_p_wrong(split)


def test_pairs_digest__is_that_of_the_bytes(split: Split) -> None:
    _write(split, split.caption_keys, [0.1] * 4)
    before = pairs_digest(split)
    _write(split, split.caption_keys, [0.1, 0.1, 0.1, 0.2])
    assert pairs_digest(split) != before
