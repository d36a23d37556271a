"""Preparing a student for training: freezing, activation checkpointing, compilation."""

from collections.abc import Sequence
from typing import Any, Literal

from cusa.errors import ConfigError, nearest
from cusa.models.students.base import Student
from cusa.train.config import TrainConfig

_MODALITIES: tuple[Literal["image", "text"], ...] = ("image", "text")


def prepare(student: Student, config: TrainConfig) -> None:
    """Freeze, checkpoint activations and compile as the configuration says.

    Raises:
        ConfigError: if a name is the beginning of no parameter's name, no parameter is left to train, or no part of the
            student supports activation checkpointing.
    """
    freeze(student, config.freeze)
    if config.gradient_checkpointing:
        able = [name for name, module in student.named_modules() if hasattr(module, "activation_checkpointing_enable")]
        if not able:
            raise ConfigError(
                "train.gradient_checkpointing is true, but no part of this student supports it. Set it to false.",
                key="train.gradient_checkpointing",
            )
        for name in able:
            if not any(_begins(name, outer) for outer in able if outer != name):  # an outer one reaches those inside it
                module: Any = student.get_submodule(name)
                module.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if config.compile:
        student.compile()


def freeze(student: Student, frozen_names: Sequence[str]) -> None:
    """Stop the gradients of a tower (`image`, `text`) or of parameters by the beginning of their names.

    Raises:
        ConfigError: if a name is the beginning of no parameter's name, or no parameter is left to train.
    """
    names = [name for name, _ in student.named_parameters()]
    beginnings = _beginnings(student, frozen_names)
    for beginning in beginnings:
        if not any(_begins(name, beginning) for name in names):
            parts = {".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)}
            parts |= {modality for modality in _MODALITIES if student.tower(modality)}
            raise ConfigError(
                f"train.freeze names {beginning!r}, which begins no parameter's name. {nearest(beginning, parts)}.",
                key="train.freeze",
                value=beginning,
            )
    for name, parameter in student.named_parameters():
        if any(_begins(name, beginning) for beginning in beginnings):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ConfigError("train.freeze leaves nothing to learn. Name less.", key="train.freeze")


def train_mode(student: Student, frozen_names: Sequence[str]) -> None:
    """Set a student to training mode and its frozen parts to evaluation mode, so that they stay constant."""
    frozen = _beginnings(student, frozen_names)
    student.train()
    for name, module in student.named_modules():
        if any(_begins(name, beginning) for beginning in frozen):
            module.eval()


def _beginnings(student: Student, frozen_names: Sequence[str]) -> list[str]:
    """Return the names with `image` and `text` replaced by the names of those towers in this student."""
    towers: dict[str, tuple[str, ...]] = {modality: student.tower(modality) for modality in _MODALITIES}
    return [name for word in frozen_names for name in towers.get(word) or (word,)]


def _begins(name: str, beginning: str) -> bool:
    return name == beginning or name.startswith(f"{beginning}.")
