"""Averaging gradients over ranks: after the backward pass, within it by `Gradients`, and by DistributedDataParallel.

    python benchmarks/ranks.py --ranks 2 4        # from the repository's root

Two transformers of the sizes of CLIP ViT-B/32's towers (151 M parameters) with random weights, float32, a few pairs a
rank, gloo over the loopback device, one thread a rank. All ways take their turns twice within one run, a few steps each
of which the first is not counted. `alone` is the same step without any exchange. `exposed` is what a way adds to it;
`hidden` is the share of the exchange that the backward pass hid: 1 - exposed / exposed of `after`. Bytes are those a
rank hands to all-reduce.

Writes benchmarks/results/ranks-<machine>-<date>.json, with fewer layers ranks-<layers>-layers-<machine>-<date>.json.
"""

import argparse
import json
import os
import socket
import statistics
import time
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

RESULTS = Path(__file__).parent / "results"
WAYS = ("alone", "after", "within", "ddp")


VOCABULARY = 49408


class Towers(nn.Module):
    """Two transformers, and a loss of their embeddings."""

    def __init__(self, layers: int, image_width: int, text_width: int) -> None:
        super().__init__()
        self.patches = nn.Linear(3072, image_width)
        self.words = nn.Embedding(VOCABULARY, text_width)
        self.towers = nn.ModuleList(
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(
                    width, width // 8 if width < 64 else width // 64, 4 * width, 0.0, batch_first=True
                ),
                layers,
                enable_nested_tensor=False,
            )
            for width in (image_width, text_width)
        )
        self.heads = nn.ModuleList(nn.Linear(width, text_width, bias=False) for width in (image_width, text_width))

    def forward(self, patches: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        inputs = self.patches(patches), self.words(tokens)
        image, text = (
            head(tower(rows).mean(1)) for rows, tower, head in zip(inputs, self.towers, self.heads, strict=True)
        )
        loss: torch.Tensor = (image @ text.T).logsumexp(1).sum()
        return loss


def work(rank: int, world: int, port: int, asked: argparse.Namespace, out: str) -> None:
    from torch.nn.parallel import DistributedDataParallel

    from cusa.train.overlap.gradients import Gradients

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    layers, widths = (2, (32, 16)) if asked.tiny else (asked.layers, (768, 512))
    model = Towers(layers, *widths)
    patches, tokens = torch.randn(asked.pairs, 25, 3072), torch.randint(0, VOCABULARY, (asked.pairs, 8))
    parameters = [p for p in model.parameters() if p.requires_grad]
    sent = [0]

    def counted(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        flat = bucket.buffer()
        sent[0] += flat.numel() * flat.element_size()
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        return work.get_future().then(lambda done: done.value()[0] / world)  # type: ignore[no-any-return]

    reduce = dist.all_reduce

    def counting(flat: torch.Tensor, **options: Any) -> Any:
        sent[0] += flat.numel() * flat.element_size()
        return reduce(flat, **options)

    seconds: dict[str, list[float]] = {way: [] for way in asked.ways}
    bytes_of = {}
    means = {}
    for way in [*asked.ways, *asked.ways]:  # twice, so that what else the machine does meets all
        called: nn.Module = model
        gradients = None
        if way == "ddp":
            called = DistributedDataParallel(model, gradient_as_bucket_view=True)
            called.register_comm_hook(None, counted)
        elif way != "alone":
            gradients = Gradients(parameters)
        if way in ("after", "within"):
            dist.all_reduce = counting
        for number in range(asked.rounds + 1):
            model.zero_grad(set_to_none=True)
            sent[0] = 0
            dist.barrier()
            start = time.perf_counter()
            with gradients.held() if gradients is not None and way == "after" else nullcontext():
                called(patches, tokens).backward()
            if gradients is not None:
                gradients.finish()
            dist.barrier()
            if number:
                seconds[way].append(time.perf_counter() - start)
        dist.all_reduce = reduce
        for parameter in parameters:
            parameter._post_accumulate_grad_hooks = None
        if way != "alone":
            means[way] = torch.stack([p.grad.double().sum() for p in parameters if p.grad is not None])
            bytes_of[way] = sent[0]
        del called
    if rank == 0:
        first = next(iter(means.values()), None)
        agree = {way: float((mean - first).abs().max() / first.abs().max()) for way, mean in means.items()}
        found = {
            "seconds": seconds,
            "bytes": bytes_of,
            "differ": agree,
            "parameters": sum(p.numel() for p in parameters),
        }
        Path(out).write_text(json.dumps(found))
    dist.destroy_process_group()


def measure(world: int, asked: argparse.Namespace) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = RESULTS / ".ranks.json"
    mp.spawn(work, args=(world, port, asked, str(out)), nprocs=world)
    found = json.loads(out.read_text())
    out.unlink()
    middle = {way: statistics.median(times) for way, times in found["seconds"].items()}
    best = {way: min(times) for way, times in found["seconds"].items()}
    result = {**found, "median_seconds": middle, "best_seconds": best, "load_average": os.getloadavg()[0]}
    for name, times in (("median", middle), ("best", best)):
        exposed = {way: times[way] - times["alone"] for way in times if way != "alone"}
        result[f"exposed_{name}"] = exposed
        result[f"hidden_{name}"] = {way: 1 - exposed[way] / exposed["after"] for way in exposed if way != "after"}
    return result


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--pairs", type=int, default=1, help="a rank")
    parser.add_argument("--rounds", type=int, default=3, help="steps that count, a turn")
    parser.add_argument("--layers", type=int, default=12, help="of a tower; fewer where four ranks do not fit")
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    result: dict[str, Any] = {"machine": "2-core-x86", "date": date.today().isoformat(), "pairs": asked.pairs}
    for world in asked.ranks:
        result[f"{world} ranks"] = measure(world, asked)
        print(json.dumps({world: result[f"{world} ranks"]}, indent=2))
    if not asked.tiny:
        fewer = "" if asked.layers == 12 else f"{asked.layers}-layers-"
        place = RESULTS / f"ranks-{fewer}2-core-x86-{date.today().isoformat()}.json"
        place.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
