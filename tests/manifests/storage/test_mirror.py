"""A work folder on a real S3 server, mirrored: same images, same training, a cache that stays in its bounds."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests.samples import Split
from cusa.manifests.storage import mirror, store
from cusa.manifests.storage.paths import place
from cusa.models import student as students
from cusa.pipeline.config import ShardConfig
from cusa.train import loop
from tests.cli.test_cli import cusa_here as cusa
from tests.train.conftest import LOSS, STUDENT, TRAIN, make_world
from tests.worlds import make_work


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUSA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _upload(work: Path, to: str) -> Path:
    there = place(to)
    for file in sorted(work.rglob("*")):
        if file.is_file():
            (there / file.relative_to(work).as_posix()).write_bytes(file.read_bytes())
    return there


def _tars(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (cache / "tars").glob("*")}


def test_here__a_local_folder_is_its_own_mirror(tmp_path: Path) -> None:
    assert mirror.here(tmp_path) == tmp_path
    assert mirror.origin(tmp_path) is None


def test_mirror__images_come_through_a_cache_that_keeps_its_bounds(
    bucket: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(tmp_path, images=12, splits=("train",), config=ShardConfig(workers=1, max_images=3))
    there = _upload(work, f"{bucket}/work")
    folder = mirror.here(there)
    assert not list(folder.rglob("*.tar"))
    assert mirror.origin(folder) == there
    one = max(path.stat().st_size for path in work.rglob("*.tar"))
    monkeypatch.setenv("CUSA_CACHE_GIB", str(2.5 * one / 2**30))
    local, split = Split(work, "train"), Split(folder, "train")
    assert split.digest == local.digest
    for row in (0, 1, 11, 4, 0, 8, 7, 2, 11):
        assert split.image_bytes(row) == local.image_bytes(row)
        assert 1 <= len(_tars(cache)) <= 2
        assert sum(_tars(cache).values()) <= 2.5 * one
    with ThreadPoolExecutor(8) as pool:
        rows = list(range(12)) * 4
        assert list(pool.map(split.image_bytes, rows)) == list(map(local.image_bytes, rows))
    assert len(_tars(cache)) <= 2
    assert not list(cache.rglob(f"{store.TEMPORARY}*"))


def test_mirror__follows_what_changes_there(bucket: str, tmp_path: Path) -> None:
    first = make_work(tmp_path / "a", images=3, splits=("train",))
    there = _upload(first, f"{bucket}/work")
    folder = mirror.here(there)
    before = (folder / "train/samples.parquet").stat().st_mtime_ns
    heard: list[int] = []
    assert mirror.here(there, on_event=lambda *event: heard.append(event[1])) == folder
    assert not heard, "nothing is copied twice"
    assert (folder / "train/samples.parquet").stat().st_mtime_ns == before
    other = make_work(tmp_path / "b", images=5, splits=("train", "val"))
    _upload(other, f"{bucket}/work")
    (there / "val/captions.parquet").unlink()
    assert Split(mirror.here(there), "train").num_images == 5
    assert Split(folder, "train").image_bytes(4) == Split(other, "train").image_bytes(4)
    assert not (folder / "val/captions.parquet").exists()


def test_mirror__a_tar_that_is_another_one_is_refused(bucket: str, tmp_path: Path, cache: Path) -> None:
    work = make_work(tmp_path, images=2, splits=("train",))
    there = _upload(work, f"{bucket}/work")
    data = bytearray((work / "train/00000.tar").read_bytes())
    data[1000] ^= 1
    (there / "train/00000.tar").write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"00000\.tar is another tar than its table says"):
        Split(mirror.here(there), "train").image_bytes(0)
    assert not _tars(cache)
    (there / "train/00000.tar").unlink()
    with pytest.raises(DataError, match="does not exist"):
        Split(mirror.here(there), "train").image_bytes(0)
    with pytest.raises(DataError, match="does not exist or is empty"):
        mirror.here(place(f"{bucket}/nowhere"))


def test_here__a_budget_that_is_none_is_explained(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("much", "0", "-3", "nan", "inf"):
        monkeypatch.setenv("CUSA_CACHE_GIB", wrong)
        with pytest.raises(ConfigError, match=f"CUSA_CACHE_GIB is '{wrong}'"):
            mirror.here(place(f"{bucket}/work"))


def test_train__from_a_store_gives_the_run_of_a_local_folder(
    bucket: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_world(tmp_path / "world")
    there = _upload(work, f"{bucket}/work")
    one = max(path.stat().st_size for path in work.rglob("*.tar"))
    monkeypatch.setenv("CUSA_CACHE_GIB", str(1.1 * one / 2**30))  # one tar at a time
    losses = []
    for name, folder in (("here", work), ("there", mirror.here(there))):
        split = Split(folder, "train")
        student = students.create(STUDENT, captions=split.texts, uni=True, seed=0)
        config = TRAIN.model_copy(update={"steps": 6, "workers": 1})
        loop.run(config, LOSS, student=student, data=loop.TrainingSplit(split), out=tmp_path / name)
        losses.append([float(value.sum()) for value in student.state_dict().values()])
    assert losses[0] == losses[1]
    assert len(_tars(cache)) == 1
    names = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert names == {
        path.relative_to(work).as_posix() for path in work.rglob("*") if "cache" not in path.parts and path.is_file()
    }
    found = []
    for name, data in (("here", str(work)), ("there", f"{bucket}/work")):
        asked = (
            "--data",
            data,
            "--split",
            "train",
            "--out",
            str(tmp_path / f"eval-{name}"),
            "--set",
            "bootstrap=0",
            "--json",
        )
        done = cusa("eval", str(tmp_path / "here"), *asked)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        found.append({task: result["metrics"] for task, result in told["tasks"].items() if "metrics" in result})
    assert found[0] == found[1]
    assert found[0]["cross-modal"]["rsum"] > 0


def test_command_line__reads_a_work_folder_from_a_store_and_says_what_must_be_local(
    bucket: str, tmp_path: Path
) -> None:
    work = make_work(tmp_path, images=2, splits=("train",))
    _upload(work, f"{bucket}/work")
    done = cusa("sql", f"{bucket}/work", "select count(*) as n from samples", "--format", "csv")
    assert (done.returncode, done.stdout.split()) == (0, ["n", "2"]), done.stderr
    done = cusa("list", "drop-reasons", "--data", f"{bucket}/work")
    assert done.returncode == 0, done.stderr
    done = cusa("train", "clip-vit-b-32", "--data", f"{bucket}/work", "--out", f"{bucket}/run")
    assert done.returncode == 2
    assert f"--out {bucket}/run" in done.stderr
    assert "Give a local path" in done.stderr
    assert "Traceback" not in done.stderr


def _put(root: str, files: dict[str, bytes]) -> Path:
    """Write files of a work folder into a store in memory; return its place."""
    there = place(f"memory://{root}")
    for name, data in files.items():
        (there / name).write_bytes(data)
    return there


def _held(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != mirror.NOTE
    }


def test_here__tables_are_copied_and_not_what_is_large_or_made_on_a_machine() -> None:
    tables = {name: name.encode() for name in ("shard.ledger.json", "train/samples.parquet", "train/audit/runs.json")}
    others = {
        *("train/00000.tar", "train/index/colours.faiss", "train/audit/gallery.html", "train/cache/rows.npy"),
        *("train/.units/claim.json", "runs/one/recipe.json", "train/cache/deep/rows.npy"),
    }
    there = _put("copied/work", {**tables, **{name: b"x" for name in others}})
    heard: list[tuple[str, int, int]] = []
    folder = mirror.here(there, on_event=lambda *event: heard.append(event))
    assert _held(folder) == tables
    assert heard == [("copy tables", number, 3) for number in (1, 2, 3)]
    assert mirror.origin(folder) == there
    assert mirror.origin(there) is None


def test_here__each_work_folder_has_a_mirror_of_its_own(cache: Path) -> None:
    folders = [mirror.here(_put(f"{root}/work", {"a.json": root.encode()})) for root in ("one", "two")]
    assert folders[0] != folders[1]
    assert [_held(folder)["a.json"] for folder in folders] == [b"one", b"two"]
    assert {folder.parent for folder in folders} == {cache / "mirrors"}


def test_here__copies_again_what_changed_there_or_is_gone_here() -> None:
    there = _put("again/work", {"a.json": b"1", "b.json": b"2", "deep/c.json": b"3"})
    folder = mirror.here(there)
    heard: list[int] = []
    (there / "b.json").write_bytes(b"4")  # of the same size
    mirror.here(there, on_event=lambda *event: heard.append(event[2]))
    assert (heard, _held(folder)["b.json"]) == ([1], b"4")
    (folder / "deep/c.json").unlink()
    (there / "a.json").unlink()
    heard.clear()
    mirror.here(there, on_event=lambda *event: heard.append(event[2]))
    assert heard == [1]
    assert _held(folder) == {"b.json": b"4", "deep/c.json": b"3"}
    heard.clear()
    mirror.here(there, on_event=lambda *event: heard.append(event[2]))
    assert heard == []


def test_here__killed_half_way_it_is_no_mirror_and_goes_on_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    there = _put("killed/work", {"a.json": b"1", "b.json": b"2", "c.json": b"3", "val/samples.parquet": b"4"})
    folder = mirror.here(there)
    for name in ("a.json", "b.json"):
        (there / name).write_bytes(b"new")
    (there / "val/samples.parquet").unlink()
    real = mirror._fetch

    def killed(source: Path, target: Path) -> None:
        if target.name == "b.json":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(mirror, "_fetch", killed)
    with pytest.raises(KeyboardInterrupt):
        mirror.here(there)
    assert mirror.origin(folder) is None, "half of one state and half of another"
    (folder / "val").mkdir(exist_ok=True)
    (folder / "val/samples.parquet").write_bytes(b"4")  # as if it had been killed before that was taken away
    monkeypatch.undo()
    monkeypatch.setenv("CUSA_CACHE", str(folder.parent.parent))
    assert mirror.here(there) == folder
    assert _held(folder) == {"a.json": b"new", "b.json": b"new", "c.json": b"3"}
    assert mirror.origin(folder) == there


def _tar(root: str, content: bytes) -> tuple[Path, str]:
    (name,) = files = {"00000.tar": content}
    return _put(f"{root}/{content[:1].decode()}", files) / name, hashlib.sha256(content).hexdigest()


def test_read_tar__what_was_read_longest_ago_makes_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tars = {letter: _tar("room", letter.encode() * 1000) for letter in "abcd"}
    monkeypatch.setenv("CUSA_CACHE_GIB", repr(3000 / 2**30))  # three of them, to the byte

    def read(letter: str) -> set[str]:
        for path in (cache / "tars").glob("*.tar"):  # a second later
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
        assert mirror.read_tar(*tars[letter], 10, 5) == letter.encode() * 5
        there = {path.name for path in (cache / "tars").iterdir()}
        return {letter for letter, (_, sha256) in tars.items() if f"{sha256}.tar" in there}

    assert [read(letter) for letter in "abc"] == [{"a"}, {"a", "b"}, {"a", "b", "c"}]
    assert read("a") == {"a", "b", "c"}
    assert read("d") == {"a", "c", "d"}, "b was read longest ago"
    assert read("b") == {"a", "b", "d"}
    monkeypatch.setenv("CUSA_CACHE_GIB", repr(1 / 2**30))
    assert read("c") == {"c"}, "one that is larger than all there may be is fetched alone"


def test_read_tar__to_its_end_and_not_beyond(cache: Path) -> None:
    tar, sha256 = _tar("end", b"z" * 100)
    assert mirror.read_tar(tar, sha256, 95, 5) == b"z" * 5
    assert mirror.read_tar(tar, sha256, 95, 50) == b"z" * 5
    with pytest.raises(DataError, match=r"00000\.tar is another tar than its table says \(sha256 [0-9a-f]{12} instead"):
        mirror.read_tar(tar, "0" * 64, 0, 1)
    assert [path.name for path in (cache / "tars").iterdir()] == [f"{sha256}.tar"]


def test_budget__fifty_gib_where_nobody_says(cache: Path) -> None:
    (cache / "tars").mkdir(parents=True)
    for number, gib in enumerate((24, 24, 24)):  # files without bytes on the disk
        path = cache / f"tars/{number}.tar"
        path.touch()
        os.truncate(path, gib << 30)
        os.utime(path, (number, number))
    tar, sha256 = _tar("budget", b"y")
    mirror.read_tar(tar, sha256, 0, 1)
    assert {path.name for path in (cache / "tars").iterdir()} == {"1.tar", "2.tar", f"{sha256}.tar"}


def test_cache_folder__of_the_user_where_nobody_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mirror.cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUSA_CACHE", "~/elsewhere")
    assert mirror.cache_folder() == tmp_path / "home/elsewhere"
    for unset in (lambda: monkeypatch.setenv("CUSA_CACHE", ""), lambda: monkeypatch.delenv("CUSA_CACHE")):
        unset()
        assert mirror.cache_folder() == tmp_path / "home/.cache/cusa"
