"""A student for tests whose embeddings are known: it sees an image's mean colour and a caption's colour word."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cusa.models.students.base import Space, Student
from tests.worlds import COLOURS


class Seer(Student):
    """Embeds by colour, with a pinch of noise that depends on the content alone."""

    name = "seer"
    width = 8

    def __init__(self, *, uni: bool = True, noise: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        self.has_uni = uni
        self.noise = noise
        generator = torch.Generator().manual_seed(seed)
        self.mix = nn.Parameter(torch.randn(3, self.width, generator=generator))
        self.texts_seen: list[str] = []
        self.images_seen = 0

    def image_array(self, image: Image.Image) -> np.ndarray:
        self.images_seen += 1
        return np.asarray(image.resize((4, 4)), dtype=np.uint8)

    def pixels(self, arrays: Tensor) -> Tensor:
        return arrays.float().permute(0, 3, 1, 2) / 255

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        self.texts_seen += texts
        colours = [next((rgb for name, rgb in COLOURS.items() if name in text), (0, 0, 0)) for text in texts]
        letters = [[sum(map(ord, text)) % 7, len(text) % 5, ord(text[-2]) % 3] for text in texts]
        return {"colour": torch.tensor(colours), "letters": torch.tensor(letters)}

    def encode_image(self, pixels_BCHW: Tensor, space: Space = "cross") -> Tensor:
        return self._unit(pixels_BCHW.mean((2, 3)), 2 * ((97 * pixels_BCHW[:, :, 0, 0]) % 1), space)

    def encode_text(self, tokens: dict[str, Tensor], space: Space = "cross") -> Tensor:
        return self._unit(tokens["colour"] / 255, tokens["letters"] / 7, space)

    def forward(self, pixels_BCHW: Tensor, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"image": self.encode_image(pixels_BCHW), "text": self.encode_text(tokens)}

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def _unit(self, colour_B3: Tensor, pinch_B3: Tensor, space: Space) -> Tensor:
        rows = (colour_B3 - 0.4 + self.noise * (pinch_B3 - 0.5)) @ self.mix
        if space == "uni":
            rows = rows.flip(1) ** 3
        return nn.functional.normalize(rows, dim=1)
