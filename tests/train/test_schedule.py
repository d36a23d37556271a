import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cusa.errors import ConfigError
from cusa.train.schedule import cosine


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 1000])
def test_equals_the_releases_schedule(golden: Path, steps_per_epoch: int) -> None:
    published = json.loads((golden / "01_losses" / "lr_schedule.json").read_text())
    steps = published["epochs"] * steps_per_epoch
    for step in range(0, steps, max(1, steps_per_epoch // 3)):
        rate = cosine(
            step, steps=steps, lr=published["lr"], min_lr=published["min_lr"], steps_per_epoch=steps_per_epoch
        )
        assert rate == pytest.approx(published["lr_of_epoch"][step // steps_per_epoch], rel=1e-12)


def test_equals_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=17, eta_min=0.02)
    for step in range(17):
        assert cosine(step, steps=17, lr=0.3, min_lr=0.02) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


@given(st.data(), st.integers(1, 500))
def test_rises_then_falls_and_stays_in_bounds(data: st.DataObject, steps: int) -> None:
    warmup = data.draw(st.integers(0, steps - 1))
    rates = [cosine(step, steps=steps, lr=1.0, min_lr=0.1, warmup_steps=warmup) for step in range(steps)]
    assert rates[warmup] == 1.0
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: warmup + 1] == sorted(set(rates[: warmup + 1]))
    assert rates[warmup:] == sorted(set(rates[warmup:]), reverse=True)
    assert all(rate > 0.1 for rate in rates[warmup:])


def test_warm_up_is_linear() -> None:
    assert [cosine(step, steps=10, lr=4.0, warmup_steps=3) for step in range(4)] == [1, 2, 3, 4]


@pytest.mark.parametrize("warmup", [0, 3, 6])
def test_the_rate_of_an_epoch_s_first_step_holds_for_all_its_steps(warmup: int) -> None:
    """Epochs begin at step 0, whether or not the warm-up ends with one."""
    told = {"steps": 20, "lr": 1.0, "min_lr": 0.1, "warmup_steps": warmup}
    for step in range(20):
        assert cosine(step, steps_per_epoch=4, **told) == cosine(4 * (step // 4), **told)


def test_after_the_end_the_lowest_rate_stays() -> None:
    assert cosine(99, steps=10, lr=1.0, min_lr=0.25) == 0.25


@pytest.mark.parametrize(
    "told",
    [{"step": -1}, {"steps": 0}, {"lr": 0.1, "min_lr": 0.2}, {"lr": math.nan}, {"lr": math.inf}, {"min_lr": -0.1}]
    + [{"warmup_steps": 10}, {"warmup_steps": -1}, {"steps_per_epoch": 0}],
)
def test_impossible_numbers_are_refused(told: dict[str, Any]) -> None:
    told = {"step": 0, "steps": 10, "lr": 1.0, **told}
    with pytest.raises(ConfigError, match="must be|at least"):
        cosine(told.pop("step"), **told)
