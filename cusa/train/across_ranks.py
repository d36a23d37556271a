"""Rows of all ranks in one tensor, with the gradient through them; sums over ranks.

Every function here is a collective: all ranks of the default process group call it, in the same order. Without a
process group, or with one process in it, nothing is exchanged.

Legend: R rows of this rank, N rows of all ranks, W ranks.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

PassesTo = Literal["every rank", "own rows"]
"""Where a gathered tensor's gradient goes."""


def num_ranks() -> int:
    """Return W, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rows_of_ranks(num_rows: int, device: torch.device) -> tuple[int, ...]:
    """Return how many rows every rank has, in the order of the ranks; some may have none.

    Args:
        num_rows: R of this rank.
        device: where the process group's backend can exchange tensors.

    Returns:
        W numbers.
    """
    if num_ranks() == 1:
        return (num_rows,)
    mine = torch.tensor([num_rows], device=device)
    everyone = [torch.empty_like(mine) for _ in range(num_ranks())]
    dist.all_gather(everyone, mine)
    return tuple(torch.cat(everyone).tolist())


def own_rows(counts: tuple[int, ...]) -> slice:
    """Return where this rank's rows stand among those of all ranks."""
    rank = dist.get_rank() if num_ranks() > 1 else 0
    start = sum(counts[:rank])
    return slice(start, start + counts[rank])


def gather(rows: Tensor, counts: tuple[int, ...], *, passes_to: PassesTo = "every rank") -> Tensor:
    """Return the rows of all ranks, rank 0's first.

    Args:
        rows: (R, ...), of the same type and further dimensions on every rank.
        counts: rows of every rank, from `rows_of_ranks`.
        passes_to: `every rank`: backward, each rank gets the sum over ranks of its rows' gradients, so that a loss of
            which every rank computes a part has the gradient of the whole. `own rows`: each rank keeps what it computed
            for its own rows and drops the rest, as the gather of the authors' release does.

    Returns:
        (N, ...), differentiable with respect to the rows of this rank.

    Source: the release of Huang et al., AAAI 2024, doi 10.1609/aaai.v38i16.29789, gathers with `own rows`: where every
    rank computes the whole loss, data-parallel averaging then leaves 1/W of the gradient to everything behind the
    embeddings.
    """
    if len(counts) == 1:
        return rows
    apply: Callable[..., Tensor] = _Gather.apply
    return apply(rows, counts, passes_to)


def total(part: Tensor) -> Tensor:
    """Return the sum over ranks of one tensor each, the same on every rank.

    Backward, the part gets W times the gradient: averaged over ranks afterwards, as DistributedDataParallel does, the
    gradients of all parameters are those of the sum.

    Args:
        part: this rank's summand.

    Returns:
        A tensor of the argument's shape.
    """
    if num_ranks() == 1:
        return part
    apply: Callable[..., Tensor] = _Total.apply
    return apply(part)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...], passes_to: PassesTo) -> Tensor:
        ctx.counts, ctx.passes_to = counts, passes_to
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        everyone = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(everyone, padded)
        return torch.cat([theirs[:count] for theirs, count in zip(everyone, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.passes_to == "every rank":
            # Autograd may hand the same memory to others.
            grad = grad.clone(memory_format=torch.contiguous_format)
            # A reduce-scatter would move less, but wants equal counts, and gloo has it for few types.
            dist.all_reduce(grad)
        return grad[own_rows(ctx.counts)], None, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * num_ranks()
