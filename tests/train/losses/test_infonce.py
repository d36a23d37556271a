import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from cusa.errors import ConfigError
from cusa.train.losses import infonce
from tests.train.losses import reference
from tests.train.losses.matrices import cross

sizes = st.integers(1, 12)
seeds = st.integers(0, 10**6)
temperatures = st.floats(0.01, 1.0)


@given(seeds, st.lists(st.integers(0, 4), min_size=1, max_size=10), temperatures)
@settings(max_examples=30, deadline=None)
def test_equals_loops_over_plain_floats(seed: int, ids: list[int], temperature: float) -> None:
    similarity = cross(len(ids), seed)
    observed = infonce(similarity, torch.tensor(ids), temperature=temperature).item()
    assert observed == pytest.approx(reference.infonce(similarity.tolist(), ids, temperature), rel=1e-12)


@given(seeds, sizes, temperatures)
@settings(max_examples=20, deadline=None)
def test_without_ids_it_is_cross_entropy_with_the_diagonal(seed: int, size: int, temperature: float) -> None:
    logits, labels = cross(size, seed) / temperature, torch.arange(size)
    expected = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    observed = infonce(cross(size, seed), None, temperature=temperature)
    assert observed.item() == pytest.approx(expected.item(), rel=1e-12, abs=1e-15)
    different = infonce(cross(size, seed), torch.arange(size) * 7 + 3, temperature=temperature)
    assert different.item() == observed.item()


@given(seeds, sizes)
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_batch_does_not_matter(seed: int, size: int) -> None:
    similarity, ids = cross(size, seed), torch.randint(0, 4, (size,), generator=torch.Generator().manual_seed(seed))
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    expected = infonce(similarity, ids, temperature=0.05).item()
    assert infonce(similarity[order][:, order], ids[order], temperature=0.05).item() == pytest.approx(
        expected, rel=1e-12, abs=1e-15
    )
    assert infonce(similarity.T, ids, temperature=0.05).item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(seeds, st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_which_numbers_name_the_images_does_not_matter(seed: int, size: int) -> None:
    ids = torch.randint(0, 3, (size,), generator=torch.Generator().manual_seed(seed))
    renamed = torch.tensor([2**40, -5, 17])[ids]
    similarity = cross(size, seed)
    assert infonce(similarity, ids, temperature=0.1).item() == infonce(similarity, renamed, temperature=0.1).item()


@pytest.mark.parametrize("size", [1, 2, 9])
def test_who_knows_nothing_pays_the_logarithm_of_the_batch(size: int) -> None:
    assert infonce(torch.zeros(size, size), None, temperature=0.05).item() == pytest.approx(math.log(size), abs=1e-6)


def test_one_image_throughout_wants_a_uniform_distribution() -> None:
    similarity = torch.zeros(5, 5, dtype=torch.float64, requires_grad=True)
    infonce(similarity, torch.full((5,), 3), temperature=0.05).backward()
    assert similarity.grad is not None
    assert similarity.grad.abs().max().item() < 1e-15


def test_the_releases_reduction_divides_once_more() -> None:
    similarity = cross(7, 0)
    standard = infonce(similarity, None, temperature=0.05)
    assert infonce(similarity, None, temperature=0.05, reduction="release").item() == pytest.approx(
        standard.item() / 7, rel=1e-12
    )


def test_no_overflow_at_the_lowest_temperature() -> None:
    # The worst case: every negative is perfect and every positive is opposite; logits of +100 and -100.
    similarity = (1 - 2 * torch.eye(64)).requires_grad_()
    temperature = torch.tensor(0.01, requires_grad=True)
    loss = infonce(similarity, None, temperature=temperature)
    loss.backward()
    assert loss.item() == pytest.approx(200 + math.log(63), rel=1e-6)
    assert similarity.grad is not None
    assert temperature.grad is not None
    assert torch.isfinite(similarity.grad).all()
    assert torch.isfinite(temperature.grad)


def test_an_unknown_reduction_is_refused() -> None:
    wrong: Any = "mean"
    with pytest.raises(ConfigError, match="reduction is 'mean'; allowed: standard, release"):
        infonce(torch.zeros(2, 2), None, temperature=0.05, reduction=wrong)
