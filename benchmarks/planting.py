"""What `slips.py` and `mutants.py` share: a copy of the repository to plant faults in, and forks that run its tests.

Libraries are imported once; each fork imports the package itself anew.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ONLY_SLOW = re.compile(r"FailedHealthCheck|DeadlineExceeded|TimeoutExpired")
"""What a test that fails for its time alone says."""
_PYTEST = ("pytest", "_pytest", "hypothesis", "_hypothesis", "anyio")
"""Forgotten again if a library brought them in: pytest wants to be first at what it rewrites."""
_LIBRARIES = (
    *("numpy", "scipy.stats", "scipy.sparse.csgraph", "sklearn.linear_model", "sklearn.isotonic", "sklearn.metrics"),
    *(
        "pyarrow.parquet",
        "pyarrow.compute",
        "torch",
        "PIL.Image",
        "duckdb",
        "pydantic",
        "typer",
        "hypothesis",
        "pytest",
    ),
)

_main: types.ModuleType | None = None
"""The script itself, kept alive in a fork."""


def import_libraries() -> None:
    """Import what every fork would import again."""
    for library in _LIBRARIES:
        __import__(library)
    for name in [name for name in sys.modules if name.partition(".")[0].startswith(_PYTEST)]:
        del sys.modules[name]


@contextlib.contextmanager
def copy() -> Iterator[Path]:
    """Give a work tree of the commit at hand with the changes that are not committed yet, until the block ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the work tree is removed then too
    folder = Path(tempfile.mkdtemp(prefix="slips-")) / "copy"
    git = ["git", "-C", str(ROOT)]
    subprocess.run([*git, "worktree", "add", "--detach", "--quiet", str(folder)], check=True)
    try:
        changed = subprocess.run([*git, "diff", "HEAD", "--binary"], check=True, capture_output=True).stdout
        if changed:
            subprocess.run(["git", "-C", str(folder), "apply"], input=changed, check=True)
        # By content, not by time: a file that is mended within its second is read anew.
        command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "cusa"]
        subprocess.run(command, cwd=folder, check=True)
        yield folder
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(folder)], check=True)
        shutil.rmtree(folder.parent, ignore_errors=True)


def in_a_fork(work: Callable[[], int], log: Path, *, seconds: float) -> int:
    """Run something in a fork; return its exit code, -1 for one that took too long, -N for one that signal N ended."""
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setsid()
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:  # what is wrong here must not clear up what the parent still needs
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def pytest_in(folder: Path, tests: list[str], plugins: list[object] | None = None) -> int:
    """Run tests of the copy, with its package, as `python -m pytest` would there; only in a fork."""
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    global _main
    _main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")  # spawned workers import it
    ours = (ROOT, Path(__file__).parent)
    sys.path[:] = [str(folder), *(place for place in sys.path if Path(place).resolve() not in ours)]
    import pytest

    options = ["-x", "-q", "--tb=line", "--show-capture=no", "-p", "no:cacheprovider"]
    return int(pytest.main([*options, *tests], plugins=plugins))


def verdict(code: int, words: str) -> tuple[str, str]:
    """Return what became of a planted fault, and by which test it was seen: by pytest's exit code and what it said."""
    seen = next((line for line in words.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    if code == 0:
        return "survived", ""
    if code in (1, 2) and seen and not ONLY_SLOW.search(words):
        return "caught", seen[:300]
    return "not tried", words.strip()[-300:]
