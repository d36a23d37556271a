"""What learns on top of an encoder: CUSA's heads, and the projections that bring two encoders to one width.

Legend: B items, W width of an encoder's features, H of a projection's hidden layer, D of the embedding.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from cusa.models.config import HeadsConfig
from cusa.models.students.base import Space

_MODALITIES: tuple[Literal["image", "text"], ...] = ("image", "text")


class Head(nn.Module):
    """LayerNorm and Linear of equal width: what the authors' release puts on a tower.

    Args:
        width: D.
        std: deviation of the new weights; the biases start as torch draws them.
    """

    def __init__(self, width: int, *, std: float) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)
        nn.init.normal_(self.linear.weight, std=std)

    def forward(self, features_BD: Tensor) -> Tensor:
        """Project (B, D) features."""
        projected: Tensor = self.linear(self.layernorm(features_BD))
        return projected


class ProjectionHeads(nn.Module):
    """A projection of each modality to a shared width, and CUSA's heads of each space on it.

    Features are first scaled to a mean square of 1, whatever their length: raw outputs of a tower and the unit rows of
    a table give the same embeddings, and weights as torch draws them fit either.

    Args:
        config: kind, widths, dropout of the projections.
        widths: `image` and `text` -> W of the features.
        spaces: which heads there are: `cross`, `uni`, both or none.
        std: deviation of the heads' new weights; the projections' weights start as torch draws them.

    Source: a learned projection on each encoder as in CLIP (Radford et al., ICML 2021, arXiv:2103.00020) and LiT (Zhai
    et al., CVPR 2022, arXiv:2111.07991); the heads as in CUSA's release (`Head`).
    """

    def __init__(self, config: HeadsConfig, *, widths: Mapping[str, int], spaces: Sequence[str], std: float) -> None:
        super().__init__()
        self.width = config.width
        self.projections = nn.ModuleDict({modality: _projection(config, widths[modality]) for modality in _MODALITIES})
        self.heads = nn.ModuleDict(
            {space: nn.ModuleDict({one: Head(config.width, std=std) for one in _MODALITIES}) for space in spaces}
        )

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces that have heads of their own."""
        return tuple(self.heads)

    def project(self, features_BW: Tensor, modality: Literal["image", "text"]) -> Tensor:
        """Bring an encoder's features to the shared width: (B, W) of any length to (B, D)."""
        scaled_BW = F.normalize(features_BW.float(), dim=-1) * features_BW.shape[-1] ** 0.5
        projected: Tensor = self.projections[modality](scaled_BW)
        return projected

    def embed(self, projected_BD: Tensor, space: Space, modality: Literal["image", "text"]) -> Tensor:
        """Apply the heads of a space: (B, D) float32 unit rows.

        Without uni-modal heads both spaces are the cross-modal one, which without heads of its own is the projection.
        """
        if space not in self.heads:
            space = "cross"
        if space in self.heads:
            projected_BD = self.heads[space][modality](projected_BD)  # type: ignore[index]
        # Under autocast the features are bf16; cosines of bf16 rows would be off by a percent.
        return F.normalize(projected_BD.float(), dim=-1)


def _projection(config: HeadsConfig, width: int) -> nn.Module:
    """Return a new projection of features of a width: (B, W) to (B, D)."""
    if config.kind == "linear":
        return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, config.width))
    return nn.Sequential(
        nn.Linear(width, config.hidden),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.width),
    )
