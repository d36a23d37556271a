"""Models of transformers, and the two halves of its dual encoders, as encoders of one modality."""

import copy
import re
from typing import Any, Literal

import torch
from torch import Tensor

from cusa.errors import ConfigError, DataError
from cusa.models.quiet import quiet
from cusa.models.towers.base import first_line
from cusa.models.towers.place import Place

_INPUT = {"image": "pixel_values", "text": "input_ids"}
_WITH_PROJECTION = "WithProjection"
_HALF = re.compile(r"(Vision|Text)Model(WithProjection)?$")


def check_modality(place: Place, modality: Literal["image", "text"], key: str) -> Any:
    """Make sure that a model reads a modality, before its weights are.

    Returns:
        Its configuration.

    Raises:
        ConfigError: if it reads the other modality only.
        DataError: if it is no model of transformers.
    """
    from transformers import MODEL_MAPPING, AutoConfig

    try:
        with quiet():
            config = AutoConfig.from_pretrained(place.name, trust_remote_code=False, **place.where)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError... for a bad model
        raise DataError(
            f"{key} is {place.name!r}, which is no Hugging Face model: {first_line(error)} Check the name, or give a "
            "folder with config.json and weights.",
            key=key,
            name=place.name,
        ) from error
    if is_dual(config):
        return config
    classes: Any = MODEL_MAPPING.get(type(config), ())
    for model_class in classes if isinstance(classes, (list, tuple)) else (classes,):
        other: Literal["image", "text"] = "text" if modality == "image" else "image"
        if model_class.main_input_name == _INPUT[other]:
            raise ConfigError(
                f"{key} is {place.name!r}, a {model_class.__name__}, which reads {other}s, not {modality}s. Give it as "
                f"student.towers.{other}.name, and an encoder of {modality}s here.",
                key=key,
                name=place.name,
            )
    return config


def is_dual(config: Any) -> bool:
    """Return whether a configuration is that of a model of images and texts."""
    return hasattr(config, "vision_config") and hasattr(config, "text_config")


def load(place: Place, modality: Literal["image", "text"], key: str, *, pooled: bool = True) -> Any:
    """Load a model in float32 with safetensors, never with code from there; of a dual encoder, its half.

    Args:
        place: folder or hub name.
        modality: what it must read.
        key: of the recipe, for messages.
        pooled: whether its own pooled output is wanted: then its weights must be there; else it is taken away.

    Raises:
        DataError: if it cannot be loaded, or some of its weights are not there and would be random.
    """
    import transformers

    architecture = str((place.json("config.json").get("architectures") or [""])[0])
    loader: Any = getattr(transformers, loading_class(architecture))
    try:
        with quiet(reports=False):
            model, report = loader.from_pretrained(
                place.name, trust_remote_code=False, dtype=torch.float32, output_loading_info=True, **place.where
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, SafetensorError... for a bad model
        raise DataError(
            f"{key} is {place.name!r}, which cannot be loaded as a Hugging Face model: {first_line(error)} Check the "
            "name, the network, or give a folder with config.json and weights.",
            key=key,
            name=place.name,
        ) from error
    missing = sorted(report["missing_keys"])
    pooler = [name for name in missing if name.startswith("pooler.")]
    if missing and (pooled or missing != pooler):
        advice = (
            f"The weights were saved without a pooled output: set {key.removesuffix('name')}pooling=cls or mean."
            if missing == pooler
            else "Give the whole model."
        )
        raise DataError(
            f"{key} is {place.name!r}, a {type(model).__name__} of whose weights {len(missing)} are not there and "
            f"would be random, the first {missing[0]!r}. {advice}",
            key=key,
            missing=missing,
        )
    if is_dual(model.config) and hasattr(model, "get_image_features"):
        model = half(model, modality, key)
    if not pooled:
        _drop_pooler(model)
    return model.eval()


def loading_class(architecture: str) -> str:
    """Return the class of transformers that loads a model whole: `AutoModel`, or that of a dual encoder's half.

    Of a half `AutoModel` would leave the projection out, or not know it.
    """
    import transformers

    return architecture if _HALF.search(architecture) and hasattr(transformers, architecture) else "AutoModel"


def half(model: Any, modality: Literal["image", "text"], key: str) -> Any:
    """Return the image or the text half of a dual encoder as a model of its own, its projection included.

    Raises:
        DataError: if transformers has no such model.
    """
    import transformers

    inner, projection, side = {
        "image": ("vision_model", "visual_projection", "Vision"),
        "text": ("text_model", "text_projection", "Text"),
    }[modality]
    if hasattr(model, inner) and not hasattr(model, projection):
        alone = getattr(model, inner)  # SigLIP: the pooled output is the embedding
        if isinstance(alone, transformers.PreTrainedModel):
            return alone
    prefix = type(model.config).__name__.removesuffix("Config")
    half_class = getattr(transformers, f"{prefix}{side}Model{_WITH_PROJECTION}", None)
    if half_class is None:
        raise DataError(
            f"{key} names a {type(model).__name__}, whose {modality} half transformers does not know as a model of its "
            "own. Give a CLIP or SigLIP, or an encoder of one modality.",
            key=key,
        )
    config = copy.deepcopy(getattr(model.config, f"{side.lower()}_config"))
    config.projection_dim = model.config.projection_dim
    alone = half_class(config)
    state = {name: value for name, value in model.state_dict().items() if name.startswith((f"{inner}.", projection))}
    alone.load_state_dict(state)
    return alone


def pooled_output(output: Any, modality: Literal["image", "text"]) -> Tensor | None:
    """Return the pooled output of a model, (B, W); None if it has none."""
    rows = getattr(output, f"{modality}_embeds", None)
    if rows is None:
        rows = getattr(output, "pooler_output", None)
    if rows is None:
        return None
    flat: Tensor = rows.flatten(1)  # ResNet and its like leave it (B, W, 1, 1)
    return flat


def _drop_pooler(model: Any) -> None:
    """Take away a pooler with weights, which nothing reads."""
    pooler = getattr(model, "pooler", None)
    if pooler is not None and any(True for _ in pooler.parameters()):
        model.pooler = None
