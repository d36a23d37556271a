"""Teachers that need no download: two without weights, and two small ones shipped with the package.

`offline-gist` sees colours and edges, `offline-ngrams` sees letters and words: they are only as good as pixels and
spelling. They serve runs without a network connection, and as a lower bound that a real teacher must beat.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image

from cusa.errors import ConfigError, nearest
from cusa.models.teachers.base import Teacher

OFFLINE_TEACHERS = ("offline-gist", "offline-ngrams", "offline-scenes-image", "offline-scenes-text")
"""Every name `load_offline` takes."""


def load_offline(name: str) -> Teacher:
    """Return an offline teacher.

    Args:
        name: one of `OFFLINE_TEACHERS`.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name == "offline-gist":
        return GistTeacher()
    if name == "offline-ngrams":
        return NgramTeacher()
    if name not in OFFLINE_TEACHERS:
        raise ConfigError(f"There is no offline teacher {name!r}. {nearest(name, OFFLINE_TEACHERS)}", teacher=name)
    from cusa.models.teachers import scenes as scene_teachers

    return scene_teachers.SceneImageTeacher() if name == "offline-scenes-image" else scene_teachers.SceneTextTeacher()


class GistTeacher:
    """Colours and edge directions on a grid of six by six cells: a layout from pixels alone.

    Each cell gives its mean colour (brightness and two colour differences, mid-grey being zero) and a histogram of
    gradient directions without sign, weighted by strength. Both halves have length one before they are joined, so
    that neither drowns the other.

    Source: after Oliva and Torralba, IJCV 2001 (the gist of a scene), and Dalal and Triggs, CVPR 2005 (gradients).
    """

    name = "offline-gist"
    modality = "image"

    _side = 48
    _grid = 6
    _directions = 8

    width = _grid * _grid * (3 + _directions)

    def encode(self, items: Sequence[Image.Image]) -> np.ndarray:
        """Embed images: (n, width) float32 unit rows."""
        if not items:
            return np.zeros((0, self.width), dtype=np.float32)
        small = [image.convert("RGB").resize((self._side, self._side), Image.Resampling.BOX) for image in items]
        rgb_NHWC = np.stack([np.asarray(image, dtype=np.float32) for image in small]) / 255 - 0.5
        red, green, blue = np.moveaxis(rgb_NHWC, 3, 0)
        grey_NHW = 0.299 * red + 0.587 * green + 0.114 * blue
        colour = self._cells(np.stack([grey_NHW, red - green, blue - (red + green) / 2], axis=3))

        down, across = np.gradient(grey_NHW, axis=(1, 2))
        strength = np.hypot(down, across)
        turn = (np.arctan2(down, across) % np.pi) / np.pi * self._directions
        lower = np.floor(turn)
        part = turn - lower
        bins = np.arange(self._directions)
        first, second = lower.astype(int) % self._directions, (lower.astype(int) + 1) % self._directions
        edges_NHWO = (first[..., None] == bins) * ((1 - part) * strength)[..., None]
        edges_NHWO += (second[..., None] == bins) * (part * strength)[..., None]
        # The root keeps one strong outline from hiding all others.
        edges = np.sqrt(self._cells(edges_NHWO))
        # An image of one flat mid-grey would be a row of zeros; the small constant gives it a direction.
        return _unit(np.concatenate([_unit(colour + 1e-6), _unit(edges + 1e-6)], axis=1))

    def provenance(self) -> dict[str, str]:
        """Return what made the vectors."""
        return {
            "teacher": self.name,
            "revision": "1",
            "weights_sha256": "none",
            "preprocessing": f"RGB, {self._side} x {self._side} box filter, cells {self._grid} x {self._grid}",
        }

    def _cells(self, values_NHWK: np.ndarray) -> np.ndarray:
        number, _, _, kinds = values_NHWK.shape
        step = self._side // self._grid
        cells: np.ndarray = values_NHWK.reshape(number, self._grid, step, self._grid, step, kinds).mean((2, 4))
        return cells.reshape(number, -1)


class NgramTeacher:
    """Hashed n-grams with a fixed random projection: texts that share words and word parts are close.

    Words, pairs of neighbouring words and runs of three to five letters each map to a vector of 256 signs, the bits of
    their BLAKE2b digest; a text is their sum, each n-gram weighted by the logarithm of its count. No weights, no
    vocabulary, the same numbers on every machine.

    Source: random indexing, Kanerva et al., CogSci 2000; subword n-grams as Bojanowski et al., TACL 2017.
    """

    name = "offline-ngrams"
    modality = "text"
    width = 256

    def __init__(self) -> None:
        self._signs: dict[str, np.ndarray] = {}

    def encode(self, items: Sequence[str]) -> np.ndarray:
        """Embed texts: (n, width) float32 unit rows; an empty text has a direction of its own."""
        rows = np.zeros((len(items), self.width), dtype=np.float32)
        for row, text in enumerate(items):
            for gram, count in Counter(_ngrams(text)).items():
                rows[row] += self._sign(gram) * np.float32(1 + np.log(count))
        return _unit(rows)

    def provenance(self) -> dict[str, str]:
        """Return what made the vectors."""
        return {
            "teacher": self.name,
            "revision": "1",
            "weights_sha256": "none",
            "preprocessing": "lower case, split on white space; words, word pairs, 3 to 5 letters; BLAKE2b signs",
        }

    def _sign(self, gram: str) -> np.ndarray:
        if gram not in self._signs:
            digest = blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=self.width // 8).digest()
            bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))
            self._signs[gram] = bits.astype(np.float32) * 2 - 1
        return self._signs[gram]


def _ngrams(text: str) -> list[str]:
    """Return a text's n-grams; a prefix marks their kind, so that the word `red` and the letters `red` differ."""
    words = text.lower().split()
    pairs = ["p" + first + " " + second for first, second in zip(words, words[1:], strict=False)]
    letters = chain.from_iterable(_letters(f"<{word}>") for word in words)
    return ["w" + word for word in words] + pairs + list(letters) or ["empty"]


def _letters(word: str) -> list[str]:
    return [f"l{word[start : start + n]}" for n in (3, 4, 5) for start in range(len(word) - n + 1)]


def _unit(rows: Any) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    assert (norms > 0).all(), "a teacher's row must not be zero"
    return np.asarray(rows / norms, dtype=np.float32)
