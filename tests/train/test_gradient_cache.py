"""Chunks encoded twice give the gradients of one pass that keeps everything."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from cusa.errors import ConfigError
from cusa.train.gradient_cache import cached_backward
from cusa.train.losses import CUSALoss
from tests.train.ranks import run_on_ranks

SIZE = 11


class _Model(nn.Module):
    """Two towers with two heads each, and dropout."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.towers = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Dropout(dropout)) for name in ("image", "text")}
        )
        self.heads = nn.ModuleDict({name: nn.Linear(7, 5) for name in ("image", "text", "image_uni", "text_uni")})
        self.double()

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        image, text = self.towers["image"](image), self.towers["text"](text)
        rows = {"image": image, "text": text, "image_uni": image, "text_uni": text}
        return {name: head(rows[name]) for name, head in self.heads.items()}


def _inputs(size: int = SIZE) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(size, width, generator=random, dtype=torch.float64)
        for name, width in (("image", 6), ("text", 6), ("teacher_image", 4), ("teacher_text", 3))
    } | {"image_ids": torch.arange(size) // 2}


def _gradients(*modules: nn.Module) -> dict[str, Tensor]:
    return {
        f"{k}.{name.removeprefix('module.')}": parameter.grad.clone()
        for k, module in enumerate(modules)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def _cached(model: Any, loss: Any, inputs: dict[str, Tensor], chunk: int, **options: Any) -> dict[str, Tensor]:
    taught = {name: inputs[name] for name in ("teacher_image", "teacher_text", "image_ids")}
    return cached_backward(
        lambda rows: model(inputs["image"][rows], inputs["text"][rows]),
        lambda embeddings: loss(**embeddings, **taught),
        size=len(inputs["image"]),
        chunk=chunk,
        **options,
    )


@pytest.mark.parametrize("impl", ["plain", "streamed"])
@pytest.mark.parametrize("chunk", [1, 3, 11, 50])
def test_cached_backward__equals_the_whole_batch(chunk: int, impl: Any) -> None:
    inputs = _inputs()
    model, loss = _Model(0.0), CUSALoss(impl=impl).double()
    terms = loss(**model(inputs["image"], inputs["text"]), **{k: v for k, v in inputs.items() if k not in model.towers})
    terms["loss"].backward()
    expected = _gradients(model, loss)
    model.zero_grad()
    loss.zero_grad()
    observed = _cached(model, loss, inputs, chunk)
    assert {name: term.item() for name, term in observed.items()} == pytest.approx(
        {name: term.item() for name, term in terms.items()}, rel=1e-12
    )
    found = _gradients(model, loss)
    assert found.keys() == expected.keys()
    for name, theirs in expected.items():
        torch.testing.assert_close(found[name], theirs, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("chunk", [2, 4])
def test_cached_backward__dropout_draws_the_same_numbers_twice(chunk: int) -> None:
    inputs = _inputs()
    model, loss = _Model(0.5), CUSALoss().double()
    torch.manual_seed(7)
    starts = range(0, SIZE, chunk)
    parts = [model(inputs["image"][k : k + chunk], inputs["text"][k : k + chunk]) for k in starts]
    after = torch.get_rng_state()
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    loss(**whole, **{k: v for k, v in inputs.items() if k not in model.towers})["loss"].backward()
    expected = _gradients(model, loss)
    model.zero_grad()
    loss.zero_grad()
    torch.manual_seed(7)
    _cached(model, loss, inputs, chunk)
    for name, theirs in expected.items():
        torch.testing.assert_close(_gradients(model, loss)[name], theirs, rtol=1e-11, atol=1e-14)
    assert torch.equal(torch.get_rng_state(), after)


def test_cached_backward__adds_to_what_is_there_and_scales() -> None:
    inputs = _inputs()
    model, loss = _Model(0.0), CUSALoss().double()
    _cached(model, loss, inputs, 4)
    once = _gradients(model, loss)
    _cached(model, loss, inputs, 4, scale=lambda value: 2 * value)
    for name, grad in _gradients(model, loss).items():
        torch.testing.assert_close(grad, 3 * once[name], rtol=1e-12, atol=1e-15)


def test_cached_backward__frozen_towers_are_left_alone() -> None:
    inputs = _inputs()
    model, loss = _Model(0.0), CUSALoss().double()
    for name in ("image", "text"):
        model.towers[name].requires_grad_(False)
    model.heads["text"].requires_grad_(False)
    _cached(model, loss, inputs, 4)
    assert {name.split(".")[2] for name in _gradients(model)} == {"image", "image_uni", "text_uni"}


class _MostRows(TorchDispatchMode):
    """Remembers the rows of the largest hidden layer any operation made."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.ndim == 2 and made.shape[1] == 7:
            self.rows = max(self.rows, made.shape[0])
        return made


def test_cached_backward__no_tower_sees_more_than_a_chunk() -> None:
    model, loss = _Model(0.0), CUSALoss().double()
    with _MostRows() as seen:
        _cached(model, loss, _inputs(40), 9)
    assert seen.rows == 9


@pytest.mark.parametrize(("size", "chunk"), [(0, 1), (4, 0), (4, -2)])
def test_cached_backward__refuses_sizes_below_one(size: int, chunk: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        cached_backward(lambda rows: {}, lambda rows: {}, size=size, chunk=chunk)


def _on_a_rank(rank: int, *, counts: tuple[int, ...]) -> dict[str, Tensor]:
    inputs = _inputs(sum(counts))
    rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    model: Any = DistributedDataParallel(_Model(0.0))
    loss = DistributedDataParallel(CUSALoss(negatives="global").double())
    _cached(model, loss, {name: each[rows] for name, each in inputs.items()}, 3, no_sync=model.no_sync)
    return _gradients(model, loss)


def test_cached_backward__on_two_ranks_equals_the_whole_batch(tmp_path: Path) -> None:
    counts = (8, 3)
    model, loss = _Model(0.0), CUSALoss().double()
    _cached(model, loss, _inputs(sum(counts)), 100)
    expected = _gradients(model, loss)
    for found in run_on_ranks(partial(_on_a_rank, counts=counts), 2, tmp_path / "ranks"):
        assert found.keys() == expected.keys()
        for name, theirs in expected.items():
            torch.testing.assert_close(found[name], theirs, rtol=1e-11, atol=1e-14)
