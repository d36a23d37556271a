"""Which parameters decay."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import nn

from cusa.errors import ConfigError

Decay = Literal["matrices", "release"]


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    *,
    weight_decay: float,
    decay: Decay = "matrices",
    scales: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return an optimiser's parameter groups: first those that decay, then those that do not, each by learning rate.

    Args:
        named: names and parameters; frozen ones are left out.
        weight_decay: of the group that decays, at least 0.
        decay: `matrices`: parameters of two or more dimensions decay, biases never. `release`: the authors' rule spares
            parameters of exactly one dimension and biases, so that temperatures, which have none, decay towards 0.
        scales: name -> what the step's learning rate is multiplied by; 1 for names that are not there.

    Returns:
        Groups that are not empty, each with `params`, `weight_decay`, `scale`, and `names` in the order given.

    Raises:
        ConfigError: for an unknown rule or a negative weight decay.
    """
    if decay not in ("matrices", "release"):
        raise ConfigError(f"decay is {decay!r}; allowed: matrices, release.", decay=decay)
    if not weight_decay >= 0:
        raise ConfigError(f"weight_decay is {weight_decay}; it must be at least 0.", weight_decay=weight_decay)
    groups: dict[tuple[bool, float], dict[str, nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            few = parameter.ndim < 2 if decay == "matrices" else parameter.ndim == 1
            spared = few or name.rpartition(".")[2] == "bias"
            groups.setdefault((spared, (scales or {}).get(name, 1.0)), {})[name] = parameter
    return [
        {
            "params": list(group.values()),
            "weight_decay": 0.0 if spared else weight_decay,
            "scale": scale,
            "names": list(group),
        }
        for (spared, scale), group in sorted(groups.items(), key=lambda item: item[0][0])
    ]
