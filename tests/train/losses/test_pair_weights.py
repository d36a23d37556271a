"""Weights of pairs in InfoNCE against loops over Python floats, and what they must be equal to."""

import itertools
import math

import pytest
import torch

from cusa.errors import ConfigError
from cusa.train.losses import CUSALoss
from cusa.train.losses.pair_weights import pair_weights_correction


def _batch(seed: int = 0, size: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(size, 5, generator=made, dtype=torch.float64) for _ in range(2))
    return image, text, torch.tensor([0, 1, 2, 0, 3, 4, 5]), torch.rand(size, generator=made, dtype=torch.float64)


def _infonce(rows: list[list[float]], ids: list[int], weights: list[float], temperature: float) -> float:
    total = 0.0
    for turned in (rows, [list(column) for column in zip(*rows, strict=True)]):
        for i, row in enumerate(turned):
            norm = math.log(sum(math.exp(value / temperature) for value in row))
            same = [j for j in range(len(row)) if ids[j] == ids[i]]
            total += weights[i] * sum(norm - row[j] / temperature for j in same) / len(same)
    return total / (2 * len(rows))


@pytest.mark.parametrize("impl", ["plain", "streamed"])
def test_forward__equals_loops(impl: str) -> None:
    image, text, ids, weights = _batch()
    loss = CUSALoss(alpha=0, beta=0, impl=impl)  # type: ignore[arg-type]
    got = loss(image=image, text=text, image_ids=ids, pair_weights=weights)["infonce"]
    cosines = torch.nn.functional.normalize(image, dim=1) @ torch.nn.functional.normalize(text, dim=1).T
    expected = _infonce(cosines.tolist(), ids.tolist(), weights.tolist(), 0.05)
    assert float(got.detach()) == pytest.approx(expected, rel=1e-6)


def test_forward__weights_of_one_change_nothing() -> None:
    image, text, ids, _ = _batch()
    loss = CUSALoss(alpha=0, beta=0)
    plain = loss(image=image, text=text, image_ids=ids)["loss"].detach()
    weighted = loss(image=image, text=text, image_ids=ids, pair_weights=torch.ones(7))["loss"].detach()
    torch.testing.assert_close(weighted, plain)


@pytest.mark.parametrize("impl", ["plain", "streamed"])
def test_forward__a_pair_of_weight_0_pulls_nothing_together(impl: str) -> None:
    image, text, _, _ = _batch()
    image.requires_grad_()
    weights = torch.ones(7, dtype=torch.float64)
    weights[2] = 0
    loss = CUSALoss(alpha=0, beta=0, impl=impl)  # type: ignore[arg-type]
    loss(image=image, text=text, pair_weights=weights)["loss"].backward()
    assert image.grad is not None
    # What is left of its image's gradient pushes it away from the texts of other pairs: only negatives see it.
    unit = torch.nn.functional.normalize(image.detach(), dim=1)
    others = torch.nn.functional.normalize(text, dim=1)[[0, 1, 3, 4, 5, 6]]
    chances = (torch.nn.functional.normalize(text, dim=1) @ unit.T / 0.05).softmax(1)[[0, 1, 3, 4, 5, 6], 2]
    by_hand = (chances[:, None] * others).sum(0) / 0.05 / 14
    by_hand = (by_hand - (by_hand @ unit[2]) * unit[2]) / image.detach()[2].norm()
    torch.testing.assert_close(image.grad[2], by_hand, rtol=1e-5, atol=1e-10)


def test_forward__refuses_what_it_cannot_weigh() -> None:
    image, text, ids, weights = _batch()
    with pytest.raises(ConfigError, match="standard"):
        CUSALoss(alpha=0, beta=0, reduction="release")(image=image, text=text, image_ids=ids, pair_weights=weights)
    with pytest.raises(ConfigError, match=r"\(7,\)"):
        CUSALoss(alpha=0, beta=0)(image=image, text=text, image_ids=ids, pair_weights=weights[1:])


@pytest.mark.parametrize("bounds", [(0, 7), (0, 3, 7), (0, 1, 2, 6, 7)])
def test_correction__the_shares_of_ranks_add_up_to_that_of_the_batch(bounds: tuple[int, ...]) -> None:
    image, text, ids, weights = _batch()
    image, text = (torch.nn.functional.normalize(rows, dim=1) for rows in (image, text))
    shares = [
        pair_weights_correction(
            image,
            text,
            image_ids=ids,
            rows=slice(start, stop),
            weights_R=weights[start:stop],
            temperature=torch.tensor(0.05, dtype=torch.float64),
        )
        for start, stop in itertools.pairwise(bounds)
    ]
    cosines = (image @ text.T).tolist()
    told = [_infonce(cosines, ids.tolist(), given, 0.05) for given in (weights.tolist(), [1.0] * 7)]
    assert float(sum(shares)) == pytest.approx(told[0] - told[1], rel=1e-6)
