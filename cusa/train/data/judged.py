"""Human judgements for training: pairs that are positives, pairs that are left out, images that are duplicates."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cusa.errors import ConfigError
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.judgements.pair_judgements import DISPUTED, Judgements
from cusa.manifests.samples import Split

IGNORED = ("related", DISPUTED)
"""Verdicts of pairs that are neither positives nor negatives: they leave InfoNCE's denominators."""


@dataclass(frozen=True)
class JudgedPairs:
    """The judged pairs of a split, as rows.

    Legend: N images, P pairs.
    """

    first_N: Tensor
    """(N,) int64, for each image row the first row among its duplicates."""
    positive: Tensor
    """(P, 2) int64, image and caption row; the image by its first row."""
    ignored: Tensor
    """(P, 2) int64, likewise."""
    notes: tuple[str, ...]

    def loss_inputs(self, image_ids_B: Tensor, rows_B: Tensor) -> dict[str, Tensor]:
        """Return the ids and the listed pairs of a batch, by the names that `CUSALoss` has for them.

        Args:
            image_ids_B: image rows.
            rows_B: caption rows.
        """
        return {
            "image_ids": self.first_N[image_ids_B],
            "text_ids": rows_B,
            "positive_pairs": self.positive,
            "ignored_pairs": self.ignored,
        }


def read_judged(split: Split, device: torch.device) -> tuple[JudgedPairs, str]:
    """Read the verdicts of a split for training.

    Args:
        split: judged with `cusa review`.
        device: where the tensors go.

    Returns:
        The pairs, and the digest of the judgements.

    Raises:
        ConfigError: if the split has no judgement.
        DataError: if the verdicts are broken.
    """
    judgements = pair_judgements.read(split)
    if not judgements.judgements:
        raise ConfigError(
            f"loss.false_negatives is 'positive', but nobody has judged a pair of {split.folder}. Run `cusa review "
            f"{split.work} --split {split.name}`, or set soft or mask.",
            key="loss.false_negatives",
        )
    first_N = pair_judgements.same_images(split, judgements)
    positive, ignored = (pair_judgements.pair_rows(split, judgements, *words) for words in (("match",), IGNORED))
    for pairs in (positive, ignored):
        pairs[:, 0] = first_N[pairs[:, 0]]
    # What is true of one of two duplicates is true of the other, whatever the verdict on the other is.
    width = max(split.num_captions, 1)
    ignored = ignored[~np.isin(ignored @ [width, 1], positive @ [width, 1])]
    first, positives, ignored_pairs = (torch.from_numpy(each).to(device) for each in (first_N, positive, ignored))
    notes = _summary(judgements, first_N), *judgements.notes()
    return JudgedPairs(first, positives, ignored_pairs, notes), judgements.digest


def _summary(judgements: Judgements, first_N: np.ndarray) -> str:
    ignored = len(judgements.pairs(*IGNORED))
    copies = int((first_N != np.arange(len(first_N))).sum())
    return (
        f"Verdicts: {len(judgements.pairs('match')):,} pairs became positives, {ignored:,} left the denominators, "
        f"{copies:,} images are one with another."
    )
