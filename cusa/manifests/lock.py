"""One writer a folder: an advisory lock that a stage holds while it writes, and that its death releases.

On this machine's disks, and on network file systems that carry `flock` (NFS 4, Lustre with `-o flock`), the operating
system keeps the lock and releases it when the process ends, however it ends. On an object store there is no such lock:
there an object is created on the condition that none is there, and renewed while the stage works; one that was not
renewed for `EXPIRES` seconds is taken over, so two writers are kept apart as long as their clocks agree to a minute. A
store that cannot create on a condition has no lock.
"""

import json
import os
import random
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cusa.errors import BusyError
from cusa.manifests.storage import store
from cusa.manifests.storage.os_errors import named_os_errors
from cusa.manifests.storage.paths import is_remote, named_remote_errors

EXPIRES = 120.0
"""Seconds after which the lock of a store counts as left behind."""
_POLL = 0.5
_TRIES = 4  # a process that only asks whether a lock is held, holds it itself for a moment
_PATIENCE = 0.02


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    pid: int
    command: str
    since: str
    """UTC."""

    def __str__(self) -> str:
        return f"`{self.command}` (process {self.pid} on {self.host}, since {self.since})"


@dataclass
class _Hold:
    thread: int
    depth: int


_held: dict[str, _Hold] = {}
_waiting: ContextVar[bool] = ContextVar("waiting", default=False)


def wait_for_others(wait: bool = True) -> None:
    """Make stages of this context wait for a lock that another process holds, instead of being refused."""
    _waiting.set(wait)


@contextmanager
def holding(path: Path, *, unless_held: Iterable[Path] = ()) -> Iterator[None]:
    """Hold a lock until the block ends; within one thread it may be taken again.

    Args:
        path: the lock's file, see `store.LOCK`; it stays there when the lock is released; its folder is made.
        unless_held: locks of others that exclude this one, such as that of the whole work folder.

    Raises:
        BusyError: if another process, or another thread of this one, holds the lock or one of `unless_held`.
    """
    name = _name(path)
    mine = _held.get(name)
    if mine is not None and mine.thread == threading.get_ident():
        mine.depth += 1
        try:
            yield
        finally:
            mine.depth -= 1
        return
    if mine is not None:
        raise BusyError(path.parent, Holder(socket.gethostname(), os.getpid(), "another thread", "now"))
    with _hold_alone(path, tuple(unless_held)):
        _held[name] = _Hold(threading.get_ident(), 1)
        try:
            yield
        finally:
            del _held[name]


def _name(path: Path) -> str:
    return str(path if is_remote(path) else path.absolute())


@contextmanager
def _hold_alone(path: Path, others: Sequence[Path]) -> Iterator[None]:
    """Hold a lock while nobody else holds one of some others.

    Own lock first, then a look at the others': of two that exclude each other, one at least sees the other. Whoever
    waits for another lock lets its own go meanwhile, else two would wait for each other for ever.
    """
    while True:
        with ExitStack() as stack:
            stack.enter_context(_hold_remote(path) if is_remote(path) else _hold_local(path))
            busy = next(((other, who) for other in others if (who := holder(other)) is not None), None)
            if busy is None:
                yield
                return
            if not _waiting.get():
                raise BusyError(busy[0].parent, busy[1])
        time.sleep(_POLL * random.uniform(0.5, 1.5))  # two that met once do not meet again


def wait_until_free(path: Path) -> None:
    """Wait until nobody holds a lock, where this context waits for others; else return at once."""
    while _waiting.get() and holder(path) is not None:
        time.sleep(_POLL)


def holder(path: Path) -> Holder | None:
    """Return who holds a lock now; None if nobody, or only this thread, does."""
    mine = _held.get(_name(path))
    if mine is not None and mine.thread == threading.get_ident():
        return None
    if is_remote(path):
        content = _read_remote(path)
        return _holder(content) if content is not None and not _expired(content) else None
    if not path.is_file():
        return None
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0, preserve_lock_file=True)
    try:
        lock.acquire()
    except Timeout:
        return _holder(_read_local(path))
    except OSError:
        return None  # a folder that cannot be written has no writer to wait for
    lock.release()
    return None


def _me() -> Holder:
    command = shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])
    return Holder(socket.gethostname(), os.getpid(), command, time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))


def _holder(content: dict[str, Any]) -> Holder:
    return Holder(
        str(content.get("host", "unknown")),
        int(content.get("pid", 0)),
        str(content.get("command", "unknown")),
        str(content.get("since", "unknown")),
    )


@contextmanager
def _hold_local(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    def sign(descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(_me())).encode(), 0)

    with named_os_errors(path):
        new_folders = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0, preserve_lock_file=True, thread_local=False, on_acquired=sign)
        tries = 0
        while True:
            try:
                lock.acquire()
                break
            except Timeout:
                tries += 1
                if not _waiting.get() and tries >= _TRIES:
                    raise BusyError(path.parent, _holder(_read_local(path))) from None
                time.sleep(_POLL if tries >= _TRIES else _PATIENCE)
    try:
        yield
    finally:
        # A released lock names nobody, so that equal work leaves equal folders.
        with suppress(OSError):
            os.truncate(path, 0)
            if new_folders and [child.name for child in path.parent.iterdir()] == [path.name]:
                path.unlink()  # a stage that failed before it wrote anything leaves no folder behind
                for folder in new_folders:
                    folder.rmdir()
        lock.release()


def _read_local(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def _hold_remote(path: Path) -> Iterator[None]:
    """Hold an object that was created because none was there, and renew it from a thread."""
    if not _create_remote(path):
        yield
        return
    done = threading.Event()

    def renew() -> None:
        while not done.wait(EXPIRES / 4):
            with suppress(Exception):  # a store that is away for a moment; the next renewal tries again
                _put(path, "overwrite")

    thread = threading.Thread(target=renew, daemon=True, name="cusa-lock")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(FileNotFoundError), named_remote_errors(path):
            path.unlink()


def _create_remote(path: Path) -> bool:
    """Create the lock's object; false if the store cannot create on a condition."""
    while True:
        created = _put_if_absent(path)
        if created is not False:
            return created is True
        content = _read_remote(path)
        if content is None:
            continue  # released a moment ago
        if _expired(content):
            with suppress(FileNotFoundError), named_remote_errors(path):
                path.unlink()
        elif _waiting.get():
            time.sleep(_POLL)
        else:
            raise BusyError(path.parent, _holder(content))


def _put_if_absent(path: Path) -> bool | None:
    """Tell whether the object was created; None where the store knows no such condition."""
    with named_remote_errors(path):
        try:
            _put(path, "create")
            return True
        except FileExistsError:
            return False
        except (TypeError, ValueError, NotImplementedError):
            return None


def _put(path: Path, mode: str) -> None:
    content = json.dumps({**asdict(_me()), "renewed": time.time()}).encode()
    path.fs.pipe_file(path.path, content, mode=mode)  # type: ignore[attr-defined]


def _read_remote(path: Path) -> dict[str, Any] | None:
    try:
        with named_remote_errors(path):
            path.fs.invalidate_cache()  # type: ignore[attr-defined]
            content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _expired(content: dict[str, Any]) -> bool:
    """Tell whether a store's lock was left behind: not renewed for long, or by a process of this machine that ended."""
    if content.get("host") == socket.gethostname() and not store.is_alive(int(content.get("pid", 0))):
        return True
    return time.time() - float(content.get("renewed", 0)) > EXPIRES
