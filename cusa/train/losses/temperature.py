"""A temperature: one positive number that divides similarities, learned or fixed, kept within bounds."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cusa.errors import ConfigError


class Setting(NamedTuple):
    """Where a temperature starts, the bounds it is clamped to, and whether it is learned."""

    initial: float
    minimum: float
    maximum: float
    learned: bool = True


class Temperature(nn.Module):
    """A scalar parameter, clamped in place before each training step.

    Clamping the parameter itself (not a copy in the graph) lets its gradient through at the bounds, as the authors'
    release does. As a 0-d parameter it falls into the weight-decay group of an optimiser that only spares 1-d ones;
    `cusa.train.optimizers.groups.parameter_groups` spares it too, except with `release`.

    Args:
        initial: where it starts, in units of cosine similarity; may lie outside the bounds until the first clamp.
        minimum: lower bound, positive.
        maximum: upper bound.
        learned: whether a gradient reaches it.

    Raises:
        ConfigError: if the bounds are not 0 < minimum <= maximum < infinity, or the initial value is not positive.
    """

    def __init__(self, initial: float, minimum: float, maximum: float, learned: bool = True) -> None:
        super().__init__()
        if not 0 < minimum <= maximum < float("inf"):
            raise ConfigError(
                f"A temperature's bounds are {minimum} and {maximum}; they must be finite and 0 < minimum <= maximum.",
                minimum=minimum,
                maximum=maximum,
            )
        if not 0 < initial < float("inf"):
            raise ConfigError(f"A temperature starts at {initial}; it must be finite and positive.", initial=initial)
        self.minimum = minimum
        self.maximum = maximum
        self.value = nn.Parameter(torch.tensor(float(initial)), requires_grad=learned)

    def clamp_(self) -> None:
        """Bring the value back into its bounds, outside the graph."""
        with torch.no_grad():
            self.value.clamp_(self.minimum, self.maximum)

    def forward(self) -> Tensor:
        """Return the value: a 0-d tensor."""
        # A copy: the next forward's clamp must not spoil a graph that has not been walked back yet.
        return self.value.clone()


def shared(image: Setting, text: Setting) -> Setting:
    """Return the one setting that stands for both modalities: the means, as the authors' release takes them."""
    return Setting(
        (image.initial + text.initial) / 2,
        (image.minimum + text.minimum) / 2,
        (image.maximum + text.maximum) / 2,
        image.learned,
    )
