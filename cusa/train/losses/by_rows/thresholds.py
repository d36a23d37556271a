"""InfoNCE without the pairs above a threshold of each item's own, learned over the whole data set.

Legend: B pairs in the batch, R of its rows that count, T rows of a block, G groups of rows that are the same item.
"""

import math
from statistics import NormalDist

import torch
from torch import Tensor, nn

from cusa.errors import ConfigError
from cusa.train.across_ranks import gather, num_ranks, rows_of_ranks
from cusa.train.losses.by_rows.blocks import Items

BEFORE = 1.0
"""The threshold of an item that no batch has held yet: no cosine is above it."""


class Thresholds(nn.Module):
    """The threshold of every image and of every caption of a data set: buffers, so that a checkpoint holds them.

    An image's pair with a caption of another image leaves the image's denominator where the student's cosine is above
    the image's threshold, and the caption's where it is above the caption's. A threshold is the quantile above which a
    share q of the item's cosines with all other images' items lies. No step sees all of them, so it moves by what the
    batch shows, a stochastic gradient of the quantile's pinball loss:

    `l_i <- clip( l_i + eta (h_i / q - 1), -1, 1 )`, h_i being the share of the batch's foreign items above l_i.

    The first batch that holds an item sets its threshold to the quantile of a normal distribution with the mean and the
    variance of the item's cosines there. A pair leaves by the thresholds from before its batch.

    Source: Balmaseda et al., ICML 2025, arXiv:2502.20612 (GloFND), sections 4 and 5. Differs from the authors' release
    in three points: plain steps where it takes Adam's, relative to q as its `normalize_grad` has it; the start from the
    first batch where it starts at 1 (or at that batch's quantile); and a pair may leave once its item was in `after`
    batches, where it counts epochs.

    Args:
        num_images: of the data set; image ids are below.
        num_captions: of the data set; text ids are below.
        share: q, above 0 and at most 0.5: of an item's foreign pairs, those that leave.
        rate: eta, above 0.
        after: batches that must have held an item before its pairs leave, at least 1.

    Raises:
        ConfigError: if a number is out of its range.
    """

    image: Tensor
    text: Tensor
    image_met: Tensor
    text_met: Tensor
    share_masked: Tensor

    def __init__(
        self, num_images: int, num_captions: int, *, share: float = 0.01, rate: float = 0.01, after: int = 5
    ) -> None:
        super().__init__()
        if not 0 < share <= 0.5:
            raise ConfigError(f"threshold_share is {share}; allowed: above 0, at most 0.5.", key="threshold_share")
        if not 0 < rate < math.inf:
            raise ConfigError(f"threshold_rate is {rate}; allowed: a finite number above 0.", key="threshold_rate")
        if after < 1:
            raise ConfigError(f"threshold_after is {after}; allowed: at least 1.", key="threshold_after")
        self.share, self.rate, self.after = share, rate, after
        self.deviations = NormalDist().inv_cdf(1 - share)
        """Standard deviations by which a normal distribution's quantile is above its mean."""
        for name, size in (("image", num_images), ("text", num_captions)):
            self.register_buffer(name, torch.full((size,), BEFORE))
            self.register_buffer(f"{name}_met", torch.zeros(size, dtype=torch.int32))
        self.register_buffer("share_masked", torch.zeros(()), persistent=False)


class ThresholdRows:
    """One batch: the losses of its rows, and what they show of the thresholds.

    Args:
        thresholds: of the data set.
        image_ids: (B,) row numbers of the images.
        text_ids: (B,) row numbers of the captions.
        rows: of the batch, those that count.
    """

    def __init__(self, thresholds: Thresholds, image_ids: Tensor, text_ids: Tensor, rows: slice) -> None:
        self._rows = rows
        self._share, self._rate, self._after = thresholds.share, thresholds.rate, thresholds.after
        self._deviations, self._share_masked = thresholds.deviations, thresholds.share_masked
        self._values = {"image": thresholds.image, "text": thresholds.text}
        self._met = {"image": thresholds.image_met, "text": thresholds.text_met}
        self._ids = {"image": image_ids, "text": text_ids}
        self._above = {items: torch.zeros_like(image_ids[rows]) for items in self._ids}
        self._others = {items: torch.zeros_like(image_ids[rows]) for items in self._ids}
        self._quantile = {items: thresholds.image.new_zeros(len(image_ids[rows])) for items in self._ids}
        self._masked = thresholds.image.new_zeros(())

    def losses(self, cosine_TB: Tensor, same_TB: Tensor, *, rows: slice, items: Items, temperature: Tensor) -> Tensor:
        """Return the losses of some rows; see `RowLoss`."""
        values, met = self._values[items], self._met[items]
        ids_T = self._ids[items][rows]
        limit_T, met_T = values[ids_T], met[ids_T]
        with torch.no_grad():
            other_TB = ~same_TB
            above_TB = (cosine_TB > limit_T[:, None].to(cosine_TB.dtype)) & other_TB
            place = slice(rows.start - self._rows.start, rows.stop - self._rows.start)
            self._above[items][place] = above_TB.sum(1)
            self._others[items][place] = other_TB.sum(1)
            self._quantile[items][place] = _quantile(cosine_TB, other_TB, self._deviations).to(limit_T.dtype)
            left_TB = above_TB & (met_T >= self._after)[:, None]
            self._masked += left_TB.sum()
        logits_TB = cosine_TB / temperature
        drawn_T = logits_TB.masked_fill(~same_TB, 0).sum(1) / same_TB.sum(1)
        kept_TB = logits_TB.masked_fill(left_TB, torch.finfo(logits_TB.dtype).min)
        return kept_TB.logsumexp(1) - drawn_T

    def learn(self, counts: tuple[int, ...] | None, *, shared: bool) -> None:
        """Move the thresholds of the batch's items, on all ranks by what all of them saw; a collective.

        Args:
            counts: rows of every rank; None: the ranks ask each other.
            shared: whether the rows that count are those of all ranks already, on each of them.
        """
        with torch.no_grad():  # not a decorator, which a compiler does not see through
            others = sum((others.sum() for others in self._others.values()), self._masked.new_zeros(()))
            self._share_masked.copy_(self._masked / others.clamp(min=1))
            if num_ranks() > 1 and not shared:
                counts = counts or rows_of_ranks(self._rows.stop - self._rows.start, self._masked.device)
            for items in ("image", "text"):
                ids_R, numbers = self._ids[items][self._rows], (self._above[items], self._others[items])
                quantile_R = self._quantile[items]
                if num_ranks() > 1 and not shared:
                    assert counts is not None
                    together = gather(torch.stack([each.double() for each in (ids_R, *numbers, quantile_R)], 1), counts)
                    ids_R, numbers = together[:, 0].long(), (together[:, 1].long(), together[:, 2].long())
                    quantile_R = together[:, 3].to(quantile_R.dtype)
                self._move(items, ids_R, *numbers, quantile_R)

    def _move(self, items: Items, ids_R: Tensor, above_R: Tensor, others_R: Tensor, quantile_R: Tensor) -> None:
        # An item that stands several times moves once. Sums of integers and maxima do not depend on their order.
        group_R = torch.searchsorted(ids_R.sort().values, ids_R)
        above_G, others_G = (torch.zeros_like(each).index_add_(0, group_R, each) for each in (above_R, others_R))
        quantile_G = torch.full_like(quantile_R, -BEFORE).scatter_reduce_(0, group_R, quantile_R, "amax")
        values, met = self._values[items], self._met[items]
        before_R, met_R = values[ids_R], met[ids_R]
        share_R = above_G[group_R].to(before_R.dtype) / others_G[group_R].clamp(min=1)
        moved_R = before_R + self._rate * (share_R / self._share - 1)
        now_R = torch.where(met_R > 0, moved_R, quantile_G[group_R]).clamp(-1, 1)
        knows_R = others_G[group_R] > 0
        values[ids_R] = torch.where(knows_R, now_R, before_R)
        met[ids_R] = met_R + knows_R.to(met_R.dtype)


def _quantile(cosine_TB: Tensor, other_TB: Tensor, deviations: float) -> Tensor:
    """Return mean + deviations * standard deviation of each row's foreign cosines; 1 where there are none."""
    count_T = other_TB.sum(1)
    foreign_TB = cosine_TB.masked_fill(~other_TB, 0)
    mean_T = foreign_TB.sum(1) / count_T.clamp(min=1)
    square_T = foreign_TB.square().sum(1) / count_T.clamp(min=1)
    deviation_T = (square_T - mean_T.square()).clamp(min=0).sqrt()
    return (mean_T + deviations * deviation_T).masked_fill(count_T == 0, BEFORE)
