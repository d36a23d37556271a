"""What CUSA adds to a training step of InfoNCE alone: same model, same batch, teacher rows in place.

    python benchmarks/step_overhead.py                # CLIP ViT-B/32's size, 128 pairs
    python benchmarks/step_overhead.py --batch 32

A CLIP of ViT-B/32's size with random weights, float32, two threads, AdamW. Whole steps of both kinds alternate. Since a
step takes tens of seconds on a CPU and the addition some hundredths of one, the parts that differ are also timed by
themselves, many times: projectors, losses with their backward, the projectors' AdamW, and 128 rows a teacher from a
memory-mapped table. Seconds of the CPU, so that what else the machine does counts less.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from cusa.train.losses import CUSALoss

RESULTS = Path(__file__).parent / "results"
WIDTH, TEACHERS = 512, {"teacher_image": 512, "teacher_text": 768}


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def projector() -> nn.Module:
    """Return one end's projector as the authors' release has it."""
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH))


def main() -> None:
    """Measure, print ratios, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    asked = parser.parse_args()
    size = asked.batch
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = CLIPModel(CLIPConfig()).train()  # transformers' defaults are ViT-B/32's sizes
    heads = nn.ModuleDict({"image_uni": projector(), "text_uni": projector()})
    pixels = torch.randn(size, 3, 224, 224)
    tokens = torch.randint(0, 49000, (size, 32))
    tokens[:, -1] = 49407
    ids = torch.arange(size)
    losses = {"infonce": CUSALoss(alpha=0, beta=0), "cusa": CUSALoss()}
    parameters = {
        "infonce": [*model.parameters(), *losses["infonce"].parameters()],
        "cusa": [*model.parameters(), *heads.parameters(), *losses["cusa"].parameters()],
    }
    with tempfile.TemporaryDirectory() as folder:
        tables = {}
        for name, width in TEACHERS.items():
            np.save(f"{folder}/{name}.npy", np.random.default_rng(0).standard_normal((20_000, width), np.float32))
            tables[name] = np.load(f"{folder}/{name}.npy", mmap_mode="r")
        random = np.random.default_rng(1)

        def teachers() -> dict[str, Tensor]:
            rows = random.integers(0, 20_000, size)
            return {name: torch.from_numpy(table[rows]) for name, table in tables.items()}

        def objective(kind: str, image: Tensor, text: Tensor) -> None:
            more: dict[str, Any] = {}
            if kind == "cusa":
                more = {"image_uni": heads["image_uni"](image), "text_uni": heads["text_uni"](text)} | teachers()
            losses[kind](image=image, text=text, **more, image_ids=ids)["loss"].backward()

        def step(kind: str, optimizer: torch.optim.Optimizer) -> None:
            optimizer.zero_grad()
            image = model.get_image_features(pixels).pooler_output
            text = model.get_text_features(tokens).pooler_output
            objective(kind, image, text)
            optimizer.step()

        def embeddings() -> list[Tensor]:
            return [torch.randn(size, WIDTH, requires_grad=True) for _ in range(2)]

        optimizers = {kind: torch.optim.AdamW(these, lr=1e-5, fused=True) for kind, these in parameters.items()}
        steps: dict[str, list[float]] = {"infonce": [], "cusa": []}
        for _ in range(asked.rounds):
            for kind, found in steps.items():
                found.append(cpu_seconds(lambda kind=kind: step(kind, optimizers[kind])))  # type: ignore[misc]
        of_heads = torch.optim.AdamW(heads.parameters(), lr=1e-5, fused=True)
        of_heads.step()
        parts: dict[str, list[float]] = {"infonce": [], "cusa": [], "optimizer": []}
        for _ in range(asked.repeats):
            for kind in losses:
                pair = embeddings()
                parts[kind].append(cpu_seconds(lambda kind=kind, pair=pair: objective(kind, *pair)))  # type: ignore[misc]
            parts["optimizer"].append(cpu_seconds(of_heads.step))
    middle = {name: statistics.median(found) for name, found in parts.items()}
    whole = {kind: statistics.median(found) for kind, found in steps.items()}
    added = middle["cusa"] - middle["infonce"] + middle["optimizer"]
    result = {
        "machine": "2-core-x86",
        "load_average": os.getloadavg()[0],
        "date": date.today().isoformat(),
        "batch": size,
        "tokens": tokens.shape[1],
        "step_cpu_seconds": whole,
        "parts_cpu_seconds": middle,
        "added_cpu_seconds": added,
        "overhead": added / whole["infonce"],
        "difference_of_whole_steps": whole["cusa"] / whole["infonce"] - 1,
    }
    text = json.dumps(result, indent=2)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"step-overhead-2-core-x86-{date.today().isoformat()}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
