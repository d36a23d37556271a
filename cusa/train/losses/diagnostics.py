"""Statistics of soft labels and masks, computed a block of rows at a time.

Legend: B pairs in the batch, R rows of a block.
"""

import math

import torch
from torch import Tensor

from cusa.train.losses.csa import Fusion, fuse
from cusa.train.losses.false_negatives import Near
from cusa.train.losses.pair_probability import ProbablePairs

BLOCK_ELEMENTS = 1 << 22
"""Of a block of a B x B matrix: 16 MiB in float32."""


def describe(
    image: Tensor | None,
    text: Tensor | None,
    *,
    temperatures: tuple[Tensor, Tensor] | None,
    fusion: Fusion = "each",
    near: Near | None = None,
    probable: ProbablePairs | None = None,
    calibrated: bool = False,
    rows: int = 0,
) -> dict[str, Tensor]:
    """Return means over a batch's soft labels and masks.

    Args:
        image: (B, any) unit rows of the image teacher; None where neither soft labels nor a mask use it.
        text: (B, any) unit rows of the text teacher; likewise.
        temperatures: of the soft labels, images' and texts'; None: there are no soft labels.
        fusion: of the teachers.
        near: thresholds of a mask; None: there is no mask.
        probable: probabilities of foreign pairs; None: there is no calibration.
        calibrated: whether the soft labels are these probabilities, and not the teachers' softmaxes.
        rows: R; 0 = as many as `BLOCK_ELEMENTS` allows.

    Returns:
        `target_entropy.<modality>`, the mean entropy divided by log B; `target_off_diagonal.<modality>`, the mean mass
        of other pairs; `share_masked`, of the pairs of different images; `expected_false_negatives`, the mean sum of
        probabilities a row.
    """
    first = image if image is not None else text
    assert first is not None
    size = len(first)
    rows = rows or max(1, BLOCK_ELEMENTS // size)
    entropy, own, masked, foreign, expected = first.new_zeros(5, 2, dtype=_exact(first))
    soft = temperatures is not None and image is not None and text is not None
    with torch.autocast(first.device.type, enabled=False):
        for start in range(0, size, rows):
            block = slice(start, min(start + rows, size))
            image_RB, text_RB = (None if each is None else each[block] @ each.T for each in (image, text))
            if near is not None:
                masked[0] += near.ignored(image_RB, text_RB, block, slice(0, size), 1).sum()
                foreign[0] += (near.image_ids_B[block, None] != near.image_ids_B[None, :]).sum()
            log_true_RB = None
            if probable is not None:
                columns = slice(0, size)
                log_true_RB = probable.log_true(probable.logit(image_RB, text_RB, block, columns), block, columns)
                expected[0] += log_true_RB.exp().masked_fill(log_true_RB == 0, 0).sum()
            if not soft:
                continue
            assert temperatures is not None
            assert image_RB is not None
            assert text_RB is not None
            for k, teacher_RB in enumerate(fuse(image_RB, text_RB, fusion)):
                logits_RB = teacher_RB / temperatures[k]
                if calibrated:
                    assert log_true_RB is not None
                    logits_RB = log_true_RB
                log_target_RB = logits_RB.log_softmax(1)
                target_RB = log_target_RB.exp()
                entropy[k] -= (target_RB * log_target_RB).sum()
                own[k] += target_RB.diagonal(start).sum()
    means = {}
    for k, modality in enumerate(("image", "text") if soft else ()):
        means[f"target_entropy.{modality}"] = entropy[k] / (size * math.log(max(size, 2)))
        means[f"target_off_diagonal.{modality}"] = 1 - own[k] / size
    if near is not None:
        means["share_masked"] = masked[0] / foreign[0].clamp(min=1)
    if probable is not None:
        means["expected_false_negatives"] = expected[0] / size
    return means


def _exact(rows: Tensor) -> torch.dtype:
    return rows.dtype if rows.device.type == "mps" else torch.float64
