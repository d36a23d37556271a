"""The terms of the loss for every kind of student: its own loss or InfoNCE, then CSA and USA.

Legend: B pairs in the batch, E F widths of the image and text teacher.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cusa.models.students.base import Student
from cusa.train.config import LossConfig, TemperatureConfig
from cusa.train.losses import CUSALoss, Setting, infonce
from cusa.train.losses.by_rows.hardness import Hardness
from cusa.train.losses.by_rows.thresholds import Thresholds
from cusa.train.losses.pair_probability import PairProbability
from cusa.train.losses.plain import csa_term, usa_term


def terms(
    student: Student,
    loss: CUSALoss,
    out: Mapping[str, Any],
    *,
    image_ids: Tensor,
    teacher_image: Tensor | None = None,
    teacher_text: Tensor | None = None,
    rows_of_ranks: tuple[int, ...] | None = None,
    **listed: Tensor,
) -> dict[str, Tensor]:
    """Compute the loss of one batch.

    A dual encoder's terms are those of `CUSALoss`. The loss of a student that has one replaces InfoNCE, with InfoNCE's
    weight. The similarities of a student that scores pairs go into InfoNCE and CSA; where its embeddings are to find
    candidates (`pooled_weight`), InfoNCE over these is added, by the same temperature: `infonce_pooled`. A matching
    loss gets CSA's soft labels instead (`match_labels`), and its similarities do not go into CSA.

    Args:
        student: decides which terms there are; brings its own loss.
        loss: weights, temperatures, modes.
        out: the output of the student's `forward`.
        image_ids: (B,), equal for pairs of the same image.
        teacher_image: (B, E), needed if alpha or beta is not 0.
        teacher_text: (B, F), likewise.
        rows_of_ranks: B of every rank, as `CUSALoss` takes it.
        **listed: `text_ids`, `positive_pairs`, `ignored_pairs` and `pair_weights` of `CUSALoss`, for dual encoders
            alone.

    Returns:
        `loss` and the named terms it is the sum of, weights applied.
    """
    if not student.has_own_loss and "similarity" not in out:
        embeddings = {name: out[name] for name in ("image", "text", "image_uni", "text_uni") if name in out}
        teachers = {"teacher_image": teacher_image, "teacher_text": teacher_text}
        weighted: dict[str, Tensor] = loss(
            **embeddings, **teachers, image_ids=image_ids, rows_of_ranks=rows_of_ranks, **listed
        )
        return weighted
    assert not listed, "listed pairs need InfoNCE over embeddings"
    if loss.training:
        for temperature in loss.temperatures().values():
            temperature.clamp_()
    similarity_BB = out["similarity"] if "similarity" in out else cosines(out["image"], out["text"])
    soft: tuple[Tensor, Tensor] | None = None
    if teacher_image is not None and teacher_text is not None:
        with torch.no_grad():
            soft = cosines(teacher_image, teacher_image), cosines(teacher_text, teacher_text)
    matching = student.has_own_loss and student.soft_labels == "matching"
    named: dict[str, Tensor] = {}
    if student.has_own_loss and loss.infonce_weight:
        labels = None
        if matching and loss.alpha:
            assert soft is not None
            labels = match_labels(loss, *soft)
        own = student.base_loss(out, image_ids=image_ids, match_labels=labels)
        named |= {name: loss.infonce_weight * term for name, term in own.items()}
    with torch.autocast(similarity_BB.device.type, enabled=False):
        temperatures, modes = loss.temperature_values(), loss.modes()
        if not student.has_own_loss and loss.infonce_weight:
            named["infonce"] = loss.infonce_weight * infonce(
                similarity_BB, image_ids, temperature=temperatures.infonce, reduction=loss.reduction
            )
            if student.scores_pairs and student.pooled_weight:
                pooled = infonce(
                    cosines(out["image"], out["text"]),
                    image_ids,
                    temperature=temperatures.infonce,
                    reduction=loss.reduction,
                )
                named["infonce_pooled"] = loss.infonce_weight * student.pooled_weight * pooled
        if loss.alpha and not matching:
            assert soft is not None
            named["csa"] = loss.alpha * csa_term((similarity_BB, similarity_BB.T), soft, temperatures, modes)
        if loss.beta:
            assert soft is not None
            uni = cosines(out["image_uni"], out["image_uni"]), cosines(out["text_uni"], out["text_uni"])
            named["usa"] = loss.beta * usa_term(uni, soft, temperatures, modes)
    return {"loss": torch.stack(list(named.values())).sum(), **named}


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


def make_loss(
    config: LossConfig, pair_probability: PairProbability | None = None, *, rows: tuple[int, int] = (0, 0)
) -> CUSALoss:
    """Make the loss that a recipe describes.

    Args:
        config: the recipe's.
        pair_probability: needed where `config.needs_calibration`.
        rows: images and captions of the training split; needed for `thresholds`.
    """

    def setting(temperature: TemperatureConfig) -> Setting:
        return Setting(temperature.initial, temperature.minimum, temperature.maximum, temperature.learned)

    thresholds = None
    if config.false_negatives == "thresholds":
        share, rate = config.threshold_share, config.threshold_rate
        thresholds = Thresholds(*rows, share=share, rate=rate, after=config.threshold_after)
    csa = setting(config.csa_image_temperature)
    usa = setting(config.usa_image_temperature)
    teacher = setting(config.teacher_image_temperature)
    separate_usa = (usa, setting(config.usa_text_temperature))
    return CUSALoss(
        alpha=config.alpha,
        beta=config.beta,
        contrast=config.contrast,
        infonce_weight=config.infonce_weight,
        label_smoothing=config.label_smoothing,
        sigmoid_bias=config.sigmoid_bias,
        reduction=config.reduction,
        fusion=config.fusion,
        divergence=config.divergence,
        false_negatives=config.false_negatives,
        soft_labels=config.soft_labels,
        pair_probability=pair_probability,
        hardness=Hardness(config.hardness, config.hardness_prior),
        thresholds=thresholds,
        mask_image=config.mask_image,
        mask_text=config.mask_text,
        mask_margin=config.mask_margin,
        mask_margin_kind=config.mask_margin_kind,
        negatives=config.negatives,
        impl=config.impl,
        temperature=setting(config.temperature),
        csa_temperature=csa if config.csa_temperatures == "one" else (csa, setting(config.csa_text_temperature)),
        usa_temperature={"csa": "csa", "one": usa, "separate": separate_usa}[config.usa_temperatures],  # type: ignore[arg-type]
        teacher_temperature=(
            teacher if config.teacher_temperatures == "one" else (teacher, setting(config.teacher_text_temperature))
        ),
    )
