"""From cached squares to a network's input, on whatever device they lie."""

from functools import lru_cache

import torch
from torch import Tensor

from cusa.models.preprocess import Preprocess


def normalise(squares: Tensor, preprocess: Preprocess) -> Tensor:
    """Turn (B, 3, S, S) uint8 into float32 as `Preprocess.normalise` does, on the squares' own device."""
    if squares.device.type == "cpu":
        return torch.from_numpy(preprocess.normalise(squares.numpy()))
    return on_device(squares, preprocess)


def on_device(squares: Tensor, preprocess: Preprocess) -> Tensor:
    """Do the same by arithmetic, where no table of 256 values can be looked up."""
    mean, std = _constants(preprocess.mean, preprocess.std, squares.device)
    return (squares.to(torch.float32) / 255 - mean) / std


@lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:  # copied to the device once: it would wait for them in every batch
    with torch.inference_mode(False):
        return tuple(torch.tensor(each, device=device)[:, None, None] for each in (mean, std))  # type: ignore[return-value]
