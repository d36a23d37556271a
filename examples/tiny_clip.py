"""A two-tower model of a few thousand weights that looks like open_clip's, so that the examples run in seconds."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


class TinyCLIP(nn.Module):
    """`encode_image` and `encode_text` as open_clip's models have them; embeddings of 16 numbers."""

    width = 16

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 32), nn.GELU(), nn.Linear(32, self.width))
        self.text = nn.EmbeddingBag(1000, self.width)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Embed (B, 3, 8, 8) pixels."""
        embedded: Tensor = self.image(pixels)
        return embedded

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embed (B, L) tokens."""
        embedded: Tensor = self.text(tokens)
        return embedded


def preprocess(image: Image.Image) -> Tensor:
    """Return (3, 8, 8) pixels between -1 and 1."""
    pixels = np.array(image.convert("RGB").resize((8, 8)), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def tokenize(texts: Sequence[str]) -> Tensor:
    """Return (B, 12) numbers of words."""
    words = [[sum(map(ord, word)) % 999 + 1 for word in text.lower().split()][:12] for text in texts]
    return torch.tensor([row + [0] * (12 - len(row)) for row in words])
