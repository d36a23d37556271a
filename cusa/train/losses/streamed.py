"""The three losses and their gradients without any B x B matrix: tiles, running sums, memory of O(B D).

One autograd function around the two passes of `tiles.Tiles`. What InfoNCE's targets draw together needs no softmax and
no tile, so ordinary operations do it (`false_negatives.pull`).

Legend: B pairs in the batch.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cusa.train.losses.batch import Batch, Modes, Temperatures
from cusa.train.losses.false_negatives import Near, pull
from cusa.train.losses.kernel_tiles import KernelTiles, covers
from cusa.train.losses.tiles import Tiles


def streamed(batch: Batch, temperatures: Temperatures, modes: Modes) -> tuple[Tensor, Tensor, Tensor]:
    """Return InfoNCE, CSA and USA as `plain` does, unweighted; those not asked for are 0.

    Args:
        batch: B pairs; no gradient flows into the teachers.
        temperatures: of all terms.
        modes: which terms, and which variants of them.

    Returns:
        Three scalars, each differentiable on its own, once: sums over the rows that count, divided by B.
    """
    image = batch.embeddings.image
    # Sums over B rows lose digits that the sum over a tile has kept.
    exact = torch.float64 if image.device.type != "mps" else image.dtype
    t = temperatures
    given = (t.infonce, *t.csa, *t.usa, *t.teacher, *t.usa_teacher)
    # Which temperatures are the same is a question of identity, so it is asked before anything wraps them.
    alike = tuple(next(k for k, first in enumerate(given) if first is one) for one in given)
    wide = [one.to(exact) for one in given]
    wide = [wide[k] for k in alike]
    log_norms, csa, usa = _Streamed.apply(modes, alike, batch.own, batch.near, *batch.embeddings, *wide)
    zero = image.new_zeros(())
    infonce = zero
    if modes.infonce:
        drawn = pull(image, batch.embeddings.text, batch.image_ids, batch.own, batch.extra)
        infonce = ((log_norms - drawn / wide[0]) / (2 * batch.size)).to(image.dtype)
        infonce = infonce / batch.size if modes.reduction == "release" else infonce
    divisor = 2 * batch.size * (batch.size if modes.divergence == "cross_entropy_release" else 1)
    return (
        infonce,
        (csa / divisor).to(image.dtype) if modes.csa else zero,
        (usa / divisor).to(image.dtype) if modes.usa else zero,
    )


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, modes: Modes, alike: tuple[int, ...], rows: slice, near: Near | None, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        with torch.autocast(_device_type(tensors), enabled=False):
            image = tensors[0]
            assert image is not None
            # Four embeddings, two teachers and five temperatures stand before those of the soft labels.
            kind = KernelTiles if covers(modes, rows, image, near, ctx.needs_input_grad[15:]) else Tiles
            ctx.tiles = kind(modes, alike, rows, near, tensors)
            ctx.tiles.measure()
            values = ctx.tiles.values()
        ctx.tiles.release_inputs()
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tiles: Tiles = ctx.tiles
        with torch.autocast(_device_type(ctx.saved_tensors), enabled=False):
            tiles.bind(ctx.saved_tensors)
            found = tiles.gradients(grads, ctx.needs_input_grad[4:])
        tiles.release_inputs()
        return None, None, None, None, *found


def _device_type(tensors: tuple[Tensor | None, ...]) -> str:
    return next(tensor.device.type for tensor in tensors if tensor is not None)
