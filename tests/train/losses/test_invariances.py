"""What must not change the objective, whichever way it is computed; and what may change it only so much."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cusa.train.losses import CUSALoss, Setting, csa, infonce
from cusa.train.losses.streaming import tiles
from tests.train.losses.matrices import unit

IMPLS: list[Any] = ["plain", "streamed"]
WIDTHS = {"image": 6, "text": 6, "image_uni": 5, "text_uni": 5, "teacher_image": 8, "teacher_text": 9}
LEARNED = ("image", "text", "image_uni", "text_uni")
seeds = st.integers(0, 10**6)
sizes = st.integers(2, 14)
ways: Any = st.sampled_from(
    [{}, {"false_negatives": "mask", "mask_text": 0.2}, {"fusion": "dot", "reduction": "release"}]
)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 5)


def _inputs(size: int, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    rows = {name: unit(size, width, seed + k, dtype) for k, (name, width) in enumerate(WIDTHS.items())}
    return rows | {"image_ids": torch.randint(0, size, (size,), generator=torch.Generator().manual_seed(seed))}


def _step(loss: CUSALoss, inputs: dict[str, Tensor]) -> tuple[dict[str, float], dict[str, Tensor]]:
    leaves = {name: rows.clone().requires_grad_(name in LEARNED) for name, rows in inputs.items()}
    terms = loss.to(inputs["image"].dtype)(**leaves)
    terms["loss"].backward()
    grads = {name: leaves[name].grad for name in LEARNED}
    return {name: term.item() for name, term in terms.items()}, {n: g for n, g in grads.items() if g is not None}


@given(seeds, sizes, st.sampled_from(IMPLS), ways)
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_batch_only_orders_the_gradients(seed: int, size: int, impl: Any, way: dict[str, Any]) -> None:
    inputs = _inputs(size, seed)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    terms, grads = _step(CUSALoss(impl=impl, **way), inputs)
    again, ordered = _step(CUSALoss(impl=impl, **way), {name: rows[order] for name, rows in inputs.items()})
    assert again == pytest.approx(terms, rel=1e-11, abs=1e-13)
    for name, grad in grads.items():
        torch.testing.assert_close(ordered[name], grad[order], rtol=1e-9, atol=1e-12)


@given(seeds, sizes, st.sampled_from(IMPLS))
@settings(max_examples=20, deadline=None)
def test_images_and_texts_may_change_places(seed: int, size: int, impl: Any) -> None:
    inputs = _inputs(size, seed)
    other = {"image": "text", "text": "image"}
    swapped = {
        name: inputs["_".join(other.get(part, part) for part in name.split("_"))]
        for name in inputs
        if name != "image_ids"
    } | {"image_ids": inputs["image_ids"]}
    assert _step(CUSALoss(impl=impl), swapped)[0] == pytest.approx(
        _step(CUSALoss(impl=impl), inputs)[0], rel=1e-11, abs=1e-13
    )


@given(seeds, sizes, st.sampled_from(IMPLS))
@settings(max_examples=20, deadline=None)
def test_the_lengths_of_embeddings_do_not_matter(seed: int, size: int, impl: Any) -> None:
    inputs = _inputs(size, seed)
    lengths = torch.rand(size, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 50 + 0.1
    longer = {name: rows * lengths if rows.ndim == 2 else rows for name, rows in inputs.items()}
    assert _step(CUSALoss(impl=impl), longer)[0] == pytest.approx(
        _step(CUSALoss(impl=impl), inputs)[0], rel=1e-10, abs=1e-12
    )


@given(seeds, sizes, st.floats(0.01, 1.0))
@settings(max_examples=20, deadline=None)
def test_a_one_hot_teacher_makes_csa_infonce__streamed(seed: int, size: int, temperature: float) -> None:
    inputs = _inputs(size, seed) | {"image_ids": torch.arange(size)}
    eye = torch.eye(size, dtype=torch.float64)
    inputs |= {"teacher_image": eye, "teacher_text": eye}
    one = Setting(temperature, 0.001, 1.0)
    sharp = Setting(0.002, 0.001, 1.0, learned=False)
    loss = CUSALoss(alpha=1, beta=0, temperature=one, csa_temperature=one, teacher_temperature=sharp, impl="streamed")
    terms, _ = _step(loss, inputs)
    assert terms["csa"] == pytest.approx(terms["infonce"], rel=1e-9, abs=1e-10)


@given(seeds, sizes, st.sampled_from(IMPLS))
@settings(max_examples=20, deadline=None)
def test_students_that_are_their_teachers_pay_no_usa(seed: int, size: int, impl: Any) -> None:
    inputs = _inputs(size, seed)
    inputs |= {"image_uni": inputs["teacher_image"], "text_uni": inputs["teacher_text"]}
    same = Setting(0.3, 0.1, 1.0)
    loss = CUSALoss(alpha=0, usa_temperature=same, teacher_temperature=same, impl=impl)
    terms, grads = _step(loss, inputs)
    assert abs(terms["usa"]) < 1e-12
    assert max(grads[name].abs().max().item() for name in ("image_uni", "text_uni")) < 1e-11


@given(seeds, sizes, st.floats(0.01, 0.1), st.floats(0.1, 1.0), st.floats(0.1, 1.0), st.sampled_from(IMPLS))
@settings(max_examples=40, deadline=None)
def test_nothing_underflows_at_any_clamped_temperature(
    seed: int, size: int, t: float, t_soft: float, t_teacher: float, impl: Any
) -> None:
    inputs = _inputs(size, seed, torch.float32)
    # As far from right as unit rows can be: every pair's own text lies opposite to its image.
    inputs["text"] = -inputs["image"]
    settings_of = {
        "temperature": Setting(t, 0.01, 0.1),
        "csa_temperature": Setting(t_soft, 0.1, 0.99),
        "usa_temperature": Setting(t_soft, 0.1, 1.0),
        "teacher_temperature": Setting(t_teacher, 0.1, 1.0),
    }
    terms, grads = _step(CUSALoss(impl=impl, **settings_of), inputs)
    wide = {name: rows.double() if rows.is_floating_point() else rows for name, rows in inputs.items()}
    expected, slopes = _step(CUSALoss(impl="plain", **settings_of), wide)
    assert terms == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for name, theirs in slopes.items():
        assert (grads[name].double() - theirs).abs().max() <= 2e-5 * max(theirs.abs().max().item(), 1e-2)


@given(seeds, sizes, st.sampled_from(IMPLS))
@settings(max_examples=30, deadline=None)
def test_bfloat16_embeddings_cost_at_most_their_rounding(seed: int, size: int, impl: Any) -> None:
    inputs = _inputs(size, seed, torch.float32)
    rounded = {name: rows.bfloat16() if name in LEARNED else rows for name, rows in inputs.items()}
    loss = CUSALoss(alpha=1, beta=1, impl=impl).eval()
    exact, rough = loss(**inputs), loss(**rounded)
    # Eight bits turn a row by at most 2^-9, so a cosine moves by at most twice that, and a cross-entropy by at most
    # twice a logit's change.
    moved = 2 * (2 * 2**-9 * 1.01)
    for name, temperature in (("infonce", 0.05), ("csa", 0.45), ("usa", 0.45)):
        assert abs(exact[name].item() - rough[name].item()) <= moved / temperature


@given(seeds, sizes, st.floats(0.05, 1.0))
@settings(max_examples=20, deadline=None)
def test_rows_of_a_matrix_add_up_to_the_whole(seed: int, size: int, temperature: float) -> None:
    inputs = _inputs(size, seed)
    similarity = inputs["image"] @ inputs["text"].T
    teachers = [inputs[name] @ inputs[name].T for name in ("teacher_image", "teacher_text")]
    told: dict[str, Any] = {"image_temperature": temperature, "text_temperature": 0.4}
    eye = torch.eye(size, dtype=torch.float64)
    cut = size // 2
    parts = [slice(0, cut), slice(cut, size)]
    whole = csa(similarity, *teachers, **told) + infonce(similarity, None, temperature=temperature)
    found = 0.0
    for rows in parts:
        back = similarity.T[rows]
        part = csa(similarity[rows], *(t[rows] for t in teachers), **told, text_similarity_BB=back) + infonce(
            similarity[rows],
            None,
            temperature=temperature,
            text_similarity_BB=back,
            targets=(eye[rows], eye[rows]),
        )
        found += part.item() * (rows.stop - rows.start) / size
    assert found == pytest.approx(whole.item(), rel=1e-11)
