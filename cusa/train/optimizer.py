"""Which parameters decay, and how fast each learns."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import nn

from cusa.errors import ConfigError
from cusa.models.students.base import Student
from cusa.train.config import TrainConfig

Decay = Literal["matrices", "release"]

_MODALITIES: tuple[Literal["image", "text"], ...] = ("image", "text")


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    *,
    weight_decay: float,
    decay: Decay = "matrices",
    scales: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: first those that decay, then those that do not, each by learning rate.

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


def rate_scales(student: Student, config: TrainConfig) -> dict[str, float]:
    """Return what the learning rates of a student's towers are multiplied by: parameter's name -> factor.

    A tower's own rate stands in a fixed proportion to the common one, through warm-up and schedule. With layer-wise
    decay d, what stands behind a tower's n layers (norm, pooler, projection) learns at the tower's rate, the last layer
    at d times that, the first at d^n, and what stands before them (embeddings, stem) at d^(n + 1).

    Args:
        student: as it will learn, frozen parts frozen.
        config: `lr`, `lr_image`, `lr_text`, `layer_decay`.

    Returns:
        The factors of the towers' parameters, frozen ones included; empty where all learn alike.

    Raises:
        ConfigError: if a tower that has a rate of its own is not named by the student or does not learn, or no tower
            with layers does and the layers' rates are to decay.

    Source: Clark et al., "ELECTRA", ICLR 2020, arXiv:2003.10555, appendix A; the numbering as in BEiT (Bao et al., ICLR
    2022, arXiv:2106.08254).
    """
    own = {"image": config.lr_image, "text": config.lr_text}
    scales: dict[str, float] = {}
    decays = False
    for modality in _MODALITIES:
        tower = {name: parameter for name, parameter in student.named_parameters() if _inside(student, modality, name)}
        learns = any(parameter.requires_grad for parameter in tower.values())
        if own[modality] and not learns:
            lacking = "does not learn" if tower else f"is not named by a {type(student).__name__}"
            raise ConfigError(
                f"train.lr_{modality} is {own[modality]}, and the {modality} tower {lacking}. Set "
                f"train.lr_{modality}=0, or let the tower learn (train.freeze, student.towers.{modality}.mode).",
                key=f"train.lr_{modality}",
            )
        if not learns:
            continue
        base = (own[modality] or config.lr) / config.lr
        layers = _layers(student, modality) if config.layer_decay < 1 else None
        decays = decays or layers is not None
        if layers is None and base == 1:
            continue
        scales |= {name: base * config.layer_decay**below for name, below in _below(list(tower), layers).items()}
    if config.layer_decay < 1 and not decays:
        raise ConfigError(
            f"train.layer_decay is {config.layer_decay}, and no tower that learns has a list of layers. Set it to 1.",
            key="train.layer_decay",
        )
    return scales


def _inside(student: Student, modality: Literal["image", "text"], name: str) -> bool:
    return name.startswith(tuple(f"{beginning}." for beginning in student.tower(modality)))


def _layers(student: Student, modality: Literal["image", "text"]) -> list[str] | None:
    """Return the names of a tower's layers: of its lists of modules the one with the most parameters, the outermost."""
    best: list[str] | None = None
    most = 0
    for name, module in student.named_modules():
        # Not their subclasses: a sentence-transformers model is one, and its parts are no layers.
        if type(module) in (nn.ModuleList, nn.Sequential) and _inside(student, modality, f"{name}."):
            size = sum(parameter.numel() for parameter in module.parameters())
            if len(module) > 1 and size > most:
                best, most = [f"{name}.{number}" for number, _ in module.named_children()], size
    return best


def _below(names: list[str], layers: list[str] | None) -> dict[str, int]:
    """Return how many steps of layers each parameter stands below what is behind the last layer."""
    if layers is None:
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
