"""Verdicts as training reads them: which pairs are positives, which are left out, which images are one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cusa.errors import ConfigError
from cusa.manifests import settled
from cusa.manifests.samples import Split
from cusa.manifests.settled import DISPUTED, Judged

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


def read_judged(split: Split, owner_M: np.ndarray, device: torch.device) -> tuple[JudgedPairs, str]:
    """Read the verdicts of a split for training.

    Args:
        split: judged with `cusa review`.
        owner_M: image row of each caption row.
        device: where the tensors go.

    Returns:
        The pairs, and the digest of what is settled.

    Raises:
        ConfigError: if nobody has judged a pair of the split.
        DataError: if the verdicts are broken.
    """
    found = settled.judged(split)
    if not found.settled:
        raise ConfigError(
            f"loss.false_negatives is 'positive', but nobody has judged a pair of {split.folder}. Run `cusa review "
            f"{split.work} --split {split.name}`, or set soft or mask.",
            key="loss.false_negatives",
        )
    image_row = {key: row for row, key in enumerate(split.image_keys)}
    caption_row = {key: row for row, key in enumerate(split.caption_keys)}

    def rows(*words: str) -> np.ndarray:
        pairs = [(image_row[image], caption_row[caption]) for image, caption in found.pairs(*words)]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    copies = rows("duplicate")
    same_N = merged(len(image_row), list(zip(copies[:, 0], owner_M[copies[:, 1]], strict=True)))
    positive, ignored = rows("match"), rows(*IGNORED)
    for pairs in (positive, ignored):
        pairs[:, 0] = same_N[pairs[:, 0]]
    # What is true of one of two copies is true of the other, whatever was said there.
    width = max(len(caption_row), 1)
    ignored = ignored[~np.isin(ignored @ [width, 1], positive @ [width, 1])]
    same, right, left = (torch.from_numpy(each).to(device) for each in (same_N, positive, ignored))
    return JudgedPairs(same, right, left, (_told(found, same_N), *found.notes())), found.digest


def merged(number: int, couples: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return for each of `number` rows the first row that couples tie it to, itself where none does."""
    first = np.arange(number, dtype=np.int64)

    def find(row: int) -> int:
        while first[row] != row:
            first[row] = first[first[row]]
            row = int(first[row])
        return row

    for one, other in couples:
        low, high = sorted((find(int(one)), find(int(other))))
        first[high] = low
    return np.array([find(row) for row in range(number)], dtype=np.int64)


def _told(found: Judged, same_N: np.ndarray) -> str:
    ignored = len(found.pairs(*IGNORED))
    copies = int((same_N != np.arange(len(same_N))).sum())
    return (
        f"Verdicts: {len(found.pairs('match')):,} pairs became positives, {ignored:,} left the denominators, "
        f"{copies:,} images are one with another."
    )
