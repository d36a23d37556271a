"""Learned thresholds against plain loops, streamed against whole matrices, and against the quantile they approach."""

import math
from statistics import NormalDist, fmean
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cusa.errors import ConfigError
from cusa.train.losses import CUSALoss, Setting
from cusa.train.losses.by_rows import blocks
from cusa.train.losses.by_rows.thresholds import Thresholds
from tests.train.losses.matrices import unit

IMAGES, CAPTIONS, SHARE, RATE, AFTER, T = 9, 20, 0.2, 0.05, 2, 0.25


class Loops:
    """Thresholds as plain dictionaries: row number -> threshold, and the batches that held it."""

    def __init__(self) -> None:
        self.limits: tuple[dict[int, float], dict[int, float]] = ({}, {})
        self.met: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def step(self, image: Tensor, text: Tensor, image_ids: list[int], text_ids: list[int]) -> float:
        """Return the loss of a batch, then move the thresholds of its items."""
        total = 0.0
        for side, own, other, ids in ((0, image, text, image_ids), (1, text, image, text_ids)):
            limits, met = self.limits[side], self.met[side]
            shown: dict[int, list[tuple[float, list[float]]]] = {}
            for i in range(len(own)):
                s = [float(own[i] @ other[j]) for j in range(len(other))]
                same = [j for j in range(len(s)) if image_ids[j] == image_ids[i]]
                foreign = [s[j] for j in range(len(s)) if j not in same]
                limit = limits.get(ids[i], 1.0)
                leaves = met.get(ids[i], 0) >= AFTER
                kept = [s[j] for j in same] + [one for one in foreign if not (leaves and one > limit)]
                total += math.log(sum(math.exp(one / T) for one in kept)) - fmean(s[j] for j in same) / T
                shown.setdefault(ids[i], []).append((sum(one > limit for one in foreign), foreign))
            for item, rows in shown.items():
                if met.get(item, 0) == 0:
                    normal = [NormalDist(fmean(f), math.sqrt(fmean((x - fmean(f)) ** 2 for x in f))) for _, f in rows]
                    limits[item] = min(1.0, max(one.inv_cdf(1 - SHARE) for one in normal))
                else:
                    share = sum(above for above, _ in rows) / sum(len(f) for _, f in rows)
                    limits[item] = max(-1.0, min(1.0, limits[item] + RATE * (share / SHARE - 1)))
                met[item] = met.get(item, 0) + 1
        return total / (2 * len(image))


def _batch(number: int, size: int = 7) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(number)
    images = torch.randint(0, IMAGES, (size,), generator=random)
    return {
        "image": unit(IMAGES, 5, 1)[images] + 0.0,
        "text": unit(CAPTIONS, 5, number + 2)[:size],
        "image_ids": images,
        "text_ids": torch.randperm(CAPTIONS, generator=random)[:size],
    }


def _loss(impl: Any = "plain", **options: Any) -> CUSALoss:
    thresholds = Thresholds(IMAGES, CAPTIONS, share=SHARE, rate=RATE, after=AFTER)
    temperature = Setting(T, 0.01, 1.0)
    return CUSALoss(
        alpha=0, beta=0, false_negatives="thresholds", thresholds=thresholds, temperature=temperature, impl=impl,
        **options,
    ).double()  # fmt: skip


@pytest.mark.parametrize("impl", ["plain", "streamed"])
def test_equals_a_plain_loop_over_many_batches(impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 3 * 7)
    loss, loops, masked = _loss(impl), Loops(), 0.0
    for number in range(12):
        batch = _batch(number)
        lists = batch["image_ids"].tolist(), batch["text_ids"].tolist()
        expected = loops.step(batch["image"], batch["text"], *lists)
        assert float(loss(**batch)["infonce"].detach()) == pytest.approx(expected, rel=1e-9)
        masked += float(loss.diagnostics(**{k: v for k, v in batch.items() if k.endswith("ids")})["share_masked"])
    assert masked > 0.1
    assert loss.thresholds is not None
    for side, values, met in (
        (0, loss.thresholds.image, loss.thresholds.image_met),
        (1, loss.thresholds.text, loss.thresholds.text_met),
    ):
        for item in range(len(values)):
            assert float(values[item]) == pytest.approx(loops.limits[side].get(item, 1.0), abs=1e-9)
            assert int(met[item]) == loops.met[side].get(item, 0)


def test_streamed_equals_plain_in_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 3 * 7)
    found = []
    for impl in ("plain", "streamed"):
        loss, last = _loss(impl, reduction="release"), []
        for number in range(10):
            batch = _batch(number)
            for name in ("image", "text"):
                batch[name] = batch[name].requires_grad_()
            loss.zero_grad()
            loss(**batch)["loss"].backward()
            last = [batch["image"].grad, batch["text"].grad, loss.infonce_temperature.value.grad]
        assert loss.thresholds is not None
        assert float(loss.thresholds.share_masked) > 0
        found.append([*last, loss.thresholds.image, loss.thresholds.text])
    for plain, streamed in zip(*found, strict=True):
        assert plain is not None
        torch.testing.assert_close(streamed, plain, rtol=1e-9, atol=1e-12)


def test_thresholds_approach_the_quantile_over_the_whole_data_set() -> None:
    images, share = 200, 0.05
    thresholds = Thresholds(images, images, share=share, rate=0.004, after=1)
    loss = CUSALoss(alpha=0, beta=0, false_negatives="thresholds", thresholds=thresholds)
    image = normalize(torch.rand(images, 6, generator=torch.Generator().manual_seed(0)), dim=1)  # far from normal
    text = normalize(torch.rand(images, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    random = torch.Generator().manual_seed(2)
    cosine = image @ text.T
    for _ in range(60):
        order = torch.randperm(images, generator=random)
        for start in range(0, images, 50):
            ids = order[start : start + 50]
            with torch.no_grad():
                loss(image=image[ids], text=text[ids], image_ids=ids, text_ids=ids)
    for values, matrix in ((thresholds.image, cosine), (thresholds.text, cosine.T)):
        above = (matrix > values[:, None]).fill_diagonal_(False).sum(1) / (images - 1)
        assert float(above.mean()) == pytest.approx(share, rel=0.1)
        assert float((above - share).abs().mean()) < 0.02
    assert float(thresholds.share_masked) == pytest.approx(share, rel=0.3)


def test_a_state_that_is_loaded_goes_on_with_the_same_bits() -> None:
    whole, first = _loss(), _loss()
    for number in range(4):
        whole(**_batch(number))
        first(**_batch(number))
    again = _loss()
    again.load_state_dict(first.state_dict())
    for number in range(4, 8):
        assert torch.equal(whole(**_batch(number))["loss"], again(**_batch(number))["loss"])
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert {name for name in whole.state_dict() if name.startswith("thresholds")} == {
        *("thresholds.image", "thresholds.text", "thresholds.image_met", "thresholds.text_met")
    }


def test_nothing_is_learned_in_evaluation_mode() -> None:
    loss = _loss().eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(**_batch(0))
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_a_batch_of_one_image_leaves_its_threshold() -> None:
    loss = _loss()
    rows = {"image": unit(3, 5, 1), "text": unit(3, 5, 2), "image_ids": torch.zeros(3, dtype=torch.long)}
    assert loss(**rows, text_ids=torch.arange(3))["loss"].isfinite()
    assert loss.thresholds is not None
    assert int(loss.thresholds.image_met.sum()) == 0
    assert float(loss.thresholds.image[0]) == 1.0


@pytest.mark.parametrize(
    ("numbers", "key"),
    [({"share": 0.0}, "threshold_share"), ({"share": 0.6}, "threshold_share"), ({"rate": 0.0}, "threshold_rate"),
     ({"rate": math.inf}, "threshold_rate"), ({"after": 0}, "threshold_after")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(numbers: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Thresholds(3, 3, **numbers)
    assert refused.value.values["key"] == key


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="Pass Thresholds"):
        CUSALoss(false_negatives="thresholds")
    batch = _batch(0)
    for name in ("image_ids", "text_ids"):
        with pytest.raises(ConfigError, match=f"{name} is missing, and false_negatives is 'thresholds'"):
            _loss()(**{key: value for key, value in batch.items() if key != name})
