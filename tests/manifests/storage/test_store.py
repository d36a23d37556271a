"""Whole or absent: what a failure may and may not leave behind."""

import json
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from cusa.errors import DataError
from cusa.manifests.storage import store


def test_whole_file__a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    store.write_text(path, "old")
    with pytest.raises(RuntimeError), store.whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_whole_folder__replaces_an_older_one_at_once(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with store.whole_folder(tmp_path / "f") as temporary:
            (temporary / "x").write_text(content)
    assert (tmp_path / "f/x").read_text() == "new"
    with pytest.raises(RuntimeError), store.whole_folder(tmp_path / "f") as temporary:
        raise RuntimeError
    assert (tmp_path / "f/x").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_sweep__removes_only_what_is_unfinished(tmp_path: Path) -> None:
    (tmp_path / f"{store.TEMPORARY}x.tar").write_text("half")
    (tmp_path / f"{store.TEMPORARY}dir").mkdir()
    (tmp_path / "keep.tar").write_text("whole")
    store.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["keep.tar"]


def test_write_table__same_table_same_bytes(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]})
    store.write_table(tmp_path / "1.parquet", table)
    store.write_table(tmp_path / "2.parquet", table)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_read_table__every_truncation_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    store.write_table(path, pa.table({"a": list(range(2000))}))
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 25)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"t\.parquet.*Run `cusa shard --force`"):
            store.read_table(path, made_by="cusa shard")
    path.unlink()
    with pytest.raises(DataError, match=r"does not exist\. Run `cusa shard`"):
        store.read_table(path, made_by="cusa shard")


def test_read_table__a_missing_column_is_named(tmp_path: Path) -> None:
    store.write_table(tmp_path / "t.parquet", pa.table({"a": [1]}))
    with pytest.raises(DataError, match="'b'|b"):
        store.read_table(tmp_path / "t.parquet", columns=["a", "b"])


@pytest.mark.parametrize("text", ["", "{", "\xff\xfe", "not json"])
def test_read_json__broken_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "j.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"j\.json is no readable JSON"):
        store.read_json(tmp_path / "j.json")


def test_whole_file__a_file_where_a_folder_should_be_is_explained(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"), store.whole_file(tmp_path / "out/deep/a.txt"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_whole_file__full_disk_is_explained_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode()}")
    try:
        with pytest.raises(DataError, match="disk is full"):
            store.write_text(small / "big.txt", "x" * 200_000)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_digest__ignores_the_order_of_keys() -> None:
    assert store.digest({"a": 1, "b": 2}) == store.digest(json.loads('{"b": 2, "a": 1}'))
    assert store.digest({"a": 1}) != store.digest({"a": 2})


def test_sha256_folder__sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = store.sha256_folder(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = store.sha256_folder(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, store.sha256_folder(tmp_path)}) == 3
    (tmp_path / ".cache").write_text("ignored")
    assert store.sha256_folder(tmp_path) == store.sha256_folder(tmp_path)
