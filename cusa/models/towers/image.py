"""Encoders of images: vision models of transformers (timm's through it), the image half of a CLIP, or one's own.

Legend: B images, W width of the features, C H W channels and pixels of an input.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cusa.errors import ConfigError
from cusa.manifests.origin import teacher_name
from cusa.manifests.storage import store
from cusa.models import naflex
from cusa.models.config import CLASS_NAME, ImageTowerConfig
from cusa.models.naflex import AnyPreprocess, NaFlex
from cusa.models.pixels import Patches, grey, model_inputs, of_vision_model
from cusa.models.preprocess import Preprocess
from cusa.models.teachers import hub
from cusa.models.towers import hugging_face, plugged
from cusa.models.towers.base import HiddenStates, ImageTower, first_line
from cusa.models.towers.place import Place, locate

_KEY = "student.towers.image.name"


class HuggingFaceImage(ImageTower):
    """A vision model of transformers.

    Args:
        model: gives a pooled output, or `last_hidden_state`: (B, tokens, W) with the patches last, or (B, W, h, w).
        preprocess: what it reads.
        card: with `name` and `pooling`: `own`, `cls` or `mean`.

    Raises:
        ConfigError: if the model does not give such an output for a picture of the preprocessing's size.
    """

    def __init__(self, model: Any, preprocess: AnyPreprocess, card: Mapping[str, Any]) -> None:
        super().__init__(card, 0)
        self.model = model
        self.preprocess = preprocess
        self._pooling = str(card["pooling"])
        known = of_vision_model(model, size=preprocess.size) if isinstance(preprocess, Preprocess) else None
        self._before = None if known is None else known.before
        self.width = self._measure()

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels: (B, W)."""
        inputs = model_inputs(pixels, self.preprocess)
        return self._pooled(self.model(**inputs), inputs)

    def hidden_states(self, inputs: Tensor) -> HiddenStates:
        """Return the last hidden states of patches, or of a feature map's places row by row.

        Raises:
            ConfigError: if the model has none.
        """
        given = model_inputs(inputs, self.preprocess)
        output = self.model(**given)
        hidden: Tensor | None = getattr(output, "last_hidden_state", None)
        if hidden is None or hidden.ndim not in (3, 4):
            raise ConfigError(
                f"{_KEY} is {self.card['name']!r}, a {type(self.model).__name__} without hidden states of patches, "
                "which late interaction scores. Give another vision model.",
                key=_KEY,
            )
        pooled = self._pooled(output, given)
        if isinstance(self.preprocess, NaFlex):
            return HiddenStates(pooled, hidden, given["pixel_attention_mask"].bool())
        states = hidden.flatten(2).mT if hidden.ndim == 4 else hidden[:, self._before_patches(inputs, hidden) :]
        return HiddenStates(pooled, states, None)

    def _pooled(self, output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        if self._pooling == "own":
            pooled = hugging_face.pooled_output(output, "image")
            assert pooled is not None
            return pooled
        hidden: Tensor = output.last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean((2, 3))
        if self._pooling == "cls":
            return hidden[:, 0]
        if isinstance(self.preprocess, NaFlex):
            mask_BN1 = inputs["pixel_attention_mask"][:, :, None]
            return (hidden * mask_BN1).sum(1) / mask_BN1.sum(1)
        return hidden[:, -self._patches(inputs["pixel_values"]) :].mean(1)

    def patches(self) -> Patches | None:
        """Return its patches; None also where it averages them and has to know how many there are."""
        if self._pooling == "mean" or not isinstance(self.preprocess, Preprocess):
            return None
        return of_vision_model(self.model, size=self.preprocess.size)

    @property
    def settings(self) -> Any:
        """Its configuration in transformers."""
        return self.model.config

    def save(self, folder: Path) -> None:
        """Write the model and its preprocessing, as `AutoModel` and `AutoImageProcessor` read them."""
        self.model.save_pretrained(folder)
        store.write_json(folder / "preprocessor_config.json", self.preprocess.to_hugging_face())

    def _patches(self, pixels_BCHW: Tensor) -> int:
        """Return how many patches a picture has; class and register tokens stand before them."""
        patch = getattr(self.model.config, "patch_size", None)
        if patch is None:
            return 0
        patch = patch if isinstance(patch, int) else patch[0]
        return (pixels_BCHW.shape[2] // patch) * (pixels_BCHW.shape[3] // patch)

    def _before_patches(self, pixels_BCHW: Tensor, hidden: Tensor) -> int:
        """Return how many tokens stand before the patches, also where training leaves some patches out."""
        if self._before is not None:
            return self._before
        patches = self._patches(pixels_BCHW)
        return max(0, hidden.shape[1] - patches) if patches else 0

    @torch.no_grad()
    def _measure(self) -> int:
        """Encode an empty picture and return the width of its features."""
        kind = type(self.model).__name__
        try:
            output = self.model(**model_inputs(grey(self.preprocess), self.preprocess))
        except Exception as error:  # a model of another kind may raise anything
            raise ConfigError(
                f"{_KEY} is {self.card['name']!r}, a {kind}, which cannot read a picture "
                f"({self.preprocess.in_words()}): {first_line(error)} Give a vision model such as "
                "facebook/dinov2-base, or a module:Class around it.",
                key=_KEY,
            ) from error
        if self._pooling == "own":
            pooled = hugging_face.pooled_output(output, "image")
            if pooled is None:
                raise ConfigError(
                    f"{_KEY} is {self.card['name']!r}, a {kind}, which has no pooled output. Set "
                    "student.towers.image.pooling=mean (of its patches) or cls (its first token).",
                    key="student.towers.image.pooling",
                )
            return int(pooled.shape[1])
        hidden = getattr(output, "last_hidden_state", None)
        if hidden is None or hidden.ndim not in (3, 4):
            raise ConfigError(
                f"{_KEY} is {self.card['name']!r}, a {kind} without a last_hidden_state to pool. Write a module:Class "
                "around it that pools; see docs/students.md.",
                key="student.towers.image.pooling",
            )
        if self._pooling == "cls" and hidden.ndim == 4:
            raise ConfigError(
                f"student.towers.image.pooling is 'cls', but a {kind} gives a feature map without a first token. Set "
                "mean or own.",
                key="student.towers.image.pooling",
            )
        return int(hidden.shape[1] if hidden.ndim == 4 else hidden.shape[2])


def load(config: ImageTowerConfig) -> ImageTower:
    """Load the encoder that a configuration names.

    Raises:
        ConfigError: if none is named, it reads texts, or it has no pooled output.
        DataError: if it cannot be loaded.
    """
    if not config.name:
        raise ConfigError(
            f"{_KEY} is empty: a two-tower student needs an encoder of images. Set it to a hub name "
            "(facebook/dinov2-small), a folder, or module:Class.",
            key=_KEY,
        )
    if CLASS_NAME.fullmatch(config.name):
        tower = plugged.make_image(config.name)
        if config.max_patches:
            tower.read_patches(config.max_patches, key="student.towers.image.max_patches")
        return tower
    place = locate(config.name, _KEY)
    settings = hugging_face.check_modality(place, "image", _KEY)
    model = hugging_face.load(place, "image", _KEY, pooled=config.pooling == "own")
    timm = getattr(settings, "pretrained_cfg", None)
    vision = getattr(settings, "vision_config", settings)
    preprocess = (
        Preprocess.from_timm(timm)
        if timm
        else naflex.from_hugging_face(hub.image_processor(place.name, place.where), vision, name=config.name)
    )
    preprocess = naflex.choose_patches(
        preprocess, config.max_patches, vision, key="student.towers.image.max_patches", name=config.name
    )
    card = {
        "name": teacher_name(config.name) if Path(place.name).is_dir() else config.name,
        "source": "transformers",
        "architecture": type(model).__name__,
        "licence": place.licence(),
        "pooling": config.pooling,
    }
    return HuggingFaceImage(model, preprocess, card)


def read(folder: Path, card: Mapping[str, Any], preprocess: AnyPreprocess) -> ImageTower:
    """Read an encoder that `Tower.save` wrote.

    Args:
        folder: of the encoder.
        card: what its `card` was.
        preprocess: how it reads images.
    """
    if "class" in card:
        return plugged.read_image(folder, str(card["class"]))
    model = hugging_face.load(Place(str(folder), ""), "image", _KEY, pooled=card["pooling"] == "own")
    return HuggingFaceImage(model, preprocess, card)
