"""Speed and memory of `cusa shard` and `cusa verify`, as ratios within one run.

    python benchmarks/shard.py SHARED_DATA [--part plain|large|resize|ray|grown ...]      # default: all, 15 minutes

The data: coco-mini's photographs, repeated under new keys as files of their own: 40,000 as they are (256 pixels,
28 KB), and 12,000 scaled up before the clock starts to nearly what COCO's own are (640 pixels, 125 KB; those have 160).

`cat` is one process and one thread that does what cannot be left out: read every file once, compute the SHA-256 of each
image and of each 1,000, write the bytes into one file for each 1,000, fsync each. It lists no folder, checks no image,
writes no captions, headers or tables. `shard` is the whole stage in a process of its own: reading the annotations,
planning, checking every image, tars, tables, ledger. Its clock starts once its modules are imported (that takes
`import_seconds`, whatever the data), and runs while its worker processes start. pandas is hidden, as in an installation
for use: where the development tools have brought it, pyarrow imports it in every process.

Everything is run three times in turn (what is made smaller twice), and the shortest times are compared, with the CPU
seconds that all processes together took, and `others`: the cores that other programs kept busy meanwhile, which should
be next to none; workers on Ray are such programs.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

ROUNDS = 3
MEASURE = """
import time
begin = time.perf_counter()
import json, os, sys
from pathlib import Path
{imports}
def main():
    start = time.perf_counter()
{body}
    seconds = time.perf_counter() - start
    peak = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) / 1024
    import resource
    peak = max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    print(json.dumps({{"seconds": seconds, "import_seconds": start - begin, "cpu": sum(os.times()[:4]), "MiB": peak}}))
if __name__ == "__main__":
    main()
"""
IMPORTS = "from cusa.pipeline import readers, shard, tar, verify\nfrom cusa.pipeline.config import ShardConfig"
SHARD = """
    source = Path({source!r})
    from cusa.pipeline.engine import Engine
    shard.run(ShardConfig(workers={workers}, max_images={tar}, resize={resize}), engine=Engine(*{engine!r}),
              reading=readers.read("karpathy", source, source.parent / "images"), out=Path({out!r}))
"""
VERIFY = """
    assert not verify.run(Path({out!r}), workers=1).findings
"""


def make_source(folder: Path, pictures: Path, *, images: int, scale: int = 0, quality: int = 92) -> Path:
    """Write a Karpathy file of `images` images, coco-mini's own repeated, as files of their own."""
    rows = json.loads((pictures / "dataset_coco.json").read_text())["images"]
    scaled: dict[str, bytes] = {}
    out = []
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        row = rows[number % len(rows)]
        original = pictures / row["filepath"] / row["filename"]
        if row["filename"] not in scaled:
            scaled[row["filename"]] = _scaled(original, scale, quality)
        name = f"{number:08d}.jpg"
        (folder / "images" / name).write_bytes(scaled[row["filename"]])
        out.append({"filename": name, "split": "train", "sentences": row["sentences"]})
    path = folder / "dataset_repeated.json"
    path.write_text(json.dumps({"images": out, "dataset": "repeated"}))
    return path


def _scaled(path: Path, longer: int, quality: int) -> bytes:
    if not longer:
        return path.read_bytes()
    with Image.open(path) as image:
        factor = longer / max(image.size)
        target = io.BytesIO()
        image.resize((round(image.width * factor), round(image.height * factor))).save(target, "JPEG", quality=quality)
        return target.getvalue()


def cat(images: Path, out: Path, *, number: int) -> dict[str, float]:
    """Read every image and write all into files of 1,000, with a digest of each image and of each file."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    before, start = sum(os.times()[:2]), time.perf_counter()
    for first in range(0, number, 1000):
        total = hashlib.sha256()
        with (out / f"{first:08d}").open("wb") as target:
            for one in range(first, min(number, first + 1000)):
                with open(f"{images}/{one:08d}.jpg", "rb", buffering=0) as file:
                    data = file.read()
                hashlib.sha256(data).hexdigest()
                total.update(data)
                target.write(data)
            target.flush()
            os.fsync(target.fileno())
    return {"seconds": time.perf_counter() - start, "cpu": sum(os.times()[:2]) - before}


def measure(body: str, out: Path | None = None) -> dict[str, float]:
    """Run a stage in a process of its own."""
    if out is not None:
        shutil.rmtree(out, ignore_errors=True)
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script, tempfile.TemporaryDirectory() as hidden:
        Path(hidden, "pandas.py").write_text("raise ImportError('hidden')\n")
        script.write(MEASURE.format(imports=IMPORTS, body=body))
        script.flush()
        told = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), hidden))}
        done = subprocess.run([sys.executable, script.name], capture_output=True, text=True, env=told)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def busy() -> float:
    """Return the CPU seconds that all programs of this machine have taken so far."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def in_turn(*, rounds: int = ROUNDS, **jobs: Callable[[], dict[str, float]]) -> dict[str, dict[str, float]]:
    """Run jobs one after another, several times, and return the shortest run of each."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, job in jobs.items():
            before, start = busy(), time.perf_counter()
            row = job()
            row["others"] = max(0.0, (busy() - before - row["cpu"]) / (time.perf_counter() - start))
            if name not in best or row["seconds"] < best[name]["seconds"]:
                best[name] = row
    return {name: {key: round(value, 3) for key, value in row.items()} for name, row in best.items()}


def speed(root: Path, pictures: Path, *, images: int, scale: int, quality: int = 92) -> dict[str, object]:
    """Compare `cat` with sharding by one and by two processes."""
    source = make_source(root / "source", pictures, images=images, scale=scale, quality=quality)
    bytes_ = sum(file.stat().st_size for file in (root / "source/images").iterdir())

    def sharding(workers: int) -> Callable[[], dict[str, float]]:
        told = {"source": str(source), "out": str(root / "out"), "workers": workers, "resize": 0, "tar": 1000}
        return lambda: measure(SHARD.format(engine=(), **told), root / "out")

    found = in_turn(
        cat=lambda: cat(root / "source/images", root / "cat", number=images), one=sharding(1), two=sharding(2)
    )
    ratios = {
        f"speed of {name} process{'es' * (name == 'two')}, cat = 1": round(
            found["cat"]["seconds"] / found[name]["seconds"], 2
        )
        for name in ("one", "two")
    }
    per_image = {name: round(1e6 * row["seconds"] / images) for name, row in found.items()}
    return {"images": images, "MB": round(bytes_ / 1e6, 1), **ratios, "microseconds an image": per_image, **found}


def resize(root: Path, pictures: Path) -> dict[str, object]:
    """Compare one process with two where images are made smaller, which the processor bounds."""
    found = in_turn(rounds=2, **{name: smaller(root, pictures, number) for name, number in (("one", 1), ("two", 2))})
    ratio = round(found["one"]["seconds"] / found["two"]["seconds"], 2)
    return {"images": 6000, "2 processes are so many times as fast as 1": ratio, **found}


def ray(root: Path, pictures: Path) -> dict[str, object]:
    """Compare one local process with two workers of a running Ray cluster."""
    with cluster() as address:
        one, two = smaller(root, pictures, 1), smaller(root, pictures, 2, "ray", address)
        found = in_turn(rounds=2, one_local=one, two_on_ray=two)
    assert found["two_on_ray"]["cpu"] < found["one_local"]["cpu"] / 2, "the work was not done on Ray"
    ratio = round(found["one_local"]["seconds"] / found["two_on_ray"]["seconds"], 2)
    return {"images": 6000, "2 Ray workers are so many times as fast as 1 local": ratio, **found}


def smaller(root: Path, pictures: Path, workers: int, *engine: str) -> Callable[[], dict[str, float]]:
    """Return the job of making 6,000 images smaller."""
    source = root / "source/dataset_repeated.json"
    if not source.is_file():
        make_source(root / "source", pictures, images=6000, scale=640)
    told = {"source": str(source), "out": str(root / "out"), "workers": workers, "resize": 256, "tar": 125}
    return lambda: measure(SHARD.format(engine=engine, **told), root / "out")


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """Run a Ray cluster of two workers on this machine; give its address."""
    ray, told = Path(sys.executable).parent / "ray", {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    start = ["start", "--head", "--port=6399", "--num-cpus=2", "--include-dashboard=false"]
    subprocess.run([ray, *start], check=True, capture_output=True, env=told)
    try:
        yield "127.0.0.1:6399"
    finally:
        subprocess.run([ray, "stop"], check=True, capture_output=True, env=told)


def grown(root: Path, pictures: Path, *, images: int = 1000) -> dict[str, object]:
    """Measure memory and time at eight times the data."""
    results: dict[str, object] = {"images": [images, 8 * images]}
    sources = {n: make_source(root / f"source-{n}", pictures, images=n * images) for n in (1, 8)}

    def sharding(n: int) -> Callable[[], dict[str, float]]:
        told = {"source": str(sources[n]), "out": str(root / f"out-{n}"), "workers": 1, "resize": 0, "tar": 1000}
        return lambda: measure(SHARD.format(engine=(), **told), root / f"out-{n}")

    def verifying(n: int) -> Callable[[], dict[str, float]]:
        return lambda: measure(VERIFY.format(out=str(root / f"out-{n}")))

    for stage, job in (("shard", sharding), ("verify", verifying)):
        found = in_turn(once=job(1), eight=job(8))
        results[stage] = {
            "time_ratio": round(found["eight"]["seconds"] / found["once"]["seconds"], 2),
            "memory_ratio": round(found["eight"]["MiB"] / found["once"]["MiB"], 3),
            **found,
        }
    return results


PARTS: dict[str, Callable[[Path, Path], dict[str, object]]] = {
    "plain": lambda root, pictures: speed(root, pictures, images=40_000, scale=0),
    "large": lambda root, pictures: speed(root, pictures, images=12_000, scale=640, quality=98),
    "resize": resize,
    "ray": ray,
    "grown": grown,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--part", action="append", choices=PARTS)
    told = parser.parse_args()
    target = Path(__file__).parent / "results" / f"shard-2-core-x86-{time.strftime('%Y-%m-%d')}.json"
    before = json.loads(target.read_text()) if told.part and target.is_file() else {}
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    results = {
        **before,
        "cpu": model.partition(":")[2].strip(),
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
    }
    for part in told.part or PARTS:
        with tempfile.TemporaryDirectory() as root:
            results[part] = PARTS[part](Path(root), told.shared / "coco-mini")
        print(part, json.dumps(results[part], indent=1), flush=True)
        target.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
