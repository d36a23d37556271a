"""Listed pairs that leave InfoNCE's denominators: people could not call them right, so they are not called wrong.

Legend: B pairs in the batch, Q listed pairs found in it, K items that have one, D width of an embedding.
"""

import torch
from torch import Tensor

from cusa.train.losses.false_negatives import Extra, both_ways


def without(image: Tensor, text: Tensor, ignored: Extra, rows: slice, temperature: Tensor) -> Tensor:
    """Return what InfoNCE changes by when listed pairs leave its denominators; differentiable.

    `1 / 2B sum_i [ log sum_{j not ignored} exp(s_ij / t) - log sum_j exp(s_ij / t) ]`, both directions together: added
    to InfoNCE over all pairs (`standard`, however it was computed) it gives InfoNCE without those. Only the K items
    that have a listed pair are looked at, in memory of O(K B).

    Args:
        image: (B, D) unit rows.
        text: (B, D) unit rows.
        ignored: positions of the pairs; none of them shares its image with its text's image.
        rows: of the batch, those that count.
        temperature: InfoNCE's.

    Returns:
        A scalar, at most 0.
    """
    total = image.new_zeros(())
    for (own_Q, other_Q), own, other in zip(both_ways(ignored), (image, text), (text, image), strict=True):
        assert own_Q is not None
        assert other_Q is not None
        inside_Q = (own_Q >= rows.start) & (own_Q < rows.stop)
        item_K, place_Q = own_Q[inside_Q].unique(return_inverse=True)
        logits_KB = own[item_K] @ other.T / temperature
        left_KB = torch.zeros_like(logits_KB, dtype=torch.bool)
        left_KB[place_Q, other_Q[inside_Q]] = True
        kept_K = logits_KB.masked_fill(left_KB, -torch.inf).logsumexp(1)
        total = total + (kept_K - logits_KB.logsumexp(1)).sum()
    return total / (2 * len(image))
