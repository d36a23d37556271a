"""Two optimisers that step as one, each with parameters of its own."""

from collections.abc import Callable
from typing import Any, overload

import torch


class Together(torch.optim.Optimizer):
    """Optimisers of different parameters, taken for one: one list of groups, one state, one step.

    Args:
        optimizers: at least one; changed in place.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self._optimizers = optimizers
        super().__init__([group for one in optimizers for group in one.param_groups], {})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step all, in their order."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for one in self._optimizers:
            one.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each."""
        return {"optimizers": [one.state_dict() for one in self._optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: if it is of other groups of parameters.
        """
        for one, state in zip(self._optimizers, state_dict["optimizers"], strict=True):
            one.load_state_dict(state)
        self.param_groups = [group for one in self._optimizers for group in one.param_groups]
