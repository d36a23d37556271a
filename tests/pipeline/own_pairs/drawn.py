"""Teachers that see a hidden meaning through noise, for the tests of wrong pairs."""

import numpy as np

from cusa.pipeline.index.exact import nearest_rows
from cusa.pipeline.index.neighbours import Modality
from cusa.pipeline.own_pairs.cross_modal import unit
from cusa.pipeline.own_pairs.features import PairEvidence


def draw(images: int = 300, *, captions: int = 3, seed: int = 0) -> tuple[Modality, Modality, np.ndarray]:
    """Return an image and a text teacher over images with a hidden meaning, and the owner of each caption."""
    random = np.random.default_rng(seed)
    meaning = random.normal(size=(images, 12))
    owner = np.repeat(np.arange(images), captions)
    see, read = random.normal(size=(12, 24)), random.normal(size=(12, 20))
    pictures = unit(meaning @ see + 0.8 * random.normal(size=(images, 24)))
    texts = unit(meaning[owner] @ read + 0.8 * random.normal(size=(len(owner), 20)))
    return (*(Modality(rows, nearest_rows(rows, 20)) for rows in (pictures, texts)), owner)


def evidence_of(images: Modality | None, texts: Modality, owner: np.ndarray, *, number: int = 300) -> PairEvidence:
    """Return the evidence over drawn teachers."""
    return PairEvidence(owner, num_images=number, images=images, texts=texts)


def swap_captions(owner: np.ndarray, share: float, *, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Move a share of the captions round, each to an image that is not its own; return the owners and which moved.

    Captions have to stand in the order of their images only on disk.
    """
    moved = np.random.default_rng(seed).permutation(len(owner))[: int(share * len(owner))]
    moved = moved[np.argsort(owner[moved], kind="stable")]
    swapped = owner.copy()
    swapped[moved] = np.roll(owner[moved], len(moved) // 2)
    return swapped, swapped != owner
