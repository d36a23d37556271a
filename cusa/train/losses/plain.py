"""The three losses from whole matrices, by the functions that hold the maths.

Legend: B pairs in the batch, R of its rows that count.
"""

from torch import Tensor

from cusa.train.losses.batch import LossInputs, Modes, Temperatures, ids_or_all_different
from cusa.train.losses.csa import csa
from cusa.train.losses.false_negatives import targets
from cusa.train.losses.infonce import infonce
from cusa.train.losses.usa import usa


def plain(batch: LossInputs, temperatures: Temperatures, modes: Modes) -> tuple[Tensor, Tensor, Tensor]:
    """Return InfoNCE, CSA and USA, unweighted; those not asked for are 0.

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
    found = [given.image.new_zeros(()) for _ in range(3)]
    if modes.infonce or modes.csa:
        to_text_RB = given.image[own] @ given.text.T
        to_image_RB = to_text_RB.T if own == slice(0, batch.size) else given.text[own] @ given.image.T
    if modes.infonce:
        ids = ids_or_all_different(batch.image_ids, given.image)
        ignored_RB = None
        if batch.near is not None:
            ignored_RB = batch.near.ignored(teacher_image_RB, teacher_text_RB, own, slice(0, batch.size), 1)
        found[0] = share * infonce(
            to_text_RB,
            None,
            temperature=temperatures.infonce,
            reduction=modes.reduction,
            text_similarity_BB=to_image_RB,
            targets=targets(ids, own, batch.extra, to_text_RB.dtype),
            ignored_BB=ignored_RB,
        )
    if not (modes.csa or modes.usa):
        return found[0], found[1], found[2]
    assert teacher_image_RB is not None
    assert teacher_text_RB is not None
    if modes.csa:
        found[1] = share * csa(
            to_text_RB,
            teacher_image_RB,
            teacher_text_RB,
            image_temperature=temperatures.csa[0],
            text_temperature=temperatures.csa[1],
            teacher_image_temperature=temperatures.teacher[0],
            teacher_text_temperature=temperatures.teacher[1],
            fusion=modes.fusion,
            divergence=modes.divergence,
            text_similarity_BB=to_image_RB,
        )
    if modes.usa:
        assert given.image_uni is not None
        assert given.text_uni is not None
        found[2] = share * usa(
            given.image_uni[own] @ given.image_uni.T,
            given.text_uni[own] @ given.text_uni.T,
            teacher_image_RB,
            teacher_text_RB,
            image_temperature=temperatures.usa[0],
            text_temperature=temperatures.usa[1],
            teacher_image_temperature=temperatures.usa_teacher[0],
            teacher_text_temperature=temperatures.usa_teacher[1],
            divergence=modes.divergence,
        )
    return found[0], found[1], found[2]
