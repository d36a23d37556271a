"""The three losses from whole matrices of similarities.

Legend: B pairs in the batch, R of its rows that count.
"""

from torch import Tensor

from cusa.train.losses.batch import LossInputs, Modes, Temperatures, ids_or_all_different
from cusa.train.losses.csa import csa
from cusa.train.losses.false_negatives import targets
from cusa.train.losses.infonce import infonce
from cusa.train.losses.usa import usa


def plain(batch: LossInputs, temperatures: Temperatures, modes: Modes) -> tuple[Tensor, Tensor, Tensor]:
    """Return InfoNCE, CSA and USA, unweighted; those that `modes` leaves out are 0.

    Args:
        batch: B pairs; no gradient flows into the teachers.
        temperatures: of all terms.
        modes: which terms, and which variants of them.

    Returns:
        Three scalars: sums over the rows that count, divided by B. In memory of O(R B).
    """
    given, own = batch.embeddings, batch.own
    share = (own.stop - own.start) / batch.size
    teacher_image_RB, teacher_text_RB = (
        None if each is None else each.detach()[own] @ each.detach().T
        for each in (given.teacher_image, given.teacher_text)
    )
    teachers: tuple[Tensor | None, Tensor | None] = teacher_image_RB, teacher_text_RB
    labels, log_weights_RB = teachers, None
    if batch.probable is not None:
        columns = slice(0, batch.size)
        logit_RB = batch.probable.logit(teacher_image_RB, teacher_text_RB, own, columns)
        if modes.calibrated:
            labels = (batch.probable.log_true(logit_RB, own, columns),) * 2
        if modes.debiased:
            log_weights_RB = batch.probable.log_false(logit_RB, own, columns)
    terms = [given.image.new_zeros(()) for _ in range(3)]
    if modes.infonce or modes.csa:
        to_text_RB = given.image[own] @ given.text.T
        to_image_RB = to_text_RB.T if own == slice(0, batch.size) else given.text[own] @ given.image.T
    if modes.infonce:
        ids = ids_or_all_different(batch.image_ids, given.image)
        ignored_RB = None
        if batch.near is not None:
            ignored_RB = batch.near.ignored(teacher_image_RB, teacher_text_RB, own, slice(0, batch.size), 1)
        terms[0] = share * infonce(
            to_text_RB,
            None,
            temperature=temperatures.infonce,
            reduction=modes.reduction,
            text_similarity_BB=to_image_RB,
            targets=targets(ids, own, batch.extra, to_text_RB.dtype, smoothing=modes.smoothing),
            ignored_BB=ignored_RB,
            log_weights_BB=log_weights_RB,
        )
    if modes.csa:
        terms[1] = share * csa_term((to_text_RB, to_image_RB), _both(labels), temperatures, modes)
    if modes.usa:
        assert given.image_uni is not None
        assert given.text_uni is not None
        student = given.image_uni[own] @ given.image_uni.T, given.text_uni[own] @ given.text_uni.T
        terms[2] = share * usa_term(student, _both(teachers), temperatures, modes)
    return terms[0], terms[1], terms[2]


Two = tuple[Tensor, Tensor]
"""A matrix of similarities of images, and one of texts."""


def _both(pair: tuple[Tensor | None, Tensor | None]) -> Two:
    image_RB, text_RB = pair
    assert image_RB is not None
    assert text_RB is not None
    return image_RB, text_RB


def csa_term(student: Two, teachers: Two, temperatures: Temperatures, modes: Modes) -> Tensor:
    """Return CSA, unweighted.

    Args:
        student: (R, B) cosines of images with texts, and of texts with images.
        teachers: (R, B) cosines of the image and of the text teacher, or logits of the soft labels of both directions.
        temperatures: of all terms.
        modes: the variant.
    """
    return csa(
        student[0],
        *teachers,
        image_temperature=temperatures.csa[0],
        text_temperature=temperatures.csa[1],
        teacher_image_temperature=temperatures.teacher[0],
        teacher_text_temperature=temperatures.teacher[1],
        fusion=modes.fusion,
        divergence=modes.divergence,
        text_similarity_BB=student[1],
    )


def usa_term(student: Two, teachers: Two, temperatures: Temperatures, modes: Modes) -> Tensor:
    """Return USA, unweighted.

    Args:
        student: (R, B) cosines of the student's uni-modal embeddings of images, and of texts.
        teachers: (R, B) cosines of the image and of the text teacher.
        temperatures: of all terms.
        modes: the variant.
    """
    return usa(
        *student,
        *teachers,
        image_temperature=temperatures.usa[0],
        text_temperature=temperatures.usa[1],
        teacher_image_temperature=temperatures.usa_teacher[0],
        teacher_text_temperature=temperatures.usa_teacher[1],
        divergence=modes.divergence,
    )
