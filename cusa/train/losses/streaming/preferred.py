"""Whether `impl="auto"` streams by Triton's kernels: where they were measured faster, and pass a self-test.

The measurements are a file of the package, not of the machine: a run that goes on elsewhere on the same kind of device
takes the same way, and a first step measures nothing.
"""

import functools
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import resources
from importlib.util import find_spec
from typing import Any

import torch

from cusa.train.losses.batch import Embeddings, LossInputs, Modes, Temperatures

_TOLERANCE = {"highest": 1e-4, "high": 5e-3, "medium": 5e-2}
"""Of a gradient, as a share of its largest number, by torch's precision of float32 products."""
_PAIRS = 300
"""Of the self-test: more than two blocks of rows, and not a multiple of one."""
DEVICES = "manifests/kernels.toml"


def prefers_kernels(device: torch.device, size: int) -> bool:
    """Return whether a batch is streamed by kernels unless told otherwise.

    Args:
        device: where the embeddings lie.
        size: B.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    precision = torch.get_float32_matmul_precision()
    start = faster_from(torch.cuda.get_device_name(device), precision)
    return start is not None and size >= start and passes_self_test(str(device), precision)


def faster_from(device: str, precision: str) -> int | None:
    """Return the batch from which kernels were measured faster on a device; None where they were not, or nobody did."""
    start = measured().get(device, {}).get(precision)
    return start if isinstance(start, int) else None


@functools.cache
def measured() -> Mapping[str, Mapping[str, int]]:
    """Return, by device and precision, the batch from which kernels were measured faster."""
    read: Mapping[str, Mapping[str, int]] = tomllib.loads(
        (resources.files("cusa") / DEVICES).read_text(encoding="utf-8")
    )
    return read


def from_measurements(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return, by precision, the smallest measured batch from which on kernels were faster at every size, for all terms.

    Args:
        rows: of benchmarks/gpu/measure.py: `size`, `impl`, `precision`, `terms`, `milliseconds`; others are left out.
    """
    times: dict[str, dict[int, dict[tuple[str, str], float]]] = {}
    for row in rows:
        if "milliseconds" in row:
            way = (row["terms"], row["impl"])
            times.setdefault(row["precision"], {}).setdefault(row["size"], {})[way] = row["milliseconds"]
    starts = {}
    for precision, sizes in times.items():
        for size in sorted(sizes, reverse=True):
            ways = sizes[size]
            pairs = [(ways.get((terms, "triton")), ways.get((terms, "streamed"))) for terms in {t for t, _ in ways}]
            if not all(kernel is not None and tiles is not None and kernel < tiles for kernel, tiles in pairs):
                break
            starts[precision] = size
    return starts


@functools.cache
def passes_self_test(device: str, precision: str) -> bool:
    """Return whether the kernels give the tiles' values and gradients on a device, once a process; warn if not.

    Args:
        device: where they run.
        precision: torch's, of float32 products.
    """
    try:
        error = difference(torch.device(device))
    except Exception as problem:  # a kernel that does not compile raises almost anything
        reason = (
            f"{type(problem).__name__}: {str(problem).strip().splitlines()[0] if str(problem).strip() else problem}"
        )
    else:
        if error <= _TOLERANCE[precision]:
            return True
        reason = f"values or gradients differ by {error:.2g} of the largest"
    warnings.warn(
        f"Triton's kernels fail their self-test on {device} ({reason}); the losses are streamed by tiles.",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def difference(device: torch.device) -> float:
    """Return by how much kernels and tiles differ at most, as a share of the largest number of each result."""
    from cusa.train.losses.streaming.streamed import streamed

    random = torch.Generator().manual_seed(0)
    widths = {"image": 96, "text": 96, "image_uni": 64, "text_uni": 40, "teacher_image": 80, "teacher_text": 72}
    rows = [torch.randn(_PAIRS, width, generator=random).to(device) for width in widths.values()]
    given = Embeddings(*rows).unit(torch.float32)
    ids = (torch.arange(_PAIRS) // 2).to(device)
    modes = Modes()
    results = []
    for kernels in (False, True):
        learned = [each.detach() for each in given if each is not None]
        for embedding in learned[:4]:  # not the teachers
            embedding.requires_grad_()
        t = [torch.tensor(value, device=device, requires_grad=True) for value in (0.05, 0.3, 0.4, 0.3, 0.4)]
        soft = torch.tensor(0.5, device=device)
        temperatures = Temperatures(t[0], (t[1], t[2]), (t[3], t[4]), (soft, soft), (soft, soft))
        terms = streamed(LossInputs(Embeddings(*learned), ids), temperatures, replace(modes, kernels=kernels))
        wanted = [*learned[:4], *t]
        gradients = torch.autograd.grad(terms[0] + terms[1] + terms[2], wanted)
        results.append([*(term.detach() for term in terms), *gradients])
    shares = [
        (other.double() - one.double()).abs().max() / one.double().abs().max().clamp(min=1e-30)
        for one, other in zip(*results, strict=True)
    ]
    return float(torch.stack(shares).max())
