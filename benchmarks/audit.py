"""The audit against the bare blocked products: time and memory, four times the data, and planted pairs found.

    python benchmarks/audit.py MACHINE [IMAGES]          # five captions an image; 20,000 by default
    python benchmarks/audit.py MACHINE IMAGES --p        # only the products and the audit with a probability

Synthetic teachers of 512 and 768 numbers: images lie in clusters, captions near a point of their image's, and some
images and captions are copies of others with a little noise. In a process of its own each, so that memory is its own:
the bare products (every row against every row, blocked, nothing kept), the audit as the pipeline does it (neighbours of
both, then candidates, best first), both again at a quarter of the size, the second also with inverted lists, and the
audit with `p_positive` by a shipped calibration. On a machine that others use, the processor's time is the fairer
measure, with one thread (OMP_NUM_THREADS=1: threads that wait for each other take time too), so it is kept. At a
smaller size than 20,000 images the ratio there is told from the parts: products and search grow with the square of the
rows, all else with the rows, but for the sampling that chooses the depth, whose pairs are the same number at any size.
Writes benchmarks/results/audit-MACHINE-DATE.json, with `--p` audit-p-MACHINE-DATE.json.
"""

import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
CAPTIONS, K, PER_IMAGE, PLANTED = 5, 50, 200, 200
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
ASKED = 20_000  # images at which a ratio is asked for


def peak() -> float:
    """Return this process's peak memory in GiB."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) / 2**20


def world(images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return image rows, caption rows, owners, and planted pairs of images, (P, 2)."""
    rng = np.random.default_rng(0)

    def unit(rows: np.ndarray) -> np.ndarray:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    clusters = max(20, images // 40)
    topic = rng.integers(0, clusters, images)
    out = []
    planted = rng.permutation(images)[: 2 * PLANTED].reshape(PLANTED, 2)
    owner = np.repeat(np.arange(images), CAPTIONS)
    for width, repeat in ((512, 1), (768, CAPTIONS)):
        centres = rng.standard_normal((clusters, width), dtype=np.float32)
        rows = centres[topic] + 0.7 * rng.standard_normal((images, width), dtype=np.float32)
        rows[planted[:, 1]] = rows[planted[:, 0]] + 0.01 * rng.standard_normal((PLANTED, width), dtype=np.float32)
        if repeat > 1:
            rows = rows[owner]
            rows += 0.5 * rng.standard_normal(rows.shape, dtype=np.float32)
            copies = planted * CAPTIONS
            rows[copies[:, 1]] = rows[copies[:, 0]] + 0.01 * rng.standard_normal((PLANTED, width), dtype=np.float32)
        out.append(unit(rows))
    return out[0], out[1], owner, planted


def products(images: int) -> dict[str, Any]:
    """Multiply every row with every row, blocked, and keep nothing."""
    import torch

    torch.set_num_threads(THREADS)
    pictures, captions, _, _ = world(images)
    start, cpu = time.perf_counter(), time.process_time()
    for rows in (torch.from_numpy(pictures), torch.from_numpy(captions)):
        out = torch.empty(1024, 8192)
        for first in range(0, len(rows), 1024):
            for second in range(0, len(rows), 8192):
                a, b = rows[first : first + 1024], rows[second : second + 8192]
                torch.mm(a, b.T, out=out[: len(a), : len(b)])
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "peak_gib": peak()}


def audit(images: int, method: str = "exact") -> dict[str, Any]:
    """Find neighbours and candidates as `cusa index` and `cusa audit` do."""
    import faiss

    from cusa.pipeline.config import IndexConfig
    from cusa.pipeline.index import approximate
    from cusa.pipeline.index.exact import nearest_rows
    from cusa.pipeline.index.neighbours import Modality
    from cusa.pipeline.pairs.candidates import Finder, find_all, merge

    faiss.omp_set_num_threads(THREADS)
    pictures, captions, owner, planted = world(images)
    start = time.perf_counter()
    config = IndexConfig(neighbours=K, latency=1e6)
    near, recall = [], []
    for rows in (pictures, captions):
        if method == "exact":
            near.append(nearest_rows(rows, K))
            continue
        plan = approximate.choose(len(rows), rows.shape[1], config.model_copy(update={"method": "ivf"}))
        index = approximate.build(rows, plan)
        recall.append(approximate.tune(index, rows, K, config).recall)
        near.append(approximate.neighbours(index, rows, K, exact_rows=plan.exact_rows))
        del index
    searched = time.perf_counter() - start
    finder = Finder(
        owner,
        images=Modality(pictures, near[0]),
        texts=Modality(captions, near[1]),
        image_content=np.arange(len(pictures)),
        caption_content=np.arange(len(captions)),
    )
    candidates = merge(list(find_all(finder, num_images=len(pictures), per_image=PER_IMAGE)))
    seconds = time.perf_counter() - start
    # Of each planted pair: the copied caption for the other image, both ways.
    codes = candidates.image.astype(np.int64) * len(captions) + candidates.caption
    wanted = np.concatenate([planted[:, i] * len(captions) + planted[:, 1 - i] * CAPTIONS for i in (0, 1)])
    return {
        "seconds": seconds,
        "search_seconds": searched,
        "candidates": len(codes),
        "planted_found": float(np.isin(wanted, codes).mean()),
        "recall": recall or [1.0, 1.0],
        "peak_gib": peak(),
    }


def audit_p(images: int) -> dict[str, Any]:
    """Find neighbours and candidates with their probability, as `cusa index` and `cusa audit` do."""
    from types import SimpleNamespace

    import faiss

    from cusa.pipeline.audit.scoring import PairScorer
    from cusa.pipeline.calibrate import calibration, shipped
    from cusa.pipeline.config import AuditConfig
    from cusa.pipeline.index.exact import nearest_rows
    from cusa.pipeline.index.neighbours import Modality
    from cusa.pipeline.pairs.candidates import Finder, find_all, merge
    from cusa.pipeline.pairs.features import Encodings, PairFeatures
    from cusa.pipeline.pairs.image_text_map import Examples, predict_out_of_fold

    faiss.omp_set_num_threads(THREADS)
    pictures, captions, owner, _ = world(images)
    words = np.random.default_rng(0).zipf(1.5, (len(owner), 9)) % 5000
    texts = [" ".join(f"w{word}" for word in row) for row in words.tolist()]
    model = calibration.read(shipped.FOLDER / "all-mpnet-base-v2+imagenet.json")
    parts, begun = {}, [time.perf_counter(), time.process_time()]

    def done(name: str) -> None:
        parts[name] = [time.perf_counter() - begun[0], time.process_time() - begun[1]]
        begun[:] = time.perf_counter(), time.process_time()

    near = [nearest_rows(rows, K) for rows in (pictures, captions)]
    done("search")
    by_image, by_text = Modality(pictures, near[0]), Modality(captions, near[1])
    contents = {"image_content": np.arange(images), "caption_content": np.arange(len(owner))}
    finder = Finder(owner, images=by_image, texts=by_text, **contents)
    means = np.add.reduceat(captions, np.arange(0, len(owner), CAPTIONS)) / CAPTIONS
    mapped = predict_out_of_fold(Examples(pictures, means, np.ones(images, dtype=bool)))
    done("map")
    features = PairFeatures(owner, num_images=images, encodings=Encodings(by_image, by_text, None, mapped, texts))
    opened: Any = SimpleNamespace(finder=finder, features=lambda _, names: features.only(names))
    split: Any = SimpleNamespace(num_images=images, num_captions=len(owner), caption_owner=owner)
    features.matrix(0, np.zeros(1, dtype=np.int64))
    done("features of rows")
    scorer = PairScorer(split, opened, model, AuditConfig(whole=0, per_image=PER_IMAGE))
    done("depth")
    blocks = list(find_all(finder, num_images=images, per_image=PER_IMAGE, find=scorer.find))
    done("candidates")
    candidates = merge(blocks)
    done("sort")
    return {
        "seconds": sum(wall for wall, _ in parts.values()),
        "cpu": sum(cpu for _, cpu in parts.values()),
        "parts": {name: {"seconds": wall, "cpu": cpu} for name, (wall, cpu) in parts.items()},
        "neighbours": scorer.depth.neighbours,
        "candidates": len(candidates.score),
        "peak_gib": peak(),
    }


def ratios_with_p(bare: dict[str, Any], with_p: dict[str, Any], images: int) -> dict[str, float]:
    """Return the audit with a probability over the bare products, here and as told for `ASKED` images."""
    times = ASKED / images
    found = {"p_peak_gib": with_p["peak_gib"]}
    for clock in ("seconds", "cpu"):
        search, depth = (with_p["parts"][name][clock] for name in ("search", "depth"))
        rest = with_p[clock] - search - depth
        found[f"p_over_products, {clock}"] = with_p[clock] / bare[clock]
        there = search * times**2 + rest * times + depth
        found[f"p_over_products at {ASKED}, {clock}"] = there / (bare[clock] * times**2)
    return found


def apart(what: str, images: int, *more: str) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--only", what, str(images), *more]
    environment = {"OMP_NUM_THREADS": str(THREADS), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(RESULTS.parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    shown = {k: v if isinstance(v, dict) else np.round(v, 3).tolist() for k, v in found.items()}
    print(what, f"{images:,}", *more, shown, flush=True)
    return found


def with_probability(machine: str, images: int) -> None:
    """Measure the bare products and the audit with a probability alone."""
    runs = {"products": apart("products", images), "audit_p": apart("audit_p", images)}
    summary = {"images": images, "captions": images * CAPTIONS, "threads": THREADS}
    summary |= {**ratios_with_p(runs["products"], runs["audit_p"], images), "runs": runs}
    print(json.dumps({name: value for name, value in summary.items() if name != "runs"}, indent=1))
    (RESULTS / f"audit-p-{machine}-{date.today()}.json").write_text(json.dumps(summary, indent=1) + "\n")


def main(machine: str, images: int) -> None:
    small = images // 4
    runs = {
        "products": apart("products", images),
        "audit": apart("audit", images),
        "audit_quarter": apart("audit", small),
        "audit_ivf": apart("audit", images, "ivf"),
        "audit_p": apart("audit_p", images),
    }
    summary = {
        "images": images,
        "captions": images * CAPTIONS,
        "threads": THREADS,
        "exact_over_products": runs["audit"]["seconds"] / runs["products"]["seconds"],
        "exact_at_4x": runs["audit"]["seconds"] / runs["audit_quarter"]["seconds"],
        "ivf_at_4x": runs["audit_ivf"]["seconds"] / runs["audit_quarter"]["seconds"],
        "ivf_recall_at_50": runs["audit_ivf"]["recall"],
        "peak_gib": runs["audit"]["peak_gib"],
        "planted_found": runs["audit"]["planted_found"],
        **ratios_with_p(runs["products"], runs["audit_p"], images),
        "runs": runs,
    }
    print(json.dumps({name: value for name, value in summary.items() if name != "runs"}, indent=1))
    path = RESULTS / f"audit-{machine}-{date.today()}.json"
    path.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--only":
        what = {"products": products, "audit": audit, "audit_p": audit_p}[sys.argv[2]]
        print(json.dumps(what(int(sys.argv[3]), *sys.argv[4:])))
    elif "--p" in sys.argv:
        with_probability(sys.argv[1], int(sys.argv[2]))
    else:
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
