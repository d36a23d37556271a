"""MaxSim: the score of an image and a caption by the similarities of its patches and its tokens.

Legend: I images, C captions, N pairs, P patches, L tokens, E width of their vectors.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Average = Literal["tokens", "patches", "both"]
"""What the mean is over: each token's best patch, each patch's best token, or both, of which the score is the mean."""

BLOCK_BYTES = 64 << 20
"""Similarities of patches with tokens that exist at a time; with gradients, two to three times as many."""


def maxsim(
    image_IPE: Tensor,
    text_CLE: Tensor,
    *,
    image_there_IP: Tensor | None = None,
    text_there_CL: Tensor | None = None,
    average: Average = "tokens",
    block_bytes: int = BLOCK_BYTES,
) -> Tensor:
    """Score all pairs of images and captions: (I, C) float32, in [-1, 1] for unit vectors.

    `tokens`: `1/L sum_l max_p <image_p, text_l>`; `patches`: `1/P sum_p max_l <image_p, text_l>`; `both`: their mean.
    The (I, P, C, L) similarities are made block by block; gradients compute each block once more. Between equal best
    patches or tokens the gradient is divided.

    Args:
        image_IPE: vectors of patches.
        text_CLE: vectors of tokens.
        image_there_IP: which patches count; None = all.
        text_there_CL: which tokens count; None = all.
        average: see above.
        block_bytes: of the similarities that exist at a time, at least those of one pair.

    Returns:
        Scores; 0 for an image of which no patch counts, or a caption of which no token does.

    Source: Khattab and Zaharia, "ColBERT", SIGIR 2020, arXiv:2004.12832, equation 3, of which `tokens` is the mean over
    the query's tokens and not the sum, so that captions of different lengths compare; Yao et al., "FILIP", ICLR 2022,
    arXiv:2111.07783, equations 4 and 5 (`patches`) and 6 (`tokens`). FILIP uses one in each direction of its loss;
    `both` is one score for either.
    """
    image_IPE, text_CLE = image_IPE.float(), text_CLE.float()
    images, captions = len(image_IPE), len(text_CLE)
    a_pair = max(1, 4 * image_IPE.shape[1] * text_CLE.shape[1])
    down = max(1, min(images, block_bytes // a_pair))
    across = max(1, min(captions, block_bytes // (a_pair * down)))

    def score(rows: slice, columns: slice) -> Tensor:
        image_iPE, text_cLE = image_IPE[rows], text_CLE[columns]
        similarity = torch.einsum("ipe,cle->icpl", image_iPE, text_cLE)
        image_there = None if image_there_IP is None else image_there_IP[rows][:, None]
        text_there = None if text_there_CL is None else text_there_CL[columns][None]
        return _reduced(similarity, image_there, text_there, average)

    # Under autocast the products would be bf16, whose cosines are off by half a percent.
    with torch.autocast(image_IPE.device.type, enabled=False):
        if down >= images and across >= captions:
            return score(slice(0, images), slice(0, captions))
        recompute = torch.is_grad_enabled() and (image_IPE.requires_grad or text_CLE.requires_grad)
        blocks = [
            torch.cat([_once_more(score, recompute)(rows, columns) for columns in _slices(captions, across)], 1)
            for rows in _slices(images, down)
        ]
    return torch.cat(blocks)


def maxsim_of_pairs(
    image_NPE: Tensor,
    text_NLE: Tensor,
    *,
    image_there_NP: Tensor | None = None,
    text_there_NL: Tensor | None = None,
    average: Average = "tokens",
) -> Tensor:
    """Score image n with caption n: (N,) float32; see `maxsim`."""
    with torch.autocast(image_NPE.device.type, enabled=False):
        similarity_NPL = image_NPE.float() @ text_NLE.float().mT
        return _reduced(similarity_NPL, image_there_NP, text_there_NL, average)


def _reduced(similarity: Tensor, image_there: Tensor | None, text_there: Tensor | None, average: Average) -> Tensor:
    """Turn (..., P, L) similarities into scores (...), given which patches (..., P) and tokens (..., L) count."""
    scores = []
    if average != "patches":
        best = _masked(similarity, None if image_there is None else image_there[..., None]).amax(-2)
        scores.append(_mean(best, text_there, image_there))
    if average != "tokens":
        best = _masked(similarity, None if text_there is None else text_there[..., None, :]).amax(-1)
        scores.append(_mean(best, image_there, text_there))
    return scores[0] if len(scores) == 1 else (scores[0] + scores[1]) / 2


def _masked(similarity: Tensor, there: Tensor | None) -> Tensor:
    return similarity if there is None else similarity.masked_fill(~there, -torch.inf)


def _mean(best: Tensor, there: Tensor | None, others: Tensor | None) -> Tensor:
    """Average the best of those that count; 0 where none does, or none of the others does."""
    if others is not None:
        best = best.masked_fill(~others.any(-1, keepdim=True), 0)
    if there is None:
        return best.mean(-1)
    return best.masked_fill(~there, 0).sum(-1) / there.sum(-1).clamp(min=1)


def _once_more(score: Callable[[slice, slice], Tensor], recompute: bool) -> Callable[[slice, slice], Tensor]:
    """Return a function whose intermediate results are computed again in the backward pass, if wanted."""
    if not recompute:
        return score

    def recomputed(rows: slice, columns: slice) -> Tensor:
        scores: Tensor = checkpoint(score, rows, columns, use_reentrant=False, preserve_rng_state=False)
        return scores

    return recomputed


def _slices(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))
