"""Mapping a function over units of work, in processes, in the units' order."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from cusa.errors import CusaError
from cusa.manifests.events import OnEvent, ignore

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def run_units(
    function: Callable[[Unit], Result],
    units: Sequence[Unit],
    *,
    what: str,
    workers: int = 0,
    on_event: OnEvent = ignore,
) -> list[Result]:
    """Apply `function` to every unit and return the results in the units' order.

    Args:
        function: a module-level function; it must leave whole files only, so that a killed run can be repeated.
        units: picklable descriptions of the work.
        what: what is being done, for progress and errors.
        workers: processes; 0 = one a core. With one worker or one unit all runs in this process.
        on_event: hears of every finished unit.

    Raises:
        CusaError: if a worker was killed from outside.
    """
    workers = min(workers or available_cores(), len(units))
    on_event(what, 0, len(units))
    if workers <= 1:
        results = []
        for done, unit in enumerate(units, 1):
            results.append(function(unit))
            on_event(what, done, len(units))
        return results
    # Spawn, not fork: a forked child of a process with threads (torch, arrow) can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_signals_to_the_parent)
    try:
        futures = [pool.submit(function, unit) for unit in units]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            on_event(what, done, len(units))
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise CusaError(
            f"A worker of '{what}' was killed, most likely for want of memory. Finished units are kept: run the same "
            "command again, with fewer --workers if it happens twice."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def available_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _leave_signals_to_the_parent() -> None:
    # Ctrl-C reaches the whole process group; the parent stops handing out units and the one in hand is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
