"""Trains what `jobs.py` lists, a seed at a time, so that whatever time there was gives whole comparisons.

    python -m benchmarks.photographs.run WORK --out OUT --group table [--seed 0 --seed 2]

`WORK`: Flickr8k, sharded, with the tables of `benchmarks.photographs.lite:Lite0` and `:Lite2` and of the folders
`all-MiniLM-L6-v2` and `all-mpnet-base-v2`. Each job and seed is a `cusa sweep`: killed, it goes on where it was.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.photographs.jobs import GROUPS
from cusa.manifests.events import Callbacks
from cusa.workflow import sweep

HERE = Path(__file__).parent


def main() -> None:
    """Train and score every job of a group for some seeds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--group", choices=GROUPS, required=True)
    parser.add_argument("--seed", type=int, action="append", help="repeatable; those of each job where none is named")
    parser.add_argument("--job", action="append", help="only this one of the group; repeatable")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="KEY=VALUE of every recipe")
    parser.add_argument("--also", type=Path, action="append", default=[], help="what else to score on; repeatable")
    options = parser.parse_args()
    jobs = {name: job for name, job in GROUPS[options.group].items() if not options.job or name in options.job}
    failed = 0
    for seed in options.seed or range(max(job.seeds for job in jobs.values())):
        for name, job in jobs.items():
            if seed >= job.seeds:
                continue
            print(f"{name}, seed {seed}", flush=True)
            done = sweep.run(
                str(HERE / job.recipe),
                {"seed": [seed], **{axis: list(values) for axis, values in job.axes.items()}},
                data=[options.work, *options.also],
                out=options.out / name / f"seed-{seed}",
                settings=[*job.settings, *options.settings],
                callbacks=Callbacks(on_message=lambda text: print(text, flush=True)),
            )
            for row in done.rows:
                print(f"  {row['run']}: RSUM {row.get('cross-modal/rsum')} {row['error']}", flush=True)
                failed += bool(row["error"])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
