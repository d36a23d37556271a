"""The report of two writers: two processes start each stage on one folder at the same moment, ten times.

    python benchmarks/two_writers.py [--rounds 10] [--seed N] [--stage NAME ...]      # from the repository's root

One must do its work, the other be refused by name, and every file be that of a writer alone. Writes
benchmarks/results/two-writers-<machine>-<date>.json.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.pipeline.racing import STAGES, race


def main() -> None:
    """Race every stage, write down what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--stage", action="append", choices=STAGES)
    options = parser.parse_args()
    out = Path(__file__).parent / "results" / f"two-writers-2-core-x86-{time.strftime('%Y-%m-%d')}.json"
    results = {"machine": "2-core-x86", "seed": options.seed, "stages": {}}
    for stage in options.stage or STAGES:
        with tempfile.TemporaryDirectory() as folder:
            results["stages"][stage] = asdict(
                race([stage], Path(folder), rounds=options.rounds, seed=options.seed)[stage]
            )
        print(stage, json.dumps(results["stages"][stage]), flush=True)
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
