"""The loader by threads, and beside a main thread that is busy: images a second against decode + resize alone.

    python benchmarks/loader.py

Pictures of 640 x 480 pixels, 224 out, no cache. `alone` decodes and resizes in as many threads, from memory. A busy
main thread runs Python, as one that queues small kernels does: the worst case for threads that share the interpreter
with it. `webdataset` reads the same tar through webdataset and a DataLoader with one worker process, as most loops do,
with the same decoding and resizing. Ratios within one run, all in turn, the best of the rounds; also in CPU seconds of
the reading threads or process, which other programs do not change. Writes
benchmarks/results/loader-<machine>-<date>.json.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

RESULTS = Path(__file__).parent / "results"


def _children() -> float:
    """Return the CPU seconds of processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure, print, write the result."""
    from stream import Reader, photographs
    from torch.utils.data import DataLoader

    from cusa.manifests.samples import Split
    from cusa.models.preprocess import decode_rgb
    from cusa.train.data.order import Order
    from cusa.train.data.pairs import Pairs
    from cusa.train.data.stream import PairStream, batches

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        split = Split(photographs(Path(folder), asked.images, captions=1), "train")
        order, reader = Order(split.num_captions, 10, 0), Reader()
        encoded = [split.image_bytes(row) for row in range(split.num_images)]

        def alone(threads: int, busy: bool) -> None:
            with ThreadPoolExecutor(threads) as pool:
                work = [pool.submit(lambda data=data: reader.image_array(decode_rgb(data))) for data in encoded]
                for each in work:
                    while busy and not each.done():
                        sum(range(1000))
                    each.result()

        def stream(threads: int, busy: bool) -> None:
            flow = batches(PairStream(Pairs(split), order, reader), 0, order.steps_per_epoch, threads=threads)
            for _ in flow:
                end = time.perf_counter() + (0.02 if busy else 0)  # what queuing a step of many small kernels takes
                while time.perf_counter() < end:
                    sum(range(1000))

        def plain() -> None:
            """Read the tars by webdataset and a DataLoader."""
            import webdataset

            tars = sorted(str(path) for path in split.folder.glob("*.tar"))
            read = webdataset.WebDataset(tars, shardshuffle=False).map(
                lambda sample: reader.image_array(decode_rgb(sample["jpg"]))
            )
            seen = sum(len(batch) for batch in DataLoader(read, batch_size=10, num_workers=1))
            assert seen == asked.images, seen

        kinds: dict[str, tuple[Callable[[int, bool], None], int, bool]] = {}
        for threads in (1, 2):
            kinds[f"alone, {threads} threads"] = (alone, threads, False)
            kinds[f"loader, {threads} threads"] = (stream, threads, False)
            kinds[f"loader, {threads} threads, busy main thread"] = (stream, threads, True)
        clock: dict[str, float] = {}
        cpu: dict[str, float] = {}
        for _ in range(asked.rounds):
            for name, (work, threads, busy) in kinds.items():
                start = time.perf_counter(), time.process_time() - time.thread_time()
                work(threads, busy)
                spent = time.perf_counter() - start[0], time.process_time() - time.thread_time() - start[1]
                clock[name] = max(clock.get(name, 0), asked.images / spent[0])
                cpu[name] = max(cpu.get(name, 0), asked.images / spent[1])
            name, start = "webdataset, 1 process", (time.perf_counter(), _children())
            plain()
            clock[name] = max(clock.get(name, 0), asked.images / (time.perf_counter() - start[0]))
            cpu[name] = max(cpu.get(name, 0), asked.images / (_children() - start[1]))
    result = {
        "machine": "2-core-x86",
        "load_average": os.getloadavg()[0],
        "date": date.today().isoformat(),
        "images_per_second": clock,
        "images_per_cpu_second_of_the_reading_threads": cpu,
        "to_alone": {
            kind: {name: rate / rates[f"alone, {name[8:17]}"] for name, rate in rates.items() if name[0] == "l"}
            for kind, rates in (("clock", clock), ("cpu", cpu))
        },
        "to_webdataset": {
            kind: rates["loader, 1 threads"] / rates["webdataset, 1 process"]
            for kind, rates in (("clock", clock), ("cpu", cpu))
        },
    }
    print(json.dumps(result, indent=2))
    RESULTS.mkdir(exist_ok=True)
    place = RESULTS / f"loader-2-core-x86-{date.today().isoformat()}.json"
    place.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
