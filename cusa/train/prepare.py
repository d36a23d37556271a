"""What is done to a student before it learns: frozen parts, recomputed layers, compiled kernels."""

from collections.abc import Sequence
from typing import Literal

from cusa.errors import ConfigError, nearest
from cusa.models.students.base import Student
from cusa.train.config import TrainConfig

_ENDS: tuple[Literal["image", "text"], ...] = ("image", "text")


def prepare(student: Student, config: TrainConfig) -> None:
    """Freeze, checkpoint and compile as the recipe says.

    Raises:
        ConfigError: if a name to freeze begins no parameter's name, nothing would learn, or no part of the student can
            be recomputed.
    """
    freeze(student, config.freeze)
    if config.gradient_checkpointing:
        able = [module for module in student.modules() if hasattr(module, "activation_checkpointing_enable")]
        if not able:
            raise ConfigError(
                "train.gradient_checkpointing is true, but no part of this student can compute its layers again. "
                "Set it to false.",
                key="train.gradient_checkpointing",
            )
        # The outermost one reaches those inside it.
        able[0].activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    if config.compile:
        student.compile()


def freeze(student: Student, told: Sequence[str]) -> None:
    """Keep a tower (`image`, `text`), or the parameters whose names begin so, from learning.

    Raises:
        ConfigError: if a name begins no parameter's name, or nothing is left to learn.
    """
    names = [name for name, _ in student.named_parameters()]
    beginnings = _beginnings(student, told)
    for beginning in beginnings:
        if not any(_begins(name, beginning) for name in names):
            parts = {".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)}
            parts |= {end for end in _ENDS if student.tower(end)}
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


def train_mode(student: Student, told: Sequence[str]) -> None:
    """Put a student in training mode, its frozen parts in evaluation mode: their dropout and statistics stand still."""
    frozen = _beginnings(student, told)
    student.train()
    for name, module in student.named_modules():
        if any(_begins(name, beginning) for beginning in frozen):
            module.eval()


def _beginnings(student: Student, told: Sequence[str]) -> list[str]:
    """Return names with the words for towers replaced by what they are in this student."""
    towers: dict[str, tuple[str, ...]] = {end: student.tower(end) for end in _ENDS}
    return [name for word in told for name in towers.get(word) or (word,)]


def _begins(name: str, beginning: str) -> bool:
    return name == beginning or name.startswith(f"{beginning}.")
