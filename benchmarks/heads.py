"""Training on embeddings: against a bare loop over tensors in memory, against frozen towers on pixels; memory at 8 x.

    python benchmarks/heads.py WORK --text-tower FOLDER      # from the repository's root

WORK is Flickr8k with the tables that `benchmarks/photographs/heads.toml` names, in a folder that may be written; FOLDER
is all-MiniLM-L6-v2. Ratios of CPU seconds within one run, all threads together, since others use this machine, too;
writes benchmarks/results/heads-<machine>-<date>.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cusa import recipe as recipes
from cusa.manifests import tables
from cusa.manifests.events import Callbacks
from cusa.manifests.samples import Split
from cusa.models import features
from cusa.models import student as students
from cusa.models.preprocess import decode_rgb
from cusa.models.students.base import Student
from cusa.train import loop
from cusa.train.terms import make_loss

RESULTS = Path(__file__).parent / "results"
RECIPE = str(Path(__file__).parent / "photographs" / "heads.toml")


def steps_of_cusa(recipe: recipes.Recipe, split: Split, student: Student, named: dict[str, str]) -> float:
    """Return CPU seconds a step of the training loop, the first step apart."""
    stamps: list[float] = []

    def on_event(what: str, done: int, total: int) -> None:
        if what == "train" and done in (1, total):
            stamps.append(time.process_time())

    teachers = {"image": recipe.teachers.image, "text": recipe.teachers.text}
    with tempfile.TemporaryDirectory() as out:
        data = loop.TrainingSplit(split, teachers, named)
        loop.run(
            recipe.train, recipe.loss, student=student, data=data, out=Path(out), callbacks=Callbacks(on_event=on_event)
        )
    return (stamps[1] - stamps[0]) / (recipe.train.steps - 1)


def steps_of_a_bare_loop(recipe: recipes.Recipe, student: Student, rows: dict[str, Tensor], owner_M: Tensor) -> float:
    """Return CPU seconds a step of the same model, loss and optimiser on tensors in memory, and nothing else."""
    loss = make_loss(recipe.loss).train()
    optimizer = torch.optim.AdamW([*student.train().parameters(), *loss.parameters()], lr=1e-3, fused=True)
    order_M = torch.randperm(len(owner_M), generator=torch.Generator().manual_seed(0))
    start = 0.0
    for step in range(recipe.train.steps):
        if step == 1:
            start = time.process_time()
        at = order_M[torch.arange(step * recipe.train.batch, (step + 1) * recipe.train.batch) % len(order_M)]
        images = owner_M[at]
        out = student(rows["image"][images], {"features": rows["text"][at]})
        teachers = {"teacher_image": rows["teacher_image"][images], "teacher_text": rows["teacher_text"][at]}
        terms = loss(**out, **teachers, image_ids=images)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        optimizer.step()
    return (time.process_time() - start) / (recipe.train.steps - 1)


def against_a_bare_loop(split: Split, *, steps: int, rounds: int) -> dict[str, Any]:
    """Measure both, turn and turn about, with the tables in memory and (cache_mib=0) read from files."""
    settings = [f"train.steps={steps}", "train.warmup_steps=10", "train.workers=1", f"train.log_every={steps}"]
    recipe, from_files = (recipes.load(RECIPE, [*settings, *more]) for more in ([], ["train.cache_mib=0"]))
    heads = recipe.student.heads
    named = {"image": heads.image_table, "text": heads.text_table}
    read = {modality: features.describe(split, modality, name=name) for modality, name in named.items()}

    def student() -> Student:
        return students.create(recipe.student, captions=[], uni=True, seed=0, features=read)

    every = {**named, "teacher_image": recipe.teachers.image, "teacher_text": recipe.teachers.text}
    rows = {name: torch.from_numpy(tables.read_teacher(split, t).embeddings).float() for name, t in every.items()}
    owner = torch.from_numpy(split.caption_owner.astype(np.int64))
    seconds: dict[str, list[float]] = {"cusa": [], "cusa_from_files": [], "bare": []}
    for _ in range(rounds):
        seconds["cusa"].append(steps_of_cusa(recipe, split, student(), named))
        seconds["bare"].append(steps_of_a_bare_loop(recipe, student(), rows, owner))
        seconds["cusa_from_files"].append(steps_of_cusa(from_files, split, student(), named))
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        **{f"{name}_ms_a_step": 1000 * value for name, value in middle.items()},
        "cusa_to_bare": middle["cusa"] / middle["bare"],
        "cusa_from_files_to_bare": middle["cusa_from_files"] / middle["bare"],
    }


def towers_recipe(text_tower: str, *settings: str) -> recipes.Recipe:
    """Return the recipe with the towers themselves in the place of their tables."""
    towers = ("student.towers.image.name=benchmarks.photographs.towers:Lite0", f"student.towers.text.name={text_tower}")
    return recipes.load(RECIPE, ["student.kind=two-tower", *towers, *settings])


def against_pixels(split: Split, text_tower: str, heads_seconds: float) -> dict[str, float]:
    """Measure steps of the same heads through frozen towers."""
    recipe = towers_recipe(text_tower, "train.steps=2", "train.warmup_steps=0", "train.workers=1")
    student = students.create(recipe.student, captions=[], uni=True, seed=0)
    seconds = steps_of_cusa(recipe, split, student, {})
    return {"pixels_ms_a_step": 1000 * seconds, "steps_to_pixels": seconds / heads_seconds}


def encoding(split: Split, text_tower: str, images: int, captions: int) -> dict[str, float]:
    """Measure what extraction does of a batch against a bare loop that reads, decodes and runs the tower."""
    from cusa.models.towers.as_teacher import TowerTeacher
    from cusa.pipeline.config import ExtractConfig
    from cusa.pipeline.extract.unit import Job, _embed

    student = students.create(towers_recipe(text_tower).student, captions=[], uni=True, seed=0).eval()
    config = ExtractConfig(dtype="float32", transform="none")
    measured: dict[str, float] = {}
    for modality, count in (("image", images), ("text", captions)):
        teacher = TowerTeacher(student, modality, device=torch.device("cpu"))  # type: ignore[arg-type]
        job = Job(split.work, split.name, split.digest, teacher.name, modality, "none", config)
        at = np.arange(count)

        def bare(count: int = count, modality: str = modality, size: int = config.batch_size) -> None:
            order = sorted(range(count), key=lambda row: -len(split.texts[row])) if modality == "text" else range(count)
            for start in range(0, count, size):
                some = list(order)[start : start + size]
                with torch.inference_mode():
                    if modality == "text":
                        student.tower_features(student.tokenize([split.texts[row] for row in some]), "text")
                    else:
                        pictures = [student.image_array(decode_rgb(split.image_bytes(row))) for row in some]
                        student.tower_features(student.pixels(torch.from_numpy(np.stack(pictures))), "image")

        def engine(at: np.ndarray = at, job: Job = job, teacher: Any = teacher) -> None:
            _embed(job, at, split, teacher, lambda rows: None)

        engine_seconds, bare_seconds = [], []
        for _ in range(2):
            engine_seconds.append(cpu_seconds(engine))
            bare_seconds.append(cpu_seconds(bare))
        best, bare_best = min(engine_seconds), min(bare_seconds)
        measured |= {f"{modality}_ms": 1000 * best / count, f"{modality}_bare_to_engine": bare_best / best}
    return measured


def cpu_seconds(work: Callable[[], None]) -> float:
    """Return the CPU seconds of one call, all threads together."""
    start = time.process_time()
    work()
    return time.process_time() - start


_MEMORY = """
import sys, json
sys.path.insert(0, "benchmarks")
from pathlib import Path
import torch
torch.set_num_threads(1)
import heads
from stream import status
from cusa.manifests.samples import Split
from cusa.models import features
from cusa.models import student as students
split = Split(Path(sys.argv[1]), "train")
names = {"image": "noise-image", "text": "noise-text"}
recipe = heads.recipes.load("heads", [f"train.cache_mib={sys.argv[2]}", "train.steps=60", "train.warmup_steps=10",
    *(f"teachers.{modality}={name}" for modality, name in names.items())])
read = {modality: features.describe(split, modality, name=name) for modality, name in names.items()}
student = students.create(recipe.student, captions=[], uni=True, seed=0, features=read)
heads.steps_of_cusa(recipe, split, student, names)
print(json.dumps(status()))
"""


def memory(folder: Path) -> dict[str, Any]:
    """Train on a split and on one of eight times the rows, tables read from files; caches are built before."""
    import stream

    measured: dict[str, Any] = {}
    for name, images in (("small", 1000), ("large", 8000)):
        work = stream.photographs(folder / name, images, size=(64, 64))
        stream.noise_teachers(Split(work, "train"))
        for cache_mib in ("0", "1024"):
            command = [sys.executable, "-c", _MEMORY, str(work), cache_mib]
            done = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
            measured[f"{name}_cache_{cache_mib}_mib"] = json.loads(done[-1].stdout)
    for cache_mib in ("0", "1024"):
        small, large = (measured[f"{name}_cache_{cache_mib}_mib"]["own"] for name in ("small", "large"))
        measured[f"large_to_small_cache_{cache_mib}_mib"] = large / small
    return measured


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--text-tower", required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    split = Split(asked.work, "train")
    out = RESULTS / f"heads-2-core-x86-{time.strftime('%Y-%m-%d')}.json"
    result: dict[str, Any] = {"machine": "2-core-x86", "threads": 1, "batch": 128}

    def keep(part: str, measured: dict[str, Any]) -> None:
        result[part] = measured
        print(part, json.dumps(measured, indent=1), flush=True)
        out.write_text(json.dumps(result, indent=1) + "\n")

    keep("steps", against_a_bare_loop(split, steps=asked.steps, rounds=asked.rounds))
    keep("pixels", against_pixels(split, asked.text_tower, result["steps"]["cusa_ms_a_step"] / 1000))
    keep("encoding", encoding(split, asked.text_tower, images=64, captions=256))
    with tempfile.TemporaryDirectory() as folder:
        keep("memory", memory(Path(folder)))


if __name__ == "__main__":
    main()
