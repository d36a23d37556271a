"""The paper's Table 5 on data that two cores can train on: baseline, CSA, USA, CUSA, and what decides between them.

    python benchmarks/ablation/run.py --scenes SCENES_WORK --coco COCO_MINI_WORK --sts STS --truth ECCV --cxc CXC \
        --out OUT
    python benchmarks/ablation/run.py --out OUT --collect   # only the tables, from what is there

`SCENES_WORK`: `cusa download scenes`, `cusa shard karpathy`, `cusa extract-teachers` with the offline teachers.
`COCO_MINI_WORK`: 599 / 199 / 200 COCO images, sharded, with `offline-gist` and all-MiniLM-L6-v2. Each job is a `cusa
sweep` of one seed; a seed is finished for all jobs before the next begins, so that whatever time there was gives whole
comparisons. Killed, it goes on; with `--minutes` it stops by itself between two trainings (exit code 3).
"""

import argparse
import json
import sys
import time
from pathlib import Path

from cusa.eval.report import compare
from cusa.manifests.storage import store
from cusa.workflow import sweep

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
SHARP = ("loss.alpha=0.5", "loss.beta=0.5", *sweep.settings_of({"tau_q": 0.1, "tau_c": 0.1, "tau_u": 0.1}))
METHODS = ("baseline", "csa", "usa", "cusa")
PIXELS = ("teachers.image=offline-gist", "teachers.text=offline-ngrams")

# name -> recipe, settings, axes without the seed. The baseline is that of `paper` for the same reduction.
MAIN = {
    "scenes/paper": ("scenes", (), {"loss.reduction": ("standard", "release"), "method": METHODS}),
    "scenes/sharp": ("scenes", SHARP, {"method": METHODS[1:]}),
    "coco-mini/paper": ("coco-mini", (), {"loss.reduction": ("standard", "release"), "method": METHODS}),
    "coco-mini/sharp": ("coco-mini", SHARP, {"method": METHODS[1:]}),
}
MORE = {
    "scenes/pixel-teachers": ("scenes", (*SHARP, *PIXELS), {"method": ("usa", "cusa")}),
    "scenes/tau-q": ("scenes", (), {"tau_q": (0.1, 0.3), "method": ("cusa",)}),
    "scenes/batch-32": ("scenes", (*SHARP, "train.batch=32"), {"method": ("baseline", "cusa")}),
    "scenes/batch-32-paper": (
        "scenes",
        ("train.batch=32",),
        {"loss.reduction": ("standard", "release"), "method": ("cusa",)},
    ),
    # What `sharp` changes, one at a time: the weights alone, the student's temperatures alone; above, the teacher's.
    "scenes/weights-only": ("scenes", SHARP[:2], {"method": ("cusa",)}),
    "scenes/student-tau": ("scenes", sweep.settings_of({"tau_c": 0.1, "tau_u": 0.1}), {"method": ("cusa",)}),
    "scenes/weights": ("scenes", SHARP, {"alpha": (0.1, 0.5), "beta": (0.1, 0.5)}),
    "scenes/long": ("scenes", (*SHARP, "train.steps=1500"), {"method": METHODS}),
}
COMPARED = (
    "cross-modal/rsum",
    "cross-modal-truth/image-to-text/r_precision",
    "cross-modal-truth/text-to-image/r_precision",
    "uni-modal/image-to-image/r_precision",
    "uni-modal/text-to-text/r_precision",
)
KEPT = (
    "cross-modal/rsum",
    "cross-modal-truth/image-to-text/r_precision",
    "cross-modal-truth/text-to-image/r_precision",
    "cross-modal-truth/image-to-text/map_at_r",
    "cross-modal-truth/text-to-image/map_at_r",
    "eccv-caption/image-to-text/r_precision",
    "eccv-caption/text-to-image/r_precision",
    "eccv-caption/image-to-text/map_at_r",
    "eccv-caption/text-to-image/map_at_r",
    "image-to-image/r@1",
    "image-to-image/r_precision",
    "cxc-uni-modal/image-to-image/r@1",
    "cxc-uni-modal/text-to-text/r@1",
    "text-to-text/r@1",
    "text-to-text/r_precision",
    "sts/average",
)


def train(told: argparse.Namespace) -> None:
    """Run every job, one seed after the other."""
    end = time.monotonic() + 60 * told.minutes if told.minutes else float("inf")

    def say(text: str) -> None:
        print(text, flush=True)
        if time.monotonic() > end:
            sys.exit(3)

    data = {"scenes": [told.scenes], "coco-mini": [told.coco, told.truth, told.cxc, told.sts]}
    jobs = MORE if told.more else MAIN
    for seed in told.seed or range(5):
        for name, (recipe, settings, axes) in jobs.items():
            if not name.startswith(told.only):
                continue
            say(f"{name}, seed {seed}")
            done = sweep.run(
                str(HERE / f"{recipe}.toml"),
                {"seed": [seed], **{axis: list(values) for axis, values in axes.items()}},
                data=data[recipe],
                out=told.out / name / f"seed-{seed}",
                settings=settings,
                say=say,
            )
            if done.failed:
                print(f"failed: {done.failed}", flush=True)


def collect(out: Path) -> list[dict[str, object]]:
    """Return every cell that was trained: job, settings, seed, the metrics kept, differences to its baseline.

    A difference is `[second - first, low, high]` with the 95 % interval over resampled test images; it does not say how
    another seed would move it, which is why every seed stands for itself.
    """
    rows = []
    for name, (_, _, axes) in {**MAIN, **MORE}.items():
        for path in sorted((out / name).glob("seed-*/results.parquet")):
            for row in store.read_table(path).to_pylist():
                if row["error"]:
                    continue
                found = {"job": name, **{axis: row[axis] for axis in axes}, "seed": row["seed"]}
                found["metrics"] = {key: round(row[key], 3) for key in KEPT if row.get(key) is not None}
                found["folder"] = path.parent / "runs" / row["run"]
                rows.append(found)
    for row in rows:
        base = next((one for one in rows if _is_baseline(one, row)), None)
        if base is not None and base is not row:
            row["to_baseline"] = {
                key: round(value - base["metrics"][key], 3)
                for key, value in row["metrics"].items()
                if key in base["metrics"]
            }
        if base is not None and base is not row and row.get("method") != "baseline":
            first, second = (store.read_table(one["folder"] / "eval/per_query.parquet") for one in (base, row))
            told = compare.paired(first, second, samples=1000)
            row["differences"] = {
                key: [round(value, 3) for value in (told[key].value, told[key].low, told[key].high)]
                for key in COMPARED
                if key in told
            }
    return [{key: value for key, value in row.items() if key != "folder"} for row in rows]


def over_seeds(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return for each job and setting the mean over its seeds and, with its 95 % interval, the mean difference.

    The interval is Student's, over the seeds' differences to the baseline of the same seed: it says what another seed
    could give, and treats the test images as fixed.
    """
    groups: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in rows:
        groups.setdefault((str(row["job"]), _setting(row)), []).append(row)
    found = []
    for (job, setting), some in sorted(groups.items()):
        means = {key: _mean([row["metrics"][key] for row in some if key in row["metrics"]]) for key in KEPT}
        changes = {}
        for key in KEPT:
            values = [row["to_baseline"][key] for row in some if key in row.get("to_baseline", {})]
            if len(values) > 1:
                mean, half = sweep.mean_interval(values)
                changes[key] = [round(number, 2) for number in (mean, mean - half, mean + half)]
        told = {"job": job, "setting": setting, "seeds": sorted(row["seed"] for row in some)}
        found.append({**told, "means": {k: v for k, v in means.items() if v is not None}, "differences": changes})
    return found


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 2) if values else None


def _is_baseline(row: dict[str, object], one: dict[str, object]) -> bool:
    """Tell whether a row is what another is compared with: same data, seed, batch, reduction, neither CSA nor USA."""
    if row.get("method") != "baseline" or row["seed"] != one["seed"]:
        return False
    data, batch = [str(job["job"]).partition("/")[0] for job in (row, one)], [_batch(job) for job in (row, one)]
    if ("long" in str(row["job"])) != ("long" in str(one["job"])):
        return False
    # At batch 32 the release's baseline was not trained: AdamW hides a factor on the only term.
    reduction = one.get("loss.reduction", "standard") if batch[1] != "32" else "standard"
    return data[0] == data[1] and batch[0] == batch[1] and row.get("loss.reduction", "standard") == reduction


def _batch(row: dict[str, object]) -> str:
    return str(row["job"]).partition("batch-")[2].partition("-")[0]


def table(rows: list[dict[str, object]]) -> str:
    """Return a Markdown table for each data set: a row a cell, its numbers and the differences to its baseline."""
    parts = []
    summary = over_seeds(rows)
    for data in ("scenes", "coco-mini"):
        told = [one for one in summary if str(one["job"]).startswith(data)]
        compared = [key for key in KEPT if any(key in one["differences"] for one in told)]
        lines = [["job", "setting", "seeds", *compared], ["---"] * (3 + len(compared))]
        for one in told:
            head = [str(one["job"]).partition("/")[2], str(one["setting"]), str(len(one["seeds"]))]
            cells = [
                "{:+.1f} ({:+.1f} to {:+.1f})".format(*one["differences"][key])
                if key in one["differences"]
                else f"**{one['means'][key]:.1f}**"
                if key in one["means"]
                else ""
                for key in compared
            ]
            lines.append([*head, *cells])
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        parts.append(f"## {data}, over seeds\n\n{text}")
    for data in ("scenes", "coco-mini"):
        mine = [row for row in rows if str(row["job"]).startswith(data)]
        metrics = [key for key in KEPT if any(key in row["metrics"] for row in mine)]
        lines = [["job", "setting", "seed", *metrics], ["---"] * (3 + len(metrics))]
        compared = [key for key in COMPARED if any(key in row.get("differences", {}) for row in mine)]
        changes = [["job", "setting", "seed", *compared], ["---"] * (3 + len(compared))]
        for row in sorted(mine, key=lambda row: (str(row["job"]), _setting(row), row["seed"])):
            head = [str(row["job"]).partition("/")[2], _setting(row), str(row["seed"])]
            lines.append([*head, *(f"{row['metrics'].get(key, float('nan')):.1f}" for key in metrics)])
            if "differences" in row:
                told = row["differences"]
                cells = ["{:+.1f} ({:+.1f} to {:+.1f})".format(*told[key]) if key in told else "" for key in compared]
                changes.append([*head, *cells])
        for title, table in (
            (f"## {data}", lines),
            ("Differences to the baseline of the same seed and reduction:", changes),
        ):
            parts.append(title + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in table))
    return "\n\n".join(parts)


def _setting(row: dict[str, object]) -> str:
    axes = {**MAIN, **MORE}[str(row["job"])][2]
    return ", ".join(f"{axis.rpartition('.')[2]} {row[axis]}" for axis in axes)


def main() -> None:
    """Train, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=Path)
    parser.add_argument("--coco", type=Path)
    parser.add_argument("--sts", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--cxc", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, action="append", help="repeatable; 0 to 4 where none is named")
    parser.add_argument("--more", action="store_true", help="the further questions, instead of the main table")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long, to go on when called again")
    parser.add_argument("--only", default="", help="jobs whose name begins so")
    parser.add_argument("--collect", action="store_true")
    told = parser.parse_args()
    if not told.collect:
        train(told)
        return
    rows = collect(told.out)
    name = f"ablation-2-core-x86-{time.strftime('%Y-%m-%d')}"
    (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=0) + "\n")
    (RESULTS / f"{name}-over-seeds.json").write_text(json.dumps(over_seeds(rows), indent=0) + "\n")
    note = (
        "First the mean difference to the baseline of the same seed, reduction, batch and length, with Student's 95 % "
        "interval over the seeds; bold: the mean itself, of a baseline. Then every seed for itself, its intervals over "
        "resampled test images.\n\n"
    )
    tables = table(rows)
    (RESULTS / f"{name}.md").write_text(note + tables + "\n")
    print(tables)


if __name__ == "__main__":
    main()
