"""What the lock of a folder costs a stage: taken and released, alone and beside the locks that exclude it.

.venv/bin/python benchmarks/lock.py
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

from cusa.manifests import lock
from cusa.manifests.storage import store

RESULTS = Path(__file__).parent / "results"
TIMES = 500
SPLITS, FOLDERS = 3, 4  # of a work folder: teachers, index and audit of each split


def _milliseconds(path: Path, others: list[Path]) -> dict[str, float]:
    seconds = []
    for _ in range(TIMES):
        start = time.perf_counter()
        with lock.holding(path, unless_held=others):
            pass
        seconds.append(1e3 * (time.perf_counter() - start))
    return {"median_ms": round(statistics.median(seconds), 3), "worst_ms": round(max(seconds), 3)}


def main() -> None:
    """Measure, print, and keep the figures."""
    import filelock  # imported once a process, by the first lock; measured apart

    assert filelock
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        others = [
            work / f"split{split}" / f"{number}" / store.LOCK for split in range(SPLITS) for number in range(FOLDERS)
        ]
        for path in others:
            path.parent.mkdir(parents=True)
            path.touch()
        results = {
            "folder alone": _milliseconds(work / store.LOCK, []),
            "stage of a split": _milliseconds(others[0], [work / store.LOCK]),
            f"work folder with {len(others)} stages below": _milliseconds(work / store.LOCK, others),
        }
    target = RESULTS / f"lock-2-core-x86-{time.strftime('%Y-%m-%d')}.json"
    target.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
