"""Encoders of other packages: `module:Class`, an `nn.Module` that is made without arguments.

An image encoder has `width`, `preprocess` (a `cusa.models.preprocess.Preprocess`) and `forward(pixels) -> (B, W)`; a
text encoder has `width`, `context` (tokens at most), `tokenize(texts) -> {name: (B, L)}` and `forward(tokens) -> (B,
W)`. `licence`, a text, is optional; so is `hidden_states(inputs) -> (pooled (B, W), states (B, T, V), there (B, T) bool
or None)`: the patches or tokens that late interaction scores. To make one again runs its module, so a folder that names
it is loaded only where the user names it too.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cusa.errors import ConfigError, DataError
from cusa.models.config import CLASS_NAME
from cusa.models.preprocess import Preprocess
from cusa.models.towers.base import HiddenStates, ImageTower, TextTower, Tower, first_line

_WEIGHTS = "weights.safetensors"
_PARTS = {"image": ("width", "preprocess"), "text": ("width", "context", "tokenize")}


class PluggedImage(ImageTower):
    """Someone's image encoder.

    Args:
        name: `module:Class`.
        model: of that class.
    """

    def __init__(self, name: str, model: Any) -> None:
        super().__init__({"name": name, "class": name, "licence": str(getattr(model, "licence", ""))}, int(model.width))
        self.model = model
        self.preprocess = model.preprocess

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Encode pixels: (B, W)."""
        features: Tensor = self.model(pixels_BCHW)
        return features

    def hidden_states(self, inputs: Tensor) -> HiddenStates:
        """Ask its own `hidden_states`."""
        return _hidden_states(self, inputs)

    def save(self, folder: Path) -> None:
        """Write its weights."""
        _save(self.model, folder)


class PluggedText(TextTower):
    """Someone's text encoder.

    Args:
        name: `module:Class`.
        model: of that class.
    """

    tokenizer = None

    def __init__(self, name: str, model: Any) -> None:
        super().__init__({"name": name, "class": name, "licence": str(getattr(model, "licence", ""))}, int(model.width))
        self.model = model
        inputs = list(model.tokenize(["a dog on grass"]))
        self.reading = {"repair": False, "prompt": "", "context": int(model.context), "padding": "own"}
        self.reading["inputs"] = inputs

    def tokenize(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], int]:
        """Tokenise its way, which does not say what it truncates."""
        return dict(self.model.tokenize(list(texts))), 0

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Encode tokens: (B, W)."""
        features: Tensor = self.model(tokens)
        return features

    def hidden_states(self, inputs: dict[str, Tensor]) -> HiddenStates:
        """Ask its own `hidden_states`."""
        return _hidden_states(self, inputs)

    def save(self, folder: Path) -> None:
        """Write its weights."""
        _save(self.model, folder)


def make_image(name: str) -> PluggedImage:
    """Make someone's image encoder, and try it on one picture.

    Raises:
        ConfigError: if there is no such class, or it is no image encoder.
    """
    key = "student.towers.image.name"
    model = _make(name, "image", key)
    if not isinstance(model.preprocess, Preprocess):
        raise ConfigError(
            f"{key} is {name!r}, whose `preprocess` is a {type(model.preprocess).__name__}, not a "
            "cusa.models.preprocess.Preprocess.",
            key=key,
        )
    size = model.preprocess.size
    _try(model, torch.zeros(1, 3, size, size), name, key)
    return PluggedImage(name, model)


def make_text(name: str) -> PluggedText:
    """Make someone's text encoder, and try it on one text.

    Raises:
        ConfigError: if there is no such class, or it is no text encoder.
    """
    key = "student.towers.text.name"
    model = _make(name, "text", key)
    try:
        tokens = model.tokenize(["a dog on grass"])
    except Exception as error:  # someone else's code may raise anything
        raise ConfigError(f"{key} is {name!r}, whose `tokenize` fails: {first_line(error)}", key=key) from error
    _try(model, tokens, name, key)
    return PluggedText(name, model)


def read_image(folder: Path, name: str) -> PluggedImage:
    """Read what `PluggedImage.save` wrote."""
    tower = make_image(name)
    _load(tower.model, folder)
    return tower


def read_text(folder: Path, name: str) -> PluggedText:
    """Read what `PluggedText.save` wrote."""
    tower = make_text(name)
    _load(tower.model, folder)
    return tower


def _make(name: str, modality: str, key: str) -> Any:
    """Make an encoder of a class that is found as `python -m` would find it, from the working folder."""
    assert CLASS_NAME.fullmatch(name), name
    module, _, wanted = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        model = getattr(importlib.import_module(module), wanted)()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{key} is {name!r}, which cannot be imported: {error}. Give module:Class, the module on the Python path "
            "or in the working folder.",
            key=key,
        ) from error
    other = "text" if modality == "image" else "image"
    lacking = [part for part in _PARTS[modality] if not hasattr(model, part)]
    if lacking and isinstance(model, nn.Module) and all(hasattr(model, part) for part in _PARTS[other]):
        raise ConfigError(
            f"{key} is {name!r}, which encodes {other}s, not {modality}s. Give it as student.towers.{other}.name.",
            key=key,
        )
    if lacking or not isinstance(model, nn.Module):
        wants = "no torch.nn.Module" if not isinstance(model, nn.Module) else f"without {', '.join(lacking)}"
        raise ConfigError(
            f"{key} is {name!r}, which is {wants}. An encoder of {modality}s is an nn.Module with "
            f"{', '.join(_PARTS[modality])} and forward; see docs/students.md.",
            key=key,
        )
    return model.eval()


@torch.no_grad()
def _try(model: nn.Module, inputs: Any, name: str, key: str) -> None:
    """Make sure that an encoder gives one row of its width for one item."""
    try:
        features = model(inputs)
        shape = tuple(features.shape)
    except Exception as error:  # someone else's code may raise anything
        raise ConfigError(
            f"{key} is {name!r}, whose forward fails on one item: {type(error).__name__}: {first_line(error)}", key=key
        ) from error
    if shape != (1, model.width):
        raise ConfigError(
            f"{key} is {name!r}, which gives {shape} for one item, not the pooled (1, {model.width}) that its `width` "
            "says. Pool in its forward: `.mean((2, 3))` of a feature map, `.mean(1)` of tokens.",
            key=key,
        )


def _hidden_states(tower: "PluggedImage | PluggedText", inputs: Any) -> HiddenStates:
    if not hasattr(tower.model, "hidden_states"):
        return Tower.hidden_states(tower, inputs)  # refuses by name
    given = tuple(tower.model.hidden_states(inputs))
    shapes = [None if part is None else tuple(part.shape) for part in given]
    batch = shapes[0][:1] if shapes and shapes[0] else (0,)
    good = len(given) == 3 and shapes[0] == (*batch, tower.width) and len(shapes[1] or ()) == 3
    if not good or shapes[1][:1] != batch or shapes[2] not in (None, shapes[1][:2]):  # type: ignore[index]
        raise ConfigError(
            f"`hidden_states` of {tower.card['class']!r} gives {shapes}; it must be pooled (B, {tower.width}), states "
            "(B, T, V) and there (B, T) or None.",
            key="student.kind",
        )
    return HiddenStates(*given)


def _save(model: nn.Module, folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    # A copy each: safetensors refuses tensors that share memory.
    state = {name: value.detach().clone().contiguous().cpu() for name, value in model.state_dict().items()}
    save_file(state, folder / _WEIGHTS)


def _load(model: nn.Module, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(
            f"{folder / _WEIGHTS} does not hold the weights of {type(model).__name__}: {first_line(error)} Restore it, "
            "or train again.",
            path=folder,
        ) from error
