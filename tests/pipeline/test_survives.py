"""Killed at random moments, full disks, broken tables, hostile folders: what ends is what an undisturbed run ends with.

`CUSA_KILLS` says how often each stage is killed; 30 for a report, few in the everyday suite.
"""

import csv
import os
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.manifests.records import REASONS
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import readers, shard, verify
from cusa.pipeline.config import ShardConfig
from tests.pipeline import killing
from tests.worlds import make_work, write_karpathy

KILLS = int(os.environ.get("CUSA_KILLS", "2"))


def _bytes(folder: Path) -> dict[str, str]:
    files = (f for f in folder.rglob("*") if f.is_file() and not f.name.endswith("ledger.json"))
    return {f.relative_to(folder).as_posix(): store.sha256_file(f) for f in files}


@pytest.mark.slow  # a process of its own each time, which only a kill can end; `make test-slow` kills thirty times
@pytest.mark.parametrize("stage", killing.STAGES)
def test_stage__killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path, stage: str) -> None:
    done = killing.survive(stage, tmp_path, kills=KILLS)
    assert (done.same_bytes, done.differ, done.stray_files) == (KILLS, (), ())
    assert done.before_the_end or KILLS < 10


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_shard__after_a_full_disk_the_same_command_goes_on(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=30)
    reading = readers.read("karpathy", source)
    config = ShardConfig(workers=1, max_images=5)
    shard.run(config, reading=reading, out=tmp_path / "whole")
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(small)]
    if (mounted := subprocess.run(mount, capture_output=True)).returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode()}")
    try:
        with pytest.raises(DataError, match=r"disk is full.*run the same command again"):
            shard.run(config, reading=reading, out=small / "work")
        assert not list(small.rglob(f"{store.TEMPORARY}*"))
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        shard.run(config, reading=reading, out=small / "work")
        assert _bytes(small / "work") == _bytes(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("name", ["shards", "samples", "captions"])
def test_split__a_table_cut_at_every_4_kb_boundary_is_named_by_the_next_stage(tmp_path: Path, name: str) -> None:
    work = make_work(tmp_path, images=150, splits=("train",))
    path = work / f"train/{name}.parquet"
    data = path.read_bytes()
    for length in range(0, len(data), 4096):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=rf"{name}\.parquet is no readable Parquet table"):
            Split(work, "train")
        assert any(f"{name}.parquet" in f.path + f.detail for f in verify.run(work, workers=1).findings)


NAMES = [
    "plain.jpg",
    "two words.jpg",
    "quo'te\".jpg",
    "line\nbreak.jpg",
    "semi;colon,comma.jpg",
    "é中文🐶.jpg",
    "-rf.jpg",
    "%00%2e%2e.jpg",
    "x" * 250 + ".jpg",
]
TEXTS = [
    "<script>alert('x')</script>",
    "'; DROP TABLE captions; --",
    "\u202eright to left\u202c and back",
    "🐶" * 200,
    "tab\tnew\nline\r\nnull\0bell\x07escape\x1b[31m",
    "word " * 20_000,
    "{{template}} ${shell} $(command) `tick`",
    "\ufeffbyte order mark",
]


def test_shard__a_hostile_table_loses_nothing(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=1, splits=("train",))
    picture = next((source.parent / "train").glob("*.jpg")).read_bytes()
    folder = tmp_path / "hostile"
    folder.mkdir()
    rows = []
    for name in NAMES:
        (folder / name).write_bytes(picture)
        rows += [{"image": name, "caption": text} for text in TEXTS]
    rows += [{"image": "y" * 300 + ".jpg", "caption": "a name no file can have"}]
    rows += [{"image": "../../etc/passwd", "caption": "elsewhere"}, {"image": "/etc/passwd", "caption": "absolute"}]
    rows += [{"image": "", "caption": "no name"}, {"image": "plain.jpg", "caption": " .,!? "}]
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["image", "caption"])
        writer.writeheader()
        writer.writerows(rows)
    reading = readers.read("table", folder / "table.csv")
    counts = shard.run(ShardConfig(workers=1), reading=reading, out=tmp_path / "work").counts
    assert counts["captions_read"] == len(rows) == counts["captions_kept"] + counts["captions_dropped"]
    assert (counts["images_kept"], counts["images_dropped"]) == (len(NAMES), 1)
    split = Split(tmp_path / "work", "train")
    texts = {key: [] for key in split.image_keys}
    for row, owner in enumerate(split.caption_owner):
        texts[split.image_keys[owner]].append(split.texts[row])
    assert all(kept == [text.strip() for text in TEXTS] for kept in texts.values())
    drops = pq.read_table(tmp_path / "work/train/drops.parquet").to_pylist()
    assert all(drop["reason"] in REASONS and drop["detail"] for drop in drops)
    assert len(drops) == 1 + 5
    assert verify.run(tmp_path / "work", workers=1).findings == ()
