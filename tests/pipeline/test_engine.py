"""The engine: results in order, errors passed on, a killed worker explained."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cusa.errors import CusaError, DataError
from cusa.pipeline.engine import Engine, WarmPool, Workers, available_cores, run_units


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


def _tells(folder: Path) -> dict[str, str]:
    """Wait for the other worker, then tell what this one was given."""
    (folder / str(os.getpid())).touch()
    _until(lambda: len(list(folder.iterdir())) == 2)
    return {name: os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}


@pytest.mark.parametrize(("visible", "gpus"), [("", {"0", "1"}), ("3,5", {"3", "5"}), ("7", {"7"})])
def test_run_units__each_worker_sees_one_gpu_and_its_share_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, gpus: set[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    told = run_units(_tells, [tmp_path] * 2, what="x", workers=Workers(2, gpus=True))
    assert {one["CUDA_VISIBLE_DEVICES"] for one in told} == gpus
    assert {one["OMP_NUM_THREADS"] for one in told} == {str(max(1, available_cores() // 2))}


def test_run_units__units_weigh_what_they_are_said_to_and_each_is_told_when_it_is_done() -> None:
    events: list[tuple[str, int, int]] = []
    finished: list[int] = []
    out = run_units(
        _square,
        [5, 1, 0, 3],
        what="square",
        workers=Workers(1),
        weigh=lambda unit: unit,
        on_result=finished.append,
        on_event=lambda *event: events.append(event),
    )
    assert out == [25, 1, 0, 9]
    assert finished == [0, 1, 2, 3]
    assert events == [("square", done, 9) for done in (0, 5, 6, 6, 9)]


def test_run_units__threads_share_the_units_of_one_process() -> None:
    meeting = threading.Barrier(3, timeout=60)
    slow = threading.Event()

    def meets(unit: int) -> int:
        if unit < 3:
            meeting.wait()  # three at once, or nobody goes on
        if unit == 0:
            slow.wait(60)
        if unit == 4:
            slow.set()
        return unit * unit

    finished: list[int] = []
    out = run_units(meets, range(5), what="x", workers=Workers(1, threads=3), on_result=finished.append)
    assert out == [0, 1, 4, 9, 16], "in the units' order, whoever was first"
    assert sorted(finished) == list(range(5))
    with pytest.raises(DataError, match="Unit 3 is broken"):
        run_units(_fails_at_three, range(5), what="x", workers=Workers(1, threads=2))


def _process(unit: int) -> int:
    return os.getpid()


def test_warm_pool__its_processes_do_the_units_and_end_with_it() -> None:
    with WarmPool(_process, 2) as pool:
        assert pool.pool is None, "nothing is started before it is known that there is something to do"
        pool.start()
        assert pool.pool is not None
        first = pool.pool
        pool.start()
        assert pool.pool is first
        told = run_units(_process, range(4), what="x", workers=Workers(2, pool=pool))
        assert os.getpid() not in told
    _until(lambda: not any(_runs(pid) for pid in told))
    with WarmPool(_process, 1) as alone:
        alone.start()
        assert alone.pool is None
    with WarmPool(_process, 2, Engine("ray")) as elsewhere:
        elsewhere.start()
        assert elsewhere.pool is None
