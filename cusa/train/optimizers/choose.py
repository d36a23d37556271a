"""From a recipe's options to an optimiser; every one is torch's own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cusa.errors import ConfigError
from cusa.models.students.base import Student
from cusa.train.config import MOMENTUM, TrainConfig
from cusa.train.optimizers.groups import parameter_groups
from cusa.train.optimizers.rates import rate_scales
from cusa.train.optimizers.together import Together

FUSED = ("cpu", "cuda")
"""Devices for which torch has AdamW and SGD as one kernel a parameter; of the others it has none."""


def make_optimizer(student: Student, loss: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser of a student and a loss.

    Each group of parameters has `scale`, what the step's learning rate is multiplied by, and `names`.

    Args:
        student: on its device, frozen parts frozen.
        loss: its temperatures learn at the common rate.
        config: `optimizer`, its options, decay and rates.

    Raises:
        ConfigError: if an option has no effect, or Muon has no matrix to learn; see also `rate_scales`.
    """
    groups = parameter_groups(
        [*student.named_parameters("student"), *loss.named_parameters("loss")],
        weight_decay=config.weight_decay,
        decay=config.decay,
        scales={f"student.{name}": scale for name, scale in rate_scales(student, config).items()},
    )
    momentum = MOMENTUM.get(config.optimizer, 0.0) if config.momentum is None else config.momentum
    adam: dict[str, Any] = {"betas": (config.beta1, config.beta2), "eps": config.eps}
    # On a small model the unfused loop is a noticeable part of a step.
    fused = next(student.parameters()).device.type in FUSED
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused, **adam)
    if config.optimizer == "nadamw":
        return torch.optim.NAdam(groups, lr=config.lr, decoupled_weight_decay=True, **adam)
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=config.lr)
    if config.optimizer == "sgd":
        # Fused and with gradients that are scaled, torch leaves the momentum of a first step that overflows undefined.
        fused = fused and config.precision != "fp16"
        return torch.optim.SGD(groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    matrices, rest = _split(groups, _matrices(student))
    if not matrices:
        raise ConfigError(
            "train.optimizer is 'muon', and no matrix of a linear layer learns. Set train.optimizer=adamw.",
            key="train.optimizer",
        )
    muon = torch.optim.Muon(matrices, lr=config.lr, momentum=momentum, adjust_lr_fn="match_rms_adamw")
    return Together(muon, torch.optim.AdamW(rest, lr=config.lr, fused=fused, **adam)) if rest else muon


def _matrices(student: Student) -> set[str]:
    """Return the names of the weights of linear layers; embeddings and tables are looked up, not multiplied with."""
    layers = student.named_modules(prefix="student")
    return {f"{name}.weight" for name, module in layers if isinstance(module, nn.Linear)}


def _split(groups: list[dict[str, Any]], names: set[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split groups of parameters into those of the names and all others, each with the group's options."""

    def part(group: Mapping[str, Any], inside: bool) -> dict[str, Any]:
        kept = [(name, one) for name, one in zip(group["names"], group["params"], strict=True)]
        kept = [(name, one) for name, one in kept if (name in names) == inside]
        return {**group, "params": [one for _, one in kept], "names": [name for name, _ in kept]}

    both = ([part(group, inside) for group in groups] for inside in (True, False))
    matrices, rest = ([group for group in half if group["params"]] for half in both)
    return matrices, rest
