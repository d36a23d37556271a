"""What training does to pictures, row by row."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cusa.manifests.words import counted
from cusa.models.naflex import AnyPreprocess
from cusa.train.data.augment import pictures
from cusa.train.data.augment.config import AugmentConfig
from cusa.train.data.augment.draws import kept_patches, uniforms

_CROP, _FLIP, _COLOURS = slice(0, 4), 4, slice(5, 10)
"""Which of a row's numbers decide what: none of them on what else is asked for."""


@dataclass(frozen=True)
class Augmentation:
    """Changes of pictures as a function of seed, epoch and caption row."""

    config: AugmentConfig
    seed: int
    preprocess: AnyPreprocess
    """How the student scales a picture."""
    one_sided: np.ndarray
    """(images,) bool: which are never mirrored."""
    patches: int = 0
    """T of the image tower; 0 where all are kept."""

    def crop(self, image: Image.Image | np.ndarray, *, row: int, epoch: int) -> np.ndarray:
        """Scale a random crop of a picture into an array of the preprocessing.

        Raises:
            DataError: if the shards hold arrays in place of pictures.
        """
        if isinstance(image, np.ndarray):
            return self.preprocess.array(image)  # which refuses it in words
        box = pictures.crop_box(
            *image.size,
            self._numbers(row, epoch)[_CROP],
            smallest=self.config.crop,
            ratio=self.config.crop_ratio,
            own=self.preprocess.own_proportions,
        )
        return self.preprocess.array_of(image, box)

    def changed(self, array: np.ndarray, *, row: int, image: int, epoch: int) -> np.ndarray:
        """Mirror and recolour a picture as asked for.

        Args:
            array: what the preprocessing made of it; not changed.
            row: the caption's.
            image: its image's.
            epoch: counted from 0.
        """
        config = self.config
        if not config.flip and not config.recolours:
            return array
        numbers = self._numbers(row, epoch)
        flips = bool(numbers[_FLIP] < config.flip and not self.one_sided[image])
        if not flips and not config.recolours:
            return array
        picture = self.preprocess.unpacked(array)
        if flips:
            picture = pictures.mirror(picture)
        if config.recolours:
            picture = pictures.recolour(picture, numbers[_COLOURS], config)
        return self.preprocess.packed(picture)

    def kept(self, rows: np.ndarray, *, epoch: int) -> Tensor | None:
        """Return which patches of each row the image tower sees: (n, K) int64; None = all."""
        if not self.patches:
            return None
        kept = max(1, self.patches - round(self.patches * self.config.patches))
        return torch.from_numpy(kept_patches(rows, patches=self.patches, kept=kept, seed=self.seed, epoch=epoch))

    def sentence(self) -> str:
        """Return what changes, and how many images are never mirrored, for the user."""
        said = self.config.sentence()
        if not self.config.flip:
            return said
        number, words = int(self.one_sided.sum()), self.config.flip_words
        of = f"{counted(number, 'image')} of {len(self.one_sided):,}"
        first = ", ".join(words[:2]) + (f" or another of {len(words)} words" if len(words) > 2 else "")
        return f"{said} Never mirrored: {of} with a caption that says {first} (train.augment.flip_words)."

    def _numbers(self, row: int, epoch: int) -> np.ndarray:
        numbers: np.ndarray = uniforms(np.array([row]), 10, seed=self.seed, epoch=epoch)[0]
        return numbers
