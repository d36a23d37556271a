"""The stream: the loader against decode + resize alone, host memory at eight times the data, a seek in 10^8 pairs.

    python benchmarks/stream.py            # from the repository's root

Ratios within one run; writes benchmarks/results/stream-<machine>-<date>.json.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

THREADS = 2


def status() -> dict[str, float]:
    """Return this process's memory in MiB: the peak with mapped files, and what is its own now.

    Not `ru_maxrss`, which a new process inherits from the one that started it.
    """
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {
        "peak_rss": int(fields["VmHWM"].split()[0]) / 1024,
        "own": int(fields["RssAnon"].split()[0]) / 1024,
    }


def photographs(folder: Path, images: int, captions: int = 5, size: tuple[int, int] = (640, 480)) -> Path:
    """Shard smooth pictures of photographs' size in Karpathy's layout."""
    from cusa.pipeline import readers
    from cusa.pipeline.config import ShardConfig
    from cusa.pipeline.shard import stage as shard

    rng = np.random.default_rng(0)
    rows = []
    (folder / "raw").mkdir(parents=True)
    for number in range(images):
        name = f"{number:06d}.jpg"
        coarse = rng.integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / "raw" / name, quality=90)
        words = [
            f"picture {number} seen from side {side}, a photograph of nothing in particular" for side in range(captions)
        ]
        sentences = [{"raw": text, "sentid": number * captions + i} for i, text in enumerate(words)]
        rows.append({"filename": name, "imgid": number, "split": "train", "sentences": sentences})
    (folder / "raw" / "dataset_mini.json").write_text(json.dumps({"images": rows, "dataset": "mini"}))
    reading = readers.read("karpathy", folder / "raw" / "dataset_mini.json", folder / "raw")
    shard.run(ShardConfig(workers=1, max_images=500), reading=reading, out=folder / "work")
    return folder / "work"


class Reader:
    """A student's reading side: CLIP's preprocessing, and tokens that cost nothing."""

    def __init__(self) -> None:
        from cusa.models.preprocess import Preprocess

        self.preprocess = Preprocess()

    def image_array(self, image: Image.Image) -> np.ndarray:
        return self.preprocess.array(image)

    def tokenize(self, texts):  # noqa: ANN001, ANN201
        import torch

        return {"length": torch.tensor([[len(text)] for text in texts])}


def loader(folder: Path) -> dict[str, float]:
    from cusa.manifests.samples import Split
    from cusa.models.preprocess import decode_rgb
    from cusa.train.data.order import Order
    from cusa.train.data.pairs import Pairs
    from cusa.train.data.stream import PairStream, Pictures, batches

    work = photographs(folder, 400, captions=1)
    split = Split(work, "train")
    order = Order(split.num_captions, 50, 0)
    encoded = [split.image_bytes(row) for row in range(split.num_images)]
    reader = Reader()

    def alone(draft: int) -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda data: reader.image_array(decode_rgb(data, draft=draft)), encoded))
        return len(encoded) / (time.perf_counter() - start)

    def stream(draft: int) -> float:
        made = PairStream(Pairs(split), order, reader, pictures=Pictures(draft=draft))
        start = time.perf_counter()
        count = sum(len(batch.keys) for batch in batches(made, 0, order.steps_per_epoch, threads=THREADS))
        return count / (time.perf_counter() - start)

    rates: dict[str, list[float]] = {"alone": [], "stream": [], "alone_scaled": [], "stream_scaled": []}
    for _ in range(3):  # turn and turn about: others use this machine, too
        for draft, ending in ((0, ""), (224, "_scaled")):
            rates[f"alone{ending}"].append(alone(draft))
            rates[f"stream{ending}"].append(stream(draft))
    best = {name: max(values) for name, values in rates.items()}
    return {
        **{f"{name}_images_per_second": value for name, value in best.items()},
        "stream_to_alone": best["stream"] / best["alone"],
        "scaled_to_exact": best["stream_scaled"] / best["stream"],
    }


_MEMORY = """
import sys, json, dataclasses
sys.path.insert(0, "benchmarks")
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from cusa.manifests.samples import Split
from cusa.train.data.gather import TeacherRows
from cusa.train.data.order import Order
from cusa.train.data.pairs import Pairs
from cusa.train.data.stream import PairStream, Pictures, Tables, batches
from stream import Reader, status
split = Split(Path(sys.argv[1]), "train")
out = Path(sys.argv[1]) / "out"
rows = {kind: TeacherRows(split, f"noise-{kind}", fallback=out) for kind in ("image", "text")}
order = Order(split.num_captions, 128, 0)
stream = PairStream(Pairs(split), order, Reader(), tables=Tables(teachers=rows), pictures=Pictures(16 << 20))
for batch in batches(stream, 0, int(sys.argv[2]), threads=2):
    pass
print(json.dumps({**status(), "pairs": order.pairs, "files_mib": sum(r.nbytes for r in rows.values()) >> 20}))
"""


def sha256_of(key: str) -> bytes:
    """Return what stands for a row's content."""
    return hashlib.sha256(key.encode()).digest()


def noise_teachers(split) -> None:  # noqa: ANN001
    """Write the tables of two teachers that give noise: 512 numbers a row, float16."""
    from cusa.manifests import tables

    rng = np.random.default_rng(1)
    for shard, sha256, of_images, of_captions in split.shard_rows():
        for kind, rows, keys in (("image", of_images, split.image_keys), ("text", of_captions, split.caption_keys)):
            embeddings = rng.normal(size=(len(rows), 512)).astype(np.float32)
            embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
            tables.write_teacher_part(
                split.folder / "teachers" / f"noise-{kind}" / f"{Path(shard).stem}.parquet",
                modality=kind,
                keys=keys[rows.start : rows.stop],
                contents=pa.array([sha256_of(key) for key in keys[rows.start : rows.stop]], pa.binary(32)),
                embeddings=embeddings.astype(np.float16),
                metadata={"teacher": f"noise-{kind}", "modality": kind, "shard_sha256": sha256},
            )


def memory(folder: Path) -> dict[str, object]:
    """Build the caches and read the same number of batches from a small split and from one of eight times the data."""
    from cusa.manifests.samples import Split

    found = {}
    for name, images in (("small", 2500), ("large", 20000)):
        work = photographs(folder / name, images, size=(64, 64))
        noise_teachers(Split(work, "train"))
        done = [
            subprocess.run([sys.executable, "-c", _MEMORY, str(work), "60"], capture_output=True, text=True, check=True)
            for _ in range(2)  # first with building the caches, then with caches in place
        ]
        found[name] = {"building": json.loads(done[0].stdout), "built": json.loads(done[1].stdout)}
    ratios = {
        f"{state}_{what}": found["large"][state][what] / found["small"][state][what]
        for state in ("building", "built")
        for what in ("own", "peak_rss")
    }
    return {**found, "large_to_small": ratios}


_SEEK = """
import sys, json, time
sys.path.insert(0, "benchmarks")
from stream import status
from pathlib import Path
import numpy as np
from cusa.train.data.order import Order
from cusa.train.data.rows import Rows, Strings
folder = Path(sys.argv[1])
before = status()
start = time.perf_counter()
owner = Rows(folder / "owner", "<i8")
texts = Strings(folder / "text")
rows = Order(100_000_000, 512, 0).rows(1_000_000)
words = [texts[row] for row in rows]
images = owner[rows]
seconds = time.perf_counter() - start
assert all(words[i] == f"{int(rows[i]) % 1_000_000:06d}" for i in range(512))
assert np.array_equal(images, rows // 5)
print(json.dumps({"seconds": seconds, **status(), "own_before": before["own"], "pairs": len(texts)}))
"""


def seek(folder: Path) -> dict[str, float]:
    """Write owners and words of 10^8 captions, and look up step 10^6 in a process that knows nothing yet."""
    from cusa.train.data.pairs import Writer

    folder.mkdir()
    writer = Writer(folder)
    words = [f"{number:06d}" for number in range(1_000_000)]
    for block in range(100):
        first = block * 1_000_000
        writer.numbers("owner", np.arange(first, first + 1_000_000) // 5)
        writer.strings("text", words)
    done = subprocess.run([sys.executable, "-c", _SEEK, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Measure all three and write them down."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        found = {"machine": "2-core-x86", "threads": THREADS, "loader": loader(folder / "loader")}
        print(json.dumps(found["loader"], indent=1))
        found["seek"] = seek(folder / "seek")
        print(json.dumps(found["seek"], indent=1))
        found["memory"] = memory(folder / "memory")
        print(json.dumps(found["memory"], indent=1))
    out = Path(__file__).parent / "results" / f"stream-2-core-x86-{time.strftime('%Y-%m-%d')}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
