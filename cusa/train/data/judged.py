"""Verdicts as training reads them: which pairs are positives, which are left out, which images are one."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cusa.errors import ConfigError
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.judgements.pair_judgements import DISPUTED, Judgements
from cusa.manifests.samples import Split

IGNORED = ("related", DISPUTED)
"""Neither right nor wrong: they leave InfoNCE's denominators."""


@dataclass(frozen=True)
class JudgedPairs:
    """What people said of a split's pairs.

    Legend: N images, P pairs.
    """

    same_N: Tensor
    """(N,) int64, for each image row the first row of the images that are one with it."""
    positive: Tensor
    """(P, 2) int64, image and caption row; the image by its first row."""
    ignored: Tensor
    """(P, 2) int64, likewise."""
    notes: tuple[str, ...]

    def of(self, image_ids_B: Tensor, rows_B: Tensor) -> dict[str, Tensor]:
        """Return what `CUSALoss` is told of a batch.

        Args:
            image_ids_B: image rows.
            rows_B: caption rows.
        """
        return {
            "image_ids": self.same_N[image_ids_B],
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
        The pairs, and the digest of what is settled.

    Raises:
        ConfigError: if nobody has judged a pair of the split.
        DataError: if the verdicts are broken.
    """
    found = pair_judgements.read(split)
    if not found.judgements:
        raise ConfigError(
            f"loss.false_negatives is 'positive', but nobody has judged a pair of {split.folder}. Run `cusa review "
            f"{split.work} --split {split.name}`, or set soft or mask.",
            key="loss.false_negatives",
        )
    same_N = pair_judgements.same_images(split, found)
    positive, ignored = (pair_judgements.pair_rows(split, found, *words) for words in (("match",), IGNORED))
    for pairs in (positive, ignored):
        pairs[:, 0] = same_N[pairs[:, 0]]
    # What is true of one of two copies is true of the other, whatever was said there.
    width = max(split.num_captions, 1)
    ignored = ignored[~np.isin(ignored @ [width, 1], positive @ [width, 1])]
    same, right, left = (torch.from_numpy(each).to(device) for each in (same_N, positive, ignored))
    return JudgedPairs(same, right, left, (_told(found, same_N), *found.notes())), found.digest


def _told(found: Judgements, same_N: np.ndarray) -> str:
    ignored = len(found.pairs(*IGNORED))
    copies = int((same_N != np.arange(len(same_N))).sum())
    return (
        f"Verdicts: {len(found.pairs('match')):,} pairs became positives, {ignored:,} left the denominators, "
        f"{copies:,} images are one with another."
    )
