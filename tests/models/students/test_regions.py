"""Regions of a frozen vision model, written and read again with all that decides on them."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from cusa.models.preprocess import Preprocess
from cusa.models.students.regions import GridFeatures
from tests.towers import image_model, write_image


@pytest.mark.parametrize(
    "how",
    [
        Preprocess(24, resize=30, resample="bilinear", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        Preprocess(24, fit="squash", mean=(0.5, 0.4, 0.3)),
        Preprocess(24),
    ],
)
def test_saved_and_loaded__it_reads_pictures_as_before(tmp_path: Path, how: Preprocess) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=24, patch_size=4))
    grid = GridFeatures(model, how, side=2)
    grid.save(tmp_path / "extractor")
    again = GridFeatures.load(str(tmp_path / "extractor"), side=2)
    assert again.preprocess == how
    assert (again.width, again.side) == (16, 2)
    pixels = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again(pixels), grid(pixels))
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_load__of_a_dual_encoder_its_image_half(tmp_path: Path) -> None:
    grid = GridFeatures.load(str(write_image("clip", tmp_path / "clip")), side=2)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden = image_model("clip").eval().vision_model(pixel_values=pixels).last_hidden_state[:, 1:]
    cells = hidden.reshape(2, 2, 2, 2, 2, 16).mean((2, 4)).reshape(2, 4, 16)
    torch.testing.assert_close(grid(pixels), cells, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("patch", [4, (4, 4)])
def test_grid_of_tokens_leaves_out_what_stands_before_the_patches(patch: object) -> None:
    """Two tokens before 3 x 2 patches of a picture that is higher than wide; a cell is a patch's token."""
    tokens = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(1))

    class Tokens(torch.nn.Module):
        config = type("Config", (), {"hidden_size": 5, "patch_size": patch})()

        def forward(self, pixel_values: torch.Tensor) -> object:
            return type("Output", (), {"last_hidden_state": tokens})()

    cells = GridFeatures(Tokens(), Preprocess(24), side=1)(torch.zeros(2, 3, 12, 8))
    torch.testing.assert_close(cells, tokens[:, 2:].mean(1, keepdim=True))
    grid = GridFeatures(Tokens(), Preprocess(24), side=2)(torch.zeros(2, 3, 12, 8))
    upper_left = (tokens[:, 2] + tokens[:, 4]) / 2  # rows 0 and 1 of three, column 0 of two
    torch.testing.assert_close(grid[:, 0], upper_left)


def test_grid_of_a_feature_map_is_its_cells_means() -> None:
    """A convolution network gives (B, F, h, w): cells row by row, each the mean of its part of the map."""

    class Map(torch.nn.Module):
        config = type("Config", (), {"hidden_sizes": [4, 3]})()

        def forward(self, pixel_values: torch.Tensor) -> object:
            return type("Output", (), {"last_hidden_state": pixel_values})()

    pixels = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    grid = GridFeatures(Map(), Preprocess(24), side=2)
    assert grid.width == 3
    cells = grid(pixels)
    for row in range(2):
        for column in range(2):
            part = pixels[:, :, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3].mean((2, 3))
            torch.testing.assert_close(cells[:, 2 * row + column], part)
