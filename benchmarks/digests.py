"""What it costs that content is known by digests: extraction, index and training start, with and without them.

    python benchmarks/digests.py NAME=WORK [NAME=WORK ...]      # work folders with train and val, from the root

Each digest of a file, an image or a cache that a stage computes is timed by the processor seconds of the thread that
computes it, and compared with the processor seconds of the whole stage: `slower` is the stage's time divided by what is
left of it without its digests. So one run gives both, and a busy machine changes neither. `slower_by_checks` leaves out
the digests that a ledger writes of a stage's outputs: they were written before content was compared with anything.
`milliseconds_of` names the four largest. The teachers are those without weights; imports are done before anything is
timed. The work folders are copied, with their times, as `cp -a` does.

Writes benchmarks/results/digests-<machine>-<date>.json.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cusa import recipe
from cusa.errors import StoppedError
from cusa.manifests import ledger, samples
from cusa.manifests.events import Callbacks
from cusa.manifests.samples import Split
from cusa.manifests.storage import checksums, store
from cusa.pipeline import extract, index
from cusa.pipeline.config import ExtractConfig, IndexConfig
from cusa.train.data import pairs
from cusa.workflow import train
from tests.pipeline.racing import SETTINGS

RESULTS = Path(__file__).parent / "results"
TEACHERS = {"image": "offline-gist", "text": "offline-ngrams"}


class Digests:
    """Processor seconds spent on digests, by all threads, and how many there were."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.of_outputs = 0.0
        """Seconds within `Clock.finish`, which writes a ledger."""
        self.number = 0
        self.of: Counter[str] = Counter()
        """Seconds by what was digested: a file's name, or `bytes in memory`."""
        self._lock = threading.Lock()
        self._inside = threading.local()

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its time counted once where one digest calls another."""

        def run(*arguments: Any, **options: Any) -> Any:
            if getattr(self._inside, "yes", False):
                return function(*arguments, **options)
            self._inside.yes = True
            start = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                self._inside.yes = False
                spent = time.thread_time() - start
                what = arguments[0] if arguments else b""
                with self._lock:
                    self.seconds += spent
                    self.of_outputs += spent * getattr(self._inside, "ledger", False)
                    self.number += 1
                    self.of[what.name if isinstance(what, Path) else "bytes in memory"] += spent

        return run

    def writing_a_ledger(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function; digests within it are those of outputs."""

        def run(*arguments: Any, **options: Any) -> Any:
            self._inside.ledger = True
            try:
                return function(*arguments, **options)
            finally:
                self._inside.ledger = False

        return run


@contextmanager
def measured(name: str, out: dict[str, Any], digests: Digests) -> Iterator[None]:
    """Measure what happens in the block."""
    before, number, of_outputs, start = digests.seconds, digests.number, digests.of_outputs, time.process_time()
    digests.of.clear()
    yield
    whole, spent = time.process_time() - start, digests.seconds - before
    checks = spent - (digests.of_outputs - of_outputs)
    out[name] = {
        "cpu_seconds": round(whole, 3),
        "digest_cpu_seconds": round(spent, 4),
        "digests": digests.number - number,
        "milliseconds_of": {name: round(1000 * seconds, 2) for name, seconds in digests.of.most_common(4)},
        "slower": round(whole / (whole - spent), 4),
        "slower_by_checks": round(whole / (whole - checks), 4),
    }
    print(name, out[name], flush=True)


def start_training(work: Path, out: Path) -> None:
    """Train until the first step is done."""
    settings = [*SETTINGS, *(f"teachers.{modality}={name}" for modality, name in TEACHERS.items())]
    try:
        train.train(
            recipe.load("tiny", settings), work=work, out=out, callbacks=Callbacks(should_stop=lambda: True), force=True
        )
    except StoppedError:
        return
    raise AssertionError("one step should have been all")


def main() -> None:
    """Copy each work folder, run the stages on it, write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("works", nargs="+", metavar="NAME=WORK")
    options = parser.parse_args()
    digests = Digests()
    hashes = SimpleNamespace(sha256=digests.timed(hashlib.sha256))
    samples.hashlib = pairs.hashlib = hashes  # type: ignore[attr-defined,assignment]
    store.sha256_file = digests.timed(store.sha256_file)  # type: ignore[assignment]
    clock: Any = ledger.Clock
    clock.finish = digests.writing_a_ledger(clock.finish)
    checksums.checksum = digests.timed(checksums.checksum)  # type: ignore[assignment]
    results: dict[str, Any] = {"machine": "2-core-x86", "teachers": TEACHERS, "data": {}}
    out = RESULTS / f"digests-2-core-x86-{time.strftime('%Y-%m-%d')}.json"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for number, (name, _, given) in enumerate(one.partition("=") for one in options.works):
            work = place / name
            shutil.copytree(given, work, ignore=shutil.ignore_patterns("teachers", "index", "cache"))
            split = Split(work, "train")
            figures: dict[str, Any] = {"images": split.num_images, "captions": split.num_captions}
            for again in range(1 if number else 2):  # the very first round imports everything, and does not count
                for modality, teacher in TEACHERS.items():
                    config = ExtractConfig()
                    with measured(f"extract-teachers, {modality}", figures, digests):
                        extract.run(
                            config, split=Split(work, "train"), teacher=teacher, modality=modality, force=bool(again)
                        )
                    with measured(f"index, {modality}", figures, digests):
                        index.run(IndexConfig(), split=Split(work, "train"), teacher=teacher, force=bool(again))
                with measured("training start, caches built", figures, digests):
                    start_training(work, place / "run")
                if again == 0 and number == 0:
                    shutil.rmtree(work / "train/cache")
            with measured("training start, caches there", figures, digests):
                start_training(work, place / "run")
            results["data"][name] = figures
            out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
