"""How probable it is that a batch's foreign pairs are true, from the teachers' cosines in a tile.

Legend: B pairs in the batch, T rows or columns of a tile, E width of a teacher.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from cusa.errors import ConfigError

SoftLabels = Literal["teacher", "calibrated"]
_CERTAIN = 60.0
"""Logits beyond this are cut: probabilities there differ from 0 and 1 by less than 1e-26, and nothing overflows."""


class Slope(NamedTuple):
    """What one teacher adds to the logit."""

    cosine: float
    """For 1 of the two items' cosine."""
    level: float = 0.0
    """For 1 of the sum of both items' levels; see `PairProbability`."""


class ProbablePairs(NamedTuple):
    """The probabilities of one batch, tile by tile: symmetric, as both cosines are."""

    image: float | None
    """Slope of the image teacher's cosine; None: it is not used."""
    text: float | None
    """Slope of the text teacher's."""
    offset_B: Tensor
    """What each row adds to the logit of its pairs, the intercept's half included."""
    image_ids_B: Tensor

    def reads(self, modality: str) -> bool:
        """Return whether a teacher is used."""
        return (self.image if modality == "image" else self.text) is not None

    def logit(self, image_TT: Tensor | None, text_TT: Tensor | None, rows: slice, columns: slice) -> Tensor:
        """Return the logit of every pair of a tile, in new memory.

        Args:
            image_TT: the image teacher's cosines; may be None where it is not used.
            text_TT: the text teacher's.
            rows: of the batch, which the tile's rows are.
            columns: likewise.
        """
        logit_TT = self.offset_B[rows, None] + self.offset_B[None, columns]
        for slope, cosine_TT in ((self.image, image_TT), (self.text, text_TT)):
            if slope is not None:
                assert cosine_TT is not None
                logit_TT.add_(cosine_TT, alpha=slope)
        return logit_TT.clamp_(-_CERTAIN, _CERTAIN)

    def log_true(self, logit_TT: Tensor, rows: slice, columns: slice) -> Tensor:
        """Return the logarithm of the probability that each pair is true; 0 for pairs of the same image."""
        return logit_TT.neg().exp_().log1p_().neg_().masked_fill_(self._same(rows, columns), 0)

    def log_false(self, logit_TT: Tensor, rows: slice, columns: slice) -> Tensor:
        """Return the logarithm of the probability that each pair is false; 0 for pairs of the same image."""
        return logit_TT.exp().log1p_().neg_().masked_fill_(self._same(rows, columns), 0)

    def false(self, logit_TT: Tensor, rows: slice, columns: slice) -> Tensor:
        """Return the probability that each pair is false; 1 for pairs of the same image. Cheaper than its logarithm."""
        return logit_TT.neg().sigmoid_().masked_fill_(self._same(rows, columns), 1)

    def _same(self, rows: slice, columns: slice) -> Tensor:
        return self.image_ids_B[rows, None] == self.image_ids_B[None, columns]


class PairProbability(nn.Module):
    """A calibration of random pairs: from two teachers' cosines to the probability that a foreign pair is true.

    `logit p_ij = c + w_I a_ij + w_T b_ij + v_I (l_i + l_j) + v_T (m_i + m_j)`, where a and b are the image and the text
    teacher's cosines of the two pairs, and l_i the level of item i: its cosine with the split's mean embedding, less
    the mean's own square. An item that resembles everything has a high level, and its cosines say less: with v < 0 the
    levels centre the cosines, and they give each row a prior of its own. Everything but a_ij and b_ij is a number an
    item, so the probability of a tile needs no other product than the tile's teacher cosines.

    Args:
        intercept: c.
        image: w_I and v_I; None: the image teacher is not used.
        text: w_T and v_T; likewise.
        image_mean: (E,) mean of the split's unit rows of the image teacher; needed with `image`.
        text_mean: (E,) likewise.

    Raises:
        ConfigError: if a number is not finite, no teacher is used, or a mean is missing.
    """

    def __init__(
        self,
        *,
        intercept: float,
        image: Slope | None = None,
        text: Slope | None = None,
        image_mean: Tensor | None = None,
        text_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        if image is None and text is None:
            raise ConfigError("A calibration of pairs needs a teacher's slope: give image, text, or both.")
        numbers = (intercept, *(image or ()), *(text or ()))
        if not all(math.isfinite(number) for number in numbers):
            raise ConfigError(f"A calibration of pairs has the numbers {numbers}; all must be finite.")
        self.intercept, self.image, self.text = float(intercept), image, text
        for modality, slope, mean in (("image", image, image_mean), ("text", text, text_mean)):
            if slope is not None and (mean is None or mean.ndim != 1):
                raise ConfigError(
                    f"{modality}_mean is {'missing' if mean is None else tuple(mean.shape)}; the levels of the "
                    f"{modality} teacher need the mean of its unit rows, (width,).",
                    key=f"{modality}_mean",
                )
            # Not a part of a checkpoint: it follows from the teacher's table.
            self.register_buffer(f"{modality}_mean", None if slope is None else mean, persistent=False)

    def reads(self, modality: str) -> bool:
        """Return whether a teacher is used."""
        return (self.image if modality == "image" else self.text) is not None

    @torch.no_grad()
    def of(self, image: Tensor | None, text: Tensor | None, image_ids_B: Tensor) -> ProbablePairs:
        """Return the probabilities of a batch.

        Args:
            image: (B, E) unit rows of the image teacher; None where it is not used.
            text: (B, any) unit rows of the text teacher; likewise.
            image_ids_B: integers, equal for pairs of the same image.

        Raises:
            ConfigError: if a teacher's rows have another width than its mean.
        """
        offset_B: Tensor | float = self.intercept / 2
        for modality, slope, rows in (("image", self.image, image), ("text", self.text, text)):
            if slope is None:
                continue
            assert rows is not None
            mean: Tensor = self.get_buffer(f"{modality}_mean").to(rows.dtype)
            if rows.shape[1] != len(mean):
                raise ConfigError(
                    f"teacher_{modality} has {rows.shape[1]} numbers a row, and the calibration's mean {len(mean)}. "
                    "Calibrate with this teacher.",
                    key=f"teacher_{modality}",
                )
            offset_B = offset_B + slope.level * (rows.detach() @ mean - mean @ mean)
        assert isinstance(offset_B, Tensor)
        slopes = [None if each is None else each.cosine for each in (self.image, self.text)]
        return ProbablePairs(slopes[0], slopes[1], offset_B, image_ids_B)
