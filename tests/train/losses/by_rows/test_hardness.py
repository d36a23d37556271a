"""Hardness weights against plain loops over the papers' formulas, and against InfoNCE where they are all alike."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.errors import ConfigError
from cusa.train.config import LossConfig
from cusa.train.losses import CUSALoss, Setting
from cusa.train.losses.by_rows import blocks
from cusa.train.losses.by_rows.hardness import Hardness
from tests.train.losses.matrices import unit

IDS = [0, 1, 1, 2, 3, 0, 4, 5, 6, 7, 7]
WARM = Setting(0.25, 0.01, 1.0)


def by_loops(image: torch.Tensor, text: torch.Tensor, ids: list[int], t: float, b: float, r: float) -> float:
    """Sum Robinson's equation pair by pair, both directions."""
    total = 0.0
    for own, other in ((image, text), (text, image)):
        for i in range(len(own)):
            s = [float(own[i] @ other[j]) for j in range(len(other))]
            same = [math.exp(s[j] / t) for j in range(len(s)) if ids[j] == ids[i]]
            foreign = [s[j] for j in range(len(s)) if ids[j] != ids[i]]
            importance = [math.exp(b * one / t) for one in foreign]
            mean = sum(importance) / len(foreign)
            reweighted = sum(w * math.exp(one / t) for w, one in zip(importance, foreign, strict=True)) / mean
            positive = sum(same) / len(same)
            negatives = max((reweighted - r * len(foreign) * positive) / (1 - r), len(foreign) * math.exp(-1 / t))
            if r == 0:
                negatives = reweighted
            total += math.log(sum(same) + negatives) - sum(math.log(one) for one in same) / len(same)
    return total / (2 * len(image))


def _loss(rule: Hardness, impl: Any = "plain", **options: Any) -> CUSALoss:
    return CUSALoss(
        alpha=0, beta=0, false_negatives="hardness", hardness=rule, impl=impl, **{"temperature": WARM, **options}
    ).double()


@pytest.mark.parametrize("impl", ["plain", "streamed"])
@pytest.mark.parametrize("rule", [Hardness(0.5), Hardness(1.5, 0.02), Hardness(0.0, 0.1), Hardness(0.3, 0.6)])
def test_equals_a_plain_loop(rule: Hardness, impl: str) -> None:
    image, text = unit(11, 5, 1), unit(11, 5, 2)
    terms = _loss(rule, impl)(image=image, text=text, image_ids=torch.tensor(IDS))
    assert float(terms["infonce"].detach()) == pytest.approx(
        by_loops(image, text, IDS, 0.25, rule.concentration, rule.prior), rel=1e-10
    )


def test_the_floor_of_a_large_prior_is_met() -> None:
    """Where own pairs are near and the prior is high, the negatives' sum is at its floor in some rows, not in all."""
    image = unit(11, 5, 1)
    text = torch.nn.functional.normalize(image + 0.8 * unit(11, 5, 2), dim=1)
    ids = list(range(11))
    found = float(_loss(Hardness(0.3, 0.1))(image=image, text=text, image_ids=torch.tensor(ids))["loss"].detach())
    assert found == pytest.approx(by_loops(image, text, ids, 0.25, 0.3, 0.1), rel=1e-10)
    floor = sum(
        math.log1p(10 * math.exp(-1 / 0.25) / math.exp(float(image[i] @ text[i]) / 0.25)) / 11 for i in range(11)
    )
    assert found > floor * 1.001


@settings(max_examples=12, deadline=None)
@given(
    b=st.sampled_from([0.0, 0.25, 2.0]),
    r=st.sampled_from([0.0, 0.03, 0.5]),
    t=st.sampled_from([0.02, 0.25]),
    reduction=st.sampled_from(["standard", "release"]),
    size=st.integers(2, 13),
    groups=st.integers(1, 13),
)
def test_streamed_equals_plain_in_value_and_gradients(
    b: float, r: float, t: float, reduction: str, size: int, groups: int
) -> None:
    ids = torch.randint(0, groups, (size,), generator=torch.Generator().manual_seed(size))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_ELEMENTS", 3 * size)
        for impl in ("plain", "streamed"):
            rows = [unit(size, 5, seed).requires_grad_() for seed in (1, 2)]
            loss = _loss(Hardness(b, r), impl, temperature=Setting(t, 0.01, 1.0), reduction=reduction)
            terms = loss(image=rows[0], text=rows[1], image_ids=ids)
            terms["loss"].backward()
            found.append([terms["loss"].detach(), rows[0].grad, rows[1].grad, loss.infonce_temperature.value.grad])
    for plain, streamed in zip(*found, strict=True):
        assert plain is not None
        assert plain.isfinite().all()
        torch.testing.assert_close(streamed, plain, rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_small_changes() -> None:
    ids = torch.tensor([0, 0, 1, 2])
    rule = Hardness(0.7, 0.02)

    def value(cosine: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        same = ids[:, None] == ids[None, :]
        return rule.losses(cosine, same, rows=slice(0, 4), items="image", temperature=t).sum()

    cosine = (unit(4, 5, 1) @ unit(4, 5, 2).T).requires_grad_()
    assert torch.autograd.gradcheck(value, (cosine, torch.tensor(0.3, dtype=torch.float64, requires_grad=True)))


def test_all_alike_is_infonce() -> None:
    rows = {"image": unit(11, 5, 1), "text": unit(11, 5, 2), "image_ids": torch.tensor(IDS)}
    plain = CUSALoss(alpha=0, beta=0, temperature=WARM).double()(**rows)
    torch.testing.assert_close(_loss(Hardness())(**rows)["loss"], plain["loss"], rtol=1e-12, atol=0)


def test_harder_weights_move_the_push_to_the_nearest() -> None:
    same = torch.eye(12, dtype=torch.bool)
    shares = []
    for concentration in (0.0, 1.0, 4.0):
        cosine = (unit(12, 5, 1) @ unit(12, 5, 2).T).requires_grad_()
        rule, t = Hardness(concentration), torch.tensor(0.25)
        (push,) = torch.autograd.grad(
            rule.losses(cosine, same, rows=slice(0, 12), items="text", temperature=t).sum(), cosine
        )
        push = push.masked_fill(same, 0).clamp(min=0)
        shares.append(float((push.amax(1) / push.sum(1)).mean()))
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"hardness": Hardness(-1)}, "hardness"),
        ({"hardness": Hardness(math.inf)}, "hardness"),
        ({"hardness": Hardness(0, 1.0)}, "hardness_prior"),
        ({"hardness": Hardness(1), "false_negatives": "soft"}, "hardness"),
        ({"contrast": "sigmoid"}, "false_negatives"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        CUSALoss(**{"false_negatives": "hardness", **options})
    assert refused.value.values["key"] == key


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hardness": 1.0}, "false_negatives is 'soft'"),
        ({"hardness_prior": 0.1}, "set it to 'hardness'"),
        ({"false_negatives": "hardness", "contrast": "sigmoid"}, "InfoNCE's denominators"),
        ({"false_negatives": "hardness", "pair_weights": "audit"}, "pair_weights"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LossConfig(**options)
