"""InfoNCE whose negatives weigh the more the nearer the student calls them, corrected by a rate of false ones.

Legend: B pairs in the batch, T rows of a block.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cusa.errors import ConfigError
from cusa.train.losses.by_rows.blocks import Items


@dataclass(frozen=True)
class Hardness:
    """How a row's negatives weigh in its denominator.

    `l_i = - sum_j y_ij s_ij / t + log [ sum_{j same} exp(s_ij / t) + G_i ]`, over the N_i pairs of other images

    `G_i = max( (N_i sum_j w_ij exp(s_ij / t) - r N_i p_i) / (1 - r), N_i exp(-1 / t) )`,
    `w_ij = exp(b s_ij / t) / sum_k exp(b s_ik / t)`,

    where p_i is the mean of `exp(s_ij / t)` over the pairs of the same image, b the concentration and r the prior. The
    weights have the mean 1 / N_i and carry gradient, as in the authors' code. With b = 0 and r = 0 it is InfoNCE.

    Source: Robinson et al., ICLR 2021, arXiv:2010.04592, equation 4; with b = 0 Chuang et al., NeurIPS 2020,
    arXiv:2007.00224, equation 8 (DCL); with r = 0 Radenovic et al., CVPR 2023, arXiv:2301.02280, equation 3, of images
    and texts. There every image has one text; here all captions of an image are its own. The weights of Lan et al.
    2025, arXiv:2503.04812, are others: not normalised, and without gradient.
    """

    concentration: float = 0.0
    """b, at least 0: 0 = all alike; the greater, the more the nearest count."""
    prior: float = 0.0
    """r, from 0 to below 1: the share of foreign pairs that is true. At a low temperature even a small one takes all
    from a learned row's negatives, which then stop to push."""

    def check(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: if one is out of its range.
        """
        if not 0 <= self.concentration < math.inf:
            raise ConfigError(
                f"hardness is {self.concentration}; allowed: a finite number, at least 0.", key="hardness"
            )
        if not 0 <= self.prior < 1:
            raise ConfigError(f"hardness_prior is {self.prior}; allowed: 0 to below 1.", key="hardness_prior")

    def losses(self, cosine_TB: Tensor, same_TB: Tensor, *, rows: slice, items: Items, temperature: Tensor) -> Tensor:
        """Return the losses of some rows; see `RowLoss`."""
        logits_TB = cosine_TB / temperature
        least = torch.finfo(logits_TB.dtype).min / 4  # so small that it adds nothing, and finite when multiplied
        num_same_T, num_other_T = same_TB.sum(1), (~same_TB).sum(1)
        own_T = logits_TB.masked_fill(~same_TB, least).logsumexp(1)
        drawn_T = logits_TB.masked_fill(~same_TB, 0).sum(1) / num_same_T
        weighted_T = _over_others(logits_TB, same_TB, 1 + self.concentration, least)
        weighted_T = weighted_T - _over_others(logits_TB, same_TB, self.concentration, least)
        log_other_T = num_other_T.to(logits_TB.dtype).log()
        others_T = log_other_T + weighted_T
        if self.prior:
            taken_T = self.prior * (own_T - num_same_T.to(own_T.dtype).log() - weighted_T).clamp(max=80).exp()
            left_T = 1 - taken_T
            smallest = torch.finfo(left_T.dtype).tiny
            log_left_T = left_T.clamp(min=smallest).log().masked_fill(left_T <= smallest, least)
            others_T = (others_T + log_left_T - math.log1p(-self.prior)).maximum(log_other_T - 1 / temperature)
        return torch.logaddexp(own_T, others_T) - drawn_T


def _over_others(logits_TB: Tensor, same_TB: Tensor, factor: float, least: float) -> Tensor:
    """Return log sum_j exp(factor * logit) over the pairs of other images."""
    return (logits_TB * factor).masked_fill(same_TB, least).logsumexp(1)
