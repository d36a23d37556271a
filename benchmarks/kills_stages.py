"""The kill report of the pipeline: each stage killed with SIGKILL at 30 random moments and run again.

    python benchmarks/kills_stages.py [--kills 30] [--seed N] [--stage NAME ...]      # from the repository's root

Every file is compared with those of an undisturbed run, ledgers without their times. Writes
benchmarks/results/kills-stages-<machine>-<date>.json.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.pipeline.killing import STAGES, survive


def main() -> None:
    """Kill every stage, write down what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--stage", action="append", choices=STAGES)
    options = parser.parse_args()
    out = Path(__file__).parent / "results" / f"kills-stages-2-core-x86-{time.strftime('%Y-%m-%d')}.json"
    results = {"machine": "2-core-x86", "seed": options.seed, "stages": {}}
    for stage in options.stage or STAGES:
        with tempfile.TemporaryDirectory() as folder:
            results["stages"][stage] = asdict(survive(stage, Path(folder), kills=options.kills, seed=options.seed))
        print(stage, json.dumps(results["stages"][stage]), flush=True)
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
