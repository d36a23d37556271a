"""Sixty slips a set, planted one at a time: which of them does a module's own tests see?

    python benchmarks/slips.py [--set N] [--only TEXT] [--again] [--out NAME]   # from the root, the commit to be tried

`slips.json` has the slips, each one line that somebody could have written: its set (chosen before anybody looked which
tests there were), file, old text, new text, what it does, and the test files that should see it (the module's own, and
those of what calls it). Each is put into a copy of the repository (a work tree of git, thrown away at the end), its
test files run to the first failure, and the copy is mended again. A slip is caught if a test fails for another reason
than its time. Writes benchmarks/results/slips-<machine>-<date>.json, beside what an earlier file of that name says of
the same slips.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import planting

SLIPS = Path(__file__).with_name("slips.json")
RESULTS = {
    1: "slips-2-core-x86-2026-11-30",
    2: "slips-second-set-2-core-x86-2026-11-30",
    3: "slips-third-set-2-core-x86-2026-11-30",
    4: "slips-fourth-set-2-core-x86-2026-11-30",
}
_SECONDS = 900  # a slip at most


def main() -> None:
    """Try the slips and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", type=int, default=4, choices=tuple(RESULTS), help="which sixty")
    parser.add_argument("--only", default="", help="slips whose file or meaning has this in it")
    parser.add_argument("--again", action="store_true", help="only those that nothing caught yet")
    parser.add_argument("--out", default="", help="name of the result")
    options = parser.parse_args()
    slips = [one for one in json.loads(SLIPS.read_text()) if one["set"] == options.set]
    slips = [one for one in slips if options.only in f"{one['file']} {one['what']}"]
    planting.import_libraries()
    out = planting.ROOT / "benchmarks" / "results" / f"{options.out or RESULTS[options.set]}.json"
    told = {one["what"] for one in slips}
    found = json.loads(out.read_text())["slips"] if out.is_file() else {}
    found = {what: one for what, one in found.items() if what in told or options.only}
    if options.again:
        slips = [one for one in slips if found.get(one["what"], {}).get("result") != "caught"]
    with planting.copy() as copy:
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


def _try(copy: Path, slip: dict[str, Any]) -> dict[str, Any]:
    """Plant a slip, run its tests, and mend the copy."""
    path = copy / slip["file"]
    right = path.read_text()
    assert right.count(slip["old"]) == 1, f"{slip['file']} has not once: {slip['old']}"
    log = copy.parent / "log.txt"
    start = time.perf_counter()
    try:
        path.write_text(right.replace(slip["old"], slip["new"]))
        code = planting.in_a_fork(functools.partial(planting.pytest_in, copy, slip["tests"]), log, seconds=_SECONDS)
    finally:
        path.write_text(right)
    result, seen = planting.verdict(code, log.read_text(errors="replace"))
    return {"result": result, "seen_by": seen, "seconds": round(time.perf_counter() - start, 1)}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
