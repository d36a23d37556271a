"""The kill report: one run killed with SIGKILL at 20 random moments, one undisturbed, compared bit by bit.

    python benchmarks/kills.py [SEED]      # from the repository's root

Writes benchmarks/results/kills-<machine>-<date>.json.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.train import processes
from tests.train.conftest import make_world
from tests.train.test_survival import metrics, same, state


def main() -> None:
    """Kill, go on, compare, write down."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else int(time.time())
    train = {"steps": 60, "validate_every": 10, "checkpoint_every": 3, "ema": 0.9, "accumulate": 2}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        world = make_world(folder)
        whole = processes.Run(world, folder / "whole", train).ends()
        at, done = processes.killed(world, folder / "killed", train, kills=20, seed=seed)
        one, other = state(folder / "whole", 60), state(folder / "killed", 60)
        results = {
            "machine": "2-core-x86",
            "seed": seed,
            "steps": 60,
            "killed_after_step": at,
            "same_bits": {
                **{name: same(one[name], other[name]) for name in one},
                "metrics": metrics(folder / "whole") == metrics(folder / "killed"),
                "seen_pairs": whole.seen == done.seen,
            },
            "left_unfinished": [path.name for path in (folder / "killed").rglob(".partial-*")],
        }
    out = Path(__file__).parent / "results" / f"kills-2-core-x86-{time.strftime('%Y-%m-%d')}.json"
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
