"""X2-VLM for retrieval: a BEiT-2 image tower, a BERT text tower, and fusion layers that read both.

Zeng et al., "X2-VLM: All-In-One Pre-trained Model For Vision-Language Tasks", TPAMI 2023, arXiv 2211.12402. Parameters
are named as in the authors' checkpoints; values and gradients equal the reference's without dropout. Momentum-free, as
in its fine-tuning.

Legend: B images or captions, P pairs, T patches, L tokens, V W widths of the image and text tower, D of the embedding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EXTRA = 3
"""Biases beside those between patches: class token to patch, patch to class token, class token to itself."""


@dataclass(frozen=True)
class Sizes:
    """The numbers that decide shapes; the defaults are X2-VLM base at 384 pixels."""

    image_size: int = 384
    patch_size: int = 16
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    text_width: int = 768
    text_heads: int = 12
    text_inner: int = 3072
    text_layers: int = 12
    fusion_layers: int = 6
    vocabulary: int = 30522
    positions: int = 512
    width: int = 256
    dropout: float = 0.1
    temperature: float = 0.07

    @property
    def grid(self) -> int:
        """Patches along each side of the image."""
        return self.image_size // self.patch_size


BASE = Sizes()
LARGE = Sizes(vision_width=1024, vision_layers=24, vision_heads=16, text_width=1024, text_heads=16, text_inner=4096)


class X2vlmNetwork(nn.Module):
    """The towers, the fusion layers, two projections and the matching head.

    Args:
        sizes: the numbers.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.temp = nn.Parameter(torch.tensor(sizes.temperature))
        self.vision_encoder = _Vision(sizes)
        self.text_encoder = _Text(sizes)
        self.vision_proj = nn.Linear(sizes.vision_width, sizes.width)
        self.text_proj = nn.Linear(sizes.text_width, sizes.width)
        self.itm_head = nn.Sequential(
            nn.Linear(sizes.text_width, 2 * sizes.text_width),
            nn.LayerNorm(2 * sizes.text_width),
            nn.GELU(),
            nn.Linear(2 * sizes.text_width, 2),
        )

    def encode_image(self, pixels_BCHW: Tensor) -> Tensor:
        """Return (B, 1 + T, V): the mean of the normed patch tokens, then these; the class token is dropped."""
        tokens: Tensor = self.vision_encoder(pixels_BCHW)
        return tokens

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return (B, L, W): what the layers below the fusion make of a caption."""
        return self.text_encoder.below(ids_BL, mask_BL)

    def project_image(self, tokens_BTV: Tensor) -> Tensor:
        """Return the (B, D) unit rows of the contrastive loss."""
        return F.normalize(self.vision_proj(tokens_BTV[:, 0]).float(), dim=-1)

    def project_text(self, tokens_BLW: Tensor) -> Tensor:
        """Return the (B, D) unit rows of the contrastive loss."""
        return F.normalize(self.text_proj(tokens_BLW[:, 0]).float(), dim=-1)

    def fuse(self, image_PTV: Tensor, text_PLW: Tensor, mask_PL: Tensor) -> Tensor:
        """Let each caption read its image: (P, L, W)."""
        return self.text_encoder.fuse(text_PLW, mask_PL, image_PTV)

    def match(self, image_PTV: Tensor, text_PLW: Tensor, mask_PL: Tensor) -> Tensor:
        """Return (P, 2) logits: column 1 says that image and caption belong together."""
        logits: Tensor = self.itm_head(self.fuse(image_PTV, text_PLW, mask_PL)[:, 0])
        return logits


class _Vision(nn.Module):
    """BEiT-2 without class token in its output and without absolute positions."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.vision_width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, sizes.patch_size, stride=sizes.patch_size)})
        self.blocks = nn.ModuleList([_Block(width, sizes.vision_heads, sizes.grid) for _ in range(sizes.vision_layers)])
        self.fc_norm = nn.LayerNorm(width, eps=1e-6)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](pixels_BCHW).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.fc_norm(tokens[:, 1:])
        return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)


class _Block(nn.Module):
    """A pre-norm transformer block whose branches are scaled by learned gammas."""

    def __init__(self, width: int, heads: int, grid: int) -> None:
        super().__init__()
        self.gamma_1 = nn.Parameter(torch.full((width,), 0.1))
        self.gamma_2 = nn.Parameter(torch.full((width,), 0.1))
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _RelativeAttention(width, heads, grid)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x_BTV: Tensor) -> Tensor:
        x_BTV = x_BTV + self.gamma_1 * self.attn(self.norm1(x_BTV))
        hidden: Tensor = self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x_BTV))))
        return x_BTV + self.gamma_2 * hidden


class _RelativeAttention(nn.Module):
    """Attention with a learned bias for every distance between two patches; keys have no bias."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2 + _EXTRA, heads))
        self.register_buffer("relative_position_index", relative_position_index(grid))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTV: Tensor) -> Tensor:
        batch, length, width = x_BTV.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = (self.qkv(x_BTV) + bias).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        table = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=table[None].to(query.dtype))
        out: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, length, width))
        return out


class _Text(nn.Module):
    """BERT whose upper layers also read an image."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embeddings = _Embeddings(sizes)
        num = sizes.text_layers + sizes.fusion_layers
        layers = [_TextLayer(sizes, fusion=number >= sizes.text_layers) for number in range(num)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self._below = sizes.text_layers
        self.apply(_small_weights)

    def below(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        hidden: Tensor = self.embeddings(ids_BL)
        bias = _mask_bias(mask_BL)
        for layer in list(self.encoder["layer"].children())[: self._below]:
            hidden = layer(hidden, bias)
        return hidden

    def fuse(self, hidden_PLW: Tensor, mask_PL: Tensor, image_PTV: Tensor) -> Tensor:
        bias = _mask_bias(mask_PL)
        for layer in list(self.encoder["layer"].children())[self._below :]:
            hidden_PLW = layer(hidden_PLW, bias, image_PTV)
        return hidden_PLW


class _Embeddings(nn.Module):
    position_ids: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.register_buffer("position_ids", torch.arange(sizes.positions)[None])
        self.word_embeddings = nn.Embedding(sizes.vocabulary, sizes.text_width)
        self.position_embeddings = nn.Embedding(sizes.positions, sizes.text_width)
        self.token_type_embeddings = nn.Embedding(2, sizes.text_width)
        self.LayerNorm = nn.LayerNorm(sizes.text_width, eps=1e-12)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, ids_BL: Tensor) -> Tensor:
        places = self.position_embeddings(self.position_ids[:, : ids_BL.shape[1]])
        out: Tensor = self.dropout(
            self.LayerNorm(self.word_embeddings(ids_BL) + places + self.token_type_embeddings.weight[0])
        )
        return out


class _TextLayer(nn.Module):
    def __init__(self, sizes: Sizes, *, fusion: bool) -> None:
        super().__init__()
        self.attention = _TextAttention(sizes, sizes.text_width)
        if fusion:
            self.crossattention = _TextAttention(sizes, sizes.vision_width)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(sizes.text_width, sizes.text_inner)})
        self.output = _Output(sizes.text_inner, sizes)

    def forward(self, hidden_PLW: Tensor, bias: Tensor, image_PTV: Tensor | None = None) -> Tensor:
        hidden_PLW = self.attention(hidden_PLW, hidden_PLW, bias)
        if image_PTV is not None:
            hidden_PLW = self.crossattention(hidden_PLW, image_PTV, None)
        out: Tensor = self.output(F.gelu(self.intermediate["dense"](hidden_PLW)), hidden_PLW)
        return out


class _TextAttention(nn.Module):
    def __init__(self, sizes: Sizes, read_width: int) -> None:
        super().__init__()
        width = sizes.text_width
        self.heads, self.dropout = sizes.text_heads, sizes.dropout
        self.self = nn.ModuleDict(
            {
                "query": nn.Linear(width, width),
                "key": nn.Linear(read_width, width),
                "value": nn.Linear(read_width, width),
            }
        )
        self.output = _Output(width, sizes)

    def forward(self, hidden_PLW: Tensor, read: Tensor, bias: Tensor | None) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

        query, key, value = (
            heads(self.self[name](tokens)) for name, tokens in (("query", hidden_PLW), ("key", read), ("value", read))
        )
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if bias is None else bias.to(query.dtype),
            dropout_p=self.dropout if self.training else 0.0,
        )
        out: Tensor = self.output(attended.transpose(1, 2).flatten(2), hidden_PLW)
        return out


class _Output(nn.Module):
    def __init__(self, inner: int, sizes: Sizes) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, sizes.text_width)
        self.LayerNorm = nn.LayerNorm(sizes.text_width, eps=1e-12)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + residual)
        return out


def _small_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _mask_bias(mask_BL: Tensor) -> Tensor:
    """Return what is added to attention scores: -10,000 where there is no token, as in the reference."""
    return (1 - mask_BL[:, None, None, :].float()) * -10000.0


def relative_position_index(grid: int) -> Tensor:
    """Return the index of the bias between any two tokens of a square grid with a class token first: (1 + T, 1 + T)."""
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    side = 2 * grid - 1
    between = (rows[:, None] - rows + grid - 1) * side + columns[:, None] - columns + grid - 1
    index = torch.empty(grid * grid + 1, grid * grid + 1, dtype=torch.int64)
    index[1:, 1:] = between
    index[0, :], index[:, 0], index[0, 0] = side * side, side * side + 1, side * side + 2
    return index


def resample_relative_positions(table: Tensor, grid: int) -> Tensor:
    """Resample a table of relative-position biases to another grid of patches.

    Distances near 0 matter most, so the old ones are placed as a geometric progression that spans the new ones, and a
    cubic spline is fitted through them, head by head. The three biases of the class token are copied.

    Args:
        table: ((2 g - 1)^2 + 3, heads) of a grid of g x g patches.
        grid: g of the result.

    Source: BEiT's fine-tuning, Bao et al., ICLR 2022, arXiv 2106.08254, as X2-VLM computes it.
    """
    from scipy.interpolate import RectBivariateSpline

    old, new = round((len(table) - _EXTRA) ** 0.5), 2 * grid - 1
    if old == new:
        return table
    half, reach = old // 2, new // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (1 - ratio**half) / (1 - ratio) > reach else (ratio, high)
    steps = np.cumsum(ratio ** np.arange(half))
    source = np.concatenate([-steps[::-1], [0.0], steps])
    target = np.arange(-reach, reach + 1, dtype=np.float64)
    between = table[:-_EXTRA].detach().double().cpu().numpy().reshape(old, old, -1)
    heads = [
        RectBivariateSpline(source, source, between[..., head], s=0)(target, target).reshape(-1)
        for head in range(between.shape[2])
    ]
    moved = torch.from_numpy(np.stack(heads, 1)).to(table)
    return torch.cat([moved, table[-_EXTRA:]])


def negative_weights(similarity_BB: Tensor, image_ids: Tensor) -> Tensor:
    """Return the weight with which each column is drawn as a row's hard negative: softmax + 1e-5, 0 for the same image.

    Args:
        similarity_BB: queries in rows, divided by the temperature already.
        image_ids: (B,) equal for pairs of the same image.
    """
    with torch.no_grad():
        weights = similarity_BB.float().softmax(1) + 1e-5
        return weights.masked_fill(image_ids[:, None] == image_ids, 0)


def draw_negatives(weights_BB: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one negative for each row that has any.

    Returns:
        The rows, and the column drawn for each.
    """
    rows = (weights_BB.sum(1) > 0).nonzero().squeeze(1)
    if not len(rows):
        return rows, rows
    return rows, torch.multinomial(weights_BB[rows], 1).squeeze(1)


def matching_loss(logits_P2: Tensor, labels_P: Tensor) -> Tensor:
    """Compute the mean cross-entropy of match logits against labels in [0, 1].

    With labels of 0 and 1 it is the matching loss of X2-VLM. As cross-entropy is linear in the label, a label of
    alpha q weighs (1 - alpha) times the hard loss and alpha times the loss against q.
    """
    logs = logits_P2.float().log_softmax(1)
    return -(labels_P * logs[:, 1] + (1 - labels_P) * logs[:, 0]).mean()


def from_checkpoint(state: dict[str, Any], sizes: Sizes) -> dict[str, Tensor]:
    """Resample a checkpoint's tables to this grid and replace its position index.

    Args:
        state: the authors' names.
        sizes: of the model that will read it.

    Returns:
        A state dict for `X2vlmNetwork(sizes)`; keys are neither added nor removed.
    """
    resampled = {}
    for name, value in state.items():
        if name.endswith("relative_position_bias_table"):
            value = resample_relative_positions(value, sizes.grid)
        elif name.endswith("relative_position_index"):
            value = relative_position_index(sizes.grid)
        resampled[name] = value
    return resampled
