"""`Tiles` with its two passes on a CUDA device by Triton kernels, for the cases they cover.

They cover every mode, temperature and width of one process's whole batch in float32. A mask of false negatives,
probabilities of them, a learned temperature of the soft labels, rows shared over ranks and float64 go through the tiles
of torch operations.

Legend: B pairs.
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from cusa.errors import ConfigError
from cusa.train.losses.batch import LossInputs, Modes
from cusa.train.losses.streaming.tile_parts import Direction, Label, cut
from cusa.train.losses.streaming.tiles import Tiles


class KernelTiles(Tiles):
    """One call; see `Tiles`."""

    def _read(self) -> tuple[torch.dtype, str]:
        """Return the type that kernels read, and how they multiply it."""
        precision = torch.get_float32_matmul_precision()
        dtype = torch.bfloat16 if precision == "medium" else self.dtype
        if self.device.type == "cpu":  # the interpreter
            return dtype, "upcast"
        return dtype, "tf32" if precision == "high" else "ieee"

    def _views(self) -> list[tuple[list[Direction], Tensor, Tensor]]:
        """Return for each softmax direction, with all its terms: rows, columns."""
        views = []
        for items, rows, columns in (("image", self.image, self.text), ("text", self.text, self.image)):
            terms = [direction for direction in (*self.nce, *self.csa) if direction.items == items]
            if terms:
                views.append((terms, rows, columns))
        for direction in self.usa:
            uni = self.uni[direction.items]
            assert uni is not None
            views.append(([direction], uni, uni))
        return views

    def _teachers_of(self, source: str) -> tuple[Tensor | None, Tensor | None, str]:
        """Return the teachers that make a label, and how they are joined."""
        if source == "fused":
            return self.teachers["image"], self.teachers["text"], self.modes.fusion
        return self.teachers[source], None, "each"

    def measure(self) -> None:
        """First pass."""
        from cusa.train.losses.streaming import kernels

        dtype, read = self._read()
        self._drawn: dict[int, Tensor] = {}
        for terms, rows, columns in self._views():
            hard = next((one for one in terms if one.label is None), None)
            soft = next((one for one in terms if one.label is not None), None)
            first, second, fusion = None, None, "each"
            if soft is not None:
                assert soft.label is not None
                first, second, fusion = self._teachers_of(soft.label.source)
            x, y, a, b = (_read_as(each, rows, dtype) for each in (rows, columns, first, second))
            out = torch.empty(9, self.size, dtype=torch.float32, device=self.device)
            kernels.statistics[lambda tuned: (-(-self.size // tuned["M"]),)](
                x,
                y,
                a,
                b,
                out,
                self.size,
                x.shape[1],
                a.shape[1],
                b.shape[1],
                self._inverses(hard, soft, soft.label if soft else None),
                HARD=hard is not None,
                SOFT=soft is not None,
                FUSION=fusion,
                READ=read,
            )
            for direction, place in ((hard, 0), (soft, 3)):
                if direction is not None:
                    direction.most_B = out[place].to(self.dtype)
                    direction.sum_B = out[place + 1].to(self.exact)
                    self._drawn[id(direction)] = out[place + 2].to(self.exact)
            if soft is not None and soft.label is not None:
                soft.label.norm_B, soft.label.weighted_B, soft.crossed_B = (out[k].to(self.exact) for k in (6, 7, 8))
                soft.label.norm_B.clamp_(min=1e-30)

    def gradients(self, grads: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
        """Second pass."""
        d_temperatures = [torch.zeros((), dtype=self.exact, device=self.device) for _ in needed[6:]]
        for directions, grad in ((self.nce, grads[0]), (self.csa, grads[1]), (self.usa, grads[2])):
            for direction in directions:
                pulled_B = self._drawn[id(direction)] / direction.sum_B
                if direction.label is not None:
                    pulled_B = pulled_B - direction.crossed_B / direction.label.norm_B
                d_temperatures[direction.temperature] -= grad * pulled_B.sum() * self.per[direction.temperature] ** 2
        d_image, d_text = torch.zeros_like(self.image), torch.zeros_like(self.text)
        if self.nce or self.csa:
            self._walk((self.image, self.text), (self.nce, self.csa), (grads[0], grads[1]), (d_image, d_text))
        d_uni: dict[str, Tensor] = {}
        for direction in self.usa:
            uni = self.uni[direction.items]
            assert uni is not None
            d_uni[direction.items] = torch.zeros_like(uni)
            self._walk((uni, uni), ([], [direction] * 2), (grads[0], grads[2]), (d_uni[direction.items], None))
        crossed = [d_image, d_text] if self.nce or self.csa else [None, None]
        gradients: list[Tensor | None] = [*crossed, d_uni.get("image"), d_uni.get("text"), None, None]
        gradients += d_temperatures
        return [grad if wanted else None for grad, wanted in zip(gradients, needed, strict=True)]

    def _walk(
        self,
        inputs: tuple[Tensor, Tensor],
        directions: tuple[Sequence[Direction], Sequence[Direction]],
        grads: tuple[Tensor, Tensor],
        gradients: tuple[Tensor, Tensor | None],
    ) -> None:
        """Add the gradients of rows and columns, tile by tile.

        Args:
            inputs: embeddings of the rows, and of the columns.
            directions: those of InfoNCE, and those of a term with soft labels.
            grads: of the value of each of these two terms.
            gradients: of rows and columns, to be added to; no columns where they are the rows.
        """
        from cusa.train.losses.streaming import kernels

        (x, y), (hard, soft), (hard_grad, soft_grad), (d_x, d_y) = inputs, directions, grads, gradients
        dtype, read = self._read()
        nothing = torch.zeros(self.size, dtype=self.exact, device=self.device)
        norms = [direction.log_norm_B() for direction in hard] or [nothing, nothing]
        norms += [direction.log_norm_B() for direction in soft] or [nothing, nothing]
        fusion, first, second = "each", None, None
        for direction in soft:
            assert direction.label is not None
            norms.append(direction.label.norm_B.log() + self.per[direction.label.temperature])
        labels = [direction.label for direction in soft]
        if soft:
            assert labels[0] is not None
            assert labels[1] is not None
            first, second, fusion = self._teachers_of(labels[0].source)
            if labels[0].source != labels[1].source:
                second = self.teachers[labels[1].source]
        else:
            norms += [nothing, nothing]
        two_labels = second is not None and fusion == "each"
        pers = self._inverses(hard[0] if hard else None, *(soft or (None, None)), *(labels or (None, None)))
        weights = torch.stack([hard_grad, soft_grad, soft_grad]).float() * pers[:3]
        stacked = torch.stack(norms).float()
        read_inputs = [_read_as(each, x, dtype) for each in (x, y, first, second)]
        for rows in cut(slice(0, self.size), self.tile):
            for columns in cut(slice(0, self.size), self.tile):
                shape = rows.stop - rows.start, columns.stop - columns.start
                slope = torch.empty(shape, dtype=dtype, device=self.device)
                kernels.slopes[lambda tuned, shape=shape: (-(-shape[0] // tuned["M"]), -(-shape[1] // tuned["N"]))](
                    *read_inputs,
                    stacked,
                    weights,
                    slope,
                    self.size,
                    *(read_inputs[k].shape[1] for k in (0, 2, 3)),
                    rows.start,
                    columns.start,
                    *shape,
                    pers,
                    HARD=bool(hard),
                    SOFT=bool(soft),
                    FUSION=fusion,
                    TWO_LABELS=two_labels,
                    READ=read,
                )
                d_x[rows] += (slope @ read_inputs[1][columns]).to(d_x.dtype)
                if d_y is not None:
                    d_y[columns] += (slope.T @ read_inputs[0][rows]).to(d_x.dtype)

    def _inverses(self, *parts: Direction | Label | None) -> Tensor:
        """Return 1 / t of each, 1 where there is none, as kernels read them from the device."""
        one = torch.ones((), dtype=self.exact, device=self.device)
        return torch.stack([one if part is None else self.per[part.temperature] for part in parts]).float()


def _read_as(rows: Tensor | None, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return contiguous rows in the type that kernels read; something to point at where there are none."""
    return like.new_empty(1, 1, dtype=dtype) if rows is None else rows.to(dtype).contiguous()


def covers(modes: Modes, batch: LossInputs, image: Tensor, learned: Sequence[bool]) -> bool:
    """Return whether the kernels cover these modes and inputs.

    Args:
        modes: of the call.
        batch: which rows count, and what is known of false negatives.
        image: (B, D) unit rows.
        learned: for each of the four temperatures of soft labels, whether it wants a gradient.

    Raises:
        ConfigError: if `impl` is `triton` where kernels cannot run.
    """
    if not modes.kernels:
        return False
    if find_spec("triton") is None:
        raise ConfigError("impl is 'triton', and triton is not installed. Install it, or set impl=auto.", key="impl")
    if image.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(
            f"impl is 'triton', and the embeddings lie on {image.device}; its kernels need CUDA. Set impl=auto.",
            key="impl",
        )
    beyond = batch.near is not None or batch.probable is not None or any(learned)
    return batch.own == slice(0, len(image)) and not beyond and image.dtype == torch.float32
