"""Rows of a teacher or a student, with each row's nearest rows.

Shapes: N images, M captions, D width of an embedding, K neighbours.
"""

from dataclasses import dataclass

import numpy as np

from cusa.manifests.neighbours import Neighbours


@dataclass(frozen=True)
class Modality:
    """What one teacher says: unit rows, and each row's nearest rows."""

    rows: np.ndarray
    near: Neighbours


@dataclass(frozen=True)
class CrossModal:
    """What a student says: unit rows of both modalities in one space, and the nearest of the other modality.

    Attributes:
        images: (N, D) rows.
        captions: (M, D) rows.
        near_captions: (N, K) the nearest captions of each image.
        near_images: (M, K') the nearest images of each caption.
    """

    images: np.ndarray
    captions: np.ndarray
    near_captions: np.ndarray
    near_images: np.ndarray
