"""The terms of a step's loss, whatever kind of student: its own loss or InfoNCE, then CSA and USA.

Legend: B pairs in the batch, E F widths of the image and text teacher.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cusa.models.students.base import Student
from cusa.train.config import LossConfig, TemperatureConfig
from cusa.train.losses import CUSALoss, Setting, csa, infonce, usa


def terms(
    student: Student,
    loss: CUSALoss,
    out: Mapping[str, Any],
    *,
    image_ids: Tensor,
    teacher_image: Tensor | None = None,
    teacher_text: Tensor | None = None,
    **listed: Tensor,
) -> dict[str, Tensor]:
    """Compute the loss of one batch.

    A dual encoder's terms are those of `CUSALoss`. A student with a loss of its own puts it where InfoNCE stands, with
    InfoNCE's weight. One that scores pairs hands its similarities to CSA; one with a matching loss gets CSA's soft
    labels there instead (`match_labels`), and its similarities are left alone.

    Args:
        student: for its kind and its own loss.
        loss: weights, temperatures, modes.
        out: what the student's `forward` gave.
        image_ids: (B,), equal for pairs of the same image.
        teacher_image: (B, E), needed if alpha or beta is not 0.
        teacher_text: (B, F), likewise.
        **listed: `text_ids`, `positive_pairs` and `ignored_pairs` of `CUSALoss`, for dual encoders alone.

    Returns:
        `loss` and the named terms it is the sum of, weights applied.
    """
    if not student.has_own_loss and "similarity" not in out:
        embeddings = {name: out[name] for name in ("image", "text", "image_uni", "text_uni") if name in out}
        teachers = {"teacher_image": teacher_image, "teacher_text": teacher_text}
        return loss(**embeddings, **teachers, image_ids=image_ids, **listed)
    assert not listed, "listed pairs are InfoNCE's over embeddings"
    if loss.training:
        for temperature in loss.temperatures().values():
            temperature.clamp_()
    similarity_BB = out["similarity"] if "similarity" in out else cosines(out["image"], out["text"])
    with torch.no_grad():
        image_BB = None if teacher_image is None else cosines(teacher_image, teacher_image)
        text_BB = None if teacher_text is None else cosines(teacher_text, teacher_text)
    matching = student.has_own_loss and student.soft_labels == "matching"
    found: dict[str, Tensor] = {}
    if student.has_own_loss and loss.infonce_weight:
        labels = None
        if matching and loss.alpha:
            assert image_BB is not None
            assert text_BB is not None
            labels = match_labels(loss, image_BB, text_BB)
        own = student.base_loss(out, image_ids=image_ids, match_labels=labels)
        found |= {name: loss.infonce_weight * term for name, term in own.items()}
    with torch.autocast(similarity_BB.device.type, enabled=False):
        if not student.has_own_loss and loss.infonce_weight:
            found["infonce"] = loss.infonce_weight * infonce(
                similarity_BB, image_ids, temperature=loss.infonce_temperature(), reduction=loss.reduction
            )
        if loss.alpha and not matching:
            assert image_BB is not None
            assert text_BB is not None
            found["csa"] = loss.alpha * csa(
                similarity_BB,
                image_BB,
                text_BB,
                image_temperature=loss.csa_temperatures.image(),
                text_temperature=loss.csa_temperatures.text(),
                teacher_image_temperature=loss.teacher_temperatures.image(),
                teacher_text_temperature=loss.teacher_temperatures.text(),
                fusion=loss.fusion,
                divergence=loss.divergence,
            )
        if loss.beta:
            assert image_BB is not None
            assert text_BB is not None
            found["usa"] = loss.beta * usa(
                cosines(out["image_uni"], out["image_uni"]),
                cosines(out["text_uni"], out["text_uni"]),
                image_BB,
                text_BB,
                image_temperature=loss.usa_temperatures.image(),
                text_temperature=loss.usa_temperatures.text(),
                teacher_image_temperature=loss.usa_teacher_temperatures.image(),
                teacher_text_temperature=loss.usa_teacher_temperatures.text(),
                divergence=loss.divergence,
            )
    return {"loss": torch.stack(list(found.values())).sum(), **found}


@torch.no_grad()
def match_labels(loss: CUSALoss, teacher_image_BB: Tensor, teacher_text_BB: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the soft labels of a matching loss's negatives: CSA's soft labels, relative to the own pair.

    The paper says that the labels of the sampled hard negatives become soft and gives no formula. Chosen here:
    `y_ij = alpha Q_ij / Q_ii = alpha exp((t_ij - t_ii) / tau_q)`, Q being CSA's soft label, t the teacher's cosine and
    t_ii = 1. As CSA has it, the image teacher serves the image-to-text direction (a negative text of an image) and the
    text teacher the other. Cross-entropy being linear in its label, the matching loss is then (1 - alpha) times the
    hard one plus alpha times the one against Q_ij / Q_ii. Its limits: alpha = 0, or a one-hot teacher (tau_q to 0 and
    t_ij < 1), gives the hard labels, 0; a negative that the teacher calls equal (t_ij = 1) gets alpha, the highest.
    InfoNCE's weight applies to the whole matching loss.

    Args:
        loss: for alpha and the teachers' temperatures.
        teacher_image_BB: cosines of the image teacher.
        teacher_text_BB: cosines of the text teacher.

    Returns:
        (B, B) labels of image i with text j, and of text i with image j.
    """
    both = ((teacher_image_BB, loss.teacher_temperatures.image()), (teacher_text_BB, loss.teacher_temperatures.text()))
    image, text = (loss.alpha * ((cosine_BB - 1) / tau).exp().clamp(max=1) for cosine_BB, tau in both)
    return image, text


def cosines(rows_BD: Tensor, columns_BD: Tensor) -> Tensor:
    """Return the cosine of every row with every column, (B, B), in float32 at least; a row of zeros is 0 to all."""
    rows, columns = (each if each.dtype == torch.float64 else each.float() for each in (rows_BD, columns_BD))
    return normalize(rows, dim=1) @ normalize(columns, dim=1).T


def make_loss(config: LossConfig) -> CUSALoss:
    """Make the loss that a recipe describes."""

    def setting(temperature: TemperatureConfig) -> Setting:
        return Setting(temperature.initial, temperature.minimum, temperature.maximum, temperature.learned)

    csa = setting(config.csa_image_temperature)
    usa = setting(config.usa_image_temperature)
    teacher = setting(config.teacher_image_temperature)
    separate_usa = (usa, setting(config.usa_text_temperature))
    return CUSALoss(
        alpha=config.alpha,
        beta=config.beta,
        infonce_weight=config.infonce_weight,
        reduction=config.reduction,
        fusion=config.fusion,
        divergence=config.divergence,
        false_negatives=config.false_negatives,
        mask_image=config.mask_image,
        mask_text=config.mask_text,
        negatives=config.negatives,
        impl=config.impl,
        temperature=setting(config.temperature),
        csa_temperature=csa if config.csa_temperatures == "one" else (csa, setting(config.csa_text_temperature)),
        usa_temperature={"csa": "csa", "one": usa, "separate": separate_usa}[config.usa_temperatures],  # type: ignore[arg-type]
        teacher_temperature=(
            teacher if config.teacher_temperatures == "one" else (teacher, setting(config.teacher_text_temperature))
        ),
    )
