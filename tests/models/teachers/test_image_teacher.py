"""A teacher of images around any network: what the network sees, and what the rows' provenance says of it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cusa.models.device import Device
from cusa.models.preprocess import Preprocess
from cusa.models.teachers import image_teacher
from cusa.models.teachers.image_teacher import ImageTeacher

HOW = Preprocess(4, resize=6, resample="bilinear", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))


class _Means(nn.Module):
    """The mean of each channel, times a weight that is not 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, 3)."""
        return pixels.mean((2, 3)) * self.weight


def _teacher(how: Preprocess = HOW) -> ImageTeacher:
    network = _Means().train()
    return ImageTeacher(
        name="means",
        network=network,
        features=network,
        width=3,
        preprocess=how,
        provenance={"teacher": "means", "revision": "7", "weights_sha256": "none"},
        device=Device(),
    )


def _pictures(number: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (9 + k, 12, 3), dtype=np.uint8)) for k in range(number)]


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_encode__is_the_network_on_normalised_squares(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_teacher, "_BATCH", batch)
    pictures, teacher = _pictures(5), _teacher()
    rows = teacher.encode(pictures)
    for row, picture in zip(rows, pictures, strict=True):
        square = HOW.array(picture).astype(np.float64) / 255
        scaled = [(square[c].mean() - HOW.mean[c]) / HOW.std[c] * (c + 1) for c in range(3)]
        np.testing.assert_allclose(row, np.array(scaled) / np.linalg.norm(scaled), rtol=0, atol=1e-5)
    assert rows.dtype == np.float32
    assert teacher.encode([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (HOW, "RGB, bilinear shorter side to 6, centre 4 x 4, mean 0.1 0.2 0.3, std 0.5 0.25 0.2"),
        (Preprocess(8), "RGB, bicubic shorter side to 8, centre 8 x 8, mean"),
        (Preprocess(8, fit="squash"), "RGB, bicubic to 8 x 8, mean"),
    ],
)
def test_provenance__says_how_pictures_are_prepared(how: Preprocess, words: str) -> None:
    said = _teacher(how).provenance()
    assert said.pop("preprocessing").startswith(words)
    assert said == {"teacher": "means", "revision": "7", "weights_sha256": "none", "precision": "float32"}
