"""One writer a folder: the other is refused by name, waits if asked to, and a killed holder holds nothing."""

import contextvars
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from cusa.errors import BusyError
from cusa.manifests import lock
from cusa.manifests.storage import store
from tests.conftest import ROOT

HOLD = """
import sys, time
from pathlib import Path
from cusa.manifests import lock
with lock.holding(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    print(time.monotonic(), flush=True)
"""


def _holder(path: Path, seconds: float = 60) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_refused_by_name_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / store.LOCK
    process = _holder(path)
    try:
        with pytest.raises(BusyError) as caught, lock.holding(path):
            pass
        words = str(caught.value)
        assert f"process {process.pid} on " in words
        assert f"{tmp_path} is being written by `-c {path} 60`" in words
        assert "--wait" in words
        who = lock.holder(path)
        assert who is not None
        assert who.pid == process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert lock.holder(path) is None
    with lock.holding(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_one_that_waits_goes_on_when_the_other_has_ended(tmp_path: Path) -> None:
    path = tmp_path / store.LOCK
    process = _holder(path, seconds=1)

    def wait() -> None:
        lock.wait_for_others()
        with lock.holding(path):
            done.append(time.monotonic())

    done: list[float] = []
    thread = threading.Thread(target=wait)
    thread.start()
    still_held = float(process.communicate()[0])
    thread.join(20)
    assert done
    assert done[0] > still_held, "the clock is one for all processes"


def test_a_thread_takes_it_again_and_another_thread_is_refused(tmp_path: Path) -> None:
    path = tmp_path / store.LOCK
    refused: list[BaseException] = []

    def other() -> None:
        try:
            with lock.holding(path):
                pass
        except BusyError as error:
            refused.append(error)

    with lock.holding(path), lock.holding(path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    with lock.holding(path):
        pass


def test_a_lock_that_excludes_this_one_is_asked_too(tmp_path: Path) -> None:
    process = _holder(tmp_path / store.LOCK)
    try:
        with (
            pytest.raises(BusyError, match=str(process.pid)),
            lock.holding(tmp_path / "train" / store.LOCK, unless_held=[tmp_path / store.LOCK]),
        ):
            pass
        assert lock.holder(tmp_path / "train" / store.LOCK) is None, "refused, it holds nothing"
    finally:
        process.kill()
        process.communicate()
    with lock.holding(tmp_path / "train" / store.LOCK, unless_held=[tmp_path / store.LOCK]):
        pass


CROSSED = """
import sys
from pathlib import Path
from cusa.manifests import lock
lock.wait_for_others()
for _ in range(20):
    with lock.holding(Path(sys.argv[1]), unless_held=[Path(sys.argv[2])]):
        pass
"""


def test_two_that_wait_for_each_other_both_get_through(tmp_path: Path) -> None:
    whole, part = str(tmp_path / store.LOCK), str(tmp_path / "train" / store.LOCK)
    both = [
        subprocess.Popen([sys.executable, "-c", CROSSED, *paths], cwd=ROOT) for paths in ((whole, part), (part, whole))
    ]
    try:
        assert [process.wait(60) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
            process.wait()


def test_on_a_store_the_object_is_created_once_and_an_abandoned_one_is_taken_over() -> None:
    folder = UPath("memory://locks/work")
    path = folder / store.LOCK
    with lock.holding(path):
        content = json.loads(path.read_bytes())
        assert content["pid"] == os.getpid()
        assert lock.holder(path) is None, "its own lock stops nobody"
    assert not path.exists()
    path.write_bytes(json.dumps({**content, "host": "elsewhere", "pid": 7, "renewed": time.time()}).encode())
    with pytest.raises(BusyError, match="process 7 on elsewhere"), lock.holding(path):
        pass
    path.write_bytes(json.dumps({**content, "host": "elsewhere", "renewed": time.time() - 2 * lock.EXPIRES}).encode())
    with lock.holding(path):
        assert json.loads(path.read_bytes())["host"] == content["host"]
    path.write_bytes(json.dumps({**content, "pid": 2**22 + 1, "renewed": time.time()}).encode())
    with lock.holding(path):  # a process of this machine that is gone
        pass
    assert not path.exists()


def test_a_writer_that_wrote_nothing_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with lock.holding(tmp_path / "there/new/newer" / store.LOCK):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    with lock.holding(tmp_path / "there/new/newer" / store.LOCK):
        (tmp_path / "there/new/other").mkdir()
        (tmp_path / "there/new/newer/file").touch()
    assert (tmp_path / "there/new/newer/file").is_file()


def test_a_folder_that_is_replaced_whole_stays_held(tmp_path: Path) -> None:
    out = tmp_path / "export"
    with lock.holding(out / store.LOCK):
        with store.whole_folder(out) as temporary:
            (temporary / "new").touch()
        code = "import sys, pathlib, cusa.manifests.lock as lock; print(lock.holder(pathlib.Path(sys.argv[1])))"
        command = [sys.executable, "-c", code, str(out / store.LOCK)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        assert f"process {os.getpid()} on" in done.stdout
    assert store.files_below(out) == [out / "new"]


def _in_context(work: Any) -> threading.Thread:
    """Run something in a thread with a context of its own, so that its waiting is nobody else's."""
    thread = threading.Thread(target=contextvars.Context().run, args=(work,), daemon=True)
    thread.start()
    return thread


def _others(**changes: Any) -> bytes:
    """Return what another machine's lock on a store holds."""
    told = {"host": "elsewhere", "pid": 7, "command": "cusa train", "since": "then", "renewed": time.time()}
    return json.dumps({**told, **changes}).encode()


def test_a_lock_says_which_command_holds_it_and_since_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / store.LOCK
    monkeypatch.setattr(sys, "argv", ["/usr/bin/cusa", "train", "--out", "my run"])
    before = datetime.now(UTC).replace(microsecond=0)
    with lock.holding(path):
        told = json.loads(path.read_text())
    since = datetime.strptime(told.pop("since"), "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    assert before <= since <= datetime.now(UTC)
    command = shlex.join(["cusa", "train", "--out", "my run"])
    assert told == {"host": socket.gethostname(), "pid": os.getpid(), "command": command}
    assert path.read_text() == "", "a released lock names nobody"
    who = lock.Holder("h", 3, "cusa eval", "2026-11-30 10:00:00 UTC")
    assert str(who) == "`cusa eval` (process 3 on h, since 2026-11-30 10:00:00 UTC)"


def test_what_is_taken_twice_is_held_until_the_first_ends(tmp_path: Path) -> None:
    path, seen = tmp_path / store.LOCK, []

    def look() -> None:
        seen.append(lock.holder(path) is not None)

    with lock.holding(path):
        with lock.holding(path):
            pass
        _in_context(look).join()
    _in_context(look).join()
    assert seen == [True, False]


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_holder_that_left_no_name_is_unknown(tmp_path: Path, content: str) -> None:
    from filelock import FileLock

    path = tmp_path / store.LOCK
    with FileLock(path, preserve_lock_file=True):
        path.write_text(content)
        assert lock.holder(path) == lock.Holder("unknown", 0, "unknown", "unknown")
        with pytest.raises(BusyError, match="`unknown` .process 0 on unknown"), lock.holding(path):
            pass
    assert lock.holder(path) is None
    assert lock.holder(tmp_path / "none" / store.LOCK) is None
    assert not (tmp_path / "none").exists(), "a question makes no folder"


@pytest.mark.parametrize("remote", [False, True])
def test_waiting__only_where_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool) -> None:
    from filelock import FileLock

    monkeypatch.setattr(lock, "_POLL", 0.01)
    path = UPath("memory://locks/waited") / store.LOCK if remote else tmp_path / store.LOCK
    held = None if remote else FileLock(path, preserve_lock_file=True)
    if held is None:
        path.write_bytes(_others())
    else:
        held.acquire()
    start = time.monotonic()
    lock.wait_until_free(path)
    with pytest.raises(BusyError), lock.holding(path):
        pass
    assert time.monotonic() - start < 5, "refused at once"
    done: list[str] = []

    def wait(what: str) -> None:
        lock.wait_for_others()
        if what == "look":
            lock.wait_until_free(path)
        else:
            with lock.holding(path):
                pass
        done.append(what)

    threads = [_in_context(lambda what=what: wait(what)) for what in ("look", "hold")]
    time.sleep(0.1)
    assert done == []
    if held is None:
        path.unlink()
    else:
        held.release()
    for thread in threads:
        thread.join(30)
    assert sorted(done) == ["hold", "look"]
    lock.wait_for_others(False)
    lock.wait_until_free(path)


def test_on_a_store__who_holds_it_and_what_was_left_behind() -> None:
    path = UPath("memory://locks/asked") / store.LOCK
    assert lock.holder(path) is None
    path.write_bytes(_others())
    assert lock.holder(path) == lock.Holder("elsewhere", 7, "cusa train", "then")
    path.write_bytes(_others(renewed=time.time() - lock.EXPIRES + 20))
    assert lock.holder(path) is not None
    for left in (_others(renewed=time.time() - lock.EXPIRES - 1), b"{", b"[]", b"{}"):
        path.write_bytes(left)
        assert lock.holder(path) is None
        with lock.holding(path):
            assert json.loads(path.read_bytes())["pid"] == os.getpid()
        assert not path.exists()
    path.write_bytes(_others(host=socket.gethostname(), pid=os.getppid()))
    holder = lock.holder(path)
    assert holder is not None, "a process of this machine that lives"
    path.unlink()


def test_on_a_store__a_lock_is_renewed_as_long_as_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "EXPIRES", 0.2)
    path = UPath("memory://locks/renewed") / store.LOCK
    with lock.holding(path):
        first = json.loads(path.read_bytes())["renewed"]
        end = time.monotonic() + 30
        while json.loads(path.read_bytes())["renewed"] - first < 0.4:
            assert time.monotonic() < end, "never renewed"
            time.sleep(0.01)
    assert not path.exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "cusa-lock"]


def test_on_a_store__one_that_knows_no_condition_has_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    path = UPath("memory://locks/plain") / store.LOCK

    def plain(*arguments: object, **more: object) -> None:
        raise NotImplementedError("mode")

    monkeypatch.setattr(type(path.fs), "pipe_file", plain)
    with lock.holding(path):
        assert not path.exists()
    monkeypatch.undo()
    path.write_bytes(_others())  # somebody else's stays theirs
    monkeypatch.setattr(type(path.fs), "pipe_file", plain)
    with lock.holding(path):
        pass
    assert path.exists()
    path.unlink()
