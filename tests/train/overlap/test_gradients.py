"""Averaging within the backward pass equals plain means, whatever a rank lacks and however often it walks back."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cusa.train import ranks
from cusa.train.overlap.gradients import Gradients
from tests.train.ranks import run_on_ranks


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))


def _inputs(rank: int, part: int) -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(10 * rank + part))


def _on_a_rank(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for bucket_bytes in (1, 100, 1 << 20):
        model, scale, unused = _model(), nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(3))
        model[2].bias.requires_grad_(False)
        gradients = Gradients(model.parameters(), [scale, unused], bucket_bytes=bucket_bytes)
        sent_early = []
        for step in range(2):
            model.zero_grad()
            scale.grad = unused.grad = None
            with gradients.held():
                (scale * model(_inputs(rank, 0))).sum().backward()
            assert gradients._sent == 0
            # What only one rank uses: its gradient is 0 on the other.
            extra = (unused * 3).sum() if rank == 1 else 0
            (scale * model(_inputs(rank, 1 + step)) ** 2 + extra).sum().backward()
            sent_early.append(gradients._sent)
            gradients.finish()
        named = [*model.named_parameters(), ("scale", scale), ("unused", unused)]
        found[str(bucket_bytes)] = {name: p.grad for name, p in named}, sent_early
    return found


def _expected(world: int) -> dict[str, Tensor | None]:
    model, scale, unused = _model(), nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(3))
    model[2].bias.requires_grad_(False)
    total = torch.zeros(())
    for rank in range(world):
        total = total + (scale * model(_inputs(rank, 0))).sum()
        extra = (unused * 3).sum() if rank == 1 else 0
        total = total + (scale * model(_inputs(rank, 2)) ** 2 + extra).sum()
    (total / world).backward()
    return {name: p.grad for name, p in (*model.named_parameters(), ("scale", scale), ("unused", unused))}


def test_two_ranks_get_the_plain_mean(tmp_path: Path) -> None:
    found, expected = run_on_ranks(partial(_on_a_rank), 2, tmp_path), _expected(2)
    for rank in range(2):
        for bucket_bytes, (grads, early) in found[rank].items():
            for name, theirs in expected.items():
                if theirs is None:
                    assert grads[name] is None
                else:
                    torch.testing.assert_close(grads[name], theirs)
            # The model's buckets go while the backward pass runs; the last, which one rank lacks, with `finish`.
            assert all(sent >= 1 for sent in early), bucket_bytes


def test_alone_nothing_is_hooked() -> None:
    model = _model()
    gradients = Gradients(model.parameters())
    model(_inputs(0, 0)).sum().backward()
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    gradients.finish()
    assert all(p._post_accumulate_grad_hooks is None for p in model.parameters())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True) if p.grad is not None)


@pytest.mark.parametrize(("bucket_bytes", "buckets"), [(1, 6), (1 << 20, 1)])
def test_buckets_hold_every_parameter_once_the_last_first(
    monkeypatch: pytest.MonkeyPatch, bucket_bytes: int, buckets: int
) -> None:
    monkeypatch.setattr(ranks, "world", lambda: 2)
    model = _model()
    gradients = Gradients(model.parameters(), bucket_bytes=bucket_bytes)
    held = [p for bucket in gradients._buckets for p in bucket.parameters]
    assert len(gradients._buckets) == buckets
    assert [id(p) for p in held] == [id(p) for p in model.parameters()][::-1]


@pytest.mark.parametrize(
    ("bucket_bytes", "sizes"),
    [(31, [1, 1, 1, 1]), (32, [2, 1, 1]), (47, [2, 1, 1]), (48, [3, 1]), (1 << 20, [3, 1])],
)
def test_a_bucket_is_of_so_many_bytes_and_of_one_type(
    monkeypatch: pytest.MonkeyPatch, bucket_bytes: int, sizes: list[int]
) -> None:
    """Three parameters of 16 bytes each, and before them one of another type."""
    monkeypatch.setattr(ranks, "world", lambda: 2)
    parameters = [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))]
    parameters += [torch.nn.Parameter(torch.zeros(4)) for _ in range(3)]
    gradients = Gradients(parameters, bucket_bytes=bucket_bytes)
    assert [len(bucket.parameters) for bucket in gradients._buckets] == sizes
    assert [bucket.parameters[0].dtype for bucket in gradients._buckets][-1] == torch.float64
