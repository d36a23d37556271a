"""Speed and memory of ranking against the bare matrix product, in one run: COCO 5K and iNaturalist's size.

- COCO 5K: 5,000 images x 25,000 captions, D = 512, ranked both ways, against the one product of all with all.
- All metrics of COCO 5K, COCO 1K, CxC and ECCV Caption from the same embeddings, against that ranking.
- iNaturalist: 136,093 images, D = 512, R@1, R-Precision and mAP@R with the query left out: a slice of the queries
  against the whole gallery (all queries take as many times longer as there are slices), against the bare blocked
  product.

Each measurement is a process of its own. Memory is the peak beyond what the process held with its embeddings made.

    python benchmarks/ranking.py [queries of iNaturalist, default 8192] [--out FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from cusa.eval.config import EvalConfig
from cusa.eval.ranking import rank, score_blocks
from cusa.eval.scores import Cosines
from cusa.eval.tasks import coco as coco_tasks
from cusa.eval.tasks import cross_modal, uni_modal
from cusa.manifests.judgements import eccv_truth

WIDTH = 512
CONFIG = EvalConfig(ks=(1, 5, 10))
INATURALIST, CLASSES = 136_093, 2_452


def unit_rows(rng: np.random.Generator, centres: np.ndarray, noise: float) -> np.ndarray:
    """Return unit rows around some centres, float32."""
    rows = centres + noise * rng.standard_normal(centres.shape, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def coco() -> dict[str, Any]:
    """Rank 5,000 x 25,000 both ways; then every metric of the four ground truths."""
    folder = eccv_truth.official_folder()
    assert folder is not None, "install eccv-caption"
    truths = eccv_truth.read(folder)
    own = truths.text_to_image["coco"]
    image_ids = list(dict.fromkeys(own[int(number)][0] for number in truths.caption_ids))
    row = {number: at for at, number in enumerate(image_ids)}
    owner = np.array([row[own[int(number)][0]] for number in truths.caption_ids])
    rng = np.random.default_rng(0)
    base = rng.standard_normal((len(image_ids), WIDTH), dtype=np.float32)
    images, texts = unit_rows(rng, base, 1.0), unit_rows(rng, base[owner], 4.0)
    del base
    gallery = coco_tasks.Gallery(truths, image_ids, truths.caption_ids.tolist())
    of_image, of_caption = cross_modal.owned(owner, len(images))
    scores = Cosines(images, texts)

    def ranked() -> Any:
        return cross_modal.rank_both_ways(scores, of_image, of_caption, CONFIG)

    def every_metric() -> Any:
        return list(coco_tasks.score(scores, gallery, truths, CONFIG))

    rank([np.eye(4, dtype=np.float32)], [np.array([0])] * 4)  # the libraries are loaded
    both, grew = peak(ranked)
    rsum = cross_modal.recalls(both, CONFIG.ks)["rsum"]
    del both
    seconds = best_of(3, lambda: product(images, texts, 512), ranked, every_metric)
    return {
        "images": len(images),
        "captions": len(texts),
        "rsum": round(rsum, 2),
        "product_seconds": seconds[0],
        "ranking_both_ways_seconds": seconds[1],
        "ranking_over_product": seconds[1] / seconds[0],
        "memory_beyond_embeddings_mb": grew,
        "all_metrics_seconds": seconds[2],
        "all_metrics_over_ranking": seconds[2] / seconds[1],
    }


def inaturalist(queries: int) -> dict[str, Any]:
    """Rank a slice of the queries within the whole set, itself left out."""
    rng = np.random.default_rng(0)
    label = rng.permutation(np.arange(INATURALIST) % CLASSES)
    centres = rng.standard_normal((CLASSES, WIDTH), dtype=np.float32)
    rows = np.empty((INATURALIST, WIDTH), np.float32)
    for start in range(0, INATURALIST, 8192):
        rows[start : start + 8192] = unit_rows(rng, centres[label[start : start + 8192]], 3.0)
    some = rows[:queries]
    right = uni_modal.same_label(label.tolist())[:queries]
    itself = np.arange(queries)

    def ranked() -> Any:
        return rank(score_blocks(some, rows, CONFIG.block), right, exclude=itself, top=CONFIG.top)

    found, grew = peak(ranked)
    at_one = uni_modal.scores(found, (1,))["r@1"]
    seconds = best_of(2, lambda: product(some, rows, 120), ranked)
    whole = INATURALIST / queries
    return {
        "gallery": INATURALIST,
        "queries_measured": queries,
        "r@1": round(at_one, 2),
        "product_seconds": seconds[0],
        "ranking_seconds": seconds[1],
        "ranking_over_product": seconds[1] / seconds[0],
        "memory_beyond_embeddings_mb": grew,
        "whole_set_minutes_at_this_rate": seconds[1] * whole / 60,
    }


def product(queries: np.ndarray, gallery: np.ndarray, block: int) -> None:
    """Multiply all with all, in blocks, into the same memory, and look at nothing."""
    out = np.empty((block, len(gallery)), np.float32)
    for start in range(0, len(queries), block):
        some = queries[start : start + block]
        np.matmul(some, gallery.T, out=out[: len(some)])


def best_of(runs: int, *functions: Callable[[], Any]) -> list[float]:
    """Return the seconds of each function, the fastest of some runs, taken in turns on the same machine."""
    found = [float("inf")] * len(functions)
    for _ in range(runs):
        for number, function in enumerate(functions):
            start = time.perf_counter()
            function()
            found[number] = min(found[number], time.perf_counter() - start)
    return found


def peak(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and by how many MB the process grew at most while it ran."""
    before, most, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = function()
    done.set()
    watcher.join()
    return result, (max(most, resident()) - before) / 1e6


def resident() -> int:
    """Return the bytes this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure both, each in a process of its own, and write the result down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("queries", nargs="?", type=int, default=8192)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=("coco", "inaturalist"))
    told = parser.parse_args()
    if told.only:
        print(json.dumps(coco() if told.only == "coco" else inaturalist(told.queries)))
        return
    found: dict[str, Any] = {"machine": "2-core-x86", "cpu": cpu(), "numpy": np.__version__, "width": WIDTH}
    for name in ("coco", "inaturalist"):
        command = [sys.executable, __file__, str(told.queries), "--only", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[name] = {key: rounded(value) for key, value in json.loads(done.stdout).items()}
        print(json.dumps({name: found[name]}, indent=1))
    out = told.out or Path(__file__).parent / "results" / f"ranking-2-core-x86-{date.today().isoformat()}.json"
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(out)


def cpu() -> str:
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def rounded(value: Any) -> Any:
    """Return a figure as a person reads it."""
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
