"""Killed at random moments, full disks, broken tables, hostile folders: what ends is what an undisturbed run ends with.

`CUSA_KILLS` says how often each stage is killed; 30 for a report, few in the everyday suite.
"""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.manifests import store
from cusa.manifests.records import REASONS
from cusa.manifests.samples import Split
from cusa.pipeline import readers, shard, verify
from cusa.pipeline.config import ShardConfig
from tests.pipeline.test_download import BODY, Server, _manifest
from tests.worlds import make_work, write_karpathy

KILLS = int(os.environ.get("CUSA_KILLS", "3"))
ROOT = Path(__file__).resolve().parents[2]

SHARD = """
import sys
from pathlib import Path
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig
source, out, workers, append = sys.argv[1:]
config = ShardConfig(workers=int(workers), max_images=5)
print("go", flush=True)
shard.run(config, reading=readers.read("karpathy", Path(source)), out=Path(out), append=bool(append))
"""

DOWNLOAD = """
import sys
from pathlib import Path
from cusa.manifests import datasets
from cusa.pipeline import download
from cusa.pipeline.config import DownloadConfig
print("go", flush=True)
download.run(DownloadConfig(workers=2), dataset=datasets.load(sys.argv[1]), out=Path(sys.argv[2]))
"""

VERIFY = """
import sys
from pathlib import Path
from cusa.pipeline import verify
print("go", flush=True)
assert not verify.run(Path(sys.argv[1]), workers=1).findings
"""


def _start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def _finish(process: "subprocess.Popen[str]") -> float:
    """Wait for a process; return the seconds it took after its imports."""
    assert process.stdout is not None
    process.stdout.readline()
    start = time.perf_counter()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return time.perf_counter() - start


def _kill(process: "subprocess.Popen[str]", after: float) -> bool:
    """Kill a process some seconds after its imports; tell whether it was still running."""
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


def _bytes(folder: Path) -> dict[str, str]:
    files = (f for f in folder.rglob("*") if f.is_file() and not f.name.endswith("ledger.json"))
    return {f.relative_to(folder).as_posix(): store.sha256_file(f) for f in files}


def _survives(start: Callable[[Path], "subprocess.Popen[str]"], whole: Path, killed: Path) -> int:
    """Run a stage whole, then elsewhere killed at random moments and at last to its end; compare; return the kills.

    A run that ended before it was killed is taken back, so that the next kill has work to hit.
    """
    fresh = killed.with_name("fresh")
    if killed.is_dir():
        shutil.copytree(killed, fresh)
    seconds = _finish(start(whole))
    chance = random.Random(0)
    hit = 0
    for _ in range(KILLS):
        if _kill(start(killed), chance.uniform(0, 0.8 * seconds)):
            hit += 1
        else:
            shutil.rmtree(killed)
            if fresh.is_dir():
                shutil.copytree(fresh, killed)
    _finish(start(killed))
    assert _bytes(killed) == _bytes(whole)
    assert not list(killed.rglob(f"{store.TEMPORARY}*"))
    return hit


def test_shard__killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=60)
    hit = _survives(lambda out: _start(SHARD, source, out, 1, ""), tmp_path / "whole", tmp_path / "killed")
    assert hit


def test_append__killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = write_karpathy(tmp_path / "raw", images=40)
    small = {"dataset": "mini", "images": json.loads(whole.read_text())["images"][::3]}
    (tmp_path / "raw/dataset_small.json").write_text(json.dumps(small))
    for out in ("whole", "killed"):
        _finish(_start(SHARD, tmp_path / "raw/dataset_small.json", tmp_path / out, 1, ""))
    _survives(lambda out: _start(SHARD, whole, out, 1, "append"), tmp_path / "whole", tmp_path / "killed")


def test_download__killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    server = Server()
    manifest = _manifest(server)

    def slowly(handler: BaseHTTPRequestHandler, n: int) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        handler.send_header("ETag", '"1"')
        handler.send_header("Content-Length", str(len(BODY) - start))
        handler.end_headers()
        for at in range(start, len(BODY), 20_000):
            handler.wfile.write(BODY[at : at + 20_000])
            time.sleep(0.01)

    server.behaviour["/plain.bin"] = slowly
    told = manifest.model_dump()
    lines = [f"{name} = {json.dumps(told[name])}" for name in ("name", "title", "licence", "reader", "source")]
    for file in told["files"]:
        lines += ["[[files]]", *(f"{name} = {json.dumps(value)}" for name, value in file.items() if value)]
    (tmp_path / "mini.toml").write_text("\n".join(lines))
    try:
        _survives(lambda out: _start(DOWNLOAD, tmp_path / "mini.toml", out), tmp_path / "whole", tmp_path / "killed")
    finally:
        server.close()


def test_verify__killed_at_random_moments_changes_nothing(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=40, config=ShardConfig(workers=1, max_images=5))
    before = _bytes(work)
    seconds = _finish(_start(VERIFY, work))
    chance = random.Random(1)
    for _ in range(max(2, KILLS // 3)):
        _kill(_start(VERIFY, work), chance.uniform(0, seconds))
    _finish(_start(VERIFY, work))
    assert _bytes(work) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_shard__a_full_disk_is_told_and_gone_on_from(tmp_path: Path) -> None:
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
    assert all(found == [text.strip() for text in TEXTS] for found in texts.values())
    drops = pq.read_table(tmp_path / "work/train/drops.parquet").to_pylist()
    assert all(drop["reason"] in REASONS and drop["detail"] for drop in drops)
    assert len(drops) == 1 + 5
    assert verify.run(tmp_path / "work", workers=1).findings == ()
