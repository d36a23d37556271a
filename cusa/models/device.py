"""Where a network runs, in which numbers, and how its inputs get there."""

import ctypes
import sys
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

Precision = Literal["auto", "float32", "float16", "bfloat16"]
"""Numbers of the large matrix products; `auto` is float16 on CUDA (half the time and memory), float32 elsewhere."""


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # glibc's names of the two settings, in malloc.h


def choose(device: str = "") -> torch.device:
    """Return the device that a network runs on.

    On a CPU, memory that was freed is kept for the next batch from now on, see `keep_freed_memory`.

    Args:
        device: a torch device; empty = CUDA if there is one.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cpu":
        keep_freed_memory()
    return chosen


@cache
def keep_freed_memory() -> None:
    """Let the C library keep the memory of large arrays that were freed, instead of giving it back at once.

    glibc gives blocks above 32 MiB back to the system as soon as they are free. A convolution network's activations are
    such blocks: each layer of each batch gets new pages, which the system fills with zeros first. An EfficientNet spent
    three quarters of its time on that (`benchmarks/kept_memory.py`). Other C libraries have no such settings.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


class Device:
    """A device with the precision that a frozen network is run in there.

    float16 rather than bfloat16: it keeps three more bits, and the reference runs of Unicom use it.

    Args:
        precision: see `Precision`.
        device: a torch device; CUDA if there is one when empty.
    """

    def __init__(self, precision: Precision = "auto", device: str = "") -> None:
        self.torch = choose(device)
        if precision == "auto":
            precision = "float16" if self.torch.type == "cuda" else "float32"
        self.precision = precision

    def place(self, network: nn.Module) -> nn.Module:
        """Freeze a network for evaluation on this device."""
        return network.eval().requires_grad_(False).to(self.torch)

    def send(self, array: np.ndarray | Tensor) -> Tensor:
        """Bring an array to the device; to CUDA through pinned memory, without waiting for it."""
        tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
        if self.torch.type != "cuda":
            return tensor.to(self.torch)
        return tensor.pin_memory().to(self.torch, non_blocking=True)

    def autocast(self, *, exact: bool = False) -> Any:
        """Return the context of a forward pass; `exact` is float32 whatever the precision."""
        half = not exact and self.precision != "float32"
        dtype = getattr(torch, self.precision) if half else None
        return torch.autocast(self.torch.type, dtype=dtype, enabled=half)


def unit_rows(features_ND: Tensor) -> np.ndarray:
    """Return features as (n, width) float32 rows of unit length, on the host."""
    return nn.functional.normalize(features_ND.float(), dim=1).cpu().numpy()
