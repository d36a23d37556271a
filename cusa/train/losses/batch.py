"""The inputs of a loss: embeddings, ids, temperatures, modes.

Legend: B pairs in the batch (of all ranks where they share it); D width of an embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cusa.train.across_ranks import PassesTo, gather, num_ranks, own_rows, rows_of_ranks
from cusa.train.losses.csa import Divergence, Fusion
from cusa.train.losses.false_negatives import Extra, Near
from cusa.train.losses.infonce import Reduction
from cusa.train.losses.pair_probability import ProbablePairs

Negatives = Literal["local", "global", "release"]
Contrast = Literal["infonce", "sigmoid"]


@dataclass(frozen=True)
class Modes:
    """Which terms there are, and their variants."""

    infonce: bool = True
    csa: bool = True
    usa: bool = True
    reduction: Reduction = "standard"
    fusion: Fusion = "each"
    divergence: Divergence = "kl"
    smoothing: float = 0.0
    """Share of InfoNCE's targets that is spread evenly over all columns."""
    kernels: bool = False
    """Whether Triton's kernels stream, where they cover the rest."""
    calibrated: bool = False
    """Whether CSA's soft labels are the pairs' probabilities."""
    debiased: bool = False
    """Whether foreign pairs weigh in InfoNCE's denominators as much as they are probably false."""
    lowest: tuple[float, ...] = (0.0,) * 9
    """The lowest value that each temperature may have, in the order of `Temperatures`: bounds are known without asking
    the device; 0 = unknown."""


class Embeddings(NamedTuple):
    """A batch as the tiles read it: unit rows of one type, float32 or float64; None where no term uses them."""

    image: Tensor
    text: Tensor
    image_uni: Tensor | None = None
    text_uni: Tensor | None = None
    teacher_image: Tensor | None = None
    teacher_text: Tensor | None = None

    def unit(self, dtype: torch.dtype) -> "Embeddings":
        """Return the rows in one type, normalised; a row of zeros stays one."""
        image, text, *others = (None if each is None else _unit(each.to(dtype)) for each in self)
        assert image is not None
        assert text is not None
        return Embeddings(image, text, *others)


def _unit(rows: Tensor) -> Tensor:
    apply: Callable[[Tensor], Tensor] = _Unit.apply
    return apply(rows)


class _Unit(torch.autograd.Function):
    """`torch.nn.functional.normalize` of rows; its gradient in one new tensor, where autograd's chain holds four."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(1e-12)
        unit = rows / norm
        ctx.save_for_backward(unit, norm)
        ctx.set_materialize_grads(False)  # rows that no term reads stay without a gradient
        return unit

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Tensor | None:
        if grad is None:
            return None
        unit: Tensor
        norm: Tensor
        unit, norm = ctx.saved_tensors
        along = (grad * unit).sum(1, keepdim=True)
        return torch.addcmul(grad, unit, along, value=-1) / norm


@dataclass(frozen=True)
class LossInputs:
    """B pairs, and the rows whose softmaxes count."""

    embeddings: Embeddings
    image_ids: Tensor | None = None
    """(B,) integers, equal for pairs of the same image; None: all different."""
    rows: slice | None = None
    """The rows that are averaged over, divided by B; None: all. The columns are all in any case."""
    near: Near | None = None
    """Thresholds of the pairs that leave InfoNCE's denominators."""
    extra: Extra | None = None
    """Further positives of InfoNCE."""
    ignored: Extra | None = None
    """Listed pairs that leave InfoNCE's denominators."""
    probable: ProbablePairs | None = None
    """The probabilities of foreign pairs; needed for `calibrated` and `debiased`."""
    text_ids: Tensor | None = None
    """(B,) integers that name the captions; needed for `thresholds`."""

    @property
    def size(self) -> int:
        """B."""
        return len(self.embeddings.image)

    @property
    def own(self) -> slice:
        """The rows that count."""
        return slice(0, self.size) if self.rows is None else self.rows


class Temperatures(NamedTuple):
    """0-d tensors; where two are one parameter, the very same tensor saves work."""

    infonce: Tensor
    csa: tuple[Tensor, Tensor]
    """Image to text, text to image."""
    usa: tuple[Tensor, Tensor]
    """Images, texts."""
    teacher: tuple[Tensor, Tensor]
    """Of CSA's soft labels: images, texts."""
    usa_teacher: tuple[Tensor, Tensor]


def ids_or_all_different(image_ids: Tensor | None, rows: Tensor) -> Tensor:
    """Return the ids, or as many that are all different as there are rows."""
    return torch.arange(len(rows), device=rows.device) if image_ids is None else image_ids


def share(
    rows: Embeddings,
    image_ids: Tensor | None,
    text_ids: Tensor | None,
    listed: Tensor | None,
    negatives: Negatives,
    *,
    counts: tuple[int, ...] | None = None,
) -> tuple[Embeddings, slice, Tensor | None, Tensor | None, Tensor | None]:
    """Return the rows of all ranks where they are each other's negatives, and which of them count on this one.

    Args:
        rows: of this rank.
        image_ids: (B,) or None on every rank.
        text_ids: likewise.
        listed: (P, 2) listed pairs of this rank, or None on every rank.
        negatives: see `CUSALoss`.
        counts: rows of every rank; None: the ranks ask each other, and the host waits for their answer.

    Returns:
        The arguments, gathered; with `global` this rank's rows count, with `release` all.
    """
    if negatives == "local" or num_ranks() == 1:
        return rows, slice(0, len(rows.image)), image_ids, text_ids, listed
    counts = counts or rows_of_ranks(len(rows.image), rows.image.device)
    passes_to: PassesTo = "every rank" if negatives == "global" else "own rows"
    own = own_rows(counts) if negatives == "global" else slice(0, sum(counts))
    image, text, *others = (None if each is None else gather(each, counts, passes_to=passes_to) for each in rows)
    assert image is not None
    assert text is not None
    everyone = Embeddings(image, text, *others)
    image_ids, text_ids = (each if each is None else gather(each, counts) for each in (image_ids, text_ids))
    if listed is not None:
        listed = gather(listed, rows_of_ranks(len(listed), listed.device))
    return everyone, own, image_ids, text_ids, listed
