"""Probabilities of foreign pairs against plain loops; as soft labels, as weights; in tiles as in whole matrices."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cusa.errors import ConfigError
from cusa.train.losses import CUSALoss, Setting
from cusa.train.losses.pair_probability import PairProbability, Slope
from cusa.train.losses.streaming import tiles

IMAGE, TEXT = Slope(3.0, -2.0), Slope(4.0, -1.5)
WARM = Setting(0.125, 0.01, 0.25)


def _inputs(size: int, seed: int, groups: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    widths = {"image": 6, "text": 6, "image_uni": 5, "text_uni": 4, "teacher_image": 8, "teacher_text": 9}
    inputs: dict[str, Any] = {
        name: torch.randn(size, width, generator=random, dtype=torch.float64).to(dtype)
        for name, width in widths.items()
    }
    for name in ("image", "text", "image_uni", "text_uni"):
        inputs[name].requires_grad_()
    if groups:
        inputs["image_ids"] = torch.randint(0, groups, (size,), generator=random)
    return inputs


def _probability(text_only: bool = False) -> PairProbability:
    random = torch.Generator().manual_seed(7)
    image_mean = torch.randn(8, generator=random, dtype=torch.float64) * 0.2
    text_mean = torch.randn(9, generator=random, dtype=torch.float64) * 0.2
    if text_only:
        return PairProbability(intercept=-2.0, text=TEXT, text_mean=text_mean)
    return PairProbability(intercept=-2.5, image=IMAGE, text=TEXT, image_mean=image_mean, text_mean=text_mean)


def _loops(inputs: dict[str, Any], text_only: bool = False) -> list[list[float]]:
    """Return the probability of every pair, 1 for pairs of the same image, by loops over plain numbers."""
    given = _probability(text_only)

    def unit(rows: Tensor) -> list[list[float]]:
        return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows.tolist()]

    def dot(one: list[float], other: list[float]) -> float:
        return sum(x * y for x, y in zip(one, other, strict=True))

    teachers = [(TEXT, unit(inputs["teacher_text"]), given.get_buffer("text_mean").tolist())]
    if not text_only:
        teachers.append((IMAGE, unit(inputs["teacher_image"]), given.get_buffer("image_mean").tolist()))
    size = len(inputs["image"])
    ids = inputs["image_ids"].tolist() if "image_ids" in inputs else list(range(size))
    out = [[1.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(size):
            if ids[i] == ids[j]:
                continue
            logit = given.intercept
            for slope, rows, mean in teachers:
                levels = dot(rows[i], mean) + dot(rows[j], mean) - 2 * dot(mean, mean)
                logit += slope.cosine * dot(rows[i], rows[j]) + slope.level * levels
            out[i][j] = 1 / (1 + math.exp(-logit))
    return out


def _cosines(inputs: dict[str, Any]) -> Tensor:
    image, text = (torch.nn.functional.normalize(inputs[name], dim=1) for name in ("image", "text"))
    return image @ text.T


@pytest.mark.parametrize("text_only", [False, True])
def test_calibrated_labels__equal_plain_loops(text_only: bool) -> None:
    inputs = _inputs(7, 0, groups=5)
    if text_only:
        inputs["teacher_image"] = None
    loss = CUSALoss(
        alpha=1.0,
        beta=0.0,
        infonce_weight=0.0,
        soft_labels="calibrated",
        pair_probability=_probability(text_only),
        csa_temperature=WARM,
        divergence="cross_entropy",
        impl="plain",
    ).double()
    counted = _loops(inputs, text_only)
    cosine = _cosines(inputs)
    expected = torch.zeros((), dtype=torch.float64)
    for matrix in (cosine, cosine.T):
        for i in range(7):
            chance = (matrix[i] / 0.125).exp() / (matrix[i] / 0.125).exp().sum()
            expected = expected - sum(counted[i][j] / sum(counted[i]) * chance[j].log() for j in range(7)) / 14
    found = loss(**inputs)
    assert found["csa"].item() == pytest.approx(expected.item(), rel=1e-12)
    # Without probabilities of others it is InfoNCE: the own pair alone is right.
    (d_found,) = torch.autograd.grad(found["loss"], inputs["image"], retain_graph=True)
    (d_expected,) = torch.autograd.grad(expected, inputs["image"])
    assert torch.allclose(d_found, d_expected, rtol=1e-10, atol=1e-13)


def test_debiased_denominators__equal_plain_loops() -> None:
    inputs = _inputs(7, 1, groups=5)
    loss = CUSALoss(
        alpha=0, beta=0, false_negatives="debiased", pair_probability=_probability(), temperature=WARM, impl="plain"
    ).double()
    counted, ids = _loops(inputs), inputs["image_ids"].tolist()
    cosine = _cosines(inputs)
    expected = torch.zeros((), dtype=torch.float64)
    for matrix in (cosine, cosine.T):
        for i in range(7):
            own = [j for j in range(7) if ids[j] == ids[i]]
            norm = sum((1.0 if j in own else 1 - counted[i][j]) * (matrix[i, j] / 0.125).exp() for j in range(7))
            expected = expected - sum(((matrix[i, j] / 0.125).exp() / norm).log() for j in own) / len(own) / 14
    found = loss(**inputs)
    assert found["infonce"].item() == pytest.approx(expected.item(), rel=1e-12)
    (d_found,) = torch.autograd.grad(found["loss"], inputs["text"], retain_graph=True)
    (d_expected,) = torch.autograd.grad(expected, inputs["text"])
    assert torch.allclose(d_found, d_expected, rtol=1e-10, atol=1e-13)


options = st.fixed_dictionaries(
    {
        "soft_labels": st.sampled_from(["teacher", "calibrated"]),
        "false_negatives": st.sampled_from(["soft", "debiased"]),
        "divergence": st.sampled_from(["kl", "cross_entropy", "cross_entropy_release"]),
        "reduction": st.sampled_from(["standard", "release"]),
        "teacher_temperature": st.sampled_from([Setting(0.2, 0.1, 1.0), Setting(1.0, 0.1, 1.0, learned=False)]),
        "temperature": st.sampled_from([WARM, Setting(0.02, 0.01, 0.1)]),
        "alpha": st.sampled_from([0.0, 1.0]),
        "beta": st.sampled_from([0.0, 0.5]),
    }
)


def _everything(impl: Any, chosen: dict[str, Any], inputs: dict[str, Any], text_only: bool) -> dict[str, Tensor]:
    leaves = {name: x.detach().clone().requires_grad_(x.requires_grad) for name, x in inputs.items()}
    loss = CUSALoss(impl=impl, pair_probability=_probability(text_only), **chosen).to(leaves["image"].dtype)
    terms = loss(**leaves)
    (1.3 * terms["infonce"] + 0.6 * terms["csa"] + 2 * terms["usa"]).backward()
    found = {name: term.detach() for name, term in terms.items()}
    found |= {f"d {name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return found | {f"d {n}": t.value.grad for n, t in loss.temperatures().items() if t.value.grad is not None}


@given(st.integers(2, 20), st.integers(1, 9), st.integers(0, 6), st.integers(0, 10**6), options, st.booleans())
@settings(max_examples=60, deadline=None)
def test_tiles_equal_whole_matrices(
    size: int, tile: int, groups: int, seed: int, chosen: dict[str, Any], text_only: bool
) -> None:
    inputs = _inputs(size, seed, groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE", tile)
        observed = _everything("streamed", chosen, inputs, text_only)
    expected = _everything("plain", chosen, inputs, text_only)
    assert observed.keys() == expected.keys()
    for name, theirs in expected.items():
        error = (observed[name] - theirs).abs().max()
        assert error <= 1e-12 * max(theirs.abs().max().item(), 0.1), name


def test_tiles_equal_whole_matrices__float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 100)
    chosen = {"soft_labels": "calibrated", "false_negatives": "debiased", "alpha": 1.0}
    inputs = _inputs(300, 3, 200, torch.float32)
    observed, expected = (_everything(impl, chosen, inputs, False) for impl in ("streamed", "plain"))
    for name, theirs in expected.items():
        error = (observed[name] - theirs).abs().max()
        assert error <= 1e-5 * max(theirs.abs().max().item(), 1e-3), name


def test_certain_pairs__nothing_overflows() -> None:
    inputs = _inputs(6, 2, dtype=torch.float32)
    inputs["teacher_text"][1:] = inputs["teacher_text"][0]  # five captions in the same words
    sure = PairProbability(intercept=-1e4, text=Slope(2e4), text_mean=torch.zeros(9))
    for impl in ("plain", "streamed"):
        loss = CUSALoss(
            alpha=1, beta=0, soft_labels="calibrated", false_negatives="debiased", pair_probability=sure, impl=impl
        )
        terms = loss(**{name: x for name, x in inputs.items() if not name.endswith("uni")})
        terms["loss"].backward()
        assert torch.isfinite(terms["loss"])
        assert torch.isfinite(inputs["image"].grad).all()
        # All are true: their labels are even, and no negative is left.
        assert terms["infonce"].item() == pytest.approx(0, abs=1e-5)
        inputs["image"].grad = None


def test_diagnostics__expected_false_negatives() -> None:
    inputs = _inputs(9, 4, groups=6)
    loss = CUSALoss(alpha=1, beta=0, soft_labels="calibrated", pair_probability=_probability()).double()
    rows = {name: inputs[name] for name in ("teacher_image", "teacher_text", "image_ids")}
    counted, ids = _loops(inputs), inputs["image_ids"].tolist()
    foreign = [[p if ids[i] != ids[j] else 0.0 for j, p in enumerate(row)] for i, row in enumerate(counted)]
    off = [1 - row[i] / sum(row) for i, row in enumerate(counted)]
    for block in (0, 4):
        described = loss.diagnostics(**rows, rows=block)
        assert described["expected_false_negatives"].item() == pytest.approx(sum(map(sum, foreign)) / 9)
        assert described["target_off_diagonal.image"].item() == pytest.approx(sum(off) / 9)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"soft_labels": "calibrated", "alpha": 1}, "pair_probability is missing, and soft_labels is 'calibrated'"),
        ({"false_negatives": "debiased"}, "pair_probability is missing, and false_negatives is 'debiased'"),
        ({"soft_labels": "sharp"}, "allowed: teacher, calibrated"),
        ({"soft_labels": "calibrated", "fusion": "dot", "pair_probability": _probability()}, "fusion='each'"),
        (
            {"false_negatives": "debiased", "contrast": "sigmoid", "pair_probability": _probability()},
            "contrast='infonce'",
        ),
    ],
)
def test_refuses_what_does_not_fit(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        CUSALoss(**wrong)


def test_refuses_a_calibration_that_is_none() -> None:
    with pytest.raises(ConfigError, match="needs a teacher's slope"):
        PairProbability(intercept=0)
    with pytest.raises(ConfigError, match="all must be finite"):
        PairProbability(intercept=math.nan, text=TEXT, text_mean=torch.zeros(9))
    with pytest.raises(ConfigError, match="text_mean is missing"):
        PairProbability(intercept=0, text=TEXT)
    loss = CUSALoss(alpha=1, beta=0, soft_labels="calibrated", pair_probability=_probability()).double()
    inputs = _inputs(4, 0)
    with pytest.raises(ConfigError, match="teacher_text has 8 numbers a row, and the calibration's mean 9"):
        loss(**inputs | {"teacher_text": inputs["teacher_image"]})
    with pytest.raises(ConfigError, match="teacher_image is missing, and pair_probability reads it"):
        loss(**inputs | {"teacher_image": None})
