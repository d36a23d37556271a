"""InfoNCE in which each pair counts as much as it is likely to be right.

Legend: B pairs in the batch (of all ranks where they share it), R of them on this rank, K of these weigh less than 1.
"""

import torch
from torch import Tensor

from cusa.train.losses.batch import ids_or_all_different


def pair_weights_correction(
    image: Tensor, text: Tensor, *, image_ids: Tensor | None, rows: slice, weights_R: Tensor, temperature: Tensor
) -> Tensor:
    """Return the change of InfoNCE when the pairs get weights; differentiable.

    `- 1 / 2B sum_i (1 - w_i) [ H(y_i, softmax_j(s_ij / t)) + H(y_i, softmax_j(s_ji / t)) ]`: added to InfoNCE
    (`standard`, however it was computed) it gives InfoNCE whose row i counts w_i times. The mean stays over B: a pair
    of weight 0 adds nothing, and no other pair counts more. It stays a negative of the others, which it is anyway.
    Only the K pairs below 1 are looked at, in memory of O(K B).

    Args:
        image: (B, D) unit rows.
        text: (B, D) unit rows.
        image_ids: (B,) equal for pairs of the same image; None: all different.
        rows: of the batch, those that count.
        weights_R: (R,) weights of these rows, 0 to 1.
        temperature: InfoNCE's.

    Returns:
        A scalar, at most 0.
    """
    ids = ids_or_all_different(image_ids, image)
    item_K = torch.nonzero(weights_R < 1)[:, 0]
    missing_K = 1 - weights_R[item_K].to(image.dtype)
    item_K = item_K + rows.start
    same_KB = (ids[item_K, None] == ids[None, :]).to(image.dtype)
    target_KB = same_KB / same_KB.sum(1, keepdim=True)
    total = image.new_zeros(())
    for own, other in ((image, text), (text, image)):
        log_chance_KB = (own[item_K] @ other.T / temperature).log_softmax(1)
        total = total + (missing_K * (target_KB * log_chance_KB).sum(1)).sum()
    return total / (2 * len(image))
