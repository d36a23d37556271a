"""Gradients averaged over ranks in buckets, while the backward pass still computes the others."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cusa.train import ranks

BUCKET_BYTES = 25 << 20
"""Of a message: as large as DistributedDataParallel's."""


class Gradients:
    """The gradients of one rank, which become the mean over ranks.

    A bucket is sent as soon as the backward pass has its last gradient; buckets are sent in one order on every rank.
    Without other ranks nothing happens.

    Args:
        model: the backward pass reaches its last parameters first.
        others: parameters whose gradients come in an order of their own; sent last.
        bucket_bytes: of a message, at most, unless one parameter is larger.
    """

    def __init__(
        self, model: Iterable[nn.Parameter], others: Iterable[nn.Parameter] = (), *, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._buckets: list[_Bucket] = []
        self._sent = 0
        self._held = False
        if ranks.world() == 1:
            return
        learned = [[p for p in given if p.requires_grad] for given in (model, others)]
        for given in (learned[0][::-1], learned[1]):
            self._buckets += [_Bucket(parameters) for parameters in _cut(given, bucket_bytes)]
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._ready, bucket))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let gradients add up in the block: a backward pass that is not the step's last."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    def finish(self) -> None:
        """Send what has not been sent, wait for all, and give every parameter its mean; a missing gradient is 0."""
        for bucket in self._buckets[self._sent :]:
            bucket.send()
        for bucket in self._buckets:
            bucket.receive()
        self._sent = 0

    def _ready(self, bucket: "_Bucket", parameter: Tensor) -> None:
        if self._held:
            return
        bucket.missing.discard(id(parameter))
        while self._sent < len(self._buckets) and not self._buckets[self._sent].missing:
            self._buckets[self._sent].send()
            self._sent += 1


class _Bucket:
    """Parameters of one type whose gradients are one message."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = {id(parameter) for parameter in parameters}
        self._flat = torch.empty(0)
        self._wait: Callable[[], Any] = lambda: None

    def send(self) -> None:
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self._flat = torch.cat([grad.reshape(-1) for grad in grads])
        work = dist.all_reduce(self._flat, async_op=True)
        assert work is not None
        self._wait = work.wait

    def receive(self) -> None:
        self._wait()
        self._flat /= ranks.world()
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, mean in zip(self.parameters, self._flat.split(sizes), strict=True):
            if parameter.grad is None:
                parameter.grad = mean.view_as(parameter).clone()
            else:
                parameter.grad.copy_(mean.view_as(parameter))
        self._flat = torch.empty(0)
        self.missing = {id(parameter) for parameter in self.parameters}


def _cut(parameters: list[nn.Parameter], most: int) -> Iterator[list[nn.Parameter]]:
    """Give parameters of one type in groups of bounded size, in order."""
    group: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        weight = parameter.numel() * parameter.element_size()
        if group and (size + weight > most or parameter.dtype != group[0].dtype):
            yield group
            group, size = [], 0
        group.append(parameter)
        size += weight
    if group:
        yield group
