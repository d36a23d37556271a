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
    `cusa.train.optimizer` spares it too unless asked for the release's way.

    Args:
        setting: initial value and bounds, all positive, in units of cosine similarity.

    Raises:
        ConfigError: if the bounds are not 0 < minimum <= maximum.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        if not 0 < setting.minimum <= setting.maximum:
            raise ConfigError(
                f"A temperature's bounds are {setting.minimum} and {setting.maximum}; they must be "
                "0 < minimum <= maximum.",
                setting=setting,
            )
        self.setting = setting
        self.value = nn.Parameter(torch.tensor(float(setting.initial)), requires_grad=setting.learned)

    def clamp_(self) -> None:
        """Bring the value back into its bounds, outside the graph."""
        with torch.no_grad():
            self.value.clamp_(self.setting.minimum, self.setting.maximum)

    def forward(self) -> Tensor:
        """Return the value: a 0-d tensor."""
        return self.value


def shared(image: Setting, text: Setting) -> Setting:
    """Return the one setting that stands for both modalities: the means, as the authors' release takes them."""
    return Setting(
        (image.initial + text.initial) / 2,
        (image.minimum + text.minimum) / 2,
        (image.maximum + text.maximum) / 2,
        image.learned,
    )
