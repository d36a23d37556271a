"""Which minimal edit separates two captions that read alike: why a candidate may be wrong."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from cusa.models.edits import words

_WORDS = re.compile(r"[a-z]+(?:'[a-z]+)?")
_EMPTY = frozenset({"a", "an", "the", "is", "are", "was", "were", "there", "some"})
_PLACE = sorted(words.PLACES, key=len, reverse=True)


class BlindSpots:
    """The captions of a split, arranged so that pairs of captions that one edit separates are found fast.

    Args:
        texts: of every caption.
        owner: (captions,) the image row of each.
    """

    def __init__(self, texts: Sequence[str], owner: np.ndarray) -> None:
        self._texts, self._owner = texts, owner
        # What an edit of any kind leaves as it is: captions that differ there differ in more.
        numbers: dict[tuple[str, ...], int] = {}
        self._rest = np.array([numbers.setdefault(_rest(text), len(numbers)) for text in texts], dtype=np.int64)
        self._width = max(len(numbers), 1)
        self._places: dict[int, list[int]] = {}
        for caption, place in enumerate((owner.astype(np.int64) * self._width + self._rest).tolist()):
            self._places.setdefault(place, []).append(caption)
        self._known = np.array(sorted(self._places), dtype=np.int64)

    def kinds(self, images: np.ndarray, captions: np.ndarray) -> list[str | None]:
        """Return for each pair the kind of edit that separates the caption from one of the image's own captions.

        None where no single edit does, and where one of the image's own captions says the same.

        Args:
            images: image rows.
            captions: caption rows.
        """
        places = images.astype(np.int64) * self._width + self._rest[captions]
        kinds: list[str | None] = [None] * len(captions)
        for pair in np.flatnonzero(np.isin(places, self._known)).tolist():
            caption = self._texts[captions[pair]]
            own = [self._texts[row] for row in self._places[int(places[pair])]]
            if not any(_content(caption) == _content(one) for one in own):
                edits = (separating_edit(one, caption) for one in own)
                kinds[pair] = next((kind for kind in edits if kind is not None), None)
        return kinds


def _rest(caption: str) -> tuple[str, ...]:
    """Return the words of a caption that no kind of edit exchanges, sorted."""
    return tuple(sorted(word for word in _content(caption) if not any(of_kind(word) for of_kind in _KINDS.values())))


def separating_edit(caption: str, other: str) -> str | None:
    """Return the kind of the one edit that turns what one caption says into what the other says.

    Articles, `is`, `are` and punctuation do not count. What is left must be the same words but for words of one kind,
    on both sides (or, for a negation, on one).

    Args:
        caption: of one picture.
        other: of another.

    Returns:
        A kind of `cusa.models.edits.rules.RULES`; None where they say the same, or differ in more.
    """
    one, two = _content(caption), _content(other)
    first, second = Counter(one) - Counter(two), Counter(two) - Counter(one)
    if not first and not second:
        return "swap" if one != two and _turned(one, two) else None
    for kind, is_of_kind in _KINDS.items():
        if all(map(is_of_kind, (*first, *second))) and (kind == "negation" or (first and second)):
            return kind
    return None


def _content(caption: str) -> list[str]:
    """Return the words that count; a phrase of place is one word."""
    text = caption.lower()
    for phrase in _PLACE:
        if " " in phrase and phrase in text:
            text = re.sub(rf"\b{phrase}\b", phrase.replace(" ", ""), text)
    return [word for word in _WORDS.findall(text) if word not in _EMPTY]


def _turned(one: list[str], two: list[str]) -> bool:
    """Tell whether two groups of words have changed places: `big dog chases cat`, `cat chases big dog`."""
    start = next(at for at, (left, right) in enumerate(zip(one, two, strict=True)) if left != right)
    end = next(at for at, (left, right) in enumerate(zip(one[::-1], two[::-1], strict=True)) if left != right)
    one, two = one[start : len(one) - end], two[start : len(two) - end]
    number = len(one)
    return any(
        one[:first] + one[first : number - last] + one[number - last :]
        == two[number - first :] + two[last : number - first] + two[:last]
        for first in range(1, number)
        for last in range(1, number - first + 1)
    )


_PLACE_WORDS = frozenset(phrase.replace(" ", "") for phrase in words.PLACES)
_GENDER_WORDS = frozenset({*words.GENDERS, *words.PRONOUNS, *words.UNTURNABLE})
_KINDS: dict[str, Callable[[str], bool]] = {
    "colour": words.COLOURS.__contains__,
    "number": words.NUMBERS.__contains__,
    "place": _PLACE_WORDS.__contains__,
    "negation": (words.NEGATIONS | {"with"}).__contains__,
    "gender": _GENDER_WORDS.__contains__,
}
