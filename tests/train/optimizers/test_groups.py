from typing import Any

import pytest
import torch
from torch import nn

from cusa.errors import ConfigError
from cusa.train.optimizers.groups import parameter_groups


def _named() -> dict[str, nn.Parameter]:
    shapes = {"linear.weight": (3, 2), "linear.bias": (3,), "norm.weight": (3,), "table.bias": (2, 2), "tau": ()}
    return {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("decay", "decaying"), [("matrices", ["linear.weight"]), ("release", ["linear.weight", "tau"])]
)
def test_what_decays(decay: Any, decaying: list[str]) -> None:
    named = _named()
    groups = parameter_groups(named.items(), weight_decay=0.1, decay=decay)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert groups[0]["names"] == decaying
    for group in groups:
        assert all(named[name] is parameter for name, parameter in zip(group["names"], group["params"], strict=True))
    assert sorted(groups[0]["names"] + groups[1]["names"]) == sorted(named)


def test_a_temperature_without_gradient_shrinks_only_the_releases_way() -> None:
    for decay, expected in (("matrices", 1.0), ("release", 0.99)):
        named = {"tau": nn.Parameter(torch.tensor(1.0))}
        groups = parameter_groups(named.items(), weight_decay=0.1, decay=decay)  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(groups, lr=0.1)
        named["tau"].grad = torch.tensor(0.0)
        optimizer.step()
        assert named["tau"].item() == pytest.approx(expected)


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    named = _named()
    named["linear.weight"].requires_grad_(False)
    groups = parameter_groups(named.items(), weight_decay=0.1)
    assert [group["weight_decay"] for group in groups] == [0.0]
    assert "linear.weight" not in groups[0]["names"]


@pytest.mark.parametrize("option", [{"decay": "all"}, {"weight_decay": -1.0}, {"weight_decay": float("nan")}])
def test_impossible_options_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="allowed|at least 0"):
        parameter_groups(_named().items(), **{"weight_decay": 0.1, **option})
