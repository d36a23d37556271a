"""The loop closed on `scenes`: audit, simulated reviewers of known error rate, training on their verdicts, evaluation.

Usage: python benchmarks/verdict_loop.py WORK [--images 250] [--steps 240] [--seeds 1]

The training split is small, so that a reviewer's verdicts are many among its pairs. Reviewers see the candidates in the
order of the audit's score and know the truth; each says the opposite of it with a known probability. Every student has
the same recipe (InfoNCE alone, `loss.false_negatives=positive`), seed and steps. RSUM under true positives is the task
`audited` on the test split, where one who never errs judged every pair. Run again it goes on where it was.
"""

import argparse
import datetime
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cusa import recipe as recipes
from cusa.manifests import schemas
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.teachers.registry import load_teacher
from cusa.pipeline import audit, extract, index, readers, shard
from cusa.pipeline.config import AuditConfig, ExtractConfig, IndexConfig, ShardConfig
from cusa.workflow import download as downloading
from cusa.workflow import evaluate as scoring
from cusa.workflow import train as training

ROOT = Path(__file__).resolve().parent
TEACHERS = {"image": "offline-scenes-image", "text": "offline-scenes-text"}
REVIEWERS = {"never errs": (0.0, 1), "errs in 10 %": (0.1, 1), "three that err in 10 %": (0.1, 3)}
"""Name -> error rate, and how many are asked about each candidate."""
SHARES = (0.05, 0.3, 1.0)
"""Of the candidates, judged."""


def make_data(work: Path, images: int) -> None:
    raw, data = work / "raw", work / "data"
    downloading.download("scenes", out=raw, settings=(f"train={images}", "val=100", "test=300"))
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", raw / "dataset_scenes.json", raw), out=data)
    for name in ("train", "val", "test"):
        split = Split(data, name)
        for modality, teacher in TEACHERS.items():
            extract.run(ExtractConfig(), split=split, teacher=teacher, modality=modality, load=load_teacher)
            index.run(IndexConfig(), split=split, teacher=teacher)
    audit.run(AuditConfig(), split=Split(data, "train"))


def true_pairs(split: Split) -> set[tuple[str, str]]:
    table = store.read_table(split.folder / "truth.parquet", columns=schemas.TRUTH.names)
    return set(zip(table["image_key"].to_pylist(), table["caption_key"].to_pylist(), strict=True))


def say(split: Split, pairs: list[tuple[str, str]], matches: np.ndarray, error: float, people: int, seed: int) -> None:
    """Write what simulated reviewers say, in place of what was there."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for person in range(people):
        wrong = random.random(len(pairs)) < error
        for number, ((image, caption), match, lie) in enumerate(zip(pairs, matches, wrong, strict=True)):
            rows.append(
                {
                    "id": f"simulated-{person}-{number:07d}",
                    "image_key": image,
                    "caption_key": caption,
                    "verdict": "match" if match != lie else "no match",
                    "reviewer": f"simulated {person}",
                    "judged_at": datetime.datetime(2026, 1, 1),
                }
            )
    path = split.folder / "audit" / "verdicts.parquet"
    path.unlink(missing_ok=True)
    if rows:
        store.write_table(path, pa.Table.from_pylist(rows, schema=schemas.VERDICTS))


def train_and_score(work: Path, name: str, seed: int, settings: list[str]) -> dict[str, float]:
    out, recipe = work / "runs" / f"{name}-seed{seed}", "scenes-cusa" if name == "cusa" else "scenes-infonce"
    training.train(recipes.load(recipe, [f"train.seed={seed}", *settings]), work=work / "data", out=out)
    (found,) = scoring.evaluate(
        str(out), scoring.EvalRequest(data=[work / "data"], tasks=["cross-modal", "audited"], settings=["bootstrap=0"])
    )
    both = {task: found["tasks"][task]["metrics"] for task in ("cross-modal", "audited")}
    directions = ("image-to-text", "text-to-image")
    return {
        "rsum_true": both["audited"]["rsum"],
        "r_precision_true": statistics.mean(both["audited"][f"{one}/r_precision"] for one in directions),
        "rsum_own": both["cross-modal"]["rsum"],
    }


def main() -> None:
    told = argparse.ArgumentParser()
    told.add_argument("work", type=Path)
    told.add_argument("--images", type=int, default=250)
    told.add_argument("--steps", type=int, default=240)
    told.add_argument("--seeds", type=int, default=1)
    options = told.parse_args()
    work: Path = options.work
    make_data(work, options.images)
    split, test = Split(work / "data", "train"), Split(work / "data", "test")
    owners = dict(zip(test.caption_keys, (test.image_keys[row] for row in test.caption_owner), strict=True))
    every = [(image, caption) for image, caption in sorted(true_pairs(test)) if owners[caption] != image]
    (test.folder / "audit").mkdir(exist_ok=True)
    say(test, every, np.ones(len(every), dtype=bool), 0, 1, seed=0)

    truth = true_pairs(split)
    table = pq.read_table(split.folder / "audit/candidates.parquet", columns=["image_key", "caption_key"])
    candidates = list(zip(table["image_key"].to_pylist(), table["caption_key"].to_pylist(), strict=True))
    matches = np.array([pair in truth for pair in candidates])
    false_negatives = len(truth) - split.num_captions
    points: list[dict[str, Any]] = []

    def add(kind: str, judged: int, name: str, settings: list[str], **more: Any) -> None:
        found = [train_and_score(work, name, seed, settings) for seed in range(options.seeds)]
        mean = {key: statistics.mean(one[key] for one in found) for key in found[0]}
        points.append({"reviewers": kind, "judged": judged, **more, **mean, "seeds": found})
        print(json.dumps({key: value for key, value in points[-1].items() if key != "seeds"}), flush=True)

    common = [f"train.steps={options.steps}", f"train.validate_every={options.steps}", "train.batch=64"]
    add("nobody", 0, "nobody", common)
    positive = [*common, "loss.false_negatives=positive"]
    for kind, (error, people) in REVIEWERS.items():
        for share in SHARES:
            number = int(share * len(candidates))
            say(split, candidates[:number], matches[:number], error, people, seed=1)
            given = pair_judgements.read(split).pairs("match")
            right = len(truth.intersection(given))
            more = {"verdicts": number * people, "matches": len(given), "wrong_matches": len(given) - right}
            name = f"{kind.replace(' ', '-').replace('%', 'percent')}-{number}"
            add(kind, number, name, positive, share_found=right / false_negatives, **more)
    add("CUSA, nobody asked", 0, "cusa", common)

    result = {
        "what": "RSUM and R-Precision under true positives against candidates judged, on scenes",
        "images": split.num_images,
        "captions": split.num_captions,
        "steps": options.steps,
        "seeds": options.seeds,
        "candidates": len(candidates),
        "true_candidates": int(matches.sum()),
        "false_negatives": false_negatives,
        "open_pairs": split.num_captions * (split.num_images - 1),
        "points": points,
    }
    store.write_json(split.folder / "audit" / "verdict_loop.json", result)
    today = datetime.date.today().isoformat()
    store.write_json(ROOT / "results" / f"verdict-loop-2-core-x86-{today}.json", result)


if __name__ == "__main__":
    main()
