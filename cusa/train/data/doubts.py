"""The audit's doubts about the data set's own pairs, for training: how much each pair counts."""

import numpy as np
import torch
from torch import Tensor

from cusa.manifests.judgements.own_pairs import pairs_digest, read_p_wrong
from cusa.manifests.samples import Split


def read_pair_weights(split: Split, device: torch.device) -> tuple[Tensor, str, str]:
    """Read how much each pair of a split counts: 1 - p_wrong.

    Args:
        split: audited with `cusa audit --pairs`.
        device: where the weights go.

    Returns:
        (captions,) float32 weights; the digest of the audit's table; a sentence for a person.

    Raises:
        DataError: if the split's pairs were not audited, or it is too small for probabilities.
        StaleError: if the table is of another state of the split.
    """
    p_wrong = read_p_wrong(split)
    halved = int((p_wrong > 0.5).sum())
    note = (
        f"Pair weights: {float(p_wrong.sum()):,.0f} of {len(p_wrong):,} pairs are expected to be wrong; {halved:,} "
        "count less than half."
    )
    return torch.from_numpy(np.ascontiguousarray(1 - p_wrong)).to(device), pairs_digest(split), note
