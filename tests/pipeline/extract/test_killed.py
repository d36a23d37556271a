"""Extraction killed with SIGKILL at random moments, and run again: the same bytes, nothing left over."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from cusa.manifests.storage import store
from cusa.pipeline.config import ShardConfig
from tests.worlds import make_work, write_karpathy

KILLS = 15
TRIES = 6 * KILLS
ROOT = Path(__file__).resolve().parents[3]


def test_run__killed_anywhere_ends_with_the_bytes_of_an_undisturbed_run(tmp_path: Path) -> None:
    """A helper process forks: a start of Python for each run would take minutes."""
    from cusa.pipeline import readers, shard

    work = make_work(tmp_path, images=12, splits=("train",), config=ShardConfig(max_images=4, workers=1))
    _helper("first", work)
    # The data set grows and its tars are cut anew: old rows are copied, new ones computed, old parts put aside.
    source = write_karpathy(tmp_path / "raw", images=20, splits=("train",))
    reading = readers.read("karpathy", source, source.parent)
    shard.run(ShardConfig(max_images=5, workers=1), reading=reading, out=work)
    kept, killed = map(int, _helper("kill", work).split())
    assert killed == KILLS, "so many must have come before the end"
    assert kept, "some run must have met finished parts"


def _helper(part: str, work: Path) -> str:
    command = [sys.executable, "-m", "tests.pipeline.extract.test_killed", part, str(work)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _extract(work: Path, *, slow: bool) -> None:
    import numpy as np

    from cusa.manifests.samples import Split
    from cusa.pipeline import extract
    from cusa.pipeline.config import ExtractConfig
    from tests.worlds import Words

    class Batchwise(Words):
        """Rows depend in their last digits on the batch, as those of real models do."""

        width = 6

        def encode(self, items):  # type: ignore[no-untyped-def]
            if slow:
                time.sleep(0.003)
            rows = np.array([[len(text), *(text.count(letter) for letter in "aeiou")] for text in items]) + 0.5
            rows = rows * (1 + 1e-4 * np.arange(6) * (len(items) + sum(map(len, items)) % 7))
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    config = ExtractConfig(batch_size=7, dtype="float32")
    split = Split(work, "train")
    extract.run(config, split=split, teacher="batchwise", modality="text", load=lambda *_: Batchwise())


def _files(folder: Path) -> dict[str, bytes]:
    """Return every file below but locks and ledgers, which hold times."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in ("ledger.json", store.LOCK)
    }


def _child(work: Path) -> int:
    child = os.fork()
    if child == 0:
        _extract(work, slow=True)
        os._exit(0)
    return child


def _kill_and_compare(work: Path) -> None:
    import cusa.pipeline.extract  # noqa: F401 (imported once, before the forks)

    teachers = work / "train/teachers"
    before = work / "before"
    teachers.rename(before)

    def fresh() -> None:
        shutil.rmtree(teachers, ignore_errors=True)
        shutil.copytree(before, teachers)

    fresh()
    start = time.monotonic()
    assert os.waitpid(_child(work), 0)[1] == 0
    whole = time.monotonic() - start
    expected = _files(teachers)
    assert expected.keys() == {f"batchwise/{n:05d}.parquet" for n in range(4)} | {"batchwise/origin.json"}
    rng = random.Random(0)
    killed = whole_parts = 0
    for _ in range(TRIES):
        if killed == KILLS:
            break
        fresh()
        child = _child(work)
        time.sleep(rng.uniform(0, whole))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == signal.SIGKILL:
            killed += 1
        else:  # a busy machine has become less busy: the first run took longer than this one
            whole *= 0.8
        there = _files(teachers)
        whole_parts += sum(there.get(name) == data for name, data in expected.items())
        assert os.waitpid(_child(work), 0)[1] == 0
        got = _files(teachers)
        assert got.keys() == expected.keys(), got.keys() ^ expected.keys()
        assert got == expected, [name for name in got if got[name] != expected[name]]
    sys.stdout.write(f"{whole_parts} {killed}\n")


if __name__ == "__main__":
    if sys.argv[1] == "first":
        _extract(Path(sys.argv[2]), slow=False)
    else:
        _kill_and_compare(Path(sys.argv[2]))
