"""The flip table: one bit flipped in each kind of file, and who finds it: `verify`, and the next stage that reads it.

    python benchmarks/flips.py [--flips 100] [--stages 10] [--seed N] [--only KIND]      # from the repository's root

`verify` looks at `--flips` flips a kind. The next stage runs after `--stages` of them, and refuses the file (an error
that names it), makes it again or passes it over, or works as if nothing were: "no effect" if every file it wrote is as
it would be (the flip lies in bytes that it does not use: a tar's descriptions, a column's statistics), else "not seen",
which must not be. Writes
benchmarks/results/flips-<machine>-<date>.json.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cusa import recipe
from cusa.errors import CusaError
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import audit, calibrate, extract, index, verify
from cusa.pipeline.config import AuditConfig, CalibrateConfig, ExtractConfig, IndexConfig
from cusa.workflow import evaluate, report, train
from tests.pipeline.audited import load, teach
from tests.pipeline.calibrate.test_stage import write_truth
from tests.pipeline.racing import SETTINGS
from tests.worlds import make_work

Stage = Callable[[Path], bool]
"""Runs a stage in a folder that holds `work` and `run`; tells whether it did work."""


def _extract(modality: str, name: str) -> Stage:
    def run(folder: Path) -> bool:
        shutil.rmtree(folder / "work/val/teachers" / name)
        split = Split(folder / "work", "val")
        extract.run(ExtractConfig(), split=split, teacher=name, modality=modality, load=load)
        return False

    return run


def _index(folder: Path) -> bool:
    return index.run(IndexConfig(neighbours=4), split=Split(folder / "work", "val"), teacher="colours").fresh


def _index_anew(folder: Path) -> bool:
    (folder / "work/val/index/colours.ledger.json").unlink()
    _index(folder)
    return False


def _audit(folder: Path) -> bool:
    return audit.run(AuditConfig(neighbours=4, gallery=4), split=Split(folder / "work", "val")).fresh


def _audit_anew(folder: Path) -> bool:
    (folder / "work/val/audit/ledger.json").unlink()
    _audit(folder)
    return False


def _calibrate(folder: Path) -> bool:
    config = CalibrateConfig(neighbours=4, pairs=300, background=100)
    return calibrate.run(config, split=Split(folder / "work", "val"), out=folder / "work/calibration.json").fresh


def _train(folder: Path) -> bool:
    return train.train(recipe.load("tiny", SETTINGS), work=folder / "work", out=folder / "run").fresh


def _resume(folder: Path) -> bool:
    (folder / "run/ledger.json").unlink()
    done = train.train(recipe.load("tiny", SETTINGS), work=folder / "work", out=folder / "run")
    return any("broken" in note for note in done.notes)


def _evaluate(folder: Path) -> bool:
    return bool(evaluate.evaluate(str(folder / "run"), evaluate.EvalRequest(data=[folder / "work"]))[0]["fresh"])


def _report(folder: Path) -> bool:
    report.report([folder / "run"], force=True)
    return False


KINDS: dict[str, tuple[str, Stage | None]] = {
    "tar": ("work/val/00000.tar", _extract("image", "colours")),
    "samples": ("work/val/samples.parquet", _extract("image", "colours")),
    "captions": ("work/val/captions.parquet", _extract("text", "words")),
    "shards": ("work/val/shards.parquet", _extract("image", "colours")),
    "drops": ("work/val/drops.parquet", None),
    "ledger of shard": ("work/shard.ledger.json", None),
    "teacher part": ("work/val/teachers/colours/00000.parquet", _index_anew),
    "index": ("work/val/index/colours.faiss", _index),
    "neighbours": ("work/val/index/neighbours-colours.parquet", _audit_anew),
    "candidates": ("work/val/audit/candidates.parquet", _audit),
    "calibration": ("work/calibration.json", _calibrate),
    "checkpoint's state": ("run/checkpoints/step-000000004/state.pt", _resume),
    "checkpoint's meta": ("run/checkpoints/step-000000004/meta.json", _resume),
    "model": ("run/model/model.safetensors", _evaluate),
    "recipe": ("run/recipe.json", _evaluate),
    "ledger of train": ("run/ledger.json", _train),
    "results": ("run/eval/metrics.json", _report),
    "ranks by query": ("run/eval/per_query.parquet", _report),
    "ledger of eval": ("run/eval/ledger.json", _report),
}
"""Kind -> the file, and the next stage that reads it."""


def make(folder: Path) -> None:
    """Make a small work folder and a run, with every kind of file."""
    make_work(folder, images=8, captions=3)
    for split in ("train", "val"):
        teach(folder / "work", split=split, image="colours", text="words")
    write_truth(folder / "work", "val")
    _audit(folder)
    _calibrate(folder)
    _train(folder)
    _evaluate(folder)


def flip(path: Path, chance: random.Random) -> int:
    """Flip one bit of a file; return its byte's place."""
    data = bytearray(path.read_bytes())
    place = chance.randrange(len(data))
    data[place] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return place


def _results(folder: Path, flipped: str) -> dict[str, str]:
    """Return the digest of every file but the flipped one, ledgers, locks and pages, which hold times."""
    return {
        path.relative_to(folder).as_posix(): store.sha256_file(path)
        for path in store.files_below(folder)
        if not path.name.endswith(("ledger.json", ".html", ".md")) and path != folder / flipped
    }


def main() -> None:
    """Flip, ask, write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--stages", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", action="append", choices=KINDS, help="this kind; the others' figures stay")
    options = parser.parse_args()
    out = Path(__file__).parent / "results" / f"flips-2-core-x86-{time.strftime('%Y-%m-%d')}.json"
    results: dict[str, Any] = {"machine": "2-core-x86", "kinds": {}}
    if options.only and out.is_file():
        results["kinds"] = json.loads(out.read_text())["kinds"]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        whole, copy = place / "whole", place / "copy"
        whole.mkdir()
        make(whole)
        whole.rename(copy)  # a run names its work folder by its path: everything happens in one place
        shutil.copytree(copy, whole)
        for folder in (copy / "work", copy / "run"):
            assert verify.run(folder, workers=1).findings == (), verify.run(folder, workers=1).findings
        for kind, (file, stage) in KINDS.items():
            if options.only and kind not in options.only:
                continue
            chance = random.Random(f"{options.seed} {kind}")
            root = file.partition("/")[0]
            missed, seen = [], Counter[str]()
            for number in range(options.flips):
                at = flip(copy / file, chance)
                if not verify.run(copy / root, workers=1).findings:
                    missed.append(at)
                if stage is not None and number < options.stages:
                    try:
                        worked = stage(copy)
                        same = _results(copy, file) == _results(whole, file)
                        seen["made again or passed over" if worked else "no effect" if same else "not seen"] += 1
                    except CusaError:
                        seen["refused"] += 1
                    except Exception as error:
                        seen[f"{type(error).__name__}: {str(error)[:80]}"] += 1
                    shutil.rmtree(copy)
                    shutil.copytree(whole, copy)
                shutil.copyfile(whole / file, copy / file)
            results["kinds"][kind] = {
                "file": file,
                "seed": options.seed,
                "flips": options.flips,
                "found_by_verify": options.flips - len(missed),
                "missed_at": missed,
                "next_stage": dict(seen),
            }
            print(kind, json.dumps(results["kinds"][kind]), flush=True)
            out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
