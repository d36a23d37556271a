"""InfoNCE over a batch in which one image may stand with several of its captions.

Legend: B pairs in the batch; matrices have images as rows and texts as columns. Where several processes share a batch,
R are the rows of one of them, and its matrices are (R, B).
"""

from typing import Literal

import torch
from torch import Tensor

from cusa.errors import ConfigError

Reduction = Literal["standard", "release"]


def infonce(
    similarity_BB: Tensor,
    image_ids_B: Tensor | None,
    *,
    temperature: Tensor | float,
    reduction: Reduction = "standard",
    text_similarity_BB: Tensor | None = None,
    targets: tuple[Tensor, Tensor] | None = None,
    ignored_BB: Tensor | None = None,
    log_weights_BB: Tensor | None = None,
) -> Tensor:
    """Return the symmetric InfoNCE loss with uniform targets over the captions of the same image.

    `1/2 mean_i [ H(y_i, softmax_j(s_ij / t)) + H(y_i, softmax_j(s_ji / t)) ]`, where `y_ij` is 1 divided by the number
    of pairs in the batch that show image i, for those pairs, and 0 elsewhere.

    Args:
        similarity_BB: cosines of images (rows) and texts (columns), row i paired with column i; or (R, B), the images
            of some rows with all texts.
        image_ids_B: equal integers mark pairs of the same image; None: every pair has an image of its own.
        temperature: positive; the paper learns it within [0.01, 0.10] from 0.05.
        reduction: `standard` sums over columns and averages over rows. `release` averages over columns as well, which
            is `standard` divided by B: the authors' release does so, and its alpha and beta are tuned against it.
        text_similarity_BB: cosines of texts (rows) and images (columns); None: the transpose. Needed for (R, B).
        targets: rows of `y` for images and for texts, in place of those of `image_ids_B`; see
            `false_negatives.targets`. Needed for (R, B).
        ignored_BB: where true, the pair leaves the denominator of row i in both directions; see
            `false_negatives.Nearness`. Never true where `y` is not 0.
        log_weights_BB: logarithms of how much each pair weighs in the denominator of row i, in both directions; 0 where
            `y` is not 0. With `log(1 - p_ij)` it is the debiased loss of `pair_probability`.

    Returns:
        A scalar, at least 0; log B for a student that knows nothing (`standard`).

    Raises:
        ConfigError: for an unknown reduction.

    Source: van den Oord et al. 2018, arXiv:1807.03748, equation 4, in both directions; the targets over several
    captions and both reductions as in the release of Huang et al., AAAI 2024, doi 10.1609/aaai.v38i16.29789.
    """
    if reduction not in ("standard", "release"):
        raise ConfigError(f"reduction is {reduction!r}; allowed: standard, release.", reduction=reduction)
    if targets is None:
        targets = (positives(similarity_BB, image_ids_B),) * 2
    loss = similarity_BB.new_zeros(())
    for target_BB, cosine_BB in zip(
        targets, (similarity_BB, similarity_BB.T if text_similarity_BB is None else text_similarity_BB), strict=True
    ):
        logits_BB = cosine_BB / temperature
        if ignored_BB is not None:
            # The lowest finite number: -inf times a target of 0 would be no number.
            logits_BB = logits_BB.masked_fill(ignored_BB, torch.finfo(logits_BB.dtype).min)
        if log_weights_BB is not None:
            logits_BB = logits_BB + log_weights_BB
        loss = loss + cross_entropy(target_BB, logits_BB) / 2
    return loss / similarity_BB.shape[1] if reduction == "release" else loss


def positives(similarity_BB: Tensor, image_ids_B: Tensor | None) -> Tensor:
    """Return InfoNCE's targets: rows that sum to 1, uniform over the pairs of the same image; symmetric."""
    if image_ids_B is None:
        return torch.eye(len(similarity_BB), dtype=similarity_BB.dtype, device=similarity_BB.device)
    same_BB = (image_ids_B[:, None] == image_ids_B[None, :]).to(similarity_BB.dtype)
    return same_BB / same_BB.sum(1, keepdim=True)


def cross_entropy(targets_BB: Tensor, logits_BB: Tensor) -> Tensor:
    """Return the cross-entropy of soft targets and softmax(logits), summed over columns, averaged over rows."""
    return -(targets_BB * logits_BB.log_softmax(1)).sum() / max(len(logits_BB), 1)
