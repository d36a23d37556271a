"""The three losses and their gradients without any B x B matrix: tiles, running sums, memory of O(B D).

One autograd function around the two passes of `tiles.Tiles`. What InfoNCE's targets draw together needs no softmax and
no tile: `false_negatives.smoothed_pull` sums it, a few columns of the embeddings at a time.

Legend: B pairs in the batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cusa.train.losses.batch import LossInputs, Modes, Temperatures
from cusa.train.losses.false_negatives import smoothed_pull
from cusa.train.losses.streaming.kernel_tiles import KernelTiles, covers
from cusa.train.losses.streaming.tile_parts import cut
from cusa.train.losses.streaming.tiles import Tiles


def streamed(batch: LossInputs, temperatures: Temperatures, modes: Modes) -> tuple[Tensor, Tensor, Tensor]:
    """Return InfoNCE, CSA and USA as `plain` does, unweighted; those that `modes` leaves out are 0.

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
    # Which temperatures are the same is a question of identity, so it is answered before anything wraps them.
    alike = tuple(next(k for k, first in enumerate(given) if first is one) for one in given)
    wide = [one.to(exact) for one in given]
    wide = [wide[k] for k in alike]
    log_norms, csa, usa, drawn = _not_compiled(batch, modes, alike, *batch.embeddings, *wide)
    zero = image.new_zeros(())
    infonce = zero
    if modes.infonce:
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
        ctx: Any, batch: LossInputs, modes: Modes, alike: tuple[int, ...], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.drawing = (batch.image_ids, batch.own, batch.extra) if modes.infonce else None
        ctx.smoothing = modes.smoothing
        image, text = tensors[:2]
        assert image is not None
        assert text is not None
        with torch.autocast(_device_type(tensors), enabled=False):
            # Four embeddings, two teachers and five temperatures stand before those of the soft labels.
            learned = ctx.needs_input_grad[14:]
            kind = KernelTiles if covers(modes, batch, image, learned) else Tiles
            ctx.tiles = kind(modes, alike, batch, tensors)
            ctx.tiles.measure()
            values = ctx.tiles.values()
            drawn = torch.zeros_like(values[0])
            if ctx.drawing is not None:
                for columns in _columns(image):
                    drawn += smoothed_pull(image[:, columns], text[:, columns], *ctx.drawing, smoothing=ctx.smoothing)
        ctx.tiles.release_inputs()
        return (*values, drawn)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tiles: Tiles = ctx.tiles
        with torch.autocast(_device_type(ctx.saved_tensors), enabled=False):
            tiles.bind(ctx.saved_tensors)
            gradients = tiles.gradients(grads, ctx.needs_input_grad[3:])
            if ctx.drawing is not None:
                _add_drawn(ctx.saved_tensors[:2], gradients[:2], grads[3], ctx.drawing, ctx.smoothing)
        tiles.release_inputs()
        return None, None, None, *gradients


def _apply(*given: Any) -> tuple[Tensor, ...]:
    apply: Callable[..., tuple[Tensor, ...]] = _Streamed.apply
    return apply(*given)


# Tiles keep sums from one pass for the other, which a compiler cannot follow; there is nothing in them to fuse.
_not_compiled: Callable[..., tuple[Tensor, ...]] = torch.compiler.disable(_apply)


def _columns(rows: Tensor) -> list[slice]:
    """Return slices of an embedding's numbers, so narrow that copies of them weigh little."""
    return cut(slice(0, rows.shape[1]), 64)


def _add_drawn(
    given: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    grad: Tensor,
    drawing: tuple[Any, ...],
    smoothing: float,
) -> None:
    """Add the gradient of `smoothed_pull` to those of images and texts."""
    for columns in _columns(given[0]):
        narrow = [rows[:, columns].detach().requires_grad_() for rows in given]
        with torch.enable_grad():
            drawn = smoothed_pull(narrow[0], narrow[1], *drawing, smoothing=smoothing)
        for whole, part in zip(gradients, torch.autograd.grad(drawn, narrow, grad), strict=True):
            if whole is not None:
                whole[:, columns] += part


def _device_type(tensors: tuple[Tensor | None, ...]) -> str:
    return next(tensor.device.type for tensor in tensors if tensor is not None)
