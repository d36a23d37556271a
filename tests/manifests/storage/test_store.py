"""Whole or absent: what a failure may and may not leave behind."""

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.manifests.storage import paths, store


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


def _partial(folder: Path, *, machine: str = store._MACHINE, pid: int, age: float = 0.0) -> Path:
    """Make an unfinished file of a process, as old as that many seconds."""
    path = folder / f"{store.TEMPORARY}{machine}-{pid}-0123456789ab.tar"
    path.write_text("half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_sweep__what_somebody_still_writes_stays(tmp_path: Path) -> None:
    here = store._MACHINE
    assert here == hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    day = 24 * 3600
    alive = _partial(tmp_path, pid=os.getppid(), age=9 * day)
    _partial(tmp_path, pid=2**22 + 1)  # no process has such a number
    _partial(tmp_path, pid=os.getpid())  # an earlier process had our number
    elsewhere = _partial(tmp_path, machine="0" * 8, pid=1, age=day - 60)
    _partial(tmp_path, machine="1" * 8, pid=1, age=day + 60)
    kept = _partial(tmp_path, machine="2" * 8, pid=1, age=2 * day)
    (tmp_path / "below").mkdir()
    below = _partial(tmp_path / "below", pid=2**22 + 1)
    with store.whole_file(tmp_path / "out.tar") as ours, store.whole_folder(tmp_path / "out") as folder:
        assert (ours.parent, ours.suffix, folder.parent) == (tmp_path, ".tar", tmp_path)
        store.sweep(tmp_path, keep=[kept])
        assert {*tmp_path.iterdir()} == {alive, elsewhere, kept, below.parent, ours, folder}
        assert below.is_file(), "what is below is swept by whoever writes there"
    assert {*tmp_path.iterdir()} == {alive, elsewhere, kept, below.parent, tmp_path / "out.tar", tmp_path / "out"}


def test_is_alive__by_number() -> None:
    told = {os.getpid(): True, os.getppid(): True, 1: True, 2**22 + 1: False, 2**80: False, 0: False, -1: False}
    assert {pid: store.is_alive(pid) for pid in told} == told


def test_is_alive__a_process_of_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, signal: int) -> None:
        assert signal == 0, "it only asks"
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert store.is_alive(7)


def test_temporary__nothing_is_left_by_a_process_that_ends_within_the_block(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from cusa.manifests.storage import store\n"
        "block = store.whole_file(Path(sys.argv[1])); block.__enter__(); sys.exit(3)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.txt")])
    assert done.returncode == 3
    assert list(tmp_path.iterdir()) == []


def test_whole_folder__the_lock_in_it_is_the_same_file_afterwards(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / store.LOCK).write_text("held")
    before = (tmp_path / "f" / store.LOCK).stat().st_ino
    with store.whole_folder(tmp_path / "f") as temporary:
        (temporary / "x").write_text("new")
    assert (tmp_path / "f" / store.LOCK).stat().st_ino == before
    assert store.files_below(tmp_path / "f") == [tmp_path / "f/x"]


def test_files_below__sorted_at_any_depth_and_without_locks_and_folders(tmp_path: Path) -> None:
    for name in ("b", "a/z", "a/deep/y", f"a/{store.LOCK}", store.LOCK):
        store.make_folder((tmp_path / name).parent)
        (tmp_path / name).touch()
    store.make_folder(tmp_path / "empty/folder")
    store.make_folder(tmp_path / "empty/folder")
    assert (tmp_path / "empty/folder").is_dir()
    assert [path.relative_to(tmp_path).as_posix() for path in store.files_below(tmp_path)] == ["a/deep/y", "a/z", "b"]
    store.remove_folder(tmp_path / "a")
    store.remove_folder(tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {"b", "empty", store.LOCK}


def test_write_json__the_same_bytes_whatever_the_order_of_keys(tmp_path: Path) -> None:
    store.write_json(tmp_path / "a.json", {"b": ["ü", 1.5], "a": None})
    assert (tmp_path / "a.json").read_bytes() == '{\n "a": null,\n "b": [\n  "ü",\n  1.5\n ]\n}\n'.encode()
    assert store.json_text({"b": ["ü", 1.5], "a": None}).encode() == (tmp_path / "a.json").read_bytes()
    assert store.read_json(tmp_path / "a.json") == {"a": None, "b": ["ü", 1.5]}


def test_read_json__what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json does not exist\. Check the path") as caught:
        store.read_json(tmp_path / "none.json")
    assert caught.value.values["path"] == tmp_path / "none.json"
    with pytest.raises(DataError, match="is a folder, not a JSON file"):
        store.read_json(tmp_path)


ROWS = pa.table({"a": list(range(7)), "b": list("abcdefg")})


@pytest.mark.parametrize("per_group", [1, 3, 7, 100])
def test_read_rows__every_range_and_no_group_more_than_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_group: int
) -> None:
    path = tmp_path / "t.parquet"
    store.write_table(path, ROWS, rows_per_group=per_group)
    groups: list[int] = []
    read = pq.ParquetFile.read_row_group

    def note(file: pq.ParquetFile, number: int, **more: object) -> pa.Table:
        groups.append(number)
        return read(file, number, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", note)
    for start in range(8):
        for stop in range(start, 8):
            groups.clear()
            assert store.read_rows(path, range(start, stop)) == ROWS.slice(start, stop - start)
            assert groups == sorted({row // per_group for row in range(start, stop)})
    assert store.read_rows(path, range(2, 5), columns=["b"]) == ROWS.select(["b"]).slice(2, 3)
    with pytest.raises(DataError, match=r"t\.parquet has 7 rows, 8 are needed"):
        store.read_rows(path, range(6, 8))
    batches = list(store.table_batches(path))
    assert [len(batch) for batch in batches] == [min(per_group, 7 - start) for start in range(0, 7, min(per_group, 7))]
    assert pa.concat_tables(batches) == ROWS
    assert pa.concat_tables(store.table_batches(path, columns=["b"])) == ROWS.select(["b"])
    assert store.num_rows(path) == 7


def test_read_table__columns_in_the_order_asked_for_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    store.write_table(path, ROWS)
    assert store.read_table(path) == ROWS
    assert store.read_table(path, columns=["b"]) == ROWS.select(["b"])
    with pytest.raises(DataError, match=r"lacks the columns \['x', 'y'\]; it has \['a', 'b'\]\. Run `cusa shard`\."):
        store.read_table(path, columns=["a", "y", "x"], made_by="cusa shard")
    with pytest.raises(DataError, match=r"lacks the columns \['x'\].* Run the stage that writes it\."):
        store.read_table(path, columns=["x"])


def test_check_table__says_what_reading_would_say(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(DataError, match=r"does not exist\. Run `cusa shard`"):
        store.check_table(path, columns=["a"], made_by="cusa shard")
    store.write_table(path, ROWS)
    assert store.check_table(path, columns=["b"]) == 7
    with pytest.raises(DataError, match=r"lacks the columns \['x'\]; .*Run `cusa shard`"):
        store.check_table(path, columns=["a", "x"], made_by="cusa shard")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"no readable Parquet table.*Run `cusa shard --force`"):
        store.check_table(path, columns=["a"], made_by="cusa shard")
    for read in (
        store.num_rows,
        lambda path: list(store.table_batches(path)),
        lambda path: store.read_rows(path, range(1)),
    ):
        with pytest.raises(
            DataError, match=r"no readable Parquet table: .*\. Run the stage that writes it with --force"
        ):
            read(path)
        with pytest.raises(DataError, match=r"none\.parquet does not exist\. Run the stage"):
            read(tmp_path / "none.parquet")


def test_check_types__other_widths_of_texts_and_whole_numbers_pass(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    store.write_table(path, pa.table({"n": pa.array([1], pa.uint8()), "s": pa.array(["x"], pa.large_string())}))
    wanted = pa.schema([("s", pa.string()), ("n", pa.int64())])
    store.check_types(path, wanted)
    for name, kind, other in (
        *(("n", pa.float64(), "uint8"), ("n", pa.string(), "uint8"), ("s", pa.int64(), "large_string")),
        *(("s", pa.binary(), "large_string"), ("n", pa.bool_(), "uint8")),
    ):
        asked = wanted.set(wanted.get_field_index(name), pa.field(name, kind))
        with pytest.raises(DataError, match=rf"column '{name}' is {other}; it must be {kind}\. Run the stage"):
            store.check_types(path, asked)
        with pytest.raises(DataError, match="Make it with `cusa shard`"):
            store.check_types(path, asked, made_by="cusa shard")


def test_write_table__pages_are_compressed_and_rows_are_grouped(tmp_path: Path) -> None:
    store.write_table(tmp_path / "t.parquet", pa.table({"a": [7] * 70_000}))
    groups = pq.ParquetFile(tmp_path / "t.parquet").metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [65536, 70_000 - 65536]
    assert groups.row_group(0).column(0).compression == "ZSTD"


def test_digests__are_those_that_anybody_can_compute(tmp_path: Path) -> None:
    """By `sha256sum` and three lines of Python: a digest that changes would make everybody's work stale."""
    assert (
        store.digest({"b": [1, 2.5, None], "a": "ü"})
        == hashlib.sha256(b'{"a": "\\u00fc", "b": [1, 2.5, null]}').hexdigest()
    )
    assert store.digest([Path("a/b")]) == hashlib.sha256(b'["a/b"]').hexdigest()
    total = hashlib.sha256()
    names = [f"{folder}{number:02d}" for folder in ("a/", "b") for number in range(20)]
    for name, content in [(name, name.encode()[-1:] * 2) for name in names]:  # in their order, not that of the disk
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        assert store.sha256_file(tmp_path / name) == hashlib.sha256(content).hexdigest()
        total.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    assert store.sha256_folder(tmp_path) == total.hexdigest()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").touch()
    assert store.sha256_folder(tmp_path) == total.hexdigest()


@pytest.mark.parametrize("remote", [False, True])
def test_the_same_calls_here_and_elsewhere(tmp_path: Path, remote: bool) -> None:
    folder = paths.place("memory://store/work") if remote else tmp_path / "work"
    store.make_folder(folder / "train")
    store.write_json(folder / "train/a.json", {"a": 1})
    store.write_table(folder / "train/t.parquet", ROWS, rows_per_group=3)
    store.sweep(folder / "train")
    assert (folder / "train/a.json").read_text() == '{\n "a": 1\n}\n'
    assert store.read_json(folder / "train/a.json") == {"a": 1}
    path = folder / "train/t.parquet"
    assert store.read_table(path) == ROWS
    assert store.read_table(path, columns=["b"]) == ROWS.select(["b"])
    assert store.read_rows(path, range(2, 4)) == ROWS.slice(2, 2)
    assert pa.concat_tables(store.table_batches(path)) == ROWS
    assert store.num_rows(path) == store.check_table(path, columns=["a"]) == 7
    assert store.sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    store.check_types(path, ROWS.schema)
    with pytest.raises(DataError, match="lacks the columns"):
        store.read_table(path, columns=["x"])
    with pytest.raises(DataError, match="does not exist"):
        store.read_table(folder / "none.parquet")
    with pytest.raises(DataError, match="does not exist"):
        store.read_json(folder / "none.json")
    assert [file.name for file in store.files_below(folder)] == ["a.json", "t.parquet"]
    store.remove_folder(folder)
    store.remove_folder(folder)
    assert not folder.exists()


def test_whole_file__a_failed_upload_shows_nothing() -> None:
    path = paths.place("memory://store/half.txt")
    with pytest.raises(RuntimeError), store.whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert not path.exists()
    assert not temporary.exists()


def test_elsewhere__no_flipped_byte_of_a_page_is_taken_for_data() -> None:
    path = paths.place("memory://store/flipped.parquet")
    drawn = np.random.default_rng(0)
    table = pa.table({"a": drawn.random(500)})
    store.write_table(path, table, rows_per_group=250)
    whole = path.read_bytes()
    readers: list[Callable[[], object]] = [
        lambda: store.read_table(path),
        lambda: list(store.table_batches(path)),
        lambda: store.read_rows(path, range(500)),
    ]
    for place in range(200, 3000, 400):  # within the numbers' own bytes
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        for read in readers:
            with pytest.raises(DataError, match=r"flipped\.parquet is no readable Parquet table"):
                read()


def test_elsewhere__what_a_store_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = paths.place("memory://store/refused.txt")

    def refuse(*arguments: object, **more: object) -> None:
        raise PermissionError("no")

    for call in ("put_file", "rm"):
        monkeypatch.setattr(type(path.fs), call, refuse)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"refused\.txt"):
        store.write_text(path, "x")
    with pytest.raises(DataError, match=r"refused\.txt"):
        store.remove_folder(path)
