"""From cached squares to what a network sees of them, on whatever device they lie: pixels, and which of their patches.

Legend: B images, T patches, K kept ones, W width of the tower, S pixels a side.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from cusa.models.preprocess import Preprocess


def normalise(squares: Tensor, preprocess: Preprocess) -> Tensor:
    """Turn (B, 3, S, S) uint8 into float32 as `Preprocess.normalise` does, on the squares' own device."""
    if squares.device.type == "cpu":
        return torch.from_numpy(preprocess.normalise(squares.numpy()))
    return on_device(squares, preprocess)


def on_device(squares: Tensor, preprocess: Preprocess) -> Tensor:
    """Do the same by arithmetic, where no table of 256 values can be looked up."""
    mean, std = _constants(preprocess.mean, preprocess.std, squares.device)
    return (squares.to(torch.float32) / 255 - mean) / std


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
