"""Text of other people on a terminal: captions, keys and file names in tables and in error messages."""

import re

_KEPT = "\n\t\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # the last two belong to emoji and to Persian words
_SUSPECT = re.compile(r"[^\x20-\x7e\n\t]")


def printable(text: str) -> str:
    r"""Return a text that a terminal shows and does not obey.

    What is not printable is written as its escape, such as `\x1b`: control characters, with which a terminal's escape
    sequences begin, characters that change the direction of writing, and halves of surrogate pairs, which cannot be
    encoded at all. Line breaks and tabs stay.

    Args:
        text: from anywhere.
    """
    return _SUSPECT.sub(lambda match: _shown(match[0]), text)


def _shown(letter: str) -> str:
    if letter.isprintable() or letter in _KEPT:
        return letter
    return letter.encode("unicode_escape").decode("ascii")
