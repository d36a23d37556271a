"""Mapping a function over units of work, in the units' order: in processes of this machine, or on a Ray cluster."""

import functools
import importlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from cusa.errors import ConfigError, CusaError
from cusa.manifests.events import OnEvent, ignore

Unit = TypeVar("Unit")
Result = TypeVar("Result")

_RETRIES = 2  # of a unit whose Ray worker died


@dataclass(frozen=True)
class Engine:
    """Where units are worked on."""

    kind: Literal["local", "ray"] = "local"
    address: str = ""
    """Of a Ray cluster: `auto`, or host:port; empty starts one on this machine for as long as the stage takes."""


LOCAL = Engine()


@dataclass(frozen=True)
class Workers:
    """How many processes share the units of a stage, and where they run."""

    count: int = 0
    """Processes; 0 = one a core, or with `gpus` one a GPU. One local worker is this process."""
    engine: Engine = LOCAL
    gpus: bool = False
    """Whether each worker gets one GPU of its own, if there are any."""
    threads: int = 1
    """Threads that share the units where this process works alone."""
    pool: "WarmPool | None" = None
    """Local processes that were started before the units were known."""


def run_units(
    function: Callable[[Unit], Result],
    units: Sequence[Unit],
    *,
    what: str,
    workers: Workers = Workers(),
    weigh: Callable[[Unit], int] = lambda unit: 1,
    on_result: Callable[[int], None] = lambda number: None,
    on_event: OnEvent = ignore,
) -> list[Result]:
    """Apply `function` to every unit and return the results in the units' order.

    A worker is kept from its first unit to its last, so what `function` caches in its module (a loaded model) is loaded
    once a worker.

    Args:
        function: a module-level function, or a `functools.partial` of one; it must leave whole files only, so that a
            killed run can be repeated. On a cluster it must reach its files from every machine.
        units: picklable descriptions of the work.
        what: what is being done, for progress and errors.
        workers: how many processes, and where.
        weigh: how much of the progress a unit is.
        on_result: called with the number of every finished unit, in the order in which they finish.
        on_event: called with every finished unit.

    Raises:
        CusaError: if a worker was killed from outside; on Ray, if that happened to the same unit three times.
    """
    total = sum(map(weigh, units))
    on_event(what, 0, total)
    if not units:
        return []
    if workers.engine.kind == "ray":
        finished = _on_ray(function, units, what, workers)
    else:
        count = min(workers.count or available_cores(), len(units))
        warm, kept = workers.pool.pool if workers.pool else None, _KEPT.get()
        if count <= 1:
            finished = _here(function, units, workers.threads)
        elif warm is None and kept is not None:
            finished = kept.in_processes(function, units, what, workers)
        else:
            finished = _in_processes(function, units, what, warm or _pool(count, workers.gpus), wait=warm is None)
    results: dict[int, Result] = {}
    done = 0
    for number, result in finished:
        results[number] = result
        on_result(number)
        done += weigh(units[number])
        on_event(what, done, total)
    return [results[number] for number in range(len(units))]


def available_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _here(function: Callable[[Unit], Result], units: Sequence[Unit], threads: int) -> Iterator[tuple[int, Result]]:
    if threads <= 1:
        for number, unit in enumerate(units):
            yield number, function(unit)
        return
    with ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(function, unit): number for number, unit in enumerate(units)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int, gpus: bool = False) -> ProcessPoolExecutor:
    # Spawn, not fork: a forked child of a process with threads (torch, arrow) can hang.
    context = multiprocessing.get_context("spawn")
    started = context.Value("i", 0)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(started, workers, gpus))


class WarmPool:
    """Local processes that import what a stage needs while its units are still being planned.

    Args:
        function: what they will apply; its module is what they import.
        workers: processes; 0 = one a core.
        engine: where units run; elsewhere than here nothing is started.
    """

    def __init__(self, function: Callable[..., Any], workers: int, engine: Engine = LOCAL) -> None:
        self.engine = engine
        self._module = function.__module__
        self._workers = (workers or available_cores()) if engine.kind == "local" else 1
        self.pool: ProcessPoolExecutor | None = None

    def start(self) -> None:
        """Start them, if there are to be several."""
        if self._workers > 1 and self.pool is None:
            self.pool = _pool(self._workers)
            for _ in range(self._workers):
                self.pool.submit(_import, self._module)

    def __enter__(self) -> "WarmPool":
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


def _import(module: str) -> None:
    importlib.import_module(module)


def _in_processes(
    function: Callable[[Unit], Result], units: Sequence[Unit], what: str, pool: ProcessPoolExecutor, *, wait: bool
) -> Iterator[tuple[int, Result]]:
    try:
        yield from _by_pool(function, units, what, pool)
    finally:
        # Those that `WarmPool` started end while the stage goes on; it waits for them at its end.
        pool.shutdown(wait=wait, cancel_futures=True)


def _by_pool(
    function: Callable[[Unit], Result], units: Sequence[Unit], what: str, pool: ProcessPoolExecutor
) -> Iterator[tuple[int, Result]]:
    try:
        futures = {pool.submit(function, unit): number for number, unit in enumerate(units)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise CusaError(
            f"A worker of '{what}' was killed, most likely for want of memory. Finished units are kept: run the same "
            "command again, with fewer --workers if it happens twice."
        ) from error


def _start(started: Any, workers: int, gpus: bool) -> None:
    """Prepare a worker process, before it imports anything heavy."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches the whole process group; the parent stops handing out units and the one in hand is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Workers that each take all cores only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // workers)))
    if gpus:
        with started.get_lock():
            number = started.value
            started.value += 1
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number % len(visible)] if visible else str(number)


def _end_with_parent() -> None:
    """Leave at once when the parent is killed: the pool's queue would let a worker wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _on_ray(
    function: Callable[[Unit], Result], units: Sequence[Unit], what: str, workers: Workers
) -> Iterator[tuple[int, Result]]:
    """Hand units to actors as they become free; Ray restarts an actor that died and gives it its unit again."""
    ray = _ray()
    kept = _KEPT.get()
    here = kept.on_ray if kept is not None else _RayWorkers(ray)
    try:
        actors = here.actors(workers, most=len(units))
        waiting = iter(range(len(units)))
        running: dict[Any, tuple[int, Any]] = {}

        def give(worker: Any) -> None:
            number = next(waiting, None)
            if number is not None:
                running[worker.work.remote(function, units[number])] = (number, worker)

        for worker in actors:
            give(worker)
        while running:
            ready, _ = ray.wait(list(running), num_returns=1)
            number, worker = running.pop(ready[0])
            yield number, _result(ray, ready[0], what)
            give(worker)
    finally:
        if kept is None:
            here.end()


class _RayWorkers:
    """Actors on Ray; a Ray that was started for them ends with them."""

    def __init__(self, ray: Any) -> None:
        self._ray, self._mine = ray, False
        self._actors: dict[bool, list[Any]] = {}

    def actors(self, workers: Workers, *, most: int) -> list[Any]:
        """Return as many actors as are wanted, those first that are there already.

        Args:
            workers: how many, where, and whether each needs a GPU.
            most: more than these have nothing to do.
        """
        ray = self._ray
        if not ray.is_initialized():
            _start_ray(ray, workers)
            self._mine = True
        there = ray.cluster_resources()
        with_gpu = workers.gpus and there.get("GPU", 0) >= 1
        wanted = workers.count or int(there["GPU"] if with_gpu else there.get("CPU", 1))
        options = {"num_cpus": 1, "num_gpus": int(with_gpu), "max_restarts": -1, "max_task_retries": _RETRIES}
        actors = self._actors.setdefault(with_gpu, [])
        number = min(max(1, wanted), most)
        while len(actors) < number:
            actors.append(ray.remote(_Worker).options(**options).remote())
        return actors[:number]

    def end(self) -> None:
        """Let the actors go, and end Ray if it was started here."""
        self._actors.clear()
        if self._mine:
            self._ray.shutdown()


class _Kept:
    """Workers that stay from one call of `run_units` to the next: none until units come."""

    def __init__(self) -> None:
        self._pools: dict[tuple[int, bool], ProcessPoolExecutor] = {}

    @functools.cached_property
    def on_ray(self) -> _RayWorkers:
        return _RayWorkers(_ray())

    def in_processes(
        self, function: Callable[[Unit], Result], units: Sequence[Unit], what: str, workers: Workers
    ) -> Iterator[tuple[int, Result]]:
        key = (workers.count or available_cores(), workers.gpus)
        if key not in self._pools:
            self._pools[key] = _pool(*key)
        pool = self._pools[key]
        try:
            yield from _by_pool(function, units, what, pool)
        except BaseException:  # units that wait in it are nobody's any more
            del self._pools[key]
            pool.shutdown(wait=True, cancel_futures=True)
            raise

    def end(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
        if "on_ray" in vars(self):
            self.on_ray.end()


_KEPT: ContextVar[_Kept | None] = ContextVar("workers that stay", default=None)


@contextmanager
def workers_kept() -> Iterator[None]:
    """Within it, workers stay from one stage to the next with what they have imported; started when units come."""
    if _KEPT.get() is not None:
        yield
        return
    kept = _Kept()
    token = _KEPT.set(kept)
    try:
        yield
    finally:
        _KEPT.reset(token)
        kept.end()


def _start_ray(ray: Any, workers: Workers) -> None:
    address = workers.engine.address
    _check_address(address)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            num_cpus=None if address else max(workers.count, available_cores()),
            include_dashboard=None if address else False,
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address or "local", error) from error
    except Exception as error:  # what Ray raises where it could not start in time is nothing else
        way_out = "Run the same command again when the machine is less busy, or use --engine local."
        raise CusaError(f"Ray did not start: {str(error).splitlines()[0]} {way_out}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own there; ours stops as Ctrl-C does


def _check_address(address: str) -> None:
    """Check that something listens at host:port; Ray itself would try for minutes, and end the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"No Ray cluster answers at --address {address}: {str(error).splitlines()[0]}. "
        "Start one with `ray start --head`, or leave --address out.",
        address=address,
    )


class _Worker:
    """A Ray actor; whatever a function's module keeps loaded stays in its process."""

    def work(self, function: Callable[[Any], Any], unit: Any) -> Any:
        return function(unit)


def _result(ray: Any, reference: Any, what: str) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, CusaError) else error) from None
    except ray.exceptions.RayError as error:
        raise CusaError(
            f"A Ray worker of '{what}' died {_RETRIES + 1} times at the same unit, most likely for want of memory "
            f"({str(error).splitlines()[0]}). Finished units are kept: run the same command again, with fewer workers."
        ) from error


@functools.cache
def _ray() -> Any:
    # No usage statistics are sent, and Ray's own processes collect no metrics.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # A worker sees the GPUs that were reserved for it; one without a reservation must see none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'cusa[ray]', or use --engine local.") from error
    return ray
