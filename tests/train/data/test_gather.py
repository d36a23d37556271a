import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.errors import StaleError
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.train.data.gather import TeacherRows


@pytest.mark.parametrize("teacher", ["colours", "words"])
def test_rows_are_those_of_the_tables(world: Path, tmp_path: Path, teacher: str) -> None:
    split = Split(world, "train")
    rows = TeacherRows(split, teacher, fallback=tmp_path)
    by_key = {}
    for part in sorted((world / "train" / "teachers" / teacher).glob("0*.parquet")):
        for row in pq.read_table(part).to_pylist():
            by_key[row.get("key", row.get("caption_key"))] = row["embedding"]
    keys = split.image_keys if teacher == "colours" else split.caption_keys
    wanted = np.array([5, 0, 11, 5])
    np.testing.assert_array_equal(rows[wanted], np.array([by_key[keys[i]] for i in wanted], dtype=np.float32))
    assert rows[wanted].dtype == np.float32
    assert len(rows) == len(keys)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows))[wanted], rows[wanted])


def test_built_once_and_again_when_the_teacher_changes(own_world: Path, tmp_path: Path) -> None:
    split = Split(own_world, "train")
    first = TeacherRows(split, "colours", fallback=tmp_path)
    stamp = first.path.stat().st_mtime_ns
    assert TeacherRows(split, "colours", fallback=tmp_path).path.stat().st_mtime_ns == stamp
    for part in sorted((own_world / "train" / "teachers" / "colours").glob("0*.parquet")):
        table = pq.read_table(part)
        store.write_table(part, table.replace_schema_metadata({**table.schema.metadata, b"revision": b"2"}))
    second = TeacherRows(split, "colours", fallback=tmp_path)
    assert second.digest != first.digest
    assert [file.name for file in second.path.parent.glob("colours-*")] == [second.path.name]


def test_a_cut_cache_is_built_again(own_world: Path, tmp_path: Path) -> None:
    split = Split(own_world, "train")
    first = TeacherRows(split, "words", fallback=tmp_path)
    expected = first[np.arange(36)]
    first.path.write_bytes(first.path.read_bytes()[:150])
    np.testing.assert_array_equal(TeacherRows(split, "words", fallback=tmp_path)[np.arange(36)], expected)


def test_a_table_of_another_shard_is_refused(own_world: Path, tmp_path: Path) -> None:
    part = own_world / "train" / "teachers" / "colours" / "00000.parquet"
    table = pq.read_table(part)
    store.write_table(part, table.replace_schema_metadata({**table.schema.metadata, b"shard_sha256": b"0" * 64}))
    with pytest.raises(StaleError, match="made from another"):
        TeacherRows(Split(own_world, "train"), "colours", fallback=tmp_path)


def test_the_cache_goes_elsewhere_where_the_work_folder_cannot_be_written(own_world: Path, tmp_path: Path) -> None:
    (own_world / "train" / "cache").write_text("a file in the way, as root may write anywhere")
    rows = TeacherRows(Split(own_world, "train"), "colours", fallback=tmp_path / "run" / "cache")
    assert rows.path.parent == tmp_path / "run" / "cache"
    assert rows.width == 3
