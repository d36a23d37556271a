"""A moving average of the weights, which is validated and saved where `train.ema` is set."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """An exponential moving average of a model's learned weights, kept on its device.

    After step t (from 0) `average += (1 - d) (weights - average)` with `d = min(decay, (1 + t) / (10 + t))`, so that
    the first weights, which are random, are soon forgotten.

    Args:
        model: whose weights; frozen ones do not change and are left out.
        decay: 0 < decay < 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._average = {name: value.detach().clone() for name, value in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after a step, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the average for its weights until the block ends."""
        own = {name: value.detach().clone() for name, value in self._weights.items()}
        self._copy(self._average)
        try:
            yield
        finally:
            self._copy(own)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average by parameter name."""
        return self._average

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the average of a checkpoint.

        Raises:
            RuntimeError: if it is of another model.
        """
        if state.keys() != self._average.keys():
            raise RuntimeError("The moving average is of other parameters.")
        for name, value in self._average.items():
            value.copy_(state[name])

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])
