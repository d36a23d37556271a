"""Speed and memory of `cusa shard` and `cusa verify`, as ratios within one run.

    python benchmarks/shard.py SHARED_DATA [--images 1000]

Photographs: coco-mini's, repeated under new keys. `cat` reads and writes the same bytes with the same two digests (of
each image, of each 1,000) and fsyncs. Also at the size COCO has (640 pixels), scaled up once before the clock starts.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

MEASURE = """
import json, resource, sys, time
from pathlib import Path
start = time.perf_counter()
{body}
seconds = time.perf_counter() - start
kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
print(json.dumps([seconds, max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024]))
"""
SHARD = """
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig
source = Path({source!r})
config = ShardConfig(workers={workers}, max_images=250, resize={resize})
shard.run(config, reading=readers.read("karpathy", source, source.parent / "images"), out=Path({out!r}))
"""
VERIFY = """
from cusa.pipeline import verify
assert not verify.run(Path({out!r}), workers=1).findings
"""


def make_source(folder: Path, pictures: Path, *, images: int, scale: int = 0) -> Path:
    """Write a Karpathy file of `images` images, coco-mini's own repeated, as files of their own."""
    rows = json.loads((pictures / "dataset_coco.json").read_text())["images"]
    scaled: dict[str, bytes] = {}
    out = []
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        row = rows[number % len(rows)]
        original = pictures / row["filepath"] / row["filename"]
        if row["filename"] not in scaled:
            scaled[row["filename"]] = _scaled(original, scale)
        name = f"{number:08d}.jpg"
        (folder / "images" / name).write_bytes(scaled[row["filename"]])
        out.append({"filename": name, "split": "train", "sentences": row["sentences"]})
    path = folder / "dataset_repeated.json"
    path.write_text(json.dumps({"images": out, "dataset": "repeated"}))
    return path


def _scaled(path: Path, longer: int) -> bytes:
    if not longer:
        return path.read_bytes()
    with Image.open(path) as image:
        factor = longer / max(image.size)
        target = io.BytesIO()
        image.resize((round(image.width * factor), round(image.height * factor))).save(target, "JPEG", quality=92)
        return target.getvalue()


def cat(folder: Path, out: Path) -> float:
    """Read every image and write all into files of 250, with a digest of each image and of each file."""
    out.mkdir()
    start = time.perf_counter()
    files = sorted((folder / "images").iterdir())
    for number in range(0, len(files), 250):
        total = hashlib.sha256()
        with (out / f"{number:05d}").open("wb") as target:
            for file in files[number : number + 250]:
                data = file.read_bytes()
                hashlib.sha256(data).hexdigest()
                total.update(data)
                target.write(data)
            target.flush()
            os.fsync(target.fileno())
    return time.perf_counter() - start


def measure(body: str) -> tuple[float, float]:
    """Run a stage in a process of its own; return its seconds and its peak memory in MiB."""
    code = MEASURE.format(body=body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def best(body: str, out: Path, times: int = 3) -> tuple[float, float]:
    found = []
    for _ in range(times):
        shutil.rmtree(out, ignore_errors=True)
        found.append(measure(body))
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shared", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    told = parser.parse_args()
    pictures = told.shared / "coco-mini"
    results: dict[str, object] = {"images": told.images, "python": sys.version.split()[0], "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for label, scale in (("256 pixels, as coco-mini has them", 0), ("640 pixels, as COCO has them", 640)):
            folder = root / f"source-{scale}"
            source = make_source(folder, pictures, images=told.images, scale=scale)
            size = sum(file.stat().st_size for file in (folder / "images").iterdir())
            copied = min(cat(folder, root / f"cat-{scale}-{i}") for i in range(3))
            row = {"MB": round(size / 1e6, 1), "cat_seconds": round(copied, 3)}
            for workers in (1, 2):
                body = SHARD.format(source=str(source), out=str(root / "out"), workers=workers, resize=0)
                seconds, peak = best(body, root / "out")
                row[f"shard_{workers}_seconds"] = round(seconds, 3)
                row[f"shard_{workers}_speed_of_cat"] = round(copied / seconds, 2)
            results[label] = row
        resized = {}
        for workers in (1, 2):
            source = root / "source-640/dataset_repeated.json"
            body = SHARD.format(source=str(source), out=str(root / "out"), workers=workers, resize=256)
            resized[workers] = best(body, root / "out", times=2)[0]
        results["resize 640 to 256: 2 processes are so many times 1"] = round(resized[1] / resized[2], 2)
        eight = make_source(root / "eight", pictures, images=8 * told.images)
        one = root / "source-0/dataset_repeated.json"
        for stage in ("shard", "verify"):
            found = {}
            for times, source in ((1, one), (8, eight)):
                out = root / f"work-{times}"
                if stage == "shard":
                    shutil.rmtree(out, ignore_errors=True)
                    found[times] = measure(SHARD.format(source=str(source), out=str(out), workers=1, resize=0))
                else:
                    found[times] = measure(VERIFY.format(out=str(out)))
            results[f"{stage}, 8 x the data"] = {
                "seconds": [round(found[t][0], 2) for t in (1, 8)],
                "time_ratio": round(found[8][0] / found[1][0], 2),
                "peak_MiB": [round(found[t][1]) for t in (1, 8)],
                "memory_ratio": round(found[8][1] / found[1][1], 2),
            }
    print(json.dumps(results, indent=1))
    target = Path(__file__).parent / "results" / f"shard-2-core-x86-{time.strftime('%Y-%m-%d')}.json"
    target.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
