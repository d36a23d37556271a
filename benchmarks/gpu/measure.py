"""What only a CUDA device can say; see run.sh.

1. Kernels against tiles and whole matrices, by type of their inputs: the largest relative difference of values and
   gradients.
2. Streamed losses, forward and backward, by tiles and by kernels: milliseconds, memory, share of the matrix peak that a
   plain product of the same size reaches on this card. Published beside them: memeff (A100, B = 65,536, D = 512, bf16,
   InfoNCE alone) 201 ms.
3. A training step of ViT-B/32's size at 128 pairs: no read on the host, as `torch.cuda.set_sync_debug_mode("error")`
   would raise; milliseconds beside the same step that reads its loss.

Each part is left out when the time that is left does not suffice, and the file says so.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cusa.train.losses import CUSALoss
from cusa.train.losses.streaming import preferred

RESULTS = Path(__file__).parents[1] / "results"
WIDTHS = {"image": 512, "text": 512, "image_uni": 512, "text_uni": 512, "teacher_image": 512, "teacher_text": 768}
PRECISIONS = {"fp32": "highest", "tf32": "high", "bf16": "medium"}


class Card:
    """Where it runs, and how long it may."""

    def __init__(self, tiny: bool, seconds: float) -> None:
        self.tiny = tiny
        self.device = torch.device("cpu" if tiny else "cuda")
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()

    def wait(self) -> None:
        if not self.tiny:
            torch.cuda.synchronize()

    def milliseconds(self, work: Callable[[], object], repeats: int) -> float:
        """Return the best of some calls, after one that is not counted."""
        if not self.tiny:
            work()
        best = float("inf")
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            best = min(best, 1000 * (time.perf_counter() - start))
        return best

    def memory_mib(self, work: Callable[[], object]) -> float:
        """Return what a call needs beyond what is there."""
        if self.tiny:
            return 0.0
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / (1 << 20)


def inputs(size: int, card: Card) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    shrink = 32 if card.tiny else 1
    made = {
        name: torch.randn(size, width // shrink, generator=random).to(card.device) for name, width in WIDTHS.items()
    }
    for name in ("image", "text", "image_uni", "text_uni"):
        made[name].requires_grad_()
    return made | {"image_ids": (torch.arange(size) // 2).to(card.device)}


def walk(loss: CUSALoss, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take a forward and a backward pass; return values and gradients."""
    for rows in given.values():
        rows.grad = None
    loss.zero_grad(set_to_none=True)
    terms = loss(**given)
    terms["loss"].backward()
    grads = {f"d {name}": rows.grad for name, rows in given.items() if rows.grad is not None}
    grads |= {f"d {name}": p.grad for name, p in loss.named_parameters() if p.grad is not None}
    return {name: term.detach() for name, term in terms.items()} | grads


def self_test(card: Card) -> dict[str, Any]:
    """Compare kernels with whole matrices in float64."""
    given = inputs(20 if card.tiny else 1000, card)
    wide = {
        n: r.detach().double().requires_grad_(r.requires_grad) if r.is_floating_point() else r for n, r in given.items()
    }
    right = walk(CUSALoss(impl="plain").to(card.device), wide)
    found = {}
    for impl in ("streamed", "triton"):
        for name, precision in PRECISIONS.items():
            torch.set_float32_matmul_precision(precision)
            got = walk(CUSALoss(impl=impl).to(card.device), given)  # type: ignore[arg-type]
            errors = {
                k: float((got[k].double() - v).abs().max() / v.abs().max().clamp(min=1e-9)) for k, v in right.items()
            }
            found[f"{impl} {name}"] = {"values": errors["loss"], "gradients": max(errors.values())}
    torch.set_float32_matmul_precision("highest")
    return found


def streamed(card: Card) -> list[dict[str, Any]]:
    """Time the streamed losses."""
    found = []
    for size in (20,) if card.tiny else (4096, 16384, 65536, 131072):
        given = inputs(size, card)
        for terms in ({"alpha": 0.0, "beta": 0.0}, {}):
            for impl in ("streamed", "triton"):
                for name, precision in PRECISIONS.items():
                    if card.tiny and name == "tf32":
                        continue
                    if card.left() < (5 if card.tiny else 60):
                        found.append({"size": size, "impl": impl, "precision": name, "left_out": "no time"})
                        continue
                    torch.set_float32_matmul_precision(precision)
                    loss = CUSALoss(impl=impl, **terms).to(card.device)  # type: ignore[arg-type]
                    work = lambda loss=loss, given=given: walk(loss, given)  # noqa: E731
                    milliseconds = card.milliseconds(work, 1 if size > 16384 or card.tiny else 3)
                    # Products a pair of pairs: InfoNCE and CSA share one, USA has two, teachers two; gradients of each
                    # of the student's two more, and all are computed twice.
                    widths = 512 * (1 if terms else 3)
                    operations = 2 * size**2 * (widths * 4 + (0 if terms else 2 * (512 + 768)))
                    found.append(
                        {
                            "size": size,
                            "impl": impl,
                            "precision": name,
                            "terms": "infonce" if terms else "infonce, csa, usa",
                            "milliseconds": milliseconds,
                            "memory_mib": card.memory_mib(work),
                            "tera_operations_a_second": operations / milliseconds / 1e9,
                        }
                    )
    torch.set_float32_matmul_precision("highest")
    return found


def peak(card: Card) -> dict[str, float]:
    """Return what plain products reach, in tera-operations a second."""
    side, found = 128 if card.tiny else 8192, {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        one = torch.randn(side, side, device=card.device).to(dtype)
        found[name] = 2 * side**3 / card.milliseconds(lambda one=one: one @ one, 3) / 1e9
    return found


def step(card: Card) -> dict[str, Any]:
    """Time a training step that reads nothing, beside one that reads its loss."""
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes: dict[str, Any] = {"vision_config": small, "text_config": small, "projection_dim": 16} if card.tiny else {}
    model = CLIPModel(CLIPConfig(**sizes)).to(card.device).train()
    pairs = 4 if card.tiny else 128
    pixels = torch.randn(pairs, 3, 224, 224, device=card.device)
    tokens = torch.randint(0, 49000, (pairs, 32), device=card.device)
    loss = CUSALoss(beta=0.0).to(card.device)
    teachers = {name: torch.randn(pairs, 32, device=card.device) for name in ("teacher_image", "teacher_text")}
    ids = torch.arange(pairs, device=card.device)
    optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=1e-5, fused=True)

    def once(reads: bool) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(card.device.type, torch.bfloat16):
            image = model.get_image_features(pixel_values=pixels).pooler_output
            text = model.get_text_features(input_ids=tokens).pooler_output
        value = loss(image=image, text=text, **teachers, image_ids=ids)["loss"]
        value.backward()
        optimizer.step()
        if reads:
            float(value.detach())

    found: dict[str, Any] = {"pairs": pairs}
    repeats = 1 if card.tiny else 10
    for name, reads in (("read", True), ("unread", False)):
        work = lambda reads=reads: [once(reads) for _ in range(repeats)]  # noqa: E731
        found[f"{name}_milliseconds_a_step"] = card.milliseconds(work, 2) / repeats
    if not card.tiny:
        torch.cuda.set_sync_debug_mode("error")
        once(False)
        torch.cuda.set_sync_debug_mode("default")
        found["host_reads"] = 0
    return found


def remember(device: str, rows: list[dict[str, Any]]) -> None:
    """Write down from which batch kernels are faster on this device, for `impl="auto"`."""
    starts = {PRECISIONS[name]: start for name, start in preferred.from_measurements(rows).items()}
    path = Path(preferred.__file__).parents[3] / preferred.DEVICES
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    known = {**preferred.measured(), device: starts}
    tables = [
        f"\n[{json.dumps(name)}]\n" + "".join(f"{k} = {v}\n" for k, v in of.items()) for name, of in known.items()
    ]
    path.write_text(head + "".join(tables))


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="on a CPU, small, kernels interpreted; writes nothing")
    parser.add_argument("--seconds", type=float, default=440)
    asked = parser.parse_args()
    if not asked.tiny and not torch.cuda.is_available():
        raise SystemExit("No CUDA device is there. `benchmarks/gpu/run.sh --tiny` tries the code on a CPU.")
    card = Card(asked.tiny, asked.seconds)
    name = "cpu" if asked.tiny else torch.cuda.get_device_name().lower().replace(" ", "-")
    result: dict[str, Any] = {"card": name, "date": date.today().isoformat(), "torch": torch.__version__}
    for part in (self_test, peak, step, streamed):
        result[part.__name__] = part(card) if card.left() > 5 else "left out: no time"
    text = json.dumps(result, indent=2)
    print(text)
    if not asked.tiny:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"gpu-{name}-{date.today().isoformat()}.json").write_text(text + "\n")
        if isinstance(result["streamed"], list):
            remember(torch.cuda.get_device_name(), result["streamed"])


if __name__ == "__main__":
    main()
