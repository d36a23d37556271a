"""Several processes that train one model: their ranks, and the values they exchange beside the loss.

`torchrun` starts them and sets their number in the environment. Every rank holds the whole model, reads its share of
each step's pairs, and takes the same step. Only rank 0 writes.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn  # noqa: F401  before there is a group: see process_group

from cusa.errors import ConfigError, DataError
from cusa.models.device import choose


def world() -> int:
    """Return how many ranks there are, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return which rank this is, 0 without a process group."""
    return dist.get_rank() if world() > 1 else 0


def started_together() -> bool:
    """Return whether `torchrun` started several ranks, even before they form a process group."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group(device: str = "") -> Iterator[torch.device]:
    """Form a process group of the ranks that `torchrun` started; without `torchrun` there is one rank and no group.

    Args:
        device: the configured one; empty = CUDA where there is one. Rank i of a machine takes its i-th CUDA
            device.

    Yields:
        This rank's device.

    Raises:
        ConfigError: if there are more ranks on this machine than CUDA devices.
        DataError: if another rank went away.
    """
    place = choose(device)
    if not started_together():
        yield place
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if place.type == "cuda":
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"Rank {local} of this machine has no CUDA device; there are {torch.cuda.device_count()}. Start "
                f"torchrun with --nproc-per-node={torch.cuda.device_count()}, or set train.device=cpu.",
                key="train.device",
            )
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    if dist.is_initialized():
        yield place
        return
    # The functions of torch.distributed.nn have the group of the moment of their import as a default value. Imported
    # within the group (transformers does so), they would keep it after its end, and its threads would meet the end of
    # the interpreter: now and then that is an abort. So this module imports them at its top.
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    try:
        yield place
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        raise DataError(
            f"Rank {rank()} of {world()} lost another rank: {str(error).splitlines()[0]} Look at the last "
            "output of that one, and run the same command again to go on from the last checkpoint.",
            rank=rank(),
        ) from error
    finally:
        dist.destroy_process_group()


def highest(numbers: Sequence[int], device: torch.device) -> list[int]:
    """Return the highest of each number over ranks, in one exchange; the host waits for it."""
    if world() == 1:
        return list(numbers)
    everyone = torch.tensor(numbers, dtype=torch.int64, device=device)
    dist.all_reduce(everyone, op=dist.ReduceOp.MAX)
    return [int(number) for number in everyone.tolist()]


def gather_values(value: Any) -> list[Any]:
    """Return the values of all ranks, rank 0's first; they are small, and never read from disk."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def share_weights(module: torch.nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if world() > 1:
        for value in module.state_dict().values():
            dist.broadcast(value, src=0)


def barrier() -> None:
    """Wait for all ranks."""
    if world() > 1:
        dist.barrier()


def _is_lost_peer(error: RuntimeError) -> bool:
    words = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        sign in words for sign in ("connection closed by peer", "connection reset", "broken pipe", "gloo", "nccl")
    )
