"""Doubts about the data set's own pairs, the audit's and people's, for training: how much each pair counts."""

import numpy as np
import torch
from torch import Tensor

from cusa.manifests.judgements import pair_judgements
from cusa.manifests.judgements.own_pairs import FOLDER, read_p_wrong, weights_digest
from cusa.manifests.samples import Split


def read_pair_weights(split: Split, device: torch.device) -> tuple[Tensor, str, str]:
    """Read how much each pair of a split counts: 1 - p_wrong, and where people judged the pair, 1 or 0.

    Args:
        split: audited with `cusa audit --pairs`.
        device: where the weights go.

    Returns:
        (captions,) float32 weights; a digest of the audit's table and the verdicts; a sentence for a person.

    Raises:
        DataError: if the split's pairs were not audited, it is too small for probabilities, or verdicts are broken.
        StaleError: if the table is of another state of the split.
    """
    p_wrong = read_p_wrong(split)
    judgements = pair_judgements.read(split, folder=split.folder / FOLDER)
    judged = {True: 0, False: 0}
    for one in judgements.judgements:
        row = split.caption_row[one.caption_key]
        own = split.image_keys[split.caption_owner[row]] == one.image_key
        if own and (one.positive or one.verdict == "no match"):
            p_wrong[row] = 0.0 if one.positive else 1.0
            judged[one.positive] += 1
    halved = int((p_wrong > 0.5).sum())
    note = (
        f"Pair weights: {float(p_wrong.sum()):,.0f} of {len(p_wrong):,} pairs are expected to be wrong; {halved:,} "
        "count less than half."
    )
    if any(judged.values()):
        note += (
            f" People kept {judged[True]:,} pairs, which count whole, and called {judged[False]:,} wrong, which do not."
        )
    weights = torch.from_numpy(np.ascontiguousarray(1 - p_wrong)).to(device)
    return weights, weights_digest(split), note
