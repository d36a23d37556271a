from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.train.losses import csa, usa
from tests.train.losses import reference
from tests.train.losses.matrices import within

sizes = st.integers(1, 10)
seeds = st.integers(0, 10**6)
warm = st.floats(0.1, 1.0)


@given(seeds, sizes, warm, warm, warm, warm)
@settings(max_examples=30, deadline=None)
def test_equals_loops_over_plain_floats(seed: int, size: int, t_i: float, t_t: float, u_i: float, u_t: float) -> None:
    image, text, teacher_image, teacher_text = (within(size, seed + k) for k in range(4))
    observed = usa(
        image,
        text,
        teacher_image,
        teacher_text,
        image_temperature=t_i,
        text_temperature=t_t,
        teacher_image_temperature=u_i,
        teacher_text_temperature=u_t,
    )
    images = reference.kl(reference.divided(teacher_image.tolist(), u_i), reference.divided(image.tolist(), t_i))
    texts = reference.kl(reference.divided(teacher_text.tolist(), u_t), reference.divided(text.tolist(), t_t))
    assert observed.item() == pytest.approx((images + texts) / 2, rel=1e-9, abs=1e-12)


@given(seeds, sizes)
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_batch_does_not_matter(seed: int, size: int) -> None:
    matrices = [within(size, seed + k) for k in range(4)]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    told = {"image_temperature": 0.3, "text_temperature": 0.4, "teacher_image_temperature": 0.2}
    observed = usa(*(m[order][:, order] for m in matrices), **told)
    assert observed.item() == pytest.approx(usa(*matrices, **told).item(), rel=1e-10, abs=1e-13)


@given(seeds, sizes, st.floats(0.01, 1.0))
@settings(max_examples=20, deadline=None)
def test_a_student_that_agrees_pays_nothing(seed: int, size: int, temperature: float) -> None:
    image, text = within(size, seed), within(size, seed + 1)
    loss = usa(
        image,
        text,
        image,
        text,
        image_temperature=temperature,
        text_temperature=1,
        teacher_image_temperature=temperature,
    )
    assert abs(loss.item()) < 1e-13


@pytest.mark.parametrize("divergence", ["kl", "cross_entropy", "cross_entropy_release"])
def test_symmetric_similarities_make_it_csa(divergence: Any) -> None:
    # Where image-image, text-text and image-text similarities are one symmetric matrix, both losses say the same.
    student, image, text = within(7, 0), within(7, 1), within(7, 2)
    told: dict[str, Any] = {
        "image_temperature": 0.3,
        "text_temperature": 0.4,
        "teacher_image_temperature": 0.5,
        "teacher_text_temperature": 0.6,
        "divergence": divergence,
    }
    assert usa(student, student, image, text, **told).item() == pytest.approx(
        csa(student, image, text, **told).item(), rel=1e-12
    )


@pytest.mark.parametrize("teacher_temperature", [0.01, 0.1, 3.0])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_nothing_overflows_at_the_bounds(temperature: float, teacher_temperature: float) -> None:
    eye = torch.eye(32)
    image, text = torch.ones(32, 32, requires_grad=True), (2 * eye - 1).requires_grad_()
    t, u = (torch.tensor(x, requires_grad=True) for x in (temperature, teacher_temperature))
    loss = usa(
        image,
        text,
        2 * eye - 1,
        torch.ones(32, 32),
        image_temperature=t,
        text_temperature=t,
        teacher_image_temperature=u,
        teacher_text_temperature=u,
    )
    loss.backward()
    for number in (loss.detach(), image.grad, text.grad, t.grad, u.grad):
        assert number is not None
        assert torch.isfinite(number).all()
    assert loss.item() > 0


def test_teachers_get_no_gradient() -> None:
    image, text = within(5, 1).requires_grad_(), within(5, 2).requires_grad_()
    student = within(5, 3).requires_grad_()
    usa(student, student, image, text, image_temperature=0.4, text_temperature=0.4).backward()
    assert image.grad is None
    assert text.grad is None
    assert student.grad is not None
