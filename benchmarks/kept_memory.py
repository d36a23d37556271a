"""What it is worth on a CPU to keep the memory of activations that were freed: EfficientNet-Lite0 on 64 pictures.

    python benchmarks/kept_memory.py MACHINE

Seconds of processor for 64 pictures at each batch size, in a fresh process each, with glibc's own settings and with
those of `cusa.models.device.keep_freed_memory`; beside them the process's largest memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.photographs.towers import Lite0
from cusa.manifests.storage import store
from cusa.models.device import keep_freed_memory

RESULTS = Path(__file__).parent / "results"
PICTURES = 64


def measure(batch: int, kept: bool) -> dict[str, float]:
    """Return the seconds of a forward pass and of a training step over 64 pictures, and the peak memory in MiB."""
    torch.set_num_threads(1)
    if kept:
        keep_freed_memory()
    model = Lite0()
    pixels = torch.rand(batch, 3, 224, 224)

    def forward() -> None:
        with torch.inference_mode():
            model(pixels)

    def step() -> None:
        model(pixels).square().sum().backward()

    found = {}
    for name, work in (("forward", forward), ("step", step)):
        work()
        start = time.process_time()
        for _ in range(PICTURES // batch):
            work()
        found[name] = round(time.process_time() - start, 2)
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return found


def main() -> None:
    """Measure every batch size both ways."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("machine")
    parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], bool(options.one[1]))))
        return
    rows = []
    for batch in (4, 16, 64):
        row: dict[str, object] = {"batch": batch}
        for name, kept in (("given_back", 0), ("kept", 1)):
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.kept_memory", options.machine]
            done = subprocess.run(
                [*command, "--one", str(batch), str(kept)], capture_output=True, text=True, check=True
            )
            row[name] = json.loads(done.stdout)
        rows.append(row)
        print(row, flush=True)
    store.write_json(RESULTS / f"kept-memory-{options.machine}.json", {"pictures": PICTURES, "rows": rows})


if __name__ == "__main__":
    main()
