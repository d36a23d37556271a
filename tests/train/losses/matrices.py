"""Random embeddings and their cosines, from a seed."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def unit(size: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return (size, width) unit rows."""
    return normalize(torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(
        dtype
    )


def cross(size: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return cosines between two kinds of rows."""
    return unit(size, 5, seed, dtype) @ unit(size, 5, seed + 1000, dtype).T


def within(size: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return cosines within one kind of rows: symmetric, ones on the diagonal."""
    rows = unit(size, 6, seed, dtype)
    return rows @ rows.T
