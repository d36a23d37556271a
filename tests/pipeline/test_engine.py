"""The engine: results in order, errors passed on, a killed worker explained."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cusa.errors import CusaError, DataError
from cusa.pipeline.engine import Workers, run_units


def _square(unit: int) -> int:
    return unit * unit


def _fails_at_three(unit: int) -> int:
    if unit == 3:
        raise DataError("Unit 3 is broken.", unit=unit)
    return unit


def _dies_at_three(unit: int) -> int:
    if unit == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return unit


@pytest.mark.parametrize("workers", [1, 2])
def test_run_units__results_come_in_the_units_order(workers: int) -> None:
    events: list[tuple[str, int, int]] = []
    out = run_units(
        _square, range(7), what="square", workers=Workers(workers), on_event=lambda *event: events.append(event)
    )
    assert out == [0, 1, 4, 9, 16, 25, 36]
    assert events == [("square", done, 7) for done in range(8)]


@pytest.mark.parametrize("workers", [1, 2])
def test_run_units__an_error_reaches_the_caller(workers: int) -> None:
    with pytest.raises(DataError, match="Unit 3 is broken"):
        run_units(_fails_at_three, range(5), what="x", workers=Workers(workers))


def test_run_units__a_killed_worker_is_explained() -> None:
    with pytest.raises(CusaError, match=r"A worker of 'x' was killed.*run the same command again"):
        run_units(_dies_at_three, range(5), what="x", workers=Workers(2))


def test_run_units__nothing_to_do() -> None:
    assert run_units(_square, [], what="x") == []


def _waits(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def test_run_units__workers_of_a_killed_process_end(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cusa.pipeline.engine import Workers, run_units; "
        "from tests.pipeline.test_engine import _waits\n"
        "if __name__ == '__main__': run_units(_waits, [Path(sys.argv[1])] * 2, what='wait', workers=Workers(2))"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    seen = tmp_path / "seen"
    seen.mkdir()
    root = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen(
        [sys.executable, script, seen], env={**os.environ, "PYTHONPATH": str(root)}, stderr=subprocess.DEVNULL
    )
    _until(lambda: len(list(seen.iterdir())) == 2)
    parent.kill()
    parent.wait()
    _until(lambda: not any(_runs(int(file.name)) for file in seen.iterdir()))


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
