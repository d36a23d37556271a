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
    "eccv-caption/image-to-text/r_precision": "ECCV R-P image to text",
    "eccv-caption/text-to-image/r_precision": "ECCV R-P text to image",
    "cxc-uni-modal/image-to-image/r@1": "CxC R@1 images",
    "cub/image-to-image/r@1": "R@1 images, CUB",
    "sop/image-to-image/r@1": "R@1 images, SOP stand-in",
    "in-shop/image-to-image/r@1": "R@1 images, In-Shop stand-in",
    "inaturalist-2018/image-to-image/r@1": "R@1 images, iNaturalist stand-in",
}

VALIDATION = {"mask", "gist", "label-smoothing", "surface"}
"""How the names of jobs begin that are scored on val, where no baseline of test serves."""
ALONE = {"share"}
"""Families whose jobs differ in their data."""

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


def summary(rows: Sequence[Row], tuned: Sequence[Row]) -> list[Row]:
    """Return a row a setting: mean of each number, and Student's 95 % interval of its difference to the baseline.

    The interval is over seeds, paired by seed: it says what another seed could give on these test images. With one seed
    it is the difference alone.

    Args:
        rows: of one group.
        tuned: the baselines of the table, for what has none of its own.
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
            changes = []
            for row in some:
                base = baseline_of(row, [*rows, *tuned])
                if base is not None and base is not row and key in row["numbers"] and key in base["numbers"]:
                    changes.append(row["numbers"][key] - base["numbers"][key])
            if changes:
                mean, half = sweep.mean_interval(changes)
                interval = (mean, mean - half, mean + half) if len(changes) > 1 else (mean,)
                differences[key] = [round(number, 3) for number in interval]
        seeds = sorted(row["seed"] for row in some)
        settings.append({"setting": name, "seeds": seeds, "means": means, "differences": differences})
    return settings


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the baseline of the same seed: of the same job, of the same data and batch, or the table's."""
    if VALIDATION & {row["job"].partition("/")[0]}:
        return None  # scored on val
    bases = [one for one in rows if one.get("method") == "baseline" and one["seed"] == row["seed"]]
    family = row["job"].rpartition("/")[0]
    own = [one for one in bases if one["job"] == row["job"]]
    near = [one for one in bases if family and one["job"].rpartition("/")[0] == family and family not in ALONE]
    table = [one for one in bases if one["job"] == "baseline"]
    return next(iter([*own, *near, *table]), None)


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
            if len(one["differences"].get(key, ())) == 3:
                cells.append("{:+.1f} ({:+.1f} to {:+.1f})".format(*one["differences"][key]))
            elif key in one["differences"]:
                cells.append(f"{one['differences'][key][0]:+.1f}")
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
    tuned = [row for row in trained["table"] if row["job"] == "baseline"]
    settings = {group: summary(rows, tuned) for group, rows in trained.items() if rows}
    text = (
        "Bold: the mean itself. Else the mean difference to the baseline of the same seed, with Student's 95 % "
        "interval over seeds; one seed has none. Strengths and surface are read on val.\n"
    )
    for group, some in settings.items():
        text += f"\n## {group}\n\n{table(some)}\n"
    store.write_text(RESULTS / f"{options.name}.md", text)
    store.write_text(RESULTS / f"{options.name}.json", json.dumps({"runs": trained, "settings": settings}) + "\n")
    print(text)


if __name__ == "__main__":
    main()
