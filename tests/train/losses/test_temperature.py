import pytest
import torch

from cusa.errors import ConfigError
from cusa.train.losses import Setting, Temperature
from cusa.train.losses.temperature import shared


@pytest.mark.parametrize(("initial", "clamped"), [(0.001, 0.01), (0.05, 0.05), (7.0, 0.1)])
def test_clamps_in_place(initial: float, clamped: float) -> None:
    temperature = Temperature(initial, 0.01, 0.1)
    parameter = temperature.value
    temperature.clamp_()
    assert temperature.value is parameter
    assert temperature().item() == pytest.approx(clamped)


def test_the_gradient_passes_at_a_bound() -> None:
    temperature = Temperature(7.0, 0.01, 0.1)
    temperature.clamp_()
    (3 * temperature()).backward()
    assert temperature.value.grad is not None
    assert temperature.value.grad.item() == 3


def test_a_later_clamp_leaves_a_graph_that_is_still_to_be_walked_back() -> None:
    """Parts of a step, each with a clamp before its forward, may share one backward pass: d (1 / t) / dt = -1 / t^2."""
    temperature = Temperature(0.5, 0.1, 1.0)
    temperature.clamp_()
    one = torch.ones(())
    first = one / temperature()
    temperature.clamp_()
    (first + one / temperature()).backward()
    assert temperature.value.grad is not None
    assert temperature.value.grad.item() == -8


def test_a_fixed_one_is_saved_but_not_learned() -> None:
    temperature = Temperature(*Setting(1.0, 0.1, 1.0, learned=False))
    assert not temperature().requires_grad
    assert set(temperature.state_dict()) == {"value"}
    assert temperature.value.ndim == 0


def test_one_for_both_lies_in_the_middle() -> None:
    assert shared(Setting(0.3, 0.1, 1.0), Setting(0.5, 0.2, 2.0)) == pytest.approx((0.4, 0.15, 1.5, True))


@pytest.mark.parametrize(
    ("initial", "minimum", "maximum"),
    [(0.1, 0, 1), (0.1, -1, 1), (0.1, 0.5, 0.2), (0.1, 0.1, float("inf")), (0, 0.1, 1), (float("nan"), 0.1, 1)],
)
def test_impossible_numbers_are_refused(initial: float, minimum: float, maximum: float) -> None:
    with pytest.raises(ConfigError, match="positive|minimum <= maximum"):
        Temperature(initial, minimum, maximum)


def test_the_value_follows_the_module_to_another_type() -> None:
    assert Temperature(0.5, 0.1, 1.0).double()().dtype == torch.float64
