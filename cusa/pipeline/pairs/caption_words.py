"""Which words of a caption an image's own captions have, weighted by how rare they are.

Sentence embeddings blur what a caption names; its words do not. Shapes: M captions, N images, P pairs in G groups.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from cusa.pipeline.pairs.products import couples

_ENDINGS = ("ing", "ers", "er", "es", "ed", "s")
_STEM = 3  # letters that must be left of a word whose ending is cut
_HEAVIEST = 6.0  # nats; log(captions / captions with the word) stops here, so that weights do not grow with the data


class CaptionWords:
    """The words of all captions of a split, and of all captions of each image.

    A word's weight is min(6, log(M / captions with it)): a word in every caption weighs nothing.

    Args:
        texts: (M,) the captions.
        caption_owner: (M,) the image row that owns each caption.
        num_images: N.
    """

    def __init__(self, texts: Sequence[str], caption_owner: np.ndarray, num_images: int) -> None:
        sets = [sorted({_stem(word) for word in re.findall(r"[^\W\d_]{2,}|\d+", text.lower())}) for text in texts]
        frequency = Counter(word for words in sets for word in words)
        column = {word: number for number, word in enumerate(frequency)}
        self._weights = np.array(
            [min(_HEAVIEST, float(np.log(len(texts) / number))) for number in frequency.values()], dtype=np.float32
        )
        self._lengths = np.array([len(words) for words in sets], dtype=np.int64)
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._words = np.array([column[word] for words in sets for word in words], dtype=np.int32)
        caption_of_word = np.repeat(np.arange(len(sets)), self._lengths)
        self.total = np.bincount(caption_of_word, self._weights[self._words], minlength=len(sets)).astype(np.float32)
        """(M,) the weight of all words of each caption."""
        # The words of an image: those of its captions, each once.
        image, word, _ = couples(caption_owner[caption_of_word], self._words, max(len(column), 1))
        self._of_image, self._bounds = word, np.searchsorted(image, np.arange(num_images + 1))

    def covered(self, images: np.ndarray, bounds: np.ndarray, captions: np.ndarray) -> np.ndarray:
        """Return the weight of the words of captions that an image's own captions have too.

        Args:
            images: (G,) image rows.
            bounds: (G + 1,) where the captions of each begin, and the end.
            captions: (P,) caption rows.
        """
        lengths = self._lengths[captions]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        words = self._words[np.arange(ends[-1]) + np.repeat(self._starts[captions] - ends[:-1], lengths)]
        weights = np.empty(len(words) + 1, dtype=np.float32)  # one more, so that the last sum begins somewhere
        weights[-1] = 0
        known = np.zeros(len(self._weights), dtype=np.float32)
        for image, start, stop in zip(images, ends[bounds[:-1]], ends[bounds[1:]], strict=True):
            mine = self._of_image[self._bounds[image] : self._bounds[image + 1]]
            known[mine] = self._weights[mine]
            np.take(known, words[start:stop], out=weights[start:stop], mode="clip")
            known[mine] = 0
        return np.where(lengths > 0, np.add.reduceat(weights, ends[:-1]), 0) if len(captions) else weights[:0]


def _stem(word: str) -> str:
    """Cut the commonest English endings; other languages keep their words nearly whole."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _STEM:
            return word[: -len(ending)]
    return word
