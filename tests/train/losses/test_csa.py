import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from scipy.special import softmax as scipy_softmax

from cusa.errors import ConfigError
from cusa.train.losses import csa, infonce
from cusa.train.losses.csa import soft_divergence
from tests.train.losses import reference
from tests.train.losses.matrices import cross, within

sizes = st.integers(1, 10)
seeds = st.integers(0, 10**6)
warm = st.floats(0.1, 1.0)
FUSIONS = ("each", "add", "dot")
DIVERGENCES = ("kl", "cross_entropy", "cross_entropy_release")


@given(seeds, sizes, warm, warm, warm, warm)
@settings(max_examples=30, deadline=None)
def test_equals_loops_over_plain_floats(seed: int, size: int, t_i: float, t_t: float, u_i: float, u_t: float) -> None:
    similarity, image, text = cross(size, seed), within(size, seed + 1), within(size, seed + 2)
    observed = csa(
        similarity,
        image,
        text,
        image_temperature=t_i,
        text_temperature=t_t,
        teacher_image_temperature=u_i,
        teacher_text_temperature=u_t,
    )
    to_text = reference.kl(reference.divided(image.tolist(), u_i), reference.divided(similarity.tolist(), t_i))
    to_image = reference.kl(reference.divided(text.tolist(), u_t), reference.divided(similarity.T.tolist(), t_t))
    assert observed.item() == pytest.approx((to_text + to_image) / 2, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_equals_scipy(fusion: Any, divergence: Any) -> None:
    similarity, image, text = (m.numpy() for m in (cross(9, 1), within(9, 2), within(9, 3)))
    observed = csa(
        *(torch.from_numpy(m) for m in (similarity, image, text)),
        image_temperature=0.3,
        text_temperature=0.4,
        teacher_image_temperature=0.5,
        teacher_text_temperature=0.5,
        fusion=fusion,
        divergence=divergence,
    )
    if fusion == "add":
        image = text = (image + text) / 2
    if fusion == "dot":
        image = text = (image.clip(0) * text.clip(0)) ** 0.5
    expected = 0.0
    for teacher, student in ((image / 0.5, similarity / 0.3), (text / 0.5, similarity.T / 0.4)):
        target, guess = scipy_softmax(teacher, axis=1), scipy_softmax(student, axis=1)
        if divergence == "kl":
            expected += rel_entr(target, guess).sum() / 9 / 2
        else:
            expected += (rel_entr(target, guess) - rel_entr(target, 1)).sum() / 9 / 2
    if divergence == "cross_entropy_release":
        expected /= 9
    assert observed.item() == pytest.approx(expected, rel=1e-10)


@given(seeds, sizes, st.sampled_from(FUSIONS))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_batch_does_not_matter(seed: int, size: int, fusion: Any) -> None:
    matrices = (cross(size, seed), within(size, seed + 1), within(size, seed + 2))
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    told = {"image_temperature": 0.3, "text_temperature": 0.4, "teacher_image_temperature": 0.2, "fusion": fusion}
    observed = csa(*(m[order][:, order] for m in matrices), **told)
    assert observed.item() == pytest.approx(csa(*matrices, **told).item(), rel=1e-10, abs=1e-13)


@given(seeds, sizes, st.floats(0.01, 1.0))
@settings(max_examples=30, deadline=None)
def test_a_teacher_that_sees_only_itself_makes_it_infonce(seed: int, size: int, temperature: float) -> None:
    # At a temperature near 0 the soft label is one-hot on the diagonal, where a sample's cosine with itself stands.
    similarity = cross(size, seed).requires_grad_()
    again = cross(size, seed).requires_grad_()
    teacher = torch.eye(size, dtype=torch.float64)
    soft = csa(
        similarity,
        teacher,
        teacher,
        image_temperature=temperature,
        text_temperature=temperature,
        teacher_image_temperature=1e-3,
        teacher_text_temperature=1e-3,
    )
    hard = infonce(again, None, temperature=temperature)
    assert soft.item() == pytest.approx(hard.item(), rel=1e-12, abs=1e-14)
    soft.backward()
    hard.backward()
    assert similarity.grad is not None
    torch.testing.assert_close(similarity.grad, again.grad, rtol=1e-12, atol=1e-14)


@given(seeds, sizes, st.floats(0.01, 1.0))
@settings(max_examples=20, deadline=None)
def test_a_student_that_agrees_pays_nothing(seed: int, size: int, temperature: float) -> None:
    teacher = within(size, seed)
    student = teacher.clone().requires_grad_()
    loss = csa(
        student,
        teacher,
        teacher,
        image_temperature=temperature,
        text_temperature=temperature,
        teacher_image_temperature=temperature,
        teacher_text_temperature=temperature,
    )
    loss.backward()
    assert abs(loss.item()) < 1e-13
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-12


@given(seeds, st.integers(2, 10), st.sampled_from(FUSIONS), warm)
@settings(max_examples=30, deadline=None)
def test_it_is_never_negative(seed: int, size: int, fusion: Any, temperature: float) -> None:
    loss = csa(
        cross(size, seed),
        within(size, seed + 1),
        within(size, seed + 2),
        image_temperature=temperature,
        text_temperature=0.45,
        fusion=fusion,
    )
    assert loss.item() > 0


def test_only_the_teachers_temperatures_learn_from_teachers() -> None:
    image, text = within(5, 1).requires_grad_(), within(5, 2).requires_grad_()
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def loss(t: torch.Tensor) -> torch.Tensor:
        return csa(cross(5, 0), image, text, image_temperature=0.3, text_temperature=0.3, teacher_image_temperature=t)

    loss(temperature).backward()
    assert image.grad is None
    assert text.grad is None
    assert temperature.grad is not None
    step = 1e-6
    slope = (loss(temperature.detach() + step) - loss(temperature.detach() - step)) / (2 * step)
    assert temperature.grad.item() == pytest.approx(slope.item(), rel=1e-6)


@pytest.mark.parametrize("teacher_temperature", [0.01, 0.1, 3.0])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.99])
def test_nothing_overflows_or_vanishes_at_the_bounds(temperature: float, teacher_temperature: float) -> None:
    # Student and teacher contradict each other as far as cosines can: +1 against -1 everywhere.
    eye = torch.eye(32)
    similarity = (1 - 2 * eye).requires_grad_()
    t, u = (torch.tensor(x, requires_grad=True) for x in (temperature, teacher_temperature))
    loss = csa(
        similarity,
        2 * eye - 1,
        2 * eye - 1,
        image_temperature=t,
        text_temperature=t,
        teacher_image_temperature=u,
        teacher_text_temperature=u,
    )
    loss.backward()
    exact = reference.kl(
        reference.divided((2 * eye - 1).tolist(), teacher_temperature),
        reference.divided(similarity.tolist(), temperature),
    )
    assert loss.item() == pytest.approx(exact, rel=1e-5)
    for gradient in (similarity.grad, t.grad, u.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()
    assert similarity.grad is not None
    assert similarity.grad.abs().max() > 0


def test_a_uniform_student_is_as_far_as_the_label_is_from_uniform() -> None:
    teacher = within(8, 4)
    target = teacher.softmax(1)
    expected = math.log(8) + (target * target.log()).sum(1).mean().item()
    observed = csa(torch.zeros_like(teacher), teacher, teacher, image_temperature=1, text_temperature=1)
    assert observed.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("option", [{"fusion": "mean"}, {"divergence": "js"}])
def test_an_unknown_mode_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="allowed"):
        csa(cross(3, 0), within(3, 1), within(3, 2), image_temperature=1, text_temperature=1, **option)


@pytest.mark.parametrize("rows", [2, 5, 9])
def test_cross_entropy_release__divides_by_columns_where_rows_are_a_rank_s(rows: int) -> None:
    teacher, student = within(9, 1)[:rows], within(9, 2)[:rows]
    target, guess = scipy_softmax(teacher.numpy(), axis=1), scipy_softmax(student.numpy(), axis=1)
    expected = -(target * np.log(guess)).sum() / rows / 9
    assert soft_divergence(teacher, student, "cross_entropy_release").item() == pytest.approx(expected, rel=1e-10)
