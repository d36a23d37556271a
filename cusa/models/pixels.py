"""From cached pictures to what a network sees of them, on whatever device they lie: pixels, and which of their patches.

Legend: B images, T patches, K kept ones, W width of the tower, S pixels a side; N and P as in `cusa.models.naflex`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cusa.models.naflex import HEADER, AnyPreprocess, NaFlex
from cusa.models.preprocess import Preprocess


def normalise(arrays: Tensor, preprocess: AnyPreprocess) -> Tensor:
    """Turn a batch of arrays into float32 as the preprocessing's `normalise` does, on their own device.

    Args:
        arrays: (B, 3, S, S) uint8, or (B, 1 + N, 3 P P) uint8 of a NaFlex.
        preprocess: whose arrays they are.

    Returns:
        As large; of a NaFlex the first row of each picture begins with h and w, and rows behind its patches are 0.
    """
    if isinstance(preprocess, NaFlex):
        return _normalise_patches(arrays, preprocess)
    if arrays.device.type == "cpu":
        return torch.from_numpy(preprocess.normalise(arrays.numpy()))
    return on_device(arrays, preprocess)


def on_device(squares: Tensor, preprocess: Preprocess) -> Tensor:
    """Do the same with squares by arithmetic, where no table of 256 values can be looked up."""
    mean, std = _constants(preprocess.mean, preprocess.std, squares.device)
    return (squares.to(torch.float32) / 255 - mean) / std


def _normalise_patches(arrays: Tensor, preprocess: NaFlex) -> Tensor:
    patches, header = arrays[:, 1:], arrays[:, 0, :HEADER].to(torch.float32)
    grid_B2 = header[:, 0::2] + 256 * header[:, 1::2]
    out = torch.zeros(arrays.shape, device=arrays.device)
    out[:, 0, :2] = grid_B2
    if arrays.device.type == "cpu":
        out[:, 1:] = torch.from_numpy(preprocess.normalise(np.ascontiguousarray(patches.numpy())))
    else:
        out[:, 1:] = colours_on_device(patches, preprocess)
    number = torch.arange(patches.shape[1], device=arrays.device)
    out[:, 1:] *= (number < grid_B2.prod(1, keepdim=True))[:, :, None]
    return out


def colours_on_device(patches: Tensor, preprocess: NaFlex) -> Tensor:
    """Normalise patches (B, N, 3 P P) as `NaFlex.normalise` does, by arithmetic."""
    mean, std = (one.reshape(3) for one in _constants(preprocess.mean, preprocess.std, patches.device))
    colours = patches.unflatten(-1, (-1, 3)).to(torch.float32)
    normalised: Tensor = (colours / 255 - mean) / std
    return normalised.flatten(-2)


def model_inputs(pixels: Tensor, preprocess: AnyPreprocess) -> dict[str, Tensor]:
    """Return what a vision model of transformers takes of normalised pixels, by name.

    Args:
        pixels: what `normalise` returned.
        preprocess: whose they are.

    Returns:
        `pixel_values`; of a NaFlex (B, N, 3 P P), with `pixel_attention_mask` (B, N), 1 for patches that are there, and
        `spatial_shapes` (B, 2), h and w of each picture.
    """
    if not isinstance(preprocess, NaFlex):
        return {"pixel_values": pixels}
    shapes_B2 = pixels[:, 0, :2].to(torch.int64)
    number = torch.arange(pixels.shape[1] - 1, device=pixels.device)
    return {
        "pixel_values": pixels[:, 1:],
        "pixel_attention_mask": (number < shapes_B2.prod(1, keepdim=True)).to(torch.int32),
        "spatial_shapes": shapes_B2,
    }


def packed(pixel_values: Tensor, spatial_shapes: Tensor) -> Tensor:
    """Return the normalised pixels of which `model_inputs` of a NaFlex made these two: (B, 1 + N, 3 P P)."""
    header = nn.functional.pad(spatial_shapes.to(pixel_values.dtype), (0, pixel_values.shape[2] - 2))
    return torch.cat([header[:, None], pixel_values], 1)


def grey(preprocess: AnyPreprocess, device: torch.device | None = None) -> Tensor:
    """Return the normalised pixels of one grey picture, to try a model on."""
    array = preprocess.array(Image.new("RGB", (64, 48), (128, 128, 128)))
    return normalise(torch.from_numpy(array.copy()[None]).to(device), preprocess)


@lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:  # copied to the device once: it would wait for them in every batch
    with torch.inference_mode(False):
        return tuple(torch.tensor(each, device=device)[:, None, None] for each in (mean, std))  # type: ignore[return-value]


@dataclass(frozen=True)
class Patches:
    """Where an image tower has its patches, with their positions added, before its first layer."""

    module: nn.Module
    """Gives (B, before + T, W), the patches last."""
    before: int
    """Tokens before the patches: of class, of distillation, registers."""
    count: int
    """T."""


def of_vision_model(model: Any, *, size: int) -> Patches | None:
    """Return the patches of a vision model of transformers; None where none can be left out.

    They can where positions are added to patches before the first layer, and the layers and the pooling take any
    number of them. They cannot where positions enter in each layer (BEiT, DINOv3), or layers slide over the grid (Swin,
    ConvNeXt).

    Args:
        model: a vision model, or the image half of a dual encoder.
        size: pixels a side of its pictures.
    """
    config = model.config
    before = {
        "clip_vision_model": 1,
        "siglip_vision_model": 0,
        "blip_vision_model": 1,
        "vit": 1,
        "deit": 2,
        "dinov2": 1,
        "dinov2_with_registers": 1 + int(getattr(config, "num_register_tokens", 0)),
    }.get(config.model_type)
    module = next((one for name, one in model.named_modules() if name.rpartition(".")[2] == "embeddings"), None)
    patch = getattr(config, "patch_size", None)
    if before is None or module is None or patch is None:
        return None
    return Patches(module, before, (size // (patch if isinstance(patch, int) else patch[0])) ** 2)


@contextmanager
def keeping(patches: Patches | None, kept: Tensor | None) -> Iterator[None]:
    """Let a tower see only some patches of each image until the block ends.

    Args:
        patches: the tower's; None where `kept` is.
        kept: (B, K) which ones, on the tower's device; None = all.

    Source: Li et al., "Scaling Language-Image Pre-training via Masking" (FLIP), CVPR 2023, arXiv:2212.00794, without
    its last steps on whole pictures.
    """
    if patches is None or kept is None:
        yield
        return

    def drop(module: nn.Module, inputs: Any, tokens: Tensor) -> Tensor:
        assert tokens.shape[1] == patches.before + patches.count, (tuple(tokens.shape), patches.before, patches.count)
        index = kept[:, :, None].expand(-1, -1, tokens.shape[2])
        return torch.cat([tokens[:, : patches.before], tokens[:, patches.before :].gather(1, index)], 1)

    handle = patches.module.register_forward_hook(drop)
    try:
        yield
    finally:
        handle.remove()
