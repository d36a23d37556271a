"""The three losses and their gradients without any B x B matrix: tiles, running log-sum-exp, memory of O(B D).

Two passes over tiles of similarities. The first keeps, for every row of every softmax, its normaliser and a few
weighted sums: enough for the values. The second computes the tiles again and turns each into gradients at once. What is
symmetric (teachers, uni-modal similarities) is computed for half of the tiles only.

Legend: B pairs, D and E widths, T rows of a tile. A direction is one softmax an item: image to text, text to image,
image to image, text to text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cusa.train.losses.csa import Divergence, Fusion, fuse
from cusa.train.losses.infonce import Reduction

TILE = 512
"""Rows of a tile on a CPU: a dozen float32 tiles stay in its caches."""
TILE_ON_DEVICE = 4096


@dataclass(frozen=True)
class Modes:
    """What the terms are, beside their temperatures."""

    infonce: bool = True
    csa: bool = True
    usa: bool = True
    reduction: Reduction = "standard"
    fusion: Fusion = "each"
    divergence: Divergence = "kl"
    tile: int = 0
    """Rows of a tile; 0 = what suits the device."""


def streamed(
    image: Tensor,
    text: Tensor,
    image_uni: Tensor | None,
    text_uni: Tensor | None,
    teacher_image: Tensor | None,
    teacher_text: Tensor | None,
    image_ids: Tensor | None,
    *,
    temperature: Tensor,
    csa_temperatures: tuple[Tensor, Tensor],
    usa_temperatures: tuple[Tensor, Tensor],
    teacher_temperatures: tuple[Tensor, Tensor],
    usa_teacher_temperatures: tuple[Tensor, Tensor],
    modes: Modes,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return InfoNCE, CSA and USA as `infonce`, `csa` and `usa` do, unweighted; those not asked for are 0.

    Args:
        image: (B, D) unit rows, all inputs of one type, float32 or float64.
        text: (B, D) unit rows.
        image_uni: (B, any) unit rows, or None without USA.
        text_uni: (B, any) unit rows, or None without USA.
        teacher_image: (B, E) unit rows, or None without CSA and USA; no gradient.
        teacher_text: (B, F) unit rows, likewise.
        image_ids: (B,) integers, or None.
        temperature: InfoNCE's, 0-d.
        csa_temperatures: image-to-text, text-to-image.
        usa_temperatures: images, texts.
        teacher_temperatures: of CSA's soft labels: images, texts.
        usa_teacher_temperatures: of USA's soft labels; the very same tensors save work.
        modes: which terms, and which variants of them.

    Returns:
        Three scalars, each differentiable on its own, once.
    """
    labels = (*teacher_temperatures, *usa_teacher_temperatures)
    # Which soft labels are the same is a question of identity, so it is asked before autograd wraps the arguments.
    alike = tuple(next(k for k, first in enumerate(labels) if first is label) for label in labels)
    return _Streamed.apply(
        modes,
        alike,
        image_ids,
        teacher_image,
        teacher_text,
        image,
        text,
        image_uni,
        text_uni,
        temperature,
        *csa_temperatures,
        *usa_temperatures,
        *labels,
    )


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, modes: Modes, alike: tuple[int, ...], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.job = _Job(modes, alike, tensors)
        with torch.autocast(ctx.job.device.type, enabled=False):
            ctx.job.measure()
            values = ctx.job.values()
        ctx.job.release_inputs()
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        job: _Job = ctx.job
        with torch.autocast(job.device.type, enabled=False):
            job.bind(ctx.saved_tensors)
            found = job.gradients(grads, ctx.needs_input_grad[2:])
        job.release_inputs()
        return None, None, *found


@dataclass
class _Label:
    """The soft labels of one direction: symmetric, and largest on the diagonal, where the cosine is 1."""

    source: str
    temperature: int
    """Position among the temperatures."""
    norm_B: Tensor
    """sum_j exp((a_ij - 1) / u)"""
    weighted_B: Tensor
    """sum_j exp((a_ij - 1) / u) a_ij"""


@dataclass
class _Direction:
    """One softmax a row of the student, and the soft label it is compared with."""

    view: str
    temperature: int
    label: _Label | None = None
    most_B: Tensor = field(default_factory=lambda: torch.empty(0))
    sum_B: Tensor = field(default_factory=lambda: torch.empty(0))
    """Of the running log-sum-exp."""
    crossed_B: Tensor = field(default_factory=lambda: torch.empty(0))
    """sum_j exp((a_ij - 1) / u) s_ij"""
    value_B: Tensor = field(default_factory=lambda: torch.empty(0))
    """What each row adds to the loss."""

    def log_norm_B(self) -> Tensor:
        return self.most_B + self.sum_B.log().to(self.most_B.dtype)


class _Job:
    """One call: inputs, what the first pass found, gradients.

    Args:
        modes: what is asked for.
        alike: for each of the four temperatures of soft labels, the first one that is the same.
        tensors: ids, two teachers, four embeddings, nine temperatures.
    """

    def __init__(self, modes: Modes, alike: tuple[int, ...], tensors: Sequence[Tensor | None]) -> None:
        self.modes = modes
        self.bind(tensors)
        image = self.image
        self.size, self.device, self.dtype = len(image), image.device, image.dtype
        # Sums over B rows lose digits that the sum over a tile has kept.
        self.exact = torch.float64 if self.device.type != "mps" else self.dtype
        self.tile = modes.tile or (TILE if self.device.type == "cpu" else TILE_ON_DEVICE)
        self.labels: dict[tuple[str, int], _Label] = {}
        both = ("image", "text") if modes.fusion == "each" else ("fused", "fused")
        self.nce = [self._direction("rows", 0), self._direction("columns", 0)] if modes.infonce else []
        self.csa = (
            [self._direction(view, 1 + k, self._label(both[k], alike[k])) for k, view in enumerate(("rows", "columns"))]
            if modes.csa
            else []
        )
        self.usa = (
            [self._direction(view, 3 + k, self._label(view, alike[2 + k])) for k, view in enumerate(("image", "text"))]
            if modes.usa
            else []
        )

    def bind(self, tensors: Sequence[Tensor | None]) -> None:
        self.ids, teacher_image, teacher_text, image, text, image_uni, text_uni = tensors[:7]
        assert image is not None
        assert text is not None
        self.image, self.text = image, text
        self.uni = {"image": image_uni, "text": text_uni}
        self.teachers = {"image": teacher_image, "text": teacher_text}
        self.temperatures = [t.to(image.dtype) for t in tensors[7:] if t is not None]

    def release_inputs(self) -> None:
        """Drop what autograd keeps anyhow."""
        del self.ids, self.image, self.text, self.uni, self.teachers, self.temperatures

    def _zeros(self) -> Tensor:
        return torch.zeros(self.size, dtype=self.exact, device=self.device)

    def _label(self, source: str, alike: int) -> _Label:
        key = (source, alike)
        if key not in self.labels:
            self.labels[key] = _Label(source, 5 + alike, self._zeros(), self._zeros())
        return self.labels[key]

    def _direction(self, view: str, temperature: int, label: _Label | None = None) -> _Direction:
        most = torch.full((self.size,), -torch.inf, dtype=self.dtype, device=self.device)
        return _Direction(view, temperature, label, most, self._zeros(), self._zeros())

    def _pairs(self) -> Iterator[tuple[slice, slice]]:
        """Yield the tiles on and above the diagonal."""
        slices = [slice(start, min(start + self.tile, self.size)) for start in range(0, self.size, self.tile)]
        for k, rows in enumerate(slices):
            for columns in slices[k:]:
                yield rows, columns

    def _soft(self, rows: slice, columns: slice) -> dict[int, tuple[Tensor, Tensor]]:
        """Return for each label its similarities a and exp((a - 1) / u) on one tile."""
        sources: dict[str, Tensor] = {}
        if self.labels:
            for modality, teacher in self.teachers.items():
                assert teacher is not None
                sources[modality] = teacher[rows] @ teacher[columns].T
            if self.modes.fusion != "each":
                sources["fused"] = fuse(sources["image"], sources["text"], self.modes.fusion)[0]
        return {
            id(label): (
                sources[label.source],
                ((sources[label.source] - 1) / self.temperatures[label.temperature]).exp_(),
            )
            for label in self.labels.values()
        }

    def _cross(self, rows: slice, columns: slice) -> list[tuple[Tensor, slice, slice]]:
        """Return the tile of s and, off the diagonal, the mirrored one: (T, T), image rows, text rows."""
        if not (self.nce or self.csa):
            return []
        found = [(self.image[rows] @ self.text[columns].T, rows, columns)]
        if rows != columns:
            # As texts x images, so that its rows and columns are those of the symmetric tiles.
            found.append((self.text[rows] @ self.image[columns].T, columns, rows))
        return found

    def _sides(
        self, direction: _Direction, rows: slice, columns: slice, cross: list[tuple[Tensor, slice, slice]]
    ) -> Iterator[tuple[int, slice, int]]:
        """Yield where a direction's items lie: which cross tile, which items, along which axis their softmax runs."""
        for k in range(len(cross)):
            # The first tile has images as rows, the mirrored one texts.
            axis = 1 if (direction.view == "rows") == (k == 0) else 0
            yield k, rows if axis == 1 else columns, axis

    def measure(self) -> None:
        """First pass: every normaliser and weighted sum."""
        for rows, columns in self._pairs():
            mirrored = rows != columns
            axes = ((rows, 1), (columns, 0)) if mirrored else ((rows, 1),)
            soft = self._soft(rows, columns)
            for label in self.labels.values():
                a_TT, e_TT = soft[id(label)]
                weighted_TT = e_TT * a_TT
                for items, axis in axes:
                    label.norm_B[items] += e_TT.sum(axis)
                    label.weighted_B[items] += weighted_TT.sum(axis)
            cross = self._cross(rows, columns)
            for direction in (*self.nce, *self.csa):
                for k, items, axis in self._sides(direction, rows, columns, cross):
                    s_TT = cross[k][0]
                    _add(direction, items, s_TT / self.temperatures[direction.temperature], axis)
                    if direction.label is not None:
                        direction.crossed_B[items] += (soft[id(direction.label)][1] * s_TT).sum(axis)
            for direction in self.usa:
                assert direction.label is not None
                uni = self.uni[direction.view]
                assert uni is not None
                r_TT = uni[rows] @ uni[columns].T
                e_TT = ((r_TT - 1) / self.temperatures[direction.temperature]).exp_()
                crossed_TT = soft[id(direction.label)][1] * r_TT
                for items, axis in axes:
                    direction.sum_B[items] += e_TT.sum(axis)
                    direction.crossed_B[items] += crossed_TT.sum(axis)
        for direction in self.usa:
            direction.most_B = (1 / self.temperatures[direction.temperature]).expand(self.size)
        # A teacher's or student's row of zeros is equal to nothing, not even itself: its sums may vanish.
        for norm_B in [label.norm_B for label in self.labels.values()] + [d.sum_B for d in self.usa]:
            norm_B.clamp_(min=torch.finfo(self.dtype).tiny)

    def values(self) -> tuple[Tensor, ...]:
        """Return the three terms."""
        found = []
        infonce = self.image.new_zeros(())
        if self.nce:
            both_B = sum(direction.most_B.to(self.exact) + direction.sum_B.log() for direction in self.nce)
            assert isinstance(both_B, Tensor)
            self.positive = (self.image * self._own_means()[1]).sum(dtype=self.exact)
            infonce = both_B.mean() / 2 - self.positive / (self.size * self.temperatures[0])
            infonce = infonce / self._rows(self.modes.reduction == "release")
        found.append(infonce.to(self.dtype))
        for directions in (self.csa, self.usa):
            total = self.image.new_zeros((), dtype=self.exact)
            for direction in directions:
                assert direction.label is not None
                label, norm_B = direction.label, direction.label.norm_B
                value_B = direction.most_B.to(self.exact) + direction.sum_B.log()
                value_B = value_B - direction.crossed_B / norm_B / self.temperatures[direction.temperature]
                if self.modes.divergence == "kl":
                    u = self.temperatures[label.temperature].to(self.exact)
                    value_B = value_B + label.weighted_B / norm_B / u - (norm_B.log() + 1 / u)
                direction.value_B = value_B.to(self.dtype)
                total = total + value_B.mean() / 2
            found.append((total / self._rows(self.modes.divergence == "cross_entropy_release")).to(self.dtype))
        return tuple(found)

    def _rows(self, divided: bool) -> int:
        return self.size if divided else 1

    def _own_means(self) -> tuple[Tensor, Tensor]:
        """Return for every pair the mean image and the mean text of the pairs that show the same image."""
        if self.ids is None:
            return self.image, self.text
        # Groups are numbered by where their id first stands in order: no shape depends on the data.
        ordered = self.ids.sort().values
        group_B = torch.searchsorted(ordered, self.ids)
        count_B = torch.zeros_like(self.image[:, 0]).index_put_(
            (group_B,), torch.ones_like(self.image[:, 0]), accumulate=True
        )
        image, text = (
            (torch.zeros_like(each).index_put_((group_B,), each, accumulate=True) / count_B.clamp(min=1)[:, None])[
                group_B
            ]
            for each in (self.image, self.text)
        )
        return image, text

    def gradients(self, grads: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
        """Second pass: the gradient of every input, given those of the three terms."""
        modes, temperatures = self.modes, self.temperatures
        half = [grad / (2 * self.size) for grad in grads]
        half[0] = half[0] / self._rows(modes.reduction == "release")
        for k in (1, 2):
            half[k] = half[k] / self._rows(modes.divergence == "cross_entropy_release")
        d_image, d_text = torch.zeros_like(self.image), torch.zeros_like(self.text)
        d_uni = {view: torch.zeros_like(rows) for view, rows in self.uni.items() if rows is not None and self.usa}
        d_temperature = [torch.zeros((), dtype=self.exact, device=self.device) for _ in temperatures]
        log_norms = {id(direction): direction.log_norm_B() for direction in (*self.nce, *self.csa, *self.usa)}
        shares = {id(label): (1 / label.norm_B).to(self.dtype) for label in self.labels.values()}
        learned = needed[7:]

        def teach(
            direction: _Direction,
            items: slice,
            axis: int,
            s_TT: Tensor,
            soft: dict[int, tuple[Tensor, Tensor]],
            weight: Tensor,
        ) -> None:
            """Add one tile's part of the gradient of a soft label's temperature."""
            label = direction.label
            assert label is not None
            if not learned[label.temperature]:
                return
            a_TT, e_TT = soft[id(label)]
            u = temperatures[label.temperature]
            # q_ij (d_ij - mean d_i) a_ij, where d is what each element adds to the divergence.
            centre_B = log_norms[id(direction)][items] - direction.value_B[items]
            gap_TT = -s_TT / temperatures[direction.temperature]
            if modes.divergence == "kl":
                gap_TT += a_TT / u
                centre_B = centre_B - (label.norm_B.log() + 1 / u).to(self.dtype)[items]
            gap_TT += centre_B.unsqueeze(axis)
            gap_TT *= e_TT * shares[id(label)][items].unsqueeze(axis)
            d_temperature[label.temperature] -= weight * (gap_TT * a_TT).sum() / u**2

        for rows, columns in self._pairs():
            mirrored = rows != columns
            soft = self._soft(rows, columns)
            cross = self._cross(rows, columns)
            slopes = [torch.zeros_like(s_TT) for s_TT, _, _ in cross]
            for directions, weight in ((self.nce, half[0]), (self.csa, half[1])):
                for direction in directions:
                    t = temperatures[direction.temperature]
                    for k, items, axis in self._sides(direction, rows, columns, cross):
                        s_TT = cross[k][0]
                        slope_TT = (s_TT / t).sub_(log_norms[id(direction)][items].unsqueeze(axis)).exp_()
                        if direction.label is not None:
                            share_T = shares[id(direction.label)][items].unsqueeze(axis)
                            slope_TT.addcmul_(soft[id(direction.label)][1], share_T, value=-1)
                            teach(direction, items, axis, s_TT, soft, weight)
                        if learned[direction.temperature]:
                            d_temperature[direction.temperature] -= weight * (slope_TT * s_TT).sum() / t**2
                        slopes[k] += slope_TT.mul_(weight / t)
            for (_, images, texts), slope_TT in zip(cross, slopes, strict=True):
                by_image = slope_TT if images is rows else slope_TT.T
                d_image[images].addmm_(by_image, self.text[texts])
                d_text[texts].addmm_(by_image.T, self.image[images])

            for direction in self.usa:
                uni = self.uni[direction.view]
                assert uni is not None
                assert direction.label is not None
                t = temperatures[direction.temperature]
                r_TT = uni[rows] @ uni[columns].T
                share_B = (1 / direction.sum_B).to(self.dtype)
                soft_B = shares[id(direction.label)]
                # Both directions at once: item i sees item j, and j sees i.
                slope_TT = ((r_TT - 1) / t).exp_().mul_(share_B[rows, None] + share_B[None, columns])
                slope_TT.addcmul_(soft[id(direction.label)][1], soft_B[rows, None] + soft_B[None, columns], value=-1)
                d_uni[direction.view][rows].addmm_(slope_TT, uni[columns])
                teach(direction, rows, 1, r_TT, soft, half[2])
                if mirrored:
                    d_uni[direction.view][columns].addmm_(slope_TT.T, uni[rows])
                    teach(direction, columns, 0, r_TT, soft, half[2])

        if self.nce:
            pull = 2 * half[0] / temperatures[0]
            own_image, own_text = self._own_means()
            d_image.sub_(pull * own_text)
            d_text.sub_(pull * own_image)
            d_temperature[0] += pull * self.positive / temperatures[0]
        for direction in self.usa:
            uni = self.uni[direction.view]
            assert uni is not None
            t = temperatures[direction.temperature]
            d_uni[direction.view].mul_(half[2] / t)
            # r_ij = u_i u_j: the rows' gradients hold the sum over all tiles already, each tile twice.
            d_temperature[direction.temperature] -= (uni * d_uni[direction.view]).sum(dtype=self.exact) / (2 * t)
        crossed = [d_image, d_text] if self.nce or self.csa else [None, None]
        found: list[Tensor | None] = [None, None, None, *crossed, d_uni.get("image"), d_uni.get("text")]
        found += [grad.to(self.dtype) for grad in d_temperature]
        return [grad if wanted else None for grad, wanted in zip(found, needed, strict=True)]


def _add(direction: _Direction, items: slice, logits_TT: Tensor, axis: int) -> None:
    """Take a tile of logits, which is overwritten, into the running log-sum-exp of some items."""
    before = direction.most_B[items]
    most = torch.maximum(before, logits_TT.amax(axis))
    scaled = direction.sum_B[items] * (before - most).exp()
    direction.sum_B[items] = scaled + logits_TT.sub_(most.unsqueeze(axis)).exp_().sum(axis)
    direction.most_B[items] = most
