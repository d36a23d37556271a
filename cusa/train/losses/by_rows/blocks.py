"""A loss that looks at whole rows of cosines, in both directions: from whole matrices, or a block of rows at a time.

Legend: B pairs in the batch, R of its rows that count, T rows of a block.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cusa.train.losses.batch import LossInputs, ids_or_all_different
from cusa.train.losses.diagnostics import BLOCK_ELEMENTS

Items = Literal["image", "text"]


class RowLoss(Protocol):
    """What some rows of a batch add to the loss."""

    def losses(self, cosine_TB: Tensor, same_TB: Tensor, *, rows: slice, items: Items, temperature: Tensor) -> Tensor:
        """Return (T,) losses, differentiable in cosines and temperature.

        Args:
            cosine_TB: of the rows' items with all items of the other kind.
            same_TB: booleans: pairs of the same image.
            rows: of the batch, which these are.
            items: what the rows are.
            temperature: positive, 0-d.
        """
        ...


def plain_rows(batch: LossInputs, temperature: Tensor, loss: RowLoss) -> Tensor:
    """Return the losses of a batch's rows that count, both directions, divided by 2 B; in memory of O(R B)."""
    total = batch.embeddings.image.new_zeros(())
    for items, own, other in _directions(batch):
        cosine_RB = own[batch.own] @ other.T
        total = (
            total
            + loss.losses(
                cosine_RB, _same(batch, batch.own), rows=batch.own, items=items, temperature=temperature
            ).sum()
        )
    return total / (2 * batch.size)


def streamed_rows(batch: LossInputs, temperature: Tensor, loss: RowLoss) -> Tensor:
    """Return the same in memory of O(B D), a block of rows at a time; differentiable once.

    The gradient is computed in the forward pass, together with the value, so that every block is made once, and a loss
    that keeps state sees every row once.
    """
    return _not_compiled(batch, loss, batch.embeddings.image, batch.embeddings.text, temperature)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, batch: LossInputs, loss: RowLoss, image: Tensor, text: Tensor, temperature: Tensor) -> Tensor:
        exact = image.dtype if image.device.type == "mps" else torch.float64
        wanted = any(ctx.needs_input_grad)
        gradients = {"image": torch.zeros_like(image), "text": torch.zeros_like(text)}
        value, d_temperature = (torch.zeros((), dtype=exact, device=image.device) for _ in range(2))
        size = max(1, BLOCK_ELEMENTS // batch.size)
        for items, own, other in _directions(batch):
            d_own, d_other = gradients[items], gradients["text" if items == "image" else "image"]
            for start in range(batch.own.start, batch.own.stop, size):
                rows = slice(start, min(start + size, batch.own.stop))
                with torch.enable_grad():
                    cosine_TB = (own[rows].detach() @ other.detach().T).requires_grad_(wanted)
                    t = temperature.detach().requires_grad_(wanted)
                    losses_T = loss.losses(cosine_TB, _same(batch, rows), rows=rows, items=items, temperature=t)
                    together = losses_T.sum()
                value += losses_T.detach().sum(dtype=exact)
                if not wanted:
                    continue
                slope_TB, d_t = torch.autograd.grad(together, (cosine_TB, t))
                d_temperature += d_t
                d_own[rows] += slope_TB @ other
                d_other += slope_TB.T @ own[rows]
        over = 2 * batch.size
        ctx.save_for_backward(
            gradients["image"] / over, gradients["text"] / over, (d_temperature / over).to(temperature.dtype)
        )
        mean: Tensor = value / over
        return mean.to(image.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.needs_input_grad[2:], strict=True)
        return None, None, *(grad * saved if needed else None for saved, needed in pairs)


def _apply(*given: Any) -> Tensor:
    apply: Callable[..., Tensor] = _Blocks.apply
    return apply(*given)


# A graph of its own for every block, and state of the loss: nothing that a compiler could follow.
_not_compiled: Callable[..., Tensor] = torch.compiler.disable(_apply)


def _directions(batch: LossInputs) -> tuple[tuple[Items, Tensor, Tensor], tuple[Items, Tensor, Tensor]]:
    image, text = batch.embeddings.image, batch.embeddings.text
    return ("image", image, text), ("text", text, image)


def _same(batch: LossInputs, rows: slice) -> Tensor:
    ids_B = ids_or_all_different(batch.image_ids, batch.embeddings.image)
    return ids_B[rows, None] == ids_B[None, :]
