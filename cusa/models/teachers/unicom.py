"""Unicom: the paper's image teacher, from the authors' checkpoint files.

Letters: B images, S pixels a side, P patches, D width of a token, E width of the compact embedding.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cusa.errors import ConfigError, DataError, nearest
from cusa.models import weights_file
from cusa.models.device import Device, Precision
from cusa.models.preprocess import Preprocess
from cusa.models.teachers.image_teacher import ImageTeacher
from cusa.models.weights_file import UNICOM_FILES, WeightsFile

TOKENS = "-tokens"
"""Ending of a name that asks for the flattened patch tokens instead of the compact embedding."""


@dataclass(frozen=True)
class UnicomSize:
    """The measures of one Unicom network, and where its weights are published."""

    size: int
    """S, pixels a side."""
    patch: int
    """Pixels a side of a patch."""
    dim: int
    """D."""
    depth: int
    heads: int
    width: int
    """E."""
    file: WeightsFile

    @property
    def patches(self) -> int:
        """P: patches an image."""
        return (self.size // self.patch) ** 2


UNICOM = {
    "unicom-vit-b-32": UnicomSize(224, 32, 768, 12, 12, 512, UNICOM_FILES["unicom-vit-b-32"]),
    "unicom-vit-b-16": UnicomSize(224, 16, 768, 12, 12, 768, UNICOM_FILES["unicom-vit-b-16"]),
    "unicom-vit-l-14": UnicomSize(224, 14, 1024, 24, 16, 768, UNICOM_FILES["unicom-vit-l-14"]),
    "unicom-vit-l-14-336": UnicomSize(336, 14, 1024, 24, 16, 768, UNICOM_FILES["unicom-vit-l-14-336"]),
}
"""The released networks by name."""


class Unicom(nn.Module):
    """A vision transformer without class token; all patch tokens together give the embedding.

    Pre-norm blocks, ReLU6 in the MLP, no bias in the queries, keys and values. Parameter names are the checkpoint's.

    Args:
        size: the measures.

    Source: An et al., "Unicom: Universal and Compact Representation Learning for Image Retrieval", ICLR 2023,
    arXiv:2304.05884.
    """

    def __init__(self, size: UnicomSize) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, size.dim, size.patch, stride=size.patch)})
        self.pos_embed = nn.Parameter(torch.zeros(1, size.patches, size.dim))
        self.blocks = nn.ModuleList(_Block(size.dim, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.dim)
        self.feature = nn.Sequential(
            nn.Linear(size.patches * size.dim, size.dim, bias=False),
            nn.BatchNorm1d(size.dim, eps=2e-5),
            nn.Linear(size.dim, size.width, bias=False),
            nn.BatchNorm1d(size.width, eps=2e-5),
        )

    def tokens(self, pixels_B3SS: Tensor) -> Tensor:
        """Return the normalised patch tokens, flattened: (B, P * D); what the paper's figures were made with."""
        x_BPD = self.patch_embed["proj"](pixels_B3SS).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x_BPD = block(x_BPD)
        normed: Tensor = self.norm(x_BPD.float())
        return normed.flatten(1)

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Return the compact embedding, (B, E), not normalised."""
        embedding: Tensor = self.feature(self.tokens(pixels_B3SS))
        return embedding


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim, bias=False), "proj": nn.Linear(dim, dim)})
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})
        self._heads = heads

    def forward(self, x_BPD: Tensor) -> Tensor:
        number, patches, dim = x_BPD.shape
        qkv = self.attn["qkv"](self.norm1(x_BPD)).view(number, patches, 3, self._heads, dim // self._heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(number, patches, dim)
        x_BPD = x_BPD + self.attn["proj"](mixed)
        hidden: Tensor = self.mlp["fc2"](F.relu6(self.mlp["fc1"](self.norm2(x_BPD))))
        return x_BPD + hidden


def load_unicom(name: str, *, weights: str = "", precision: Precision = "auto", device: str = "") -> ImageTeacher:
    """Load a released Unicom network as a teacher.

    Args:
        name: a name of `UNICOM`, or one with `-tokens` behind it for the flattened patch tokens (P * D numbers).
        weights: the authors' file or the folder that holds it; searched for, then downloaded, when empty.
        precision: numbers of the matrix products.
        device: a torch device; CUDA if there is one when empty.

    Raises:
        ConfigError: if there is no such network.
        DataError: if the weights are missing or not the published ones.
    """
    plain = name.removesuffix(TOKENS)
    if plain not in UNICOM:
        raise ConfigError(f"There is no Unicom network {name!r}. {nearest(name, unicom_names())}.", teacher=name)
    return unicom_teacher(name, UNICOM[plain], weights_file.find(UNICOM[plain].file, weights), precision, device)


def unicom_names() -> list[str]:
    """Return every name `load_unicom` takes."""
    return [name + ending for name in UNICOM for ending in ("", TOKENS)]


def unicom_teacher(
    name: str, size: UnicomSize, path: Path, precision: Precision = "auto", device: str = ""
) -> ImageTeacher:
    """Build a network and fill it from a verified checkpoint file.

    Args:
        name: the teacher's name; with `-tokens` behind it, it gives the flattened patch tokens.
        size: the measures.
        path: a `torch.save` of a flat dictionary of tensors, as the authors publish it (float16).
        precision: numbers of the matrix products.
        device: a torch device; CUDA if there is one when empty.

    Raises:
        DataError: if the file holds anything but the tensors of this network.
    """
    network = Unicom(size)
    network.load_state_dict(_read(path, network))
    wants_tokens = name.endswith(TOKENS)
    return ImageTeacher(
        name=name,
        network=network,
        features=network.tokens if wants_tokens else network,
        width=size.patches * size.dim if wants_tokens else size.width,
        preprocess=Preprocess(size.size),
        provenance={"teacher": name, "revision": size.file.name, "weights_sha256": size.file.sha256},
        device=Device(precision, device),
    )


def _read(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """Read a checkpoint's tensors as float32, without executing anything it may hold."""
    wanted = network.state_dict()
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, OSError... for a bad file
        raise DataError(
            f"{path} is no file of weights that can be read safely ({str(error).splitlines()[0]}). "
            "Download the authors' file again.",
            path=path,
        ) from error
    differing = {key for key in {*wanted, *shapes} if key not in wanted or shapes.get(key) != tuple(wanted[key].shape)}
    if differing:
        first = sorted(differing)[0]
        raise DataError(
            f"{path} holds another network: {len(differing)} tensors differ, the first {first!r} "
            f"({shapes.get(first, 'missing')} there, {tuple(wanted[first].shape) if first in wanted else 'none'} "
            "wanted). Give the file of the named network.",
            path=path,
        )
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
