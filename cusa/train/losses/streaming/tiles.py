"""Two passes over tiles of similarities: the first for the values, the second for the gradients.

The first keeps, for every row of every softmax, its normaliser and a few weighted sums. The second computes the tiles
again and turns each into gradients at once. What is symmetric (teachers, uni-modal similarities) is computed for half
of the tiles only, where both halves are of this process's rows.

Legend: B pairs, T rows or columns of a tile.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cusa.train.losses.batch import LossInputs, Modes
from cusa.train.losses.csa import fuse
from cusa.train.losses.streaming.tile_parts import Cross, Direction, Label, Soft, Tile, Workspace, cut, outer, take_in

TILE = 688
"""Rows of a tile on a CPU: ten float32 tiles stay in its last cache."""
TILE_ON_DEVICE = 4096
CACHE_BYTES = 60 << 20
"""Bytes of products, at most, that the first pass keeps for the second, whatever the size of the batch."""


class Tiles:
    """One call: inputs, the sums of the first pass, gradients.

    Args:
        modes: the terms to compute, and their variants.
        alike: for each temperature, the position of the first one that is the same tensor.
        batch: which rows count (the columns are always all of them), and what is known of false negatives; its
            embeddings are not kept.
        tensors: four embeddings, two teachers, nine temperatures.
    """

    def __init__(
        self,
        modes: Modes,
        alike: tuple[int, ...],
        batch: LossInputs,
        tensors: Sequence[Tensor | None],
    ) -> None:
        self.modes, self.rows = modes, batch.own
        self.near = batch.near if modes.infonce else None
        self.probable = batch.probable
        self.bind(tensors)
        self.size, self.device, self.dtype = len(self.image), self.image.device, self.image.dtype
        temperatures = torch.stack([tensor for tensor in tensors[6:] if tensor is not None])
        self.exact = temperatures.dtype
        # Copies: the second pass sees the same numbers, also where a step has moved the parameters meanwhile. They stay
        # on the device: reading one on the host would wait for all that is queued.
        self.per = (1 / temperatures).unbind()
        self.tile = TILE if self.device.type == "cpu" else TILE_ON_DEVICE
        self.space = Workspace(self.tile, self.image)
        self.rooms: dict[str, int] = {}
        self.cached: dict[tuple[str, int, int], Tensor] = {}
        self.labels: dict[tuple[str, int], Label] = {}
        sources = ("image", "text") if modes.fusion == "each" else ("fused", "fused")
        sources = ("calibrated", "calibrated") if modes.calibrated else sources
        self.nce = [self._direction(items, 0) for items in ("image", "text")] if modes.infonce else []
        self.csa = self._taught(alike[1:3], alike[5:7], sources) if modes.csa else []
        self.usa = self._taught(alike[3:5], alike[7:9], ("image", "text")) if modes.usa else []

    def bind(self, tensors: Sequence[Tensor | None]) -> None:
        """Attach the inputs."""
        image, text, image_uni, text_uni, teacher_image, teacher_text = tensors[:6]
        assert image is not None
        assert text is not None
        self.image, self.text = image, text
        self.uni = {"image": image_uni, "text": text_uni}
        self.teachers = {"image": teacher_image, "text": teacher_text}

    def release_inputs(self) -> None:
        """Drop the references to the inputs, which autograd holds as well."""
        del self.image, self.text, self.uni, self.teachers

    def _zeros(self) -> Tensor:
        return torch.zeros(self.size, dtype=self.exact, device=self.device)

    def _label(self, source: str, temperature: int) -> Label:
        key = (source, temperature)
        if key not in self.labels:
            self.labels[key] = Label(source, temperature, self._zeros(), self._zeros())
        return self.labels[key]

    def _direction(self, items: str, temperature: int, label: Label | None = None) -> Direction:
        # Not -inf: a tile of which everything is ignored must leave it as it is.
        most_B = torch.full((self.size,), torch.finfo(self.dtype).min, dtype=self.dtype, device=self.device)
        return Direction(items, temperature, label, most_B, self._zeros(), self._zeros())

    def _taught(self, temperatures: Sequence[int], labels: Sequence[int], sources: tuple[str, str]) -> list[Direction]:
        return [
            self._direction(items, temperatures[k], self._label(sources[k], labels[k]))
            for k, items in enumerate(("image", "text"))
        ]

    def _is_warm(self, temperature: int) -> bool:
        """Tell whether exp((s - 1) / t) neither overflows nor vanishes for any cosine: one shift serves all rows.

        By the lowest value that the temperature may take, not by its value, which only the device knows.
        """
        return self.modes.lowest[temperature] * (80 if self.dtype == torch.float32 else 600) > 2

    def _power(self, cosine_TT: Tensor, temperature: int, name: str) -> Tensor:
        """Return exp((s - 1) / t), in the memory of that name."""
        out_TT = self.space.like(name, cosine_TT)
        return torch.sub(cosine_TT, 1, out=out_TT).mul_(self.per[temperature]).exp_()

    def _times(self, one_TT: Tensor, other_TT: Tensor) -> Tensor:
        """Return a product element by element, to be summed before the next one."""
        return torch.mul(one_TT, other_TT, out=self.space.like("summed next", one_TT))

    def _reads(self, modality: str) -> bool:
        """Tell whether a label, a mask or a probability reads a teacher's cosines."""
        if self.probable is not None and self.probable.reads(modality):
            return True
        if self.near is not None and (self.near.image_B, self.near.text_B)[modality == "text"] is not None:
            return True
        return any(label.source in (modality, "fused") for label in self.labels.values())

    def _rooms(self) -> dict[str, int]:
        """Divide the bytes for kept products: the widest embeddings first, whose products cost the most."""
        given = {
            **{f"{items} teacher": rows for items, rows in self.teachers.items() if self._reads(items)},
            **{f"{items} uni": rows for items, rows in self.uni.items() if self.usa},
            **({"by image": self.image, "by text": self.text} if self.nce or self.csa else {}),
        }
        widths = {name: rows.shape[1] for name, rows in given.items() if rows is not None}
        left, rooms = CACHE_BYTES, {}
        for name in sorted(widths, key=lambda name: -widths[name]):
            rooms[name] = min(left, (self.rows.stop - self.rows.start) * self.size * self.image.element_size() // 2)
            left -= rooms[name]
        return rooms

    def _cosines(self, name: str, tile: Tile, left: Tensor, right: Tensor) -> Tensor:
        """Return the cosines of a tile's rows and columns, from memory where the first pass kept them."""
        place = (name, tile.rows.start, tile.columns.start)
        if place in self.cached:
            return self.cached.pop(place)
        left, right = left[tile.rows], right[tile.columns]
        if self.rooms.get(name, 0) >= (weight := len(left) * len(right) * left.element_size()):
            self.rooms[name] -= weight
            self.cached[place] = torch.mm(left, right.T)
            return self.cached[place]
        return torch.mm(left, right.T, out=self.space.take(name, len(left), len(right)))

    def _tiles(self) -> Iterator[Tile]:
        """Yield the tiles on and above the diagonal of this process's own rows, then theirs with all other columns."""
        own = cut(self.rows, self.tile)
        foreign = [*cut(slice(0, self.rows.start), self.tile), *cut(slice(self.rows.stop, self.size), self.tile)]
        for k, rows in enumerate(own):
            yield Tile(rows, rows, ((rows, 1),))
            for columns in own[k + 1 :]:
                yield Tile(rows, columns, ((rows, 1), (columns, 0)))
            for columns in foreign:
                yield Tile(rows, columns, ((rows, 1),))

    def _sources(self, tile: Tile) -> dict[str, Tensor]:
        """Return the teachers' cosines on one tile, as far as they are needed."""
        sources: dict[str, Tensor] = {}
        for modality, teacher in self.teachers.items():
            if self._reads(modality):
                assert teacher is not None
                sources[modality] = self._cosines(f"{modality} teacher", tile, teacher, teacher)
        if any(label.source == "fused" for label in self.labels.values()):
            sources["fused"] = fuse(sources["image"], sources["text"], self.modes.fusion)[0]
        if self.probable is not None:
            place = tile.rows, tile.columns
            logit_TT = self.probable.logit(sources.get("image"), sources.get("text"), *place)
            if self.modes.calibrated:
                # Like cosines, largest on the diagonal, where they are 1; at temperature 1 they make the probability.
                sources["calibrated"] = self.probable.log_true(logit_TT, *place).add_(1)
            if self.modes.debiased:
                sources["weights"] = self.probable.false(logit_TT, *place)
        return sources

    def _soft(self, sources: dict[str, Tensor]) -> Soft:
        return {
            id(label): (sources[label.source], self._power(sources[label.source], label.temperature, f"label {k}"))
            for k, label in enumerate(self.labels.values())
        }

    def _cross(self, tile: Tile) -> list[Cross]:
        """Return the cosines of images and texts, both ways where rows and columns are not the same pairs."""
        if not (self.nce or self.csa):
            return []
        rows, columns = tile.rows, tile.columns
        by_image = self._cosines("by image", tile, self.image, self.text)
        if rows == columns:
            return [Cross(by_image, "image", {"image": (rows, 1), "text": (rows, 0)})]
        # As texts x images, so that its rows and columns are those of the symmetric tiles.
        by_text = self._cosines("by text", tile, self.text, self.image)
        places = [{kind: (rows, 1)} for kind in ("image", "text")]
        if len(tile.axes) == 2:
            places = [{"image": (rows, 1), "text": (columns, 0)}, {"text": (rows, 1), "image": (columns, 0)}]
        return [Cross(by_image, "image", places[0]), Cross(by_text, "text", places[1])]

    def _ignored(self, tile: Tile, sources: dict[str, Tensor], axis: int) -> Tensor | None:
        if self.near is None:
            return None
        return self.near.ignored(sources.get("image"), sources.get("text"), tile.rows, tile.columns, axis)

    def measure(self) -> None:
        """First pass: every normaliser and weighted sum."""
        self.rooms = self._rooms()
        for tile in self._tiles():
            sources = self._sources(tile)
            soft = self._soft(sources)
            for label in self.labels.values():
                a_TT, e_TT = soft[id(label)]
                weighted_TT = self._times(e_TT, a_TT)
                for items, axis in tile.axes:
                    label.norm_B[items] += e_TT.sum(axis)
                    label.weighted_B[items] += weighted_TT.sum(axis)
            for cross in self._cross(tile):
                self._measure_cross(tile, sources, soft, cross)
            for direction in self.usa:
                assert direction.label is not None
                r_TT = self._uni_product(direction, tile)
                e_TT = self._power(r_TT, direction.temperature, "power")
                crossed_TT = self._times(soft[id(direction.label)][1], r_TT)
                for items, axis in tile.axes:
                    direction.sum_B[items] += e_TT.sum(axis)
                    direction.crossed_B[items] += crossed_TT.sum(axis)
        for direction in (*self.nce, *self.csa, *self.usa):
            if direction in self.usa or self._is_warm(direction.temperature):
                direction.most_B.fill_(self.per[direction.temperature])
        # A teacher's or student's row of zeros is equal to nothing, not even itself: its sums may vanish.
        for norm_B in [label.norm_B for label in self.labels.values()] + [d.sum_B for d in self.usa]:
            norm_B.clamp_(min=1e-30)

    def _measure_cross(self, tile: Tile, sources: dict[str, Tensor], soft: Soft, cross: Cross) -> None:
        powers: dict[int, Tensor] = {}
        crossed: dict[int, Tensor] = {}
        for direction in (*self.nce, *self.csa):
            if direction.items not in cross.places:
                continue
            items, axis = cross.places[direction.items]
            ignored_TT = self._ignored(tile, sources, axis) if direction.label is None else None
            weights_TT = sources.get("weights") if direction.label is None else None
            t = direction.temperature
            if self._is_warm(t):
                if t not in powers:
                    powers[t] = self._power(cross.s_TT, t, f"power {t}")
                e_TT = powers[t] if ignored_TT is None else powers[t].masked_fill(ignored_TT, 0)
                e_TT = e_TT if weights_TT is None else self._times(e_TT, weights_TT)
                direction.sum_B[items] += e_TT.sum(axis)
            else:
                logits_TT = torch.mul(cross.s_TT, self.per[t], out=self.space.like("power", cross.s_TT))
                if ignored_TT is not None:
                    logits_TT.masked_fill_(ignored_TT, -torch.inf)
                if weights_TT is not None:
                    logits_TT.add_(weights_TT.log())
                take_in(direction, items, logits_TT, axis)
            if direction.label is not None:
                key = id(direction.label)
                if key not in crossed:
                    crossed[key] = torch.mul(
                        soft[key][1], cross.s_TT, out=self.space.like(f"crossed {len(crossed)}", cross.s_TT)
                    )
                direction.crossed_B[items] += crossed[key].sum(axis)

    def _uni_product(self, direction: Direction, tile: Tile) -> Tensor:
        uni = self.uni[direction.items]
        assert uni is not None
        return self._cosines(f"{direction.items} uni", tile, uni, uni)

    def values(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return sums over this process's rows: InfoNCE's log-normalisers, CSA, USA."""
        zero = torch.zeros((), dtype=self.exact, device=self.device)
        log_norms, csa, usa = zero, zero.clone(), zero.clone()
        for direction in self.nce:
            log_norms = log_norms + direction.log_norm_B()[self.rows].sum()
        for direction in (*self.csa, *self.usa):
            assert direction.label is not None
            label, norm_B = direction.label, direction.label.norm_B
            value_B = direction.log_norm_B() - direction.crossed_B / norm_B * self.per[direction.temperature]
            if self.modes.divergence == "kl":
                per_u = self.per[label.temperature]
                value_B = value_B + label.weighted_B / norm_B * per_u - (norm_B.log() + per_u)
            direction.value_B = value_B
            if direction in self.csa:
                csa = csa + value_B[self.rows].sum()
            else:
                usa = usa + value_B[self.rows].sum()
        return log_norms, csa, usa

    def gradients(self, grads: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
        """Second pass: the gradient of every input, given those of the three values."""
        self._learned = needed[6:]
        self._d_temperatures = [torch.zeros((), dtype=self.exact, device=self.device) for _ in self._learned]
        d_image, d_text = torch.zeros_like(self.image), torch.zeros_like(self.text)
        d_uni = {items: torch.zeros_like(rows) for items, rows in self.uni.items() if rows is not None and self.usa}
        # What a tile's exponentials are multiplied with, for every row of every softmax.
        self._shares: dict[int, Tensor] = {}
        self._soft_shares: dict[int, Tensor] = {}
        for directions, grad in ((self.nce, grads[0]), (self.csa, grads[1]), (self.usa, grads[2])):
            for direction in directions:
                scale = grad * self.per[direction.temperature]
                self._shares[id(direction)] = (scale / direction.sum_B).to(self.dtype)
                if direction.label is not None:
                    self._soft_shares[id(direction)] = (scale / direction.label.norm_B).to(self.dtype)

        for tile in self._tiles():
            sources = self._sources(tile)
            soft = self._soft(sources)
            for cross in self._cross(tile):
                slope_TT = self._cross_slope(tile, sources, soft, cross, grads)
                if cross.row_items == "image":
                    d_image[tile.rows].addmm_(slope_TT, self.text[tile.columns])
                    d_text[tile.columns].addmm_(slope_TT.T, self.image[tile.rows])
                else:
                    d_text[tile.rows].addmm_(slope_TT, self.image[tile.columns])
                    d_image[tile.columns].addmm_(slope_TT.T, self.text[tile.rows])
            for direction in self.usa:
                uni = self.uni[direction.items]
                assert uni is not None
                r_TT = self._uni_product(direction, tile)
                # Both directions at once: item i sees item j, and j sees i.
                axes = tile.axes if tile.rows != tile.columns else ((tile.rows, 1), (tile.rows, 0))
                slope_TT = self._power(r_TT, direction.temperature, "slope")
                weights_TT = self.space.like("weights", r_TT)
                slope_TT *= outer([(self._shares[id(direction)], *place) for place in axes], weights_TT)
                soft_TT = soft[id(direction.label)][1]
                softer = outer([(self._soft_shares[id(direction)], *place) for place in axes], weights_TT)
                slope_TT.addcmul_(soft_TT, softer, value=-1)
                d_uni[direction.items][tile.rows].addmm_(slope_TT, uni[tile.columns])
                if tile.rows != tile.columns:
                    d_uni[direction.items][tile.columns].addmm_(slope_TT.T, uni[tile.rows])
                for place in tile.axes:
                    self._teach(direction, place, r_TT, soft, grads[2])

        for direction in self.usa:
            uni = self.uni[direction.items]
            assert uni is not None
            # r_ij = u_i u_j: the rows' gradients hold the sum over all tiles already, each tile twice.
            drawn = (uni * d_uni[direction.items]).sum(dtype=self.exact) / 2
            self._d_temperatures[direction.temperature] -= drawn * self.per[direction.temperature]
        crossed = [d_image, d_text] if self.nce or self.csa else [None, None]
        gradients: list[Tensor | None] = [*crossed, d_uni.get("image"), d_uni.get("text"), None, None]
        gradients += self._d_temperatures
        return [grad if wanted else None for grad, wanted in zip(gradients, needed, strict=True)]

    def _cross_slope(
        self, tile: Tile, sources: dict[str, Tensor], soft: Soft, cross: Cross, grads: Sequence[Tensor]
    ) -> Tensor:
        """Return one tile's gradient of the image-text cosines; add to those of the temperatures."""
        whole_TT: Tensor | None = None
        for directions, grad in ((self.nce, grads[0]), (self.csa, grads[1])):
            there = [direction for direction in directions if direction.items in cross.places]
            together = self._is_warm(there[0].temperature) if there else False
            together &= len({direction.temperature for direction in there}) == 1
            together &= directions is self.csa or self.near is None
            for group in [there] if together else [[direction] for direction in there]:
                t = group[0].temperature
                name = "slope" if whole_TT is None else "further slope"
                slope_TT = self._soft_max(group, tile, sources, cross, grad=grad, name=name)
                for direction in group:
                    if direction.label is None:
                        continue
                    place = items, axis = cross.places[direction.items]
                    share_T = self._soft_shares[id(direction)][items].unsqueeze(axis)
                    slope_TT.addcmul_(soft[id(direction.label)][1], share_T, value=-1)
                    self._teach(direction, place, cross.s_TT, soft, grad)
                if self._learned[t]:
                    self._d_temperatures[t] -= self._times(slope_TT, cross.s_TT).sum() * self.per[t]
                whole_TT = slope_TT if whole_TT is None else whole_TT.add_(slope_TT)
        assert whole_TT is not None
        return whole_TT

    def _soft_max(
        self, group: list[Direction], tile: Tile, sources: dict[str, Tensor], cross: Cross, *, grad: Tensor, name: str
    ) -> Tensor:
        """Return the student's probabilities on one tile, times `grad / t`; summed over directions that share t."""
        t = group[0].temperature
        places = [cross.places[direction.items] for direction in group]
        if self._is_warm(t):
            soft_TT = self._power(cross.s_TT, t, name)
            parts = [(self._shares[id(direction)], *place) for direction, place in zip(group, places, strict=True)]
            soft_TT *= outer(parts, self.space.like("weights", soft_TT))
        else:
            items, axis = places[0]
            log_norm_T = group[0].log_norm_B()[items].to(self.dtype)
            soft_TT = torch.mul(cross.s_TT, self.per[t], out=self.space.like(name, cross.s_TT))
            soft_TT.sub_(log_norm_T.unsqueeze(axis)).exp_()
            soft_TT *= (grad * self.per[t]).to(self.dtype)
        if group[0].label is None and (ignored_TT := self._ignored(tile, sources, places[0][1])) is not None:
            soft_TT.masked_fill_(ignored_TT, 0)
        if group[0].label is None and "weights" in sources:
            soft_TT.mul_(sources["weights"])
        return soft_TT

    def _teach(self, direction: Direction, place: tuple[slice, int], s_TT: Tensor, soft: Soft, weight: Tensor) -> None:
        """Add one tile's part of the gradient of a soft label's temperature."""
        items, axis = place
        label = direction.label
        assert label is not None
        if not self._learned[label.temperature]:
            return
        a_TT, e_TT = soft[id(label)]
        per_u = self.per[label.temperature]
        # q_ij (d_ij - mean d_i) a_ij, where d is what each element adds to the divergence.
        centre_T = direction.log_norm_B()[items] - direction.value_B[items]
        gap_TT = s_TT * -self.per[direction.temperature]
        if self.modes.divergence == "kl":
            gap_TT += self._times(a_TT, per_u)
            centre_T = centre_T - (label.norm_B[items].log() + per_u)
        gap_TT += centre_T.to(self.dtype).unsqueeze(axis)
        gap_TT *= e_TT * (1 / label.norm_B[items]).to(self.dtype).unsqueeze(axis)
        self._d_temperatures[label.temperature] -= weight * (gap_TT * a_TT).sum() * per_u**2
