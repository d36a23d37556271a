"""Which words of a caption an image's own captions have, weighted by how rare they are.

Sentence embeddings blur what a caption names; its words do not. Shapes: M captions, V different words.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

_ENDINGS = ("ing", "ers", "er", "es", "ed", "s")
_STEM = 3  # letters that must be left of a word whose ending is cut
_HEAVIEST = 6.0  # nats; log(captions / captions with the word) stops here, so that weights do not grow with the data


class CaptionWords:
    """The words of all captions of a split, as a sparse matrix of weights.

    A word's weight is min(6, log(M / captions with it)): a word in every caption weighs nothing.

    Args:
        texts: (M,) the captions.
        caption_owner: (M,) the image row that owns each caption.
    """

    def __init__(self, texts: Sequence[str], caption_owner: np.ndarray) -> None:
        from scipy.sparse import csr_array

        sets = [sorted({_stem(word) for word in re.findall(r"[^\W\d_]{2,}|\d+", text.lower())}) for text in texts]
        frequency = Counter(word for words in sets for word in words)
        column = {word: number for number, word in enumerate(frequency)}
        self._weights = np.array(
            [min(_HEAVIEST, float(np.log(len(texts) / number))) for number in frequency.values()], dtype=np.float32
        )
        starts = np.concatenate([[0], np.cumsum([len(words) for words in sets])])
        columns = np.array([column[word] for words in sets for word in words], dtype=np.int32)
        shape = (len(sets), max(len(column), 1))
        values = self._weights[columns] if len(columns) else np.empty(0, dtype=np.float32)
        self._matrix = csr_array((values, columns, starts), shape=shape)
        self.total = np.asarray(self._matrix.sum(1), dtype=np.float32)
        """(M,) the weight of all words of each caption."""

    def covered(self, captions: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Return the weight of the words of some captions that are also in one of an image's own.

        Args:
            captions: (C,) caption rows.
            own: caption rows of one image.
        """
        known = np.zeros(self._matrix.shape[1], dtype=np.float32)
        known[self._matrix[own].indices] = 1
        return np.asarray(self._matrix[captions] @ known)


def _stem(word: str) -> str:
    """Cut the commonest English endings; other languages keep their words nearly whole."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _STEM:
            return word[: -len(ending)]
    return word
