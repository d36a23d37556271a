"""Tiles give what whole matrices give, and no whole matrix is ever made."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cusa.train.losses import CUSALoss, Setting, objective
from cusa.train.losses.streaming import tiles

SEPARATE = (Setting(0.3, 0.1, 1.0), Setting(0.4, 0.1, 1.0))
modes = st.fixed_dictionaries(
    {
        "fusion": st.sampled_from(["each", "add", "dot"]),
        "divergence": st.sampled_from(["kl", "cross_entropy", "cross_entropy_release"]),
        "reduction": st.sampled_from(["standard", "release"]),
        "temperature": st.sampled_from([objective.INFONCE, Setting(0.02, 0.01, 0.1, learned=False)]),
        "csa_temperature": st.sampled_from([objective.CSA, SEPARATE]),
        "usa_temperature": st.sampled_from([objective.USA, Setting(0.3, 0.1, 1.0), "csa"]),
        "teacher_temperature": st.sampled_from([objective.TEACHER, Setting(0.2, 0.1, 1.0), SEPARATE]),
        "usa_teacher_temperature": st.sampled_from([None, SEPARATE]),
        "alpha": st.sampled_from([0.1, 1.0, 0.0]),
        "beta": st.sampled_from([0.5, 1.0, 0.0]),
        "infonce_weight": st.sampled_from([1.0, 0.7, 0.0]),
    }
)
false_negatives: Any = st.sampled_from(
    [
        {},
        {"false_negatives": "mask", "mask_text": 0.1, "mask_image": 0.3},
        {"false_negatives": "mask", "mask_text": "positive"},
        {"false_negatives": "positive"},
    ]
)


def _inputs(size: int, seed: int, dtype: torch.dtype, groups: int = 0) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    widths = {"image": 6, "text": 6, "image_uni": 5, "text_uni": 4, "teacher_image": 8, "teacher_text": 9}
    inputs: dict[str, Any] = {
        name: torch.randn(size, width, generator=random, dtype=torch.float64).to(dtype)
        for name, width in widths.items()
    }
    for name in ("image", "text", "image_uni", "text_uni"):
        inputs[name].requires_grad_()
    return inputs | {"image_ids": torch.randint(0, groups, (size,), generator=random) if groups else None}


def _everything(
    impl: Any, options: dict[str, Any], inputs: dict[str, Any], weights: tuple[float, ...] = (1.3, 0.6, 2.0)
) -> dict[str, Tensor]:
    """Return every value and gradient; each term's gradient with a weight of its own."""
    leaves = {name: x.detach().requires_grad_(x.requires_grad) for name, x in inputs.items() if x is not None}
    loss = CUSALoss(impl=impl, **options).to(leaves["image"].dtype)
    terms = loss(**leaves)
    total = sum(w * terms[name] for w, name in zip(weights, ("infonce", "csa", "usa"), strict=True))
    if isinstance(total, Tensor) and total.requires_grad:
        total.backward()
    found = {name: term.detach() for name, term in terms.items()}
    found |= {f"d {name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    temperatures = {f"d {name}": t.value.grad for name, t in loss.temperatures().items()}
    return found | {name: grad for name, grad in temperatures.items() if grad is not None}


def _assert_near(
    observed: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, least: float = 1e-3
) -> None:
    """Compare relative to each array's maximum, or to `least` where rounding of larger summands is all that is left."""
    assert observed.keys() == expected.keys()
    for name, theirs in expected.items():
        error = (observed[name] - theirs).abs().max()
        assert error <= tolerance * max(theirs.abs().max().item(), least), name


@given(
    st.integers(2, 20),
    st.integers(1, 9),
    st.integers(0, 6),
    st.integers(0, 10**6),
    modes,
    false_negatives,
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_equals_whole_matrices__float64(
    size: int, tile: int, groups: int, seed: int, modes: dict[str, Any], false_negatives: dict[str, Any], cold: bool
) -> None:
    options = modes | false_negatives
    inputs = _inputs(size, seed, torch.float64, groups)
    if options.get("false_negatives") == "positive":
        random = torch.Generator().manual_seed(seed)
        inputs["image_ids"] = torch.arange(size) if inputs["image_ids"] is None else inputs["image_ids"]
        inputs["text_ids"] = torch.arange(size)
        inputs["positive_pairs"] = torch.randint(0, size, (size, 2), generator=random)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE", tile)
        if cold:  # as below 1/40: a running maximum in place of one shift for all rows
            patch.setattr(tiles.Tiles, "_is_warm", lambda self, temperature: False)
        observed = _everything("streamed", options, inputs)
    # Gradients of temperatures are differences of sums of size 1 / temperature^2 and more.
    _assert_near(observed, _everything("plain", options, inputs), 1e-12, least=0.1)


def test_a_lone_pair_has_nothing_to_learn() -> None:
    found = _everything("streamed", {}, _inputs(1, 0, torch.float64))
    assert max(x.abs().max().item() for x in found.values()) < 1e-12


@pytest.mark.parametrize("tile", [64, 100, 512])
@pytest.mark.parametrize(
    "options",
    [{}, {"fusion": "dot", "teacher_temperature": Setting(0.1, 0.1, 1.0)}, {"temperature": Setting(0.01, 0.01, 0.1)}],
)
def test_equals_whole_matrices__float32(tile: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", tile)
    inputs = _inputs(600, 3, torch.float32, groups=400)
    observed = _everything("streamed", options, inputs)
    _assert_near(observed, _everything("plain", options, inputs), 1e-5)
    # Both may err the same way; in float64 there is little to err.
    floats = {name: x for name, x in inputs.items() if x.is_floating_point()}
    wide = {name: x.detach().double().requires_grad_(x.requires_grad) for name, x in floats.items()}
    exact = _everything("plain", options, wide | {"image_ids": inputs["image_ids"]})
    _assert_near({name: x.double() for name, x in observed.items()}, exact, 1e-5)


@pytest.mark.parametrize("term", ["infonce", "csa", "usa"])
@pytest.mark.parametrize("fusion", ["each", "dot"])
def test_gradients_are_slopes(term: str, fusion: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 2)
    inputs = _inputs(5, 1, torch.float64, groups=3)
    loss = CUSALoss(
        impl="streamed", fusion=fusion, csa_temperature=SEPARATE, teacher_temperature=SEPARATE, temperature=SEPARATE[0]
    ).double()
    names = ["image", "text", "image_uni", "text_uni"]
    loss.eval()  # the check moves the temperatures itself
    temperatures = [t.value for t in loss.temperatures().values()]
    assert len(temperatures) == 7

    def value(*values: Tensor) -> Tensor:
        return loss(**inputs | dict(zip(names, values, strict=False)))[term]

    torch.autograd.gradcheck(value, (*[inputs[name] for name in names], *temperatures), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_nothing_overflows_where_student_and_teacher_contradict_each_other(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 5)
    # Texts stand opposite to their own images and on the neighbour's: logits of +-100 at a temperature of 0.01.
    image = torch.eye(12).repeat_interleave(2, 0)
    image[1::2] *= -1
    inputs: dict[str, Any] = {
        "image": image,
        "text": -image,
        "image_uni": image.roll(1, 0),
        "text_uni": torch.ones(24, 3),
        "teacher_image": image,
        "teacher_text": image.roll(3, 0),
        "image_ids": None,
    }
    for name in ("image", "text", "image_uni", "text_uni"):
        inputs[name] = inputs[name].clone().requires_grad_()
    setting = Setting(temperature, temperature, temperature)
    options = {
        "temperature": setting,
        "csa_temperature": setting,
        "usa_temperature": setting,
        "teacher_temperature": setting,
    }
    observed = _everything("streamed", options, inputs)
    assert all(torch.isfinite(x).all() for x in observed.values())
    wide = {name: x if x is None else x.detach().double().requires_grad_(x.requires_grad) for name, x in inputs.items()}
    expected = _everything("plain", options, wide)
    # What is 0 in truth is a difference of sums of size 1 / temperature^2.
    _assert_near(_everything("streamed", options, wide), expected, 1e-9, least=0.1)
    for name, x in observed.items():
        # A temperature's gradient is a difference of sums of size 1 / temperature^2; a teacher's, of differences of
        # logarithms of size 1 / temperature, again.
        power = {"infonce": -2, "csa": -2, "usa": -2, "teacher": -3}.get(name[2:].split(".")[0])
        scale = temperature**power if power else 0
        assert (x - expected[name]).abs().max() <= 1e-6 * max(expected[name].abs().max().item() * 10, scale, 1e-3), name


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor any operation made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return made


@pytest.mark.parametrize("options", [{}, {"fusion": "add", "teacher_temperature": SEPARATE}])
def test_no_operation_makes_anything_larger_than_the_inputs_or_a_tile(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 32)
    inputs = _inputs(300, 0, torch.float32, groups=100)
    with _Largest() as plain:
        _everything("plain", options, inputs)
    assert plain.elements == 300 * 300
    with _Largest() as tiled:
        _everything("streamed", options, inputs)
    assert tiled.elements <= 300 * 9


def test_auto_streams_large_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "STREAMED_FROM", 100)
    monkeypatch.setattr(tiles, "TILE", 16)
    for size, largest in ((99, 99 * 99), (100, 900)):
        with _Largest() as seen:
            _everything("auto", {}, _inputs(size, 0, torch.float32))
        assert seen.elements == largest


def test_twice_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 16)
    inputs = _inputs(100, 0, torch.float32, groups=30)
    first, second = (_everything("streamed", {}, inputs) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_graph_may_be_used_again() -> None:
    inputs = _inputs(9, 0, torch.float64)
    loss = CUSALoss(impl="streamed")(**inputs)["loss"]
    loss.backward(retain_graph=True)
    once = inputs["image"].grad.clone()
    loss.backward()
    assert torch.equal(inputs["image"].grad, 2 * once)


def test_types_may_differ() -> None:
    inputs = _inputs(9, 0, torch.float64)
    inputs["teacher_image"] = inputs["teacher_image"].half()
    inputs["image_uni"] = inputs["image_uni"].detach().float().requires_grad_()
    options: dict[str, Any] = {"teacher_temperature": SEPARATE}
    found = {}
    for impl in ("plain", "streamed"):
        loss = CUSALoss(impl=impl, **options)  # float32 temperatures, float64 embeddings
        inputs["image_uni"].grad = None
        loss(**inputs)["loss"].backward()
        found[impl] = inputs["image_uni"].grad
        assert loss.temperatures()["teacher.image"].value.grad is not None
    _assert_near({"grad": found["streamed"]}, {"grad": found["plain"]}, 1e-5)


def test_a_teacher_that_knows_nothing_makes_uniform_labels() -> None:
    inputs = _inputs(9, 0, torch.float64) | {"teacher_image": torch.zeros(9, 8, dtype=torch.float64)}
    _assert_near(_everything("streamed", {}, inputs), _everything("plain", {}, inputs), 1e-12)


def test_rows_of_zeros_stay_finite_at_the_lowest_temperature() -> None:
    cold = Setting(0.01, 0.01, 1.0)
    inputs = _inputs(9, 0, torch.float32)
    for name in ("teacher_image", "image_uni"):
        inputs[name] = torch.zeros_like(inputs[name]).requires_grad_(name == "image_uni")
    options = {"teacher_temperature": cold, "usa_temperature": cold}
    found = _everything("streamed", options, inputs)
    assert all(torch.isfinite(x).all() for x in found.values())
