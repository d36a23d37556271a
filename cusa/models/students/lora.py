"""Low-rank adapters in a student's towers, by peft.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685, equation 3: a frozen
weight W becomes W + (alpha / rank) B A, with A and B alone learning and B starting at zero.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cusa.errors import ConfigError, nearest
from cusa.models.config import LoraConfig
from cusa.models.students.base import Student

FOLDER = "lora"
"""Of a model folder: the adapters alone, as peft reads them."""

TARGETS = ("q_proj", "v_proj", "query", "value", "qkv", "q", "v", "q_lin", "v_lin", "Wqkv")
"""Layers that make the attention's queries and values, as CLIP, SigLIP, BERT, BEiT, BLIP, MPNet, T5, DistilBERT and
ModernBERT name them: the original paper's choice."""

_MODALITIES: tuple[Literal["image", "text"], ...] = ("image", "text")

_ADAPTER = "default"


def add(
    student: Student, config: LoraConfig, *, seed: int, modalities: Sequence[Literal["image", "text"]] = _MODALITIES
) -> None:
    """Put adapters into the linear layers of towers and freeze the rest of these towers.

    Args:
        student: changed in place; gives the same embeddings as before.
        config: rank, alpha, dropout, targets.
        seed: of the new weights.
        modalities: of the towers.

    Raises:
        ConfigError: if peft is not installed, the student does not name its towers, a target is the name of no linear
            layer there, or a tower has none.
    """
    try:
        import peft
    except ImportError:
        raise ConfigError(
            f"student.lora.rank is {config.rank}, but peft is not installed. Run `pip install 'cusa[lora]'`, or set "
            "student.lora.rank=0.",
            key="student.lora.rank",
        ) from None
    towers = tuple(tower for modality in modalities for tower in student.tower(modality))
    if not towers:
        raise ConfigError(
            f"student.lora needs the names of the towers, and {type(student).__name__} gives none (its method "
            "`tower`). Set student.lora.rank=0.",
            key="student.lora.rank",
        )
    linear_layers: dict[str, list[str]] = {}
    for name, module in student.named_modules():
        if isinstance(module, nn.Linear) and name.startswith(tuple(f"{tower}." for tower in towers)):
            linear_layers.setdefault(name.rpartition(".")[2], []).append(name)
    for target in config.targets:
        if target not in linear_layers:
            raise ConfigError(
                f"student.lora.targets names {target!r}, which is no linear layer of the towers. "
                f"{nearest(target, linear_layers)}.",
                key="student.lora.targets",
            )
    targets = config.targets or tuple(target for target in TARGETS if target in linear_layers)
    names = [name for target in targets for name in linear_layers[target]]
    for modality in modalities:
        under = tuple(f"{tower}." for tower in student.tower(modality))
        if not any(name.startswith(under) for name in names):
            inside = [last for last, layers in linear_layers.items() if any(name.startswith(under) for name in layers)]
            raise ConfigError(
                f"No linear layer of the {modality} tower is called {', '.join(config.targets or TARGETS)}. "
                + (
                    f"Name some in student.lora.targets: {', '.join(sorted(inside))}."
                    if inside
                    else "It has no linear layer: let it learn as a whole, or freeze it."
                ),
                key="student.lora.targets",
            )
    trainable = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    adapters = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type] # peft divides it, whatever number it is
        lora_dropout=config.dropout,
        target_modules=names,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 2)
        peft.inject_adapter_in_model(adapters, student, adapter_name=_ADAPTER)
    for name, parameter in student.named_parameters():
        if name in trainable and not name.startswith(tuple(f"{tower}." for tower in towers)):
            parameter.requires_grad_(True)


def has_adapters(module: nn.Module) -> bool:
    """Return whether a module has adapters."""
    return any(True for _ in _adapted(module))


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state with every adapter added to its weight, under the names from before the adapters."""
    state = module.state_dict()
    for name, layer in _adapted(module):
        inside = f"{name}."
        base = {key.removeprefix(f"{inside}base_layer."): state[key] for key in state if key.startswith(inside)}
        kept = {key: value for key, value in base.items() if not key.startswith(inside)}
        state = {key: value for key, value in state.items() if not key.startswith(inside)}
        kept["weight"] = kept["weight"] + layer.get_delta_weight(_ADAPTER).to(kept["weight"].dtype)
        state |= {f"{inside}{key}": value for key, value in kept.items()}
    return state


@contextmanager
def merged(module: nn.Module) -> Iterator[None]:
    """Put plain layers with the adapters added in the place of the adapted ones, for a while."""
    adapted = list(_adapted(module))
    places = [(module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name, _ in adapted]
    for (parent, name), (_, layer) in zip(places, adapted, strict=True):
        plain = copy.deepcopy(layer.base_layer)
        with torch.no_grad():
            plain.weight.add_(layer.get_delta_weight(_ADAPTER).to(plain.weight.dtype))
        setattr(parent, name, plain)
    try:
        yield
    finally:
        for (parent, name), (_, layer) in zip(places, adapted, strict=True):
            setattr(parent, name, layer)


def write_adapters(module: nn.Module, folder: Path) -> None:
    """Write the adapters of a module as `peft.PeftModel.from_pretrained(module, folder)` reads them."""
    import peft
    from safetensors.torch import save_file

    layers = dict(_adapted(module))
    first = next(iter(layers.values()))
    folder.mkdir()
    peft.LoraConfig(
        r=first.r[_ADAPTER],
        lora_alpha=first.lora_alpha[_ADAPTER],
        target_modules=sorted({name.rpartition(".")[2] for name in layers}),
    ).save_pretrained(str(folder))
    weights = {
        f"base_model.model.{name}.{part}.weight": getattr(layer, part)[_ADAPTER].weight.detach().contiguous().cpu()
        for name, layer in layers.items()
        for part in ("lora_A", "lora_B")
    }
    save_file(weights, folder / "adapter_model.safetensors")


def _adapted(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the name of every layer with an adapter, and the layer."""
    for name, layer in module.named_modules():
        if hasattr(layer, "base_layer") and hasattr(layer, "lora_A"):
            yield name, layer
