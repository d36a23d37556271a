"""Image teachers from Hugging Face: any vision model with a pooled output (DINOv2 and v3, MLCD, SigLIP, CLIP...)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cusa.errors import DataError
from cusa.manifests.origin import split_revision, teacher_name
from cusa.models import checkpoint_file, naflex
from cusa.models.device import Device, Precision
from cusa.models.naflex import AnyPreprocess
from cusa.models.pixels import grey, model_inputs
from cusa.models.quiet import quiet
from cusa.models.teachers import hub
from cusa.models.teachers.hub import model_provenance
from cusa.models.teachers.image_teacher import ImageTeacher


def load_vision(name: str, *, precision: Precision = "auto", device: str = "") -> ImageTeacher:
    """Load a Hugging Face vision model as a teacher.

    The embedding is the model's pooled output; of a dual encoder (CLIP, SigLIP) it is the image tower's. Images are
    prepared as the model's `preprocessor_config.json` says, by this package's own way of cutting (`Preprocess`).

    Args:
        name: a hub name, with `@revision` or without, or a folder with config.json and weights in safetensors.
        precision: numbers of the matrix products.
        device: a torch device; CUDA if there is one when empty.

    Raises:
        DataError: if it cannot be loaded, or its output is not pooled.
    """
    where = hub.where(name, what=f"The image teacher {name!r}")

    from transformers import AutoModel

    plain = split_revision(name)[0]
    checkpoint_file.refuse_placeholders(Path(plain).expanduser())
    try:
        with quiet():
            network = AutoModel.from_pretrained(plain, trust_remote_code=False, **where)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, SafetensorError... for a bad model
        raise DataError(
            f"{name!r} cannot be loaded as a Hugging Face model: {str(error).strip().splitlines()[0]} "
            "Check the name, the network, or give a local folder with config.json and weights.",
            teacher=name,
        ) from error
    settings = getattr(network.config, "vision_config", network.config)
    preprocess = naflex.from_hugging_face(hub.image_processor(plain, where), settings, name=name)
    runs_on = Device(precision, device)
    runs_on.place(network)

    def features(pixels: Tensor) -> Tensor:
        forward = getattr(network, "get_image_features", network)
        pooled: Tensor = forward(**model_inputs(pixels, preprocess)).pooler_output
        return pooled

    width = _width(name, features, preprocess, runs_on)
    provenance = model_provenance(name)
    return ImageTeacher(
        name=teacher_name(name),
        network=network,
        features=features,
        width=width,
        preprocess=preprocess,
        provenance=provenance,
        device=runs_on,
    )


@torch.inference_mode()
def _width(name: str, features: Any, preprocess: AnyPreprocess, device: Device) -> int:
    """Run the model on an empty image and return the width of its output."""
    try:
        pooled = features(grey(preprocess, device.torch))
        assert pooled.ndim == 2, pooled.shape
    except Exception as error:  # a model of another kind may raise anything
        raise DataError(
            f"{name!r} gives no pooled output for images ({preprocess.in_words()}; {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error) else ''}). Give a vision model such as "
            "facebook/dinov2-base, or write a `module:Class` teacher around it.",
            teacher=name,
        ) from error
    return int(pooled.shape[1])
