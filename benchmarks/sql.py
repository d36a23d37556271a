"""The twenty questions of docs/sql.md over ten million candidates: seconds each, on two cores.

    python benchmarks/sql.py MACHINE

Makes a work folder of 20,000 images and 100,000 captions with 500 candidates an image (tables only, no tars), asks
every question twice, and writes the better times to benchmarks/results/sql-MACHINE-DATE.json.
"""

import json
import re
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from cusa.manifests import schemas
from cusa.manifests.storage import store
from cusa.pipeline.sql.database import connect

IMAGES, CAPTIONS, CANDIDATES = 20_000, 5, 500
QUESTIONS = Path(__file__).parents[1] / "docs/sql.md"
RESULTS = Path(__file__).parent / "results"
WORDS = ("a", "two", "red", "small", "dog", "cat", "bench", "street", "man", "sits", "near", "with", "of", "in")


def strings(values: np.ndarray, names: list[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(values), pa.array(names)).cast(pa.string())


def make(work: Path) -> None:
    rng = np.random.default_rng(0)
    for split, images in (("train", 1000), ("test", IMAGES)):
        folder = work / split
        keys = [f"bench/{split}{row:08d}" for row in range(images)]
        captions = [f"{key}#{position}" for key in keys for position in range(CAPTIONS)]
        sha = [f"{row % (images - 7):064x}" for row in range(images)]
        samples = {"key": keys, "shard": ["00000.tar"] * images, "image_offset": range(images), "sha256": sha}
        samples |= {"image_bytes": [1] * images, "ext": ["jpg"] * images, "width": [640] * images}
        samples |= {"height": [480] * images, "source": keys, "label": [""] * images, "role": [""] * images}
        store.write_table(folder / "samples.parquet", pa.table(samples, schema=schemas.SAMPLES))
        texts = [" ".join(WORDS[i] for i in row) for row in rng.integers(0, len(WORDS), (len(captions), 6))]
        owner = [key for key in keys for _ in range(CAPTIONS)]
        columns = {"caption_key": captions, "key": owner, "position": list(range(CAPTIONS)) * images}
        columns |= {"caption_id": [""] * len(captions), "text": texts}
        store.write_table(folder / "captions.parquet", pa.table(columns, schema=schemas.CAPTIONS))
        shards = {
            "shard": ["00000.tar"],
            "bytes": [1],
            "sha256": ["0"],
            "images": [images],
            "captions": [len(captions)],
        }
        store.write_table(folder / "shards.parquet", pa.table(shards, schema=schemas.SHARDS))
        store.write_table(folder / "drops.parquet", schemas.DROPS.empty_table())
        for name, key, all_keys in (("image", "key", keys), ("text", "caption_key", captions)):
            ids = rng.integers(0, len(all_keys), (len(all_keys), 50))
            table = neighbours(key, all_keys, ids).replace_schema_metadata({"modality": name})
            store.write_table(folder / f"index/neighbours-{name}.parquet", table, rows_per_group=4096)
        pairs = rng.integers(0, images, 100_000), rng.integers(0, len(captions), 100_000)
        truth = [strings(pairs[0], keys), strings(pairs[1], captions)]
        store.write_table(folder / "truth.parquet", pa.table(truth, schema=schemas.TRUTH))
        if split == "test":
            write_candidates(folder, keys, captions, rng)
    per_query(work.parent / "runs/one", rng)


def neighbours(key: str, keys: list[str], ids: np.ndarray) -> pa.Table:
    schema = schemas.neighbour_table(key)
    offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * ids.shape[1])
    near = pa.array(np.sort(np.random.default_rng(1).random(ids.size, dtype=np.float32))[::-1])
    lists = [pa.ListArray.from_arrays(offsets, values) for values in (strings(ids.reshape(-1), keys), near)]
    pair = pa.StructArray.from_arrays(
        [pa.ListArray.from_arrays(offsets, pa.array(ids.reshape(-1))), pa.ListArray.from_arrays(offsets, near)],
        fields=list(schema.field("neighbours").type),
    )
    return pa.table([pa.array(keys), *lists, pair], schema=schema)


def write_candidates(folder: Path, keys: list[str], captions: list[str], rng: np.random.Generator) -> None:
    with store.table_writer(folder / "audit/candidates.parquet", schemas.CANDIDATES) as writer:
        score = np.sort(rng.random(IMAGES * CANDIDATES, dtype=np.float32))[::-1]
        for start in range(0, len(score), 1 << 20):
            part = score[start : start + (1 << 20)]
            image, caption = rng.integers(0, len(keys), len(part)), rng.integers(0, len(captions), len(part))
            ranks = [pa.array(rank, mask=rank > 50) for rank in rng.integers(1, 100, (2, len(part))).astype(np.int32)]
            numbers = [pa.array(part * noise) for noise in rng.uniform(0.8, 1, (3, len(part))).astype(np.float32)]
            duplicate = [pa.array(rng.random(len(part)) < 0.01) for _ in range(2)]
            columns = [strings(image, keys), strings(caption, captions), strings(caption // CAPTIONS, keys)]
            known = pa.array(rng.random(len(part)) < part)
            columns += [*numbers, *ranks, pa.array(part), pa.array(part**2), pa.array(part), *duplicate, known]
            writer.write_table(pa.table(columns, schema=schemas.CANDIDATES))
    groups = {"modality": ["image"] * 2000, "component": [row // 2 for row in range(2000)], "key": keys[:2000]}
    groups |= {"size": [2] * 2000, "exact": [False] * 2000, "similarity": [0.99] * 2000}
    store.write_table(folder / "audit/duplicates.parquet", pa.table(groups, schema=schemas.DUPLICATE_GROUPS))
    leaks = {
        "modality": ["image"] * 1000,
        "key": keys[:1000],
        "other_split": ["train"] * 1000,
        "other_key": keys[:1000],
    }
    leaks |= {"similarity": [0.99] * 1000, "exact": [False] * 1000}
    store.write_table(folder / "audit/leaks.parquet", pa.table(leaks, schema=schemas.LEAKS))


def per_query(run: Path, rng: np.random.Generator) -> None:
    keys = [f"bench/test{row:08d}" for row in range(IMAGES)]
    top = [[f"bench/test{row:08d}#0" for row in rows] for rows in rng.integers(0, IMAGES, (IMAGES, 10))]
    columns = {"task": ["cross-modal"] * IMAGES, "direction": ["image-to-text"] * IMAGES, "query_key": keys}
    columns |= {"rank": rng.integers(1, 1000, IMAGES), "positives": [5] * IMAGES, "r_precision": [0.5] * IMAGES}
    columns |= {"average_precision": [0.5] * IMAGES, "top_keys": top, "top_similarities": [[0.5] * 10] * IMAGES}
    store.write_table(run / "eval/per_query.parquet", pa.table(columns, schema=schemas.PER_QUERY))
    metrics = {"step": range(10_000), "name": ["loss"] * 10_000, "value": rng.random(10_000)}
    store.write_table(run / "metrics.parquet", pa.table(metrics, schema=schemas.METRICS))


def main(machine: str) -> None:
    questions = re.findall(r"^(\d+\. .*?)\n\n```sql\n(.*?)```", QUESTIONS.read_text(), re.DOTALL | re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        make(work)
        seconds: dict[str, float] = {}
        with connect(work) as database:
            for words, question in questions:
                spent = []
                for _ in range(2):
                    start = time.perf_counter()
                    database.run(question)
                    spent.append(time.perf_counter() - start)
                seconds[" ".join(words.split())] = round(min(spent), 3)
                print(f"{seconds[' '.join(words.split())]:8.3f} s  {words.splitlines()[0]}")
    summary = {
        "candidates": IMAGES * CANDIDATES,
        "questions": len(seconds),
        "median_seconds": statistics.median(seconds.values()),
        "slowest_seconds": max(seconds.values()),
        "seconds": seconds,
    }
    print(json.dumps({name: value for name, value in summary.items() if name != "seconds"}, indent=1))
    path = RESULTS / f"sql-{machine}-{date.today()}.json"
    path.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
