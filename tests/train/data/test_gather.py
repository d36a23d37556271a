import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError, StaleError
from cusa.manifests import ledger
from cusa.manifests.samples import Split
from cusa.manifests.storage import checksums, store
from cusa.train.data.gather import TeacherRows
from tests.train.conftest import replace_row


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


@pytest.mark.parametrize("teacher", ["colours", "words"])
def test_keep__changes_no_row_and_stays_within_the_budget(world: Path, tmp_path: Path, teacher: str) -> None:
    rows = TeacherRows(Split(world, "train"), teacher, fallback=tmp_path)
    every = np.arange(len(rows))
    before = rows[every]
    assert rows.keep(budget=rows.nbytes - 1) == 0
    assert rows.keep(budget=rows.nbytes) == rows.nbytes
    rows.path.write_bytes(b"")  # nothing is read from here any more
    np.testing.assert_array_equal(rows[every], before)


def test_built_once_and_again_when_the_teacher_changes(own_world: Path, tmp_path: Path) -> None:
    split = Split(own_world, "train")
    first = TeacherRows(split, "colours", fallback=tmp_path)
    stamp = first.path.stat().st_mtime_ns
    assert TeacherRows(split, "colours", fallback=tmp_path).path.stat().st_mtime_ns == stamp
    for part in sorted((own_world / "train" / "teachers" / "colours").glob("0*.parquet")):
        table = pq.read_table(part)
        store.write_table(part, table.replace_schema_metadata({**table.schema.metadata, b"revision": b"2"}))
        ledger.withdraw(part.parent / "ledger.json")
    second = TeacherRows(split, "colours", fallback=tmp_path)
    assert second.digest != first.digest
    files = {file.name for file in second.path.parent.glob("colours-*")}
    assert files == {second.path.name, second.path.name + checksums.SUFFIX}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:150])


def _zero_half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def _swap_rows(path: Path) -> None:
    rows = np.load(path, allow_pickle=False)
    np.save(path, np.roll(rows, 1, axis=0), allow_pickle=False)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


def _lose_checksum(path: Path) -> None:
    path.with_name(path.name + checksums.SUFFIX).unlink()


@pytest.mark.parametrize("damage", [_cut, _zero_half, _swap_rows, _flip, _lose_checksum])
def test_a_damaged_cache_is_built_again_and_named(
    own_world: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    split = Split(own_world, "train")
    first = TeacherRows(split, "words", fallback=tmp_path)
    assert first.notes == ()
    expected = first[np.arange(36)]
    damage(first.path)
    second = TeacherRows(split, "words", fallback=tmp_path)
    np.testing.assert_array_equal(second[np.arange(36)], expected)
    assert len(second.notes) == 1
    assert f"The cache {first.path} was damaged and was built again" in second.notes[0]
    assert TeacherRows(split, "words", fallback=tmp_path).notes == ()


def test_another_teachers_cache_under_the_name_is_not_taken(own_world: Path, tmp_path: Path) -> None:
    split = Split(own_world, "train")
    words, colours = (TeacherRows(split, name, fallback=tmp_path) for name in ("words", "colours"))
    expected = colours[np.arange(12)]
    for ending in ("", checksums.SUFFIX):
        shutil.copy(f"{words.path}{ending}", f"{colours.path}{ending}")
    again = TeacherRows(split, "colours", fallback=tmp_path)
    np.testing.assert_array_equal(again[np.arange(12)], expected)
    assert "it was built from something else" in again.notes[0]


def test_a_row_replaced_under_the_same_metadata_is_another_teacher(own_world: Path, tmp_path: Path) -> None:
    split = Split(own_world, "train")
    first = TeacherRows(split, "colours", fallback=tmp_path)
    replace_row(own_world, "colours")
    second = TeacherRows(Split(own_world, "train"), "colours", fallback=tmp_path)
    assert second.digest != first.digest
    assert second.path != first.path
    assert not np.array_equal(second[np.array([0])], first[np.array([0])])
    np.testing.assert_array_equal(second[np.arange(1, 12)], first[np.arange(1, 12)])


def test_rows_that_the_extraction_did_not_write_are_refused(own_world: Path, tmp_path: Path) -> None:
    part = own_world / "train" / "teachers" / "colours" / "00000.parquet"
    table = pq.read_table(part)
    store.write_table(part, table.replace_schema_metadata({**table.schema.metadata, b"revision": b"2"}))
    with pytest.raises(DataError, match=r"00000\.parquet was changed after `cusa extract-teachers` wrote it"):
        TeacherRows(Split(own_world, "train"), "colours", fallback=tmp_path)


def test_a_table_of_another_shard_is_refused(own_world: Path, tmp_path: Path) -> None:
    part = own_world / "train" / "teachers" / "colours" / "00000.parquet"
    table = pq.read_table(part)
    store.write_table(part, table.replace_schema_metadata({**table.schema.metadata, b"shard_sha256": b"0" * 64}))
    with pytest.raises(StaleError, match="made from another"):
        TeacherRows(Split(own_world, "train"), "colours", fallback=tmp_path)


def test_a_table_of_another_state_of_the_split_is_another_cache(own_world: Path, tmp_path: Path) -> None:
    first = TeacherRows(Split(own_world, "train"), "words", fallback=tmp_path)
    path = own_world / "train" / "captions.parquet"
    table = pq.read_table(path)
    store.write_table(path, table.take([1, 0, *range(2, table.num_rows)]))  # two captions of one image change places
    with pytest.raises(StaleError, match="keys in another order"):
        TeacherRows(Split(own_world, "train"), "words", fallback=tmp_path)
    assert first.path.is_file()


def test_the_cache_goes_elsewhere_where_the_work_folder_cannot_be_written(own_world: Path, tmp_path: Path) -> None:
    (own_world / "train" / "cache").write_text("a file in the way, as root may write anywhere")
    rows = TeacherRows(Split(own_world, "train"), "colours", fallback=tmp_path / "run" / "cache")
    assert rows.path.parent == tmp_path / "run" / "cache"
    assert rows.width == 3
