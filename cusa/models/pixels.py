"""From cached squares to a network's input, on whatever device they lie."""

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
    mean = torch.tensor(preprocess.mean, device=squares.device)[:, None, None]
    std = torch.tensor(preprocess.std, device=squares.device)[:, None, None]
    return (squares.to(torch.float32) / 255 - mean) / std
