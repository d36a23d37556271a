"""The part of a student's state that a checkpoint holds: all but frozen parameters."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def learned_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state without its frozen parameters."""
    frozen = _frozen(model)
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_learned(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load such a state; frozen parameters stay as they are.

    Raises:
        RuntimeError: if it is of another model, or other parameters were frozen.
    """
    missing, unexpected = model.load_state_dict(dict(state), strict=False)
    wrong = {*missing} ^ set(_frozen(model)) | {*unexpected}
    if wrong:
        raise RuntimeError(f"{len(wrong)} parameters do not learn in both, the first {min(wrong)!r}.")


def frozen_digest(model: nn.Module) -> str:
    """Return a SHA-256 of a model's frozen parameters, names and bytes; empty if there are none."""
    frozen = _frozen(model)
    if not frozen:
        return ""
    total = hashlib.sha256()
    for name in sorted(frozen):
        total.update(name.encode())
        total.update(frozen[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    named = model.named_parameters(remove_duplicate=False)
    return {name: parameter for name, parameter in named if not parameter.requires_grad}
