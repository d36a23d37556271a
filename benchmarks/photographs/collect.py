"""Writes the tables of what `run.py` trained: every mean, and differences to the baseline of the same seed.

python -m benchmarks.photographs.collect OUT --name photographs-2-core-x86-DATE
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.photographs.jobs import GROUPS, Job
from cusa.manifests.storage import store
from cusa.workflow import sweep

RESULTS = Path(__file__).parents[1] / "results"
IGNORED = ("run", "error", "seconds", "seed")
SHOWN = {
    "cross-modal/rsum": "RSUM",
    "cross-modal/image-to-text/r@1": "R@1 image to text",
    "cross-modal/text-to-image/r@1": "R@1 text to image",
    "flickr8k-judgements/experts-foreign/tau_c": "tau-c, experts",
    "flickr8k-judgements/crowd-all/tau_b": "tau-b, crowd",
    "text-to-text/r@1": "R@1 text to text",
    "cub/image-to-image/r@1": "R@1 images, CUB",
    "sop/image-to-image/r@1": "R@1 images, SOP stand-in",
    "in-shop/image-to-image/r@1": "R@1 images, In-Shop stand-in",
    "inaturalist-2018/image-to-image/r@1": "R@1 images, iNaturalist stand-in",
}

Row = dict[str, Any]


def rows_of(out: Path, jobs: Mapping[str, Job]) -> list[Row]:
    """Return every trained cell: job, axes, seed, its numbers."""
    rows = []
    for name, job in jobs.items():
        for path in sorted((out / name).glob("seed-*/results.parquet")):
            for row in store.read_table(path).to_pylist():
                if not row["error"]:
                    axes = {axis: row[axis] for axis in job.axes}
                    numbers = {
                        key: value
                        for key, value in row.items()
                        if key not in IGNORED and key not in axes and isinstance(value, float) and "/" in key
                    }
                    rows.append({"job": name, **axes, "seed": row["seed"], "numbers": numbers})
    return rows


def summary(rows: Sequence[Row], baselines: Mapping[int, Row]) -> list[Row]:
    """Return a row a setting: mean of each number, and Student's 95 % interval of its difference to the baseline.

    The interval is over seeds, paired by seed: it says what another seed could give on these test images.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(setting(row), []).append(row)
    settings = []
    for name, some in groups.items():
        means, differences = {}, {}
        for key in dict.fromkeys(key for row in some for key in row["numbers"]):
            values = [row["numbers"][key] for row in some if key in row["numbers"]]
            means[key] = round(sum(values) / len(values), 3)
            changes = [
                row["numbers"][key] - baselines[row["seed"]]["numbers"][key]
                for row in some
                if row is not baselines.get(row["seed"]) and key in row["numbers"] and key in _of(baselines, row)
            ]
            if len(changes) > 1:
                mean, half = sweep.mean_interval(changes)
                differences[key] = [round(number, 3) for number in (mean, mean - half, mean + half)]
        seeds = sorted(row["seed"] for row in some)
        settings.append({"setting": name, "seeds": seeds, "means": means, "differences": differences})
    return settings


def _of(baselines: Mapping[int, Row], row: Row) -> Mapping[str, float]:
    numbers: Mapping[str, float] = baselines[row["seed"]]["numbers"] if row["seed"] in baselines else {}
    return numbers


def setting(row: Row) -> str:
    """Return a cell's name: its job and the values of its axes."""
    axes = [f"{key.rpartition('.')[2]} {value}" for key, value in row.items() if key not in ("job", "seed", "numbers")]
    return ", ".join([row["job"], *axes]).replace("method ", "")


def table(settings: Iterable[Row]) -> str:
    """Return Markdown: the baseline's means, then differences to it."""
    settings = list(settings)
    shown = [key for key in SHOWN if any(key in one["means"] for one in settings)]
    lines = [["setting", "seeds", *(SHOWN[key] for key in shown)], ["---"] * (2 + len(shown))]
    for one in settings:
        cells = []
        for key in shown:
            if key in one["differences"]:
                cells.append("{:+.1f} ({:+.1f} to {:+.1f})".format(*one["differences"][key]))
            else:
                cells.append(f"**{one['means'][key]:.1f}**" if key in one["means"] else "")
        lines.append([one["setting"], str(len(one["seeds"])), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Write the results of all groups that were trained."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", required=True)
    options = parser.parse_args()
    trained = {group: rows_of(options.out, jobs) for group, jobs in GROUPS.items()}
    baselines = {row["seed"]: row for row in trained["table"] if row["job"] == "baseline"}
    settings = {group: summary(rows, baselines) for group, rows in trained.items() if rows}
    text = (
        "Bold: the mean itself. Else the mean difference to the baseline of the same seed, with Student's 95 % "
        "interval over seeds.\n"
    )
    for group, some in settings.items():
        text += f"\n## {group}\n\n{table(some)}\n"
    store.write_text(RESULTS / f"{options.name}.md", text)
    store.write_text(RESULTS / f"{options.name}.json", json.dumps({"runs": trained, "settings": settings}) + "\n")
    print(text)


if __name__ == "__main__":
    main()
