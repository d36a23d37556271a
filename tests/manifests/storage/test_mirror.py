"""A work folder on a real S3 server, mirrored: same images, same training, a cache that stays in its bounds."""

import json
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
