"""How fast each part of a student's towers learns, in proportion to the common rate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from cusa.errors import ConfigError
from cusa.models.students.base import Student
from cusa.train.config import TrainConfig

Modality = Literal["image", "text"]

_MODALITIES: tuple[Modality, ...] = ("image", "text")


@dataclass(frozen=True)
class TowerRates:
    """The rates of one tower that learns."""

    modality: Modality
    layers: int
    """How many its list of layers has; 0 where its layers learn alike."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """Parameter's name -> what the step's learning rate is multiplied by."""

    def sentence(self, lr: float) -> str:
        """Return the rates in words, `lr` being the highest common one."""
        learning = f"The {self.modality} tower learns at "
        low, high = min(self.scales.values()) * lr, max(self.scales.values()) * lr
        if not self.layers:
            return f"{learning}{high:.3g}."
        return f"{learning}{low:.3g} (what stands before its {self.layers} layers) to {high:.3g} (what stands behind)."


def tower_rates(student: Student, config: TrainConfig) -> list[TowerRates]:
    """Return the rates of those towers of a student that have rates of their own.

    A tower's own rate stands in a fixed proportion to the common one, through warm-up and schedule. With layer-wise
    decay d, what stands behind a tower's n layers (norm, pooler, projection) learns at the tower's rate, the last layer
    at d times that, the first at d^n, and what stands before them (embeddings, stem) at d^(n + 1).

    Args:
        student: as it will learn, frozen parts frozen.
        config: `lr`, `lr_image`, `lr_text`, `layer_decay`, `layer_decay_image`, `layer_decay_text`.

    Returns:
        One entry for each tower whose rates are not the common one; frozen parameters are among its names.

    Raises:
        ConfigError: if a tower that has a rate or a decay of its own is not named by the student or does not learn, a
            tower that learns and whose layers' rates are to decay has no list of layers, or there is no such tower.

    Source: Clark et al., "ELECTRA", ICLR 2020, arXiv:2003.10555, appendix A; the numbering as in BEiT (Bao et al., ICLR
    2022, arXiv:2106.08254).
    """
    lr = {"image": config.lr_image, "text": config.lr_text}
    decay = {"image": config.layer_decay_image, "text": config.layer_decay_text}
    rates: list[TowerRates] = []
    learning = 0
    for modality in _MODALITIES:
        tower = {name: parameter for name, parameter in student.named_parameters() if _inside(student, modality, name)}
        learns = any(parameter.requires_grad for parameter in tower.values())
        learning += learns
        for key, value in ((f"lr_{modality}", lr[modality]), (f"layer_decay_{modality}", decay[modality])):
            if value and not learns:
                raise _has_no_effect(student, modality, key, value, named=bool(tower))
        if not learns:
            continue
        base, own_decay = (lr[modality] or config.lr) / config.lr, decay[modality] or config.layer_decay
        layers = _layers(student, modality) if own_decay < 1 else []
        if own_decay < 1 and not layers:
            key = "layer_decay" if not decay[modality] else f"layer_decay_{modality}"
            raise ConfigError(
                f"train.{key} is {own_decay}, and the {modality} tower of this {type(student).__name__} has no list of "
                f"layers. Set train.layer_decay_{modality}=1: all of it learns at one rate, train.lr_{modality}.",
                key=f"train.{key}",
            )
        if layers or base != 1:
            below = _below(list(tower), layers)
            scales = {name: base * own_decay**steps for name, steps in below.items()}
            rates.append(TowerRates(modality, len(layers), scales))
    if config.layer_decay < 1 and not learning:
        raise ConfigError(
            f"train.layer_decay is {config.layer_decay}, and no tower of this {type(student).__name__} learns. Set it "
            "to 1.",
            key="train.layer_decay",
        )
    return rates


def rate_scales(student: Student, config: TrainConfig) -> dict[str, float]:
    """Return what the learning rates of a student's towers are multiplied by: parameter's name -> factor.

    Empty where all learn alike; raises as `tower_rates` does.
    """
    return {name: scale for tower in tower_rates(student, config) for name, scale in tower.scales.items()}


def _has_no_effect(student: Student, modality: Modality, key: str, value: float, *, named: bool) -> ConfigError:
    lacking = "does not learn" if named else f"is not named by a {type(student).__name__}"
    return ConfigError(
        f"train.{key} is {value}, and the {modality} tower {lacking}. Set train.{key}=0, or let the tower learn "
        f"(train.freeze, student.towers.{modality}.mode).",
        key=f"train.{key}",
    )


def _inside(student: Student, modality: Modality, name: str) -> bool:
    return name.startswith(tuple(f"{beginning}." for beginning in student.tower(modality)))


def _layers(student: Student, modality: Modality) -> list[str]:
    """Return the names of a tower's layers: of its lists of modules the one with the most parameters, the outermost."""
    best: list[str] = []
    most = 0
    for name, module in student.named_modules():
        # Not their subclasses: a sentence-transformers model is one, and its parts are no layers.
        if type(module) in (nn.ModuleList, nn.Sequential) and _inside(student, modality, f"{name}."):
            size = sum(parameter.numel() for parameter in module.parameters())
            if len(module) > isinstance(module, nn.Sequential) and size > most:
                best, most = [f"{name}.{number}" for number, _ in module.named_children()], size
    return best


def _below(names: list[str], layers: list[str]) -> dict[str, int]:
    """Return how many steps of layers each parameter stands below what is behind the last layer."""
    if not layers:
        return dict.fromkeys(names, 0)
    count, steps = len(layers), {}
    place = {layer: count - number for number, layer in enumerate(layers)}
    behind = False
    beginning = layers[0].rpartition(".")[0]
    for name in names:
        layer = name[: name.find(".", len(beginning) + 1)]
        behind = behind or layer in place
        steps[name] = place.get(layer, 0 if behind else count + 1)
    return steps
