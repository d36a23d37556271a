"""Whole or absent: what a failure may and may not leave behind."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
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
    third = store.sha256_folder(tmp_path)
    (tmp_path / ".cache").write_text("ignored")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/a.pyc").write_text("ignored")
    assert store.sha256_folder(tmp_path) == third


def test_sha256_folder__sees_in_which_folder_a_file_lies(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a").write_text("1")
    before = store.sha256_folder(tmp_path)
    (tmp_path / "one").rename(tmp_path / "two")
    assert store.sha256_folder(tmp_path) != before


class _Disk:
    """What was made durable, and when: inodes in the order of their fsync, and of each rename."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, int]] = []
        fsync, replace = os.fsync, Path.replace

        def note_fsync(descriptor: int) -> None:
            self.events.append(("fsync", os.fstat(descriptor).st_ino))
            fsync(descriptor)

        def note_replace(path: Path, target: Path) -> Path:
            self.events.append(("rename", path.stat().st_ino))
            return replace(path, target)

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(Path, "replace", note_replace)


def test_whole_file__is_durable_before_its_name_is_and_then_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _Disk(monkeypatch)
    store.write_text(tmp_path / "a.txt", "content")
    file, folder = (tmp_path / "a.txt").stat().st_ino, tmp_path.stat().st_ino
    assert disk.events == [("fsync", file), ("rename", file), ("fsync", folder)]


def test_whole_folder__all_in_it_is_durable_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = _Disk(monkeypatch)
    with store.whole_folder(tmp_path / "f") as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep/x").write_text("1")
        (temporary / "y").write_text("2")
    inside = {path.stat().st_ino for path in (tmp_path / "f", *(tmp_path / "f").rglob("*"))}
    place = disk.events.index(("rename", (tmp_path / "f").stat().st_ino))
    assert inside == {inode for kind, inode in disk.events[:place] if kind == "fsync"}
    assert disk.events[place + 1 :] == [("fsync", tmp_path.stat().st_ino)]


def test_read_table__no_flipped_byte_of_a_page_is_taken_for_data(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    drawn = np.random.default_rng(0)
    table = pa.table({"a": drawn.random(3000), "b": [drawn.bytes(9) for _ in range(3000)]})
    store.write_table(path, table, rows_per_group=1000)
    whole = path.read_bytes()
    readers = {
        "table": lambda: store.read_table(path),
        "batches": lambda: pa.concat_tables(list(store.table_batches(path))),
        "rows": lambda: store.read_rows(path, range(3000)),
    }
    refused = 0
    for place in range(4, len(whole) - 3000, len(whole) // 100):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        for name, read in readers.items():
            try:
                assert read() == table, (name, place)
            except DataError:
                refused += 1
    assert refused > 200


LIMITED = """
import resource
from pathlib import Path
from cusa.errors import DataError
from cusa.manifests.storage import store
resource.setrlimit(resource.RLIMIT_{name}, ({value}, {value}))
opened = []
try:
    for number in range(200):
        store.write_text(Path({path!r}) / f"{{number}}.txt", "x" * 100_000)
        opened.append(open(Path({path!r}) / f"{{number}}.txt"))
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("FSIZE", 50_000, "larger than a file may be here"), ("NOFILE", 60, "too many files are open")],
)
def test_whole_file__a_limit_is_explained_and_leaves_nothing(tmp_path: Path, name: str, value: int, words: str) -> None:
    script = LIMITED.format(name=name, value=value, path=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert words in done.stdout, done.stderr
    assert not list(tmp_path.glob(f"{store.TEMPORARY}*"))


def test_whole_file__a_failing_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataError, match=r"a\.txt: the disk failed"):
        store.write_text(tmp_path / "a.txt", "x")
    assert list(tmp_path.iterdir()) == []


def test_parse_json__bytes_and_text_of_any_maker() -> None:
    assert store.parse_json(b'\xef\xbb\xbf{"a": "\xc3\xbc"}') == store.parse_json('\ufeff{"a": "ü"}') == {"a": "ü"}
    for bad in (b"[" * 100_000, "[" * 100_000, "9" * 5000, b"\xff\xfe1\x00", "", "{", b'"\xed\xa0\x80"'):
        with pytest.raises(DataError, match="no readable JSON"):
            store.parse_json(bad)
