"""Sixty slips a set, planted one at a time: which of them does a module's own tests see?

    python benchmarks/slips.py [--set N] [--only TEXT] [--again] [--out NAME]   # from the root, the commit to be tried

`slips.json` has the slips, each one line that somebody could have written: its set (chosen before anybody looked which
tests there were), file, old text, new text, what it does, and the test files that should see it (the module's own, and
those of what calls it). Each is put into a copy of the repository (a work tree of git, thrown away at the end), its
test files run to the first failure, and the copy is mended again. A slip is caught if a test fails for another reason
than its time. Writes benchmarks/results/slips-<machine>-<date>.json, beside what an earlier file of that name says of
the same slips.

Libraries are imported once; each slip is tried in a fork, where the package itself is imported anew.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SLIPS = Path(__file__).with_name("slips.json")
RESULTS = {1: "slips-2-core-x86-2026-11-30", 2: "slips-second-set-2-core-x86-2026-11-30"}
_SECONDS = 900  # a slip at most
_ONLY_SLOW = re.compile(r"FailedHealthCheck|DeadlineExceeded|TimeoutExpired")
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


def main() -> None:
    """Try the slips and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", type=int, default=2, choices=(1, 2), help="which sixty")
    parser.add_argument("--only", default="", help="slips whose file or meaning has this in it")
    parser.add_argument("--again", action="store_true", help="only those that nothing caught yet")
    parser.add_argument("--out", default="", help="name of the result")
    options = parser.parse_args()
    slips = [one for one in json.loads(SLIPS.read_text()) if one["set"] == options.set]
    slips = [one for one in slips if options.only in f"{one['file']} {one['what']}"]
    for library in _LIBRARIES:
        __import__(library)
    for name in [name for name in sys.modules if name.partition(".")[0].startswith(_PYTEST)]:
        del sys.modules[name]
    out = ROOT / "benchmarks" / "results" / f"{options.out or RESULTS[options.set]}.json"
    told = {one["what"] for one in slips}
    found = json.loads(out.read_text())["slips"] if out.is_file() else {}
    found = {what: one for what, one in found.items() if what in told or options.only}
    if options.again:
        slips = [one for one in slips if found.get(one["what"], {}).get("result") != "caught"]
    with _copy() as copy:
        for number, slip in enumerate(slips, 1):
            tried = _try(copy, slip)
            before = found.get(slip["what"], {})
            # The first answer is the true figure of the tests as they were; later ones stand beside it.
            found[slip["what"]] = {"file": slip["file"], "first": before.get("first", tried["result"]), **tried}
            _say(f"{number} of {len(slips)}: {tried['result']} ({tried['seconds']:.0f} s): {slip['what']}")
            out.write_text(json.dumps(_summary(found), indent=2, ensure_ascii=False) + "\n")


def _summary(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    number = len(found)
    return {
        "slips": found,
        "planted": number,
        "caught_at_first": sum(one["first"] == "caught" for one in found.values()),
        "caught_now": sum(one["result"] == "caught" for one in found.values()),
    }


@contextlib.contextmanager
def _copy() -> Iterator[Path]:
    """Give a work tree of the commit at hand with the changes that are not committed yet, until the block ends."""
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


def _try(copy: Path, slip: dict[str, Any]) -> dict[str, Any]:
    """Plant a slip, run its tests, and mend the copy."""
    path = copy / slip["file"]
    right = path.read_text()
    assert right.count(slip["old"]) == 1, f"{slip['file']} has not once: {slip['old']}"
    log = copy.parent / "log.txt"
    start = time.perf_counter()
    try:
        path.write_text(right.replace(slip["old"], slip["new"]))
        code = _tests(copy, slip["tests"], log)
    finally:
        path.write_text(right)
    words = log.read_text(errors="replace")
    seen = next((line for line in words.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    if code == 0:
        result, seen = "survived", ""
    elif code in (1, 2) and seen and not _ONLY_SLOW.search(words):
        result = "caught"
    else:
        result, seen = "not tried", words.strip()[-300:]
    return {"result": result, "seen_by": seen[:300], "seconds": round(time.perf_counter() - start, 1)}


def _tests(copy: Path, tests: list[str], log: Path) -> int:
    """Run some test files in a fork; return pytest's exit code, -1 for one that took too long or died."""
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setsid()
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            code = _in_the_fork(copy, tests)
        except BaseException:
            traceback.print_exc()
        finally:  # what is wrong here must not clear up what the parent still needs
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def _in_the_fork(copy: Path, tests: list[str]) -> int:
    """Run the tests of the copy, with its package, as `python -m pytest` would there."""
    os.chdir(copy)
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:] = [str(copy), *(place for place in sys.path if Path(place).resolve() not in (ROOT, SLIPS.parent))]
    import pytest

    return int(pytest.main(["-x", "-q", "--tb=line", "--show-capture=no", "-p", "no:cacheprovider", *tests]))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
