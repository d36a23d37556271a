"""The sigmoid loss: every pair of the batch is a decision of its own, true or not.

Legend: B pairs in the batch, R of its rows that count, T rows of a block, D width of an embedding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from cusa.train.losses.batch import LossInputs, ids_or_all_different
from cusa.train.losses.diagnostics import BLOCK_ELEMENTS

BIAS = -10.0
"""Where the bias starts, so that nearly all pairs are rightly called false at first."""


def sigmoid(
    similarity_RB: Tensor,
    positive_RB: Tensor,
    *,
    temperature: Tensor | float,
    bias: Tensor | float,
    ignored_RB: Tensor | None = None,
) -> Tensor:
    """Return the mean over images of the summed cross-entropies of all their pairs.

    `- mean_i sum_j log sigmoid(z_ij (s_ij / t + b))`, where `z_ij` is 1 for a positive pair and -1 for any other.

    Args:
        similarity_RB: cosines of images (rows) and texts (columns).
        positive_RB: booleans: which pairs are true.
        temperature: positive; the paper learns 1 / t from 10.
        bias: added to every logit; the paper learns it from -10.
        ignored_RB: booleans: pairs that are left out, positive or not.

    Returns:
        A scalar, at least 0.

    Source: Zhai et al., ICCV 2023, arXiv:2303.15343, equation 1. There every image has one caption; here every caption
    of the batch that belongs to the same image is positive.
    """
    logits_RB = similarity_RB / temperature + bias
    losses_RB = -logsigmoid(torch.where(positive_RB, logits_RB, -logits_RB))
    if ignored_RB is not None:
        losses_RB = losses_RB.masked_fill(ignored_RB, 0)
    return losses_RB.sum() / max(len(losses_RB), 1)


def plain_sigmoid(batch: LossInputs, temperature: Tensor, bias: Tensor) -> Tensor:
    """Return the loss of a batch's rows that count, divided by B, from whole matrices."""
    own = batch.own
    positive_RB, ignored_RB = _kinds(batch, own)
    mean = sigmoid(
        batch.embeddings.image[own] @ batch.embeddings.text.T,
        positive_RB,
        temperature=temperature,
        bias=bias,
        ignored_RB=ignored_RB,
    )
    share: float = (own.stop - own.start) / batch.size
    return mean * share


def streamed_sigmoid(batch: LossInputs, temperature: Tensor, bias: Tensor) -> Tensor:
    """Return the same in memory of O(B D), a block of rows at a time; differentiable once.

    The gradient is computed in the forward pass, together with the value, so that every block is made once.
    """
    apply: Callable[..., Tensor] = _Blocks.apply
    return apply(batch, batch.embeddings.image, batch.embeddings.text, temperature, bias)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, batch: LossInputs, image: Tensor, text: Tensor, temperature: Tensor, bias: Tensor) -> Tensor:
        exact = image.dtype if image.device.type == "mps" else torch.float64
        wanted = any(ctx.needs_input_grad)
        d_image, d_text = torch.zeros_like(image), torch.zeros_like(text)
        value, d_temperature, d_bias = (torch.zeros((), dtype=exact, device=image.device) for _ in range(3))
        size = max(1, BLOCK_ELEMENTS // batch.size)
        for start in range(batch.own.start, batch.own.stop, size):
            rows = slice(start, min(start + size, batch.own.stop))
            positive_TB, ignored_TB = _kinds(batch, rows)
            cosine_TB = image[rows] @ text.T
            sign_TB = torch.where(positive_TB, 1.0, -1.0).to(image.dtype)
            margin_TB = (cosine_TB / temperature + bias) * sign_TB
            losses_TB = -logsigmoid(margin_TB)
            if ignored_TB is not None:
                losses_TB.masked_fill_(ignored_TB, 0)
            value += losses_TB.sum(dtype=exact)
            if not wanted:
                continue
            slope_TB = -sign_TB * torch.sigmoid(-margin_TB)  # of the loss by the logit
            if ignored_TB is not None:
                slope_TB.masked_fill_(ignored_TB, 0)
            d_bias += slope_TB.sum(dtype=exact)
            d_temperature -= (slope_TB * cosine_TB).sum(dtype=exact)
            d_image[rows] = slope_TB @ text
            d_text += slope_TB.T @ image[rows]
        ctx.save_for_backward(
            d_image / (temperature * batch.size),
            d_text / (temperature * batch.size),
            (d_temperature / (temperature**2 * batch.size)).to(temperature.dtype),
            (d_bias / batch.size).to(bias.dtype),
        )
        mean: Tensor = value / batch.size
        return mean.to(image.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        return None, *(grad * saved if needed else None for saved, needed in pairs)


def _kinds(batch: LossInputs, rows: slice) -> tuple[Tensor, Tensor | None]:
    """Return which pairs of some rows are positive, and which are left out: (T, B) each, None where none is.

    A pair leaves where the mask's rule says so for its image or for its text: one decision serves both.
    """
    given = batch.embeddings
    ids_B = ids_or_all_different(batch.image_ids, given.image)
    positive_TB = ids_B[rows, None] == ids_B[None, :]
    ignored_TB = None
    if batch.near is not None:
        image_TB, text_TB = (
            None if each is None else each.detach()[rows] @ each.detach().T
            for each in (given.teacher_image, given.teacher_text)
        )
        columns = slice(0, batch.size)
        ignored_TB = batch.near.ignored(image_TB, text_TB, rows, columns, 1)
        ignored_TB |= batch.near.ignored(image_TB, text_TB, rows, columns, 0)
    for listed, is_positive in ((batch.extra, True), (batch.ignored, False)):
        if listed is None:
            continue
        inside = (listed.image_Q >= rows.start) & (listed.image_Q < rows.stop)
        place = listed.image_Q[inside] - rows.start, listed.text_Q[inside]
        if is_positive:
            positive_TB[place] = True
        else:
            ignored_TB = torch.zeros_like(positive_TB) if ignored_TB is None else ignored_TB
            ignored_TB[place] = True
    return positive_TB, ignored_TB
