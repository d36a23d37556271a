"""What the training loop adds to a step beyond the student's and the loss's own work: tiny sizes, where it counts most.

    python benchmarks/loop_overhead.py

A work folder of drawn pictures, the smallest student, batches of 8. The loop as it is, from the cache of decoded
pictures, against a bare loop over the same batches that only calls student, loss, backward and optimiser. CPU
milliseconds of the main thread a step, so that reading threads and other programs do not count; medians of both, in
turn. Writes benchmarks/results/loop-overhead-<machine>-<date>.json.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' small world

RESULTS = Path(__file__).parent / "results"


def loop_milliseconds(world: Path, out: Path, steps: int) -> list[float]:
    """Return the milliseconds of every step of the loop, its rows of metrics and checkpoints apart."""
    from cusa.manifests.events import Callbacks
    from cusa.manifests.samples import Split
    from cusa.models import student as students
    from cusa.train import loop
    from tests.train.conftest import LOSS, STUDENT, TRAIN

    at: list[float] = []
    config = TRAIN.model_copy(update={"steps": steps, "log_every": 10 * steps, "validate_every": 10 * steps})
    config = config.model_copy(update={"checkpoint_every": 10 * steps})
    split = Split(world, "train")
    student = students.create(STUDENT, captions=split.texts, uni=True, seed=0)
    loop.run(
        config,
        LOSS,
        student=student,
        data=loop.TrainingSplit(split),
        out=out,
        callbacks=Callbacks(on_event=lambda *event: at.append(time.thread_time())),
    )
    return [1000 * (after - before) for before, after in zip(at[20:-2], at[21:-1], strict=True)]


def bare_milliseconds(world: Path, out: Path, steps: int) -> list[float]:
    """Return the milliseconds of every step without the loop."""
    from cusa.manifests.samples import Split
    from cusa.models import student as students
    from cusa.train.data.gather import TeacherRows
    from cusa.train.data.order import Order
    from cusa.train.data.pairs import Pairs
    from cusa.train.data.stream import PairStream, Tables
    from cusa.train.optimizers.groups import parameter_groups
    from cusa.train.terms import make_loss
    from tests.train.conftest import LOSS, STUDENT

    split = Split(world, "train")
    student = students.create(STUDENT, captions=split.texts, uni=True, seed=0).train()
    loss = make_loss(LOSS).train()
    named = [*student.named_parameters("student"), *loss.named_parameters("loss")]
    optimizer = torch.optim.AdamW(parameter_groups(named, weight_decay=1e-4), lr=1e-3, fused=True)
    teachers = {m: TeacherRows(split, name, fallback=out) for m, name in (("image", "colours"), ("text", "words"))}
    stream = PairStream(Pairs(split), Order(split.num_captions, 8, 0), student, tables=Tables(teachers=teachers))
    batches = [stream[number] for number in range(4)]
    at = [time.thread_time()]
    for number in range(steps):
        batch = batches[number % 4]
        optimizer.zero_grad(set_to_none=True)
        embeddings = student(student.pixels(batch.images), batch.tokens)
        terms = loss(
            **embeddings,
            teacher_image=batch.teacher_image,
            teacher_text=batch.teacher_text,
            image_ids=batch.image_ids,
        )
        terms["loss"].backward()
        optimizer.step()
        at.append(time.thread_time())
    return [1000 * (after - before) for before, after in zip(at[20:-1], at[21:], strict=True)]


def main() -> None:
    """Measure, print, write the result."""
    from tests.train.conftest import make_world

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        world, rounds = make_world(Path(folder)), []
        for number in range(asked.rounds):
            both = {
                "loop": statistics.median(loop_milliseconds(world, Path(folder) / f"run{number}", asked.steps)),
                "bare": statistics.median(bare_milliseconds(world, Path(folder) / "bare", asked.steps)),
            }
            rounds.append(both)
    result: dict[str, Any] = {
        "machine": "2-core-x86",
        "load_average": os.getloadavg()[0],
        "date": date.today().isoformat(),
        "rounds_milliseconds": rounds,
        "added_milliseconds": statistics.median(one["loop"] - one["bare"] for one in rounds),
        "allowed_milliseconds": 0.5,
    }
    print(json.dumps(result, indent=2))
    RESULTS.mkdir(exist_ok=True)
    place = RESULTS / f"loop-overhead-2-core-x86-{date.today().isoformat()}.json"
    place.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
