"""Streamed against plain losses on a CPU: seconds, extra memory, and whether the time a pair of pairs is flat.

    python benchmarks/streamed.py                       # 4,096 both ways, then larger batches streamed
    python benchmarks/streamed.py --sizes 4096 8192     # other sizes; plain runs at the first only

Every measurement is a process of its own (peak memory never falls within one): forward and backward of CUSALoss, D =
512, teachers of 512 and 768 numbers, float32, two threads. Three steps are taken, as in a training; the first, in which
the allocator meets these sizes for the first time, is given apart (`first_seconds`), the others by their median. The
two ways alternate, so that what else the machine does meets both; the median and the best of the rounds are given, in
seconds of the clock and of the CPU. Threads wait as OpenMP has it by default; `--passive` lets them sleep, as the
command line of `cusa` does. Extra memory is the process's peak during all steps, less its peak before: inputs are
there already, gradients are not.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

WIDTHS = {"image": 512, "text": 512, "image_uni": 512, "text_uni": 512, "teacher_image": 512, "teacher_text": 768}
RESULTS = Path(__file__).parent / "results"


def measure(impl: str, size: int, steps: int) -> dict[str, float]:
    """Take some steps in this process."""
    import torch

    from cusa.train.losses import CUSALoss

    torch.set_num_threads(2)
    random = torch.Generator().manual_seed(0)

    def draw(rows: int) -> dict[str, Any]:
        made: dict[str, Any] = {name: torch.randn(rows, width, generator=random) for name, width in WIDTHS.items()}
        for name in ("image", "text", "image_uni", "text_uni"):
            made[name].requires_grad_()
        return made | {"image_ids": torch.arange(rows) // 2}

    loss = CUSALoss(impl=impl)  # type: ignore[arg-type]
    inputs = draw(size)
    loss(**draw(600))["loss"].backward()  # libraries are loaded, threads started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clocks, cpus = [], []
    for _ in range(steps):
        for rows in inputs.values():
            rows.grad = None
        clock, cpu = time.perf_counter(), time.process_time()
        value = loss(**inputs)["loss"]
        value.backward()
        clocks.append(time.perf_counter() - clock)
        cpus.append(time.process_time() - cpu)
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "first_seconds": clocks[0],
        "seconds": statistics.median(clocks[1:] or clocks),
        "cpu_seconds": statistics.median(cpus[1:] or cpus),
        "extra_mib": extra / 1024,
        "loss": value.item(),
    }


def in_a_process(impl: str, size: int, *, passive: bool) -> dict[str, float]:
    """Measure in a fresh process; a step of a large batch takes so long that one is enough."""
    steps = 3 if size <= 8192 else 1
    command = [sys.executable, __file__, "--one", impl, "--sizes", str(size), "--steps", str(steps)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": "PASSIVE"} if passive else {}
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def summary(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return medians, and the best round's seconds."""
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    return medians | {"best_seconds": min(one["seconds"] for one in rounds), "rounds": len(rounds)}


def main() -> None:
    """Measure, print ratios, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192, 32768])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passive", action="store_true")
    parser.add_argument("--steps", type=int, default=3, help="of --one")
    parser.add_argument("--one", choices=["plain", "streamed"])
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one, asked.sizes[0], asked.steps)))
        return
    first, *larger = asked.sizes
    rounds: dict[str, list[dict[str, float]]] = {"plain": [], "streamed": []}
    for _ in range(asked.rounds):
        for impl, found in rounds.items():
            found.append(in_a_process(impl, first, passive=asked.passive))
    plain, streamed = summary(rounds["plain"]), summary(rounds["streamed"])
    sizes = {str(first): streamed} | {
        str(size): summary([in_a_process("streamed", size, passive=asked.passive)]) for size in larger
    }
    flat = {size: one["cpu_seconds"] / int(size) ** 2 for size, one in sizes.items()}
    result = {
        "machine": "2-core-x86",
        "processor": platform.processor() or platform.machine(),
        "load_average": os.getloadavg()[0],
        "date": date.today().isoformat(),
        "threads_wait": "passive" if asked.passive else "as by default",
        "batch": first,
        "plain": plain,
        "streamed": streamed,
        "faster": plain["seconds"] / streamed["seconds"],
        "faster_best": plain["best_seconds"] / streamed["best_seconds"],
        "faster_first": plain["first_seconds"] / streamed["first_seconds"],
        "faster_cpu": plain["cpu_seconds"] / streamed["cpu_seconds"],
        "memory": streamed["extra_mib"] / plain["extra_mib"],
        "sizes": sizes,
        "cpu_time_per_pair_of_pairs_relative": {size: one / flat[str(first)] for size, one in flat.items()},
    }
    text = json.dumps(result, indent=2)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"streamed-2-core-x86-{date.today().isoformat()}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
