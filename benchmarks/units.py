"""The exact audit in units, on every engine: time against the bare products, two workers against one, memory a worker.

    OMP_NUM_THREADS=1 python benchmarks/units.py MACHINE [IMAGES]       # five captions an image; 5,000 by default

Neighbours of images and captions and then all candidates, as `cusa index` and `cusa audit` make them, of the synthetic
teachers of `benchmarks/audit.py`; each engine in a process of its own. On a machine that others use, seconds say little
about engines, so the processors' time is kept too: that of the process that hands out the units and merges their parts,
plus that of the busiest worker from its start on (its imports included), which is what the audit would take on free
cores. The start costs the same at any size, so the work is also told without it. All engines must give the same bytes.
The memory of a worker is what is its own (RssAnon, the largest after any unit); mapped files are shared by all workers
and are given back when memory is short. It is measured at IMAGES / 8 and at IMAGES. Writes
benchmarks/results/units-MACHINE-DATE.json.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import fields
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.audit import CAPTIONS, PER_IMAGE, K, apart, world
from cusa.pipeline.audit import units as audit_units
from cusa.pipeline.audit.scoring import PairScorer
from cusa.pipeline.calibrate.shipped import Choice
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.engine import Engine, Workers
from cusa.pipeline.index import units as index_units
from cusa.pipeline.index.neighbours import Modality
from cusa.pipeline.index.stage import _in_units
from cusa.pipeline.pairs.candidates import Candidates, Finder, merge
from cusa.pipeline.units.parts import Parts, Task
from cusa.pipeline.units.sharing import sharing

RESULTS = Path(__file__).parent / "results"
ENGINES = {
    "this process": Workers(1),
    "two processes": Workers(2),
    "ray, one worker": Workers(1, Engine("ray")),
    "ray, two workers": Workers(2, Engine("ray")),
}
CONFIG = AuditConfig(neighbours=K, per_image=PER_IMAGE)
SPLIT = SimpleNamespace(num_captions=0, work=Path(), name="")
"""Stands for a split: without a calibration nothing is asked of it."""
USED: dict[str, list[dict[str, float]]] = {}
"""What each worker said after each of its units."""


def own_memory() -> float:
    """Return what of this process's memory is its own, in MiB."""
    fields_of = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields_of["RssAnon"].split()[0]) / 2**10


def noted(table: pa.Table, begun: float) -> pa.Table:
    now = time.process_time()
    note = {"pid": os.getpid(), "cpu": now, "unit": now - begun, "mib": own_memory()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), "used": json.dumps(note)})


def search(searched: index_units.Searched, rows: range) -> pa.Table:
    begun = time.process_time()
    return noted(index_units.task().work(searched, rows), begun)


def candidates(prepared: audit_units.Prepared, images: range) -> pa.Table:
    begun = time.process_time()
    return noted(audit_units.task(SPLIT, CONFIG).work(prepared, images), begun)  # type: ignore[arg-type]


def outside() -> Mapping[str, object]:
    return {"split": SPLIT, "config": CONFIG, "captions": ()}


class Noting(Parts):
    """Parts that keep what their workers said."""

    def make(self, *args: Any, **more: Any) -> Any:
        for table in super().make(*args, **more):
            note = json.loads(table.schema.metadata[b"used"])
            USED.setdefault(str(note["pid"]), []).append(note)
            yield table


def audit(images: int, engine: str) -> dict[str, Any]:
    """Find neighbours and candidates on an engine."""
    pictures, captions, owner, _ = world(images)
    begun, cpu = time.perf_counter(), time.process_time()
    near = []
    with tempfile.TemporaryDirectory() as folder, sharing(ENGINES[engine]):
        for name, rows in (("images", pictures), ("captions", captions)):
            task = Task(search, dict, (index_units.Searched,))
            parts = Noting(Path(folder) / name, what=f"index {name}", key="k" * 16, task=task)
            searched = parts.prepare(lambda rows=rows: index_units.Searched(rows, K), {})  # type: ignore[misc]
            near.append(_in_units(parts, searched, index_units.row_units(len(rows)), lambda *event: None))
        finder = Finder(
            owner,
            images=Modality(pictures, near[0]),
            texts=Modality(captions, near[1]),
            image_content=np.arange(images),
            caption_content=np.arange(len(owner)),
        )
        opened: Any = SimpleNamespace(finder=finder)
        scorer = PairScorer(SPLIT, opened, None, CONFIG)  # type: ignore[arg-type]
        classes = audit_units.task(SPLIT, CONFIG).classes  # type: ignore[arg-type]
        parts = Noting(Path(folder) / "audit", what="audit", key="k" * 16, task=Task(candidates, outside, classes))
        prepared = parts.prepare(lambda: audit_units.Prepared(scorer, Choice(None, "", ""), CONFIG), outside())
        made = parts.make(prepared, audit_units.image_units(images))
        merged = merge([audit_units.read_part(table)[0] for table in made])
        seconds, here = time.perf_counter() - begun, time.process_time() - cpu
    total = hashlib.sha256()
    for field in fields(Candidates):
        total.update(np.ascontiguousarray(getattr(merged, field.name)).tobytes())
    others = {pid: notes for pid, notes in USED.items() if pid != str(os.getpid())}
    in_units = max((sum(note["unit"] for note in notes) for notes in others.values()), default=0.0)
    busiest = max((max(note["cpu"] for note in notes) for notes in others.values()), default=0.0)
    return {
        "seconds": seconds,
        "cpu_here": here,
        "cpu_busiest_worker": busiest,
        "critical": here + busiest,
        "critical_without_start": here + in_units,
        "worker_mib": max((note["mib"] for notes in others.values() for note in notes), default=own_memory()),
        "workers": len(others),
        "units": sum(map(len, USED.values())),
        "candidates": len(merged.score),
        "sha256": total.hexdigest(),
    }


def one(images: int, engine: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.units", "--only", engine, str(images)]
    environment = {**os.environ, "PYTHONPATH": str(RESULTS.parent.parent), "OMP_NUM_THREADS": "1"}
    environment["RAY_raylet_start_wait_time_s"] = "300"  # a busy machine starts it late
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(engine, f"{images:,}", measured, flush=True)
    return measured


def main(machine: str, images: int) -> None:
    bare = apart("products", images)
    runs = {engine: one(images, engine) for engine in ENGINES}
    small = one(images // 8, "ray, two workers")
    digests = {run["sha256"] for run in runs.values()}
    ray_one, ray_two = runs["ray, one worker"], runs["ray, two workers"]
    summary = {
        "images": images,
        "captions": images * CAPTIONS,
        "same_bytes": len(digests) == 1,
        "over_products, cpu": {engine: run["critical"] / bare["cpu"] for engine, run in runs.items()},
        "over_products, seconds": {engine: run["seconds"] / bare["seconds"] for engine, run in runs.items()},
        "ray_two_over_one, cpu": ray_one["critical"] / ray_two["critical"],
        "ray_two_over_one, cpu without the start": ray_one["critical_without_start"]
        / ray_two["critical_without_start"],
        "ray_two_over_one, seconds": ray_one["seconds"] / ray_two["seconds"],
        "worker_mib_at_an_eighth": small["worker_mib"],
        "worker_mib": ray_two["worker_mib"],
        "products": bare,
        "runs": {**runs, "ray, two workers, an eighth": small},
    }
    print(json.dumps({name: value for name, value in summary.items() if name != "runs"}, indent=1))
    (RESULTS / f"units-{machine}-{date.today()}.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--only":
        from benchmarks import units as module  # workers import it by this name

        print(json.dumps(module.audit(int(sys.argv[3]), sys.argv[2])))
    else:
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5000)
