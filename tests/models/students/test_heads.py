import math
from typing import Literal

import numpy as np
import pytest
import torch

from cusa.models.config import HeadsConfig
from cusa.models.students.base import Space
from cusa.models.students.heads import ProjectionHeads

WIDTHS = {"image": 6, "text": 10}


def _heads(spaces: list[str], *, kind: Literal["mlp", "linear"] = "mlp", dropout: float = 0.0) -> ProjectionHeads:
    torch.manual_seed(3)
    config = HeadsConfig(kind=kind, width=8, hidden=12, dropout=dropout)
    return ProjectionHeads(config, widths=WIDTHS, spaces=spaces, std=0.02).eval()


def _features(modality: str) -> torch.Tensor:
    return torch.randn(5, WIDTHS[modality], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_heads_equal_their_formula_in_numpy(modality: Literal["image", "text"], kind: Literal["mlp", "linear"]) -> None:
    heads = _heads(["cross", "uni"], kind=kind)
    state = {name: value.numpy().astype(np.float64) for name, value in heads.state_dict().items()}
    rows = _features(modality).numpy().astype(np.float64)
    rows /= np.sqrt((rows**2).mean(axis=1, keepdims=True))
    start = f"projections.{modality}"
    if kind == "mlp":
        rows = rows @ state[f"{start}.0.weight"].T + state[f"{start}.0.bias"]
        rows = rows * 0.5 * (1 + np.vectorize(math.erf)(rows / np.sqrt(2)))
        rows = rows @ state[f"{start}.3.weight"].T + state[f"{start}.3.bias"]
    else:
        rows = rows @ state[f"{start}.1.weight"].T + state[f"{start}.1.bias"]
    rows = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    rows = rows @ state[f"heads.uni.{modality}.linear.weight"].T + state[f"heads.uni.{modality}.linear.bias"]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with torch.no_grad():
        ours = heads.embed(heads.project(_features(modality), modality), "uni", modality)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), rows, atol=2e-6)


@pytest.mark.parametrize("kind", ["mlp", "linear"])
@torch.no_grad()
def test_the_length_of_the_features_does_not_matter(kind: Literal["mlp", "linear"]) -> None:
    heads = _heads(["uni"], kind=kind)
    features = _features("image")
    lengths = torch.tensor([1e-3, 0.5, 1.0, 30.0, 1e4])[:, None]
    torch.testing.assert_close(heads.project(features * lengths, "image"), heads.project(features, "image"))


@pytest.mark.parametrize(
    ("spaces", "space", "same_as"),
    [([], "cross", None), ([], "uni", "cross"), (["uni"], "cross", None), (["cross"], "uni", "cross")],
)
@torch.no_grad()
def test_a_space_without_heads_falls_back(spaces: list[str], space: Space, same_as: Space | None) -> None:
    heads = _heads(spaces)
    projected = heads.project(_features("text"), "text")
    rows = heads.embed(projected, space, "text")
    expected = torch.nn.functional.normalize(projected) if same_as is None else heads.embed(projected, same_as, "text")
    torch.testing.assert_close(rows, expected, rtol=0, atol=0)


@torch.no_grad()
def test_dropout_acts_in_training_only() -> None:
    heads = _heads(["uni"], dropout=0.5)
    features = _features("image")
    assert torch.equal(heads.project(features, "image"), heads.project(features, "image"))
    heads.train()
    assert not torch.equal(heads.project(features, "image"), heads.project(features, "image"))


def test_every_weight_gets_a_gradient() -> None:
    heads = _heads(["cross", "uni"]).train()
    spaces: tuple[Space, ...] = ("cross", "uni")
    modalities: tuple[Literal["image", "text"], ...] = ("image", "text")
    for modality in modalities:
        projected = heads.project(_features(modality), modality)
        for space in spaces:
            heads.embed(projected, space, modality)[:, 0].sum().backward(retain_graph=True)
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in heads.parameters())
