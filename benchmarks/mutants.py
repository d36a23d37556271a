"""Mutation testing: many ordinary faults of a source file, one at a time; which of them do its tests not see?

    python benchmarks/mutants.py FILE... [--number N] [--seed S] [--tests FILE...] [--lines A-B] [--out NAME]
    python benchmarks/mutants.py FILE... --again [--out NAME]     # only those that survived before

From the root, with what is to be tried committed or added to git. `mutations.py` makes the faults; N of each FILE are
drawn. The tests are the file's own (`tests/A/test_B.py` for `cusa/A/B.py`), those that `slips.json` names for it, and
`--tests`. Each fault is seen first by the tests that run its lines, and if they pass, by all of them. A fault of a
function is put into the imported package, so that it costs as much as its tests; one of what runs at import gets a
fork that imports the package anew. Either way it also stands in the copy's file, for tests that start other processes.

Prints the survivors, and keeps for each file in benchmarks/results/NAME.json: how many were tried, how many killed at
first (by the tests as they were) and now, and the lines that survive. A survivor that changes nothing that anybody
could notice gets, by hand, `"equivalent": "why"`; it is not tried again.

Not mutmut, which copies and traces the whole suite first, nor cosmic-ray, which starts a process a mutant: importing
the package and its libraries takes longer than most of our tests.
"""

import argparse
import functools
import gc
import json
import os
import sys
import threading
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mutations
import planting
from mutations import Mutant

RESULT = "mutants-2-core-x86-2026-11-30"
_SLIPS = Path(__file__).with_name("slips.json")
_LONGEST = 900.0  # seconds for all mutants' tests together, without a fault
_Results = list[tuple[Mutant, str, str]]


def main() -> None:
    """Try the mutants of some files and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="source files")
    parser.add_argument("--number", type=int, default=40, help="mutants a file")
    parser.add_argument("--seed", type=int, default=1, help="which mutants are drawn")
    parser.add_argument("--tests", nargs="*", default=[], help="test files besides the file's own")
    parser.add_argument("--lines", default="", help="only mutants of these lines, as 10-50")
    parser.add_argument("--again", action="store_true", help="only those that survived before")
    parser.add_argument("--out", default=RESULT, help="name of the result")
    options = parser.parse_args()
    out = planting.ROOT / "benchmarks" / "results" / f"{options.out}.json"
    planting.import_libraries()
    with planting.copy() as copy:
        for file in options.files:
            found = json.loads(out.read_text()) if out.is_file() else {}
            before = found.get(file, {"tried": 0, "killed_at_first": 0, "killed": 0, "survived": []})
            mutants = mutations.of_source((copy / file).read_text())
            if options.lines:
                low, high = map(int, options.lines.split("-"))
                mutants = [mutant for mutant in mutants if low <= mutant.line <= high]
            if options.again:
                open_ones = {_key(one) for one in before["survived"] if "equivalent" not in one}
                mutants = [mutant for mutant in mutants if mutant.key in open_ones]
            else:
                mutants = mutations.sample(mutants, options.number, options.seed)
            results = _try_file(copy, file, mutants, _tests_of(copy, file, options.tests))
            if results is None:
                continue
            # Colleagues write the same file: read again what may have changed meanwhile.
            found = json.loads(out.read_text()) if out.is_file() else {}
            found[file] = _again(before, results) if options.again else _more(before, results)
            out.write_text(json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False) + "\n")
            one = found[file]
            _say(f"{file}: {one['killed']} of {one['tried']} killed, {one['killed_at_first']} at first")


def _key(one: dict[str, Any]) -> tuple[str, str, str]:
    return one["kind"], one["old"], one["new"]


def _more(before: dict[str, Any], results: _Results) -> dict[str, Any]:
    """Add a sample's results to a file's."""
    known = {_key(one): one for one in before["survived"]}
    results = [one for one in results if one[0].key not in known]
    killed = sum(result == "killed" for _, result, _ in results)
    left = [*known.values(), *(_entry(mutant) for mutant, result, _ in results if result != "killed")]
    return {
        "tried": before["tried"] + len(results),
        "killed_at_first": before["killed_at_first"] + killed,
        "killed": before["killed"] + killed,
        "survived": sorted(left, key=lambda one: one["line"]),
    }


def _again(before: dict[str, Any], results: _Results) -> dict[str, Any]:
    """Move what is killed now; what the source has no longer counts as killed, for somebody changed that line."""
    still = {mutant.key: mutant for mutant, result, _ in results if result != "killed"}
    left = [one for one in before["survived"] if "equivalent" in one or _key(one) in still]
    left = [one | {"line": still[_key(one)].line} if _key(one) in still else one for one in left]
    return before | {"killed": before["killed"] + len(before["survived"]) - len(left), "survived": left}


def _entry(mutant: Mutant) -> dict[str, Any]:
    return {"line": mutant.line, "kind": mutant.kind, "old": mutant.old, "new": mutant.new}


def _tests_of(copy: Path, file: str, more: list[str]) -> list[str]:
    """Return the test files that should see a source file's faults, its own first."""
    path = Path(file)
    own = Path("tests", *path.parts[1:-1], f"test_{path.parent.name if path.stem == '__init__' else path.stem}.py")
    slips = [test for one in json.loads(_SLIPS.read_text()) if one["file"] == file for test in one["tests"]]
    tests = dict.fromkeys([own.as_posix(), *more, *slips])
    return [test for test in tests if (copy / test.partition("::")[0]).exists()]


def _try_file(copy: Path, file: str, mutants: list[Mutant], tests: list[str]) -> _Results | None:
    if not tests:
        _say(f"{file} has no tests of its own; name some with --tests")
        return None
    _say(f"{file}: {len(mutants)} mutants, {' '.join(tests)}")
    log, told = copy.parent / "log.txt", copy.parent / "told.jsonl"
    told.unlink(missing_ok=True)
    right = (copy / file).read_text()
    planter = _Planter(copy, file, mutants, told)
    try:
        code = planting.in_a_fork(
            functools.partial(planting.pytest_in, copy, tests, [planter]), log, seconds=_LONGEST * max(1, len(mutants))
        )
    finally:
        (copy / file).write_text(right)
    lines = told.read_text().splitlines() if told.is_file() else []
    if code != 0 or len(lines) != len(mutants):
        _say(f"the tests of {file} fail as they are ({code}):\n{log.read_text(errors='replace')[-3000:]}")
        return None
    results: _Results = []
    for mutant, line in zip(mutants, map(json.loads, lines), strict=True):
        result, seen = line["result"], line["seen"]
        if result == "anew":
            result, seen = _anew(copy, file, mutant, tests, log, line["seconds"])
        results.append((mutant, result, seen))
        if result != "killed":
            _say(f"  {result} {file}:{mutant.line} ({mutant.kind}) {seen}\n    - {mutant.old}\n    + {mutant.new}")
    return results


def _anew(copy: Path, file: str, mutant: Mutant, tests: list[str], log: Path, seconds: float) -> tuple[str, str]:
    """Try a fault of what runs at import, in a fork without the package."""
    path = copy / file
    right = path.read_text()
    try:
        path.write_text(mutant.source)
        run = functools.partial(planting.pytest_in, copy, tests)
        code = planting.in_a_fork(run, log, seconds=10 * seconds + 60)
    finally:
        path.write_text(right)
    words = log.read_text(errors="replace")
    if code in (-1, 2, 3, 4) or code < -1:  # endless, or not even importable
        return "killed", f"exit code {code}"
    result, seen = planting.verdict(code, words)
    return ("killed", seen) if result == "caught" else (result, seen)


class _Planter:
    """A pytest plugin that runs a session's tests once a mutant, each time in a fork of the collected session."""

    def __init__(self, copy: Path, file: str, mutants: list[Mutant], told: Path) -> None:
        self._copy, self._mutants, self._told = copy, mutants, told
        self._file, self._path = file, copy / file
        self._log = copy.parent / "fork.txt"
        self._functions: list[types.FunctionType] = []

    def pytest_runtestloop(self, session: Any) -> bool:
        """Run the tests without a fault to see which lines each runs, then with each of the faults."""
        traced = self._copy.parent / "traced.json"
        code = self._fork(lambda: self._trace(session, traced), _LONGEST)
        if code != 0:
            sys.stdout.write(self._log.read_text(errors="replace"))
            raise SystemExit(70)
        runs: dict[str, dict[str, Any]] = json.loads(traced.read_text())
        whole = sum(one["seconds"] for one in runs.values())
        functions = [one for one in gc.get_objects() if type(one) is types.FunctionType]  # no proxy's `__class__`
        self._functions = [one for one in functions if one.__code__.co_filename == str(self._path)]
        for mutant in self._mutants:
            result, seen = self._try(session, mutant, runs, whole)
            with self._told.open("a") as file:
                file.write(json.dumps({"result": result, "seen": seen, "seconds": whole}) + "\n")
        return True

    def _try(self, session: Any, mutant: Mutant, runs: dict[str, Any], whole: float) -> tuple[str, str]:
        if not mutant.function:
            return "anew", ""
        right = self._path.read_text()
        lines = set(range(mutant.line, mutant.end + 1))
        near = [item for item in session.items if lines & set(runs[item.nodeid]["lines"])]
        near.sort(key=lambda item: runs[item.nodeid]["seconds"])
        self._path.write_text(mutant.source)
        try:
            for items in filter(None, (near, session.items if len(near) < len(session.items) else [])):
                seconds = sum(runs[item.nodeid]["seconds"] for item in items)
                code = self._fork(lambda items=items: self._run(session, mutant, items), 10 * seconds + 30)
                if code == _NOT_IN_PLACE:
                    return "anew", ""
                words = self._log.read_text(errors="replace")
                if code == 1 and planting.ONLY_SLOW.search(words):
                    return "not tried", words[-300:]
                if code > 1:
                    raise RuntimeError(f"{mutant.old} -> {mutant.new}: {words[-3000:]}")
                if code != 0:
                    return "killed", words[-300:]
        finally:
            self._path.write_text(right)
        return "survived", "" if near else "no test runs it"

    def _fork(self, work: Callable[[], int], seconds: float) -> int:
        return planting.in_a_fork(work, self._log, seconds=seconds)

    def _run(self, session: Any, mutant: Mutant, items: list[Any]) -> int:
        if not _put_in_place(self._functions, self._file, str(self._path), mutant):
            return _NOT_IN_PLACE
        return self._loop(session, items)

    def _loop(self, session: Any, items: list[Any]) -> int:
        from _pytest.main import Session, pytest_runtestloop

        session.items = items
        try:
            pytest_runtestloop(session)
        except (Session.Failed, Session.Interrupted):
            return 1
        return int(session.testsfailed > 0)

    def _trace(self, session: Any, out: Path) -> int:
        tracer = _Tracer(str(self._path))
        session.config.pluginmanager.register(tracer)
        code = self._loop(session, session.items)
        out.write_text(json.dumps(tracer.runs(session.items)))
        for report in tracer.failed:
            sys.stdout.write(f"{report}\n")
        return code


_NOT_IN_PLACE = 64


def _put_in_place(functions: list[types.FunctionType], file: str, path: str, mutant: Mutant) -> bool:
    """Give every function of the imported module the fault's code; False if that needs the module imported anew."""
    name = ".".join(Path(file).with_suffix("").parts).removesuffix(".__init__")
    if name not in sys.modules:
        return True  # whoever imports it now reads the fault from the file
    new = {_name(code): code for code in _codes(compile(mutant.source, path, "exec", dont_inherit=True))}
    put = 0
    for function in functions:
        if not _inside(function.__code__.co_qualname, mutant.function):
            continue
        code = new.get(_name(function.__code__))
        if code is None or len(code.co_freevars) != len(function.__code__.co_freevars):
            return False
        function.__code__ = code
        put += 1
    return put > 0


def _inside(name: str, function: str) -> bool:
    return name == function or name.startswith(f"{function}.<locals>.")


def _name(code: types.CodeType) -> tuple[str, tuple[str, ...]]:
    """Tell a function from others of its name (a property's getter and setter) by its parameters too."""
    return code.co_qualname, code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes(constant)


class _Tracer:
    """A pytest plugin that sees which lines of one file each test runs, its fixtures included."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lines: dict[Any, set[int]] = defaultdict(set)
        self._seconds: dict[str, float] = defaultdict(float)
        self._now: list[Any] = []
        self.failed: list[str] = []
        import pytest

        # Not as decorators: libraries are imported before pytest is, so that it is the fork's own.
        for hook in (_Tracer.pytest_runtest_protocol, _Tracer.pytest_fixture_setup):
            pytest.hookimpl(wrapper=True)(hook)

    def pytest_runtest_protocol(self, item: Any) -> Any:
        """Trace a test."""
        with self._during(item.nodeid):
            return (yield)

    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        """Trace a fixture for itself."""
        with self._during(fixturedef):
            return (yield)

    def _during(self, key: Any) -> "_During":
        return _During(self._now, key, self._line)

    def _line(self, frame: types.FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != self._path:
            return None
        if self._now:
            self._lines[self._now[-1]].add(frame.f_lineno)
        return self._line

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep a test's time and failure."""
        self._seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.append(f"{report.nodeid}\n{report.longreprtext}")

    def runs(self, items: list[Any]) -> dict[str, dict[str, Any]]:
        """Return each test's seconds and lines; a shared fixture's lines are every test's that uses it."""
        told = {}
        for item in items:
            lines = set(self._lines[item.nodeid])
            for definitions in item._fixtureinfo.name2fixturedefs.values():
                for definition in definitions:
                    lines |= self._lines.get(definition, set())
            told[item.nodeid] = {"seconds": self._seconds[item.nodeid], "lines": sorted(lines)}
        return told


class _During:
    """Traces while the block runs, for one test or one fixture within it."""

    def __init__(self, now: list[Any], key: Any, line: Callable[..., Any]) -> None:
        self._now, self._key, self._trace = now, key, line

    def __enter__(self) -> None:
        self._now.append(self._key)
        sys.settrace(self._trace)
        threading.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        self._now.pop()
        if not self._now:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
