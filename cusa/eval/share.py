"""The work of one evaluation shared among ranks that `torchrun` started: each encodes, rank 0 ranks and writes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


class Share:
    """Who this process is among those that evaluate together; alone without a process group.

    Args:
        together: whether the process group is to be used.
        device: where tensors must lie to be sent (CUDA for NCCL).
    """

    def __init__(self, *, together: bool = False, device: str | torch.device = "cpu") -> None:
        self.world = dist.get_world_size() if together else 1
        self.rank = dist.get_rank() if together else 0
        self._device = torch.device(device)

    @property
    def first(self) -> bool:
        """Whether this is the rank that decides, ranks and writes."""
        return self.rank == 0

    def agree(self, decide: Callable[[], Any]) -> Any:
        """Return what rank 0 decides; its own errors are raised there, and named on the others.

        The value is small and made by us; nothing is read from disk.
        """
        if self.world == 1:
            return decide()
        decided: list[Any] = [None, None]
        error = None
        if self.first:
            try:
                decided[0] = decide()
            except Exception as raised:  # the others must not wait for what will never come
                error, decided[1] = raised, str(raised)
        dist.broadcast_object_list(decided, src=0, device=self._device)
        if error is not None:
            raise error
        if decided[1] is not None:
            raise OtherRankError(decided[1])
        return decided[0]

    def mine(self, number: int) -> bool:
        """Tell whether this rank does a piece of work."""
        return number % self.world == self.rank

    def collect(self, rows: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
        """Bring every rank's rows to rank 0.

        Args:
            rows: (n, D) float32 of this rank.
            counts: n of every rank, known to all.

        Returns:
            On rank 0 the rows of every rank, rank by rank; nothing on the others.
        """
        if self.world == 1:
            return [rows]
        if not self.first:
            if len(rows):
                dist.send(torch.from_numpy(np.ascontiguousarray(rows)).to(self._device), dst=0)
            return []
        gathered = [rows]
        for source in range(1, self.world):
            block = torch.empty((counts[source], rows.shape[1]), device=self._device)
            if counts[source]:
                dist.recv(block, src=source)
            gathered.append(block.cpu().numpy())
        return gathered


class OtherRankError(RuntimeError):
    """Rank 0 failed; it says itself why."""


ALONE = Share()
"""One process that does everything."""
