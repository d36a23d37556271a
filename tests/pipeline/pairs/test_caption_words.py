"""The words that captions share, against plain loops over sets of words."""

import math

import numpy as np

from cusa.pipeline.pairs.caption_words import CaptionWords

TEXTS = (
    "a dog chases a dog",
    "two dogs",
    "a red bus",
    "the red, red bus of 12",
    "",
    "a dog beside the bus",
)
WORDS: tuple[set[str], ...] = (
    {"dog", "chas"},
    {"two", "dog"},
    {"red", "bus"},
    {"the", "red", "bus", "of", "12"},
    set(),
    {"dog", "beside", "the", "bus"},
)
OWNER = np.array([0, 0, 1, 1, 2, 2])


def _weight(word: str) -> float:
    return min(6.0, math.log(len(WORDS) / sum(word in words for words in WORDS)))


def test_total__each_word_of_a_caption_once() -> None:
    got = CaptionWords(TEXTS, OWNER, 3).total
    np.testing.assert_allclose(got, [sum(map(_weight, words)) for words in WORDS], rtol=1e-5)


def test_covered__each_word_that_the_image_has_once() -> None:
    captions = np.array([3, 0, 5, 4, 0, 1])
    got = CaptionWords(TEXTS, OWNER, 3).covered(np.array([0, 1, 2]), np.array([0, 2, 4, 6]), captions)
    expected = []
    for image, caption in zip((0, 0, 1, 1, 2, 2), captions.tolist(), strict=True):
        known: set[str] = set().union(*(words for words, owner in zip(WORDS, OWNER, strict=True) if owner == image))
        expected.append(sum(_weight(word) for word in WORDS[caption] & known))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
