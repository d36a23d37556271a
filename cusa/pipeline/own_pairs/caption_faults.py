"""Faults of single captions: repeated on many images, boilerplate, too short, markup, unlike the rest's language."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_MANY = 10  # images with the very same words from which they describe none of them
_MANY_SHARE = 0.001
_FEWEST_WORDS = 3
_FEWEST_CAPTIONS = 200  # below, there is no language of the rest
_UNLIKE = 6.0  # robust standard deviations below the median of how usual a caption's letters are

_WORD = re.compile(r"[^\W\d_]+")
_MARKUP = re.compile(r"</?[a-z][^<>]{0,200}>|&(?:[a-z]{2,8}|#\d{2,6});|https?://|www\.|\[/?[a-z]{1,8}\]", re.IGNORECASE)
_BOILERPLATE = re.compile(
    r"\b(?:image not (?:found|available)|no (?:image|caption|description)|photo (?:by|credit)|image (?:source|credit)|"
    r"click (?:to|here)|getty images|shutterstock|istock|all rights reserved|copyright|untitled|lorem ipsum|"
    r"(?:img|dsc|dscn|p)[_-]?\d{3,}|\w+\.(?:jpe?g|png|gif|webp))\b|©",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Fault:
    """One fault of one image or caption.

    Attributes:
        row: of the split's images or captions.
        kind: `image` or `text`.
        fault: its name.
        value: what was measured.
        detail: the same for a person.
    """

    row: int
    kind: str
    fault: str
    value: float
    detail: str


def caption_faults(texts: Sequence[str], owner: np.ndarray, cleaned: np.ndarray) -> list[Fault]:
    """Return the faults of captions, in the order of their rows.

    Args:
        texts: the words.
        owner: the image row of each caption.
        cleaned: equal numbers for captions with the same words.
    """
    images = images_with_the_words(owner, cleaned)
    many = max(_MANY, _MANY_SHARE * len(np.unique(owner)))
    usual = _usualness(texts)
    faults: list[Fault] = []
    for row, text in enumerate(texts):
        words = len(_WORD.findall(text))
        if images[row] >= many:
            detail = f"the same words on {images[row]:,} images"
            faults.append(Fault(row, "text", "repeated", float(images[row]), detail))
        if (match := _BOILERPLATE.search(text)) is not None:
            faults.append(Fault(row, "text", "boilerplate", float(match.start()), f"it has {match.group()[:60]!r}"))
        if words < _FEWEST_WORDS and _is_spaced(text):
            faults.append(Fault(row, "text", "too-short", float(words), f"{words} words"))
        if (match := _MARKUP.search(text)) is not None:
            faults.append(Fault(row, "text", "markup", float(match.start()), f"it has {match.group()[:60]!r}"))
        if usual[row] < -_UNLIKE:
            faults.append(Fault(row, "text", "language", float(usual[row]), "its letters are unlike the rest's"))
    return faults


def images_with_the_words(owner: np.ndarray, cleaned: np.ndarray) -> np.ndarray:
    """Return for each caption on how many images its words stand.

    Args:
        owner: (M,) image rows.
        cleaned: (M,) equal numbers for captions with the same words.
    """
    pairs = np.unique(np.stack([cleaned, owner], axis=1), axis=0)
    return np.asarray(np.bincount(pairs[:, 0], minlength=int(cleaned.max(initial=-1)) + 1)[cleaned])


def _is_spaced(text: str) -> bool:
    """Tell whether words can be counted: Chinese, Japanese and Thai put no space between them."""
    return not any("\u0e00" <= letter <= "\u0e7f" or "\u3040" <= letter <= "\u9fff" for letter in text)


def _usualness(texts: Sequence[str]) -> np.ndarray:
    """Return how usual each caption's sequences of three letters are among all captions, in robust deviations.

    A caption in another language, or of no language, has sequences that the rest lacks. Its own occurrences do not
    count. Short captions stray more, so the deviation is that of captions of the same length.
    """
    out = np.zeros(len(texts))
    if len(texts) < _FEWEST_CAPTIONS:
        return out
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_trigrams(text))
    total = sum(counts.values())
    level = np.zeros(len(texts))
    length = np.zeros(len(texts))
    for row, text in enumerate(texts):
        mine = Counter(_trigrams(text))
        length[row] = sum(mine.values())
        level[row] = sum(
            times * np.log((max(counts[three] - times, 0) + 0.1) / total) for three, times in mine.items()
        ) / max(length[row], 1)
    strays = (level - np.median(level)) * np.sqrt(np.maximum(length, 1))
    deviation = 1.4826 * np.median(np.abs(strays - np.median(strays)))
    return np.asarray(strays / max(float(deviation), 1e-9))


def _trigrams(text: str) -> Iterator[str]:
    padded = f" {text.lower()} "
    return (padded[place : place + 3] for place in range(len(padded) - 2))
