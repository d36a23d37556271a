"""The caption clean-up that the paper's training, evaluation and text teacher share."""

import re

from cusa.errors import DataError

_TO_SPACE = str.maketrans(dict.fromkeys(",.'!?\"()*#:;~-/", " "))
_RUNS = re.compile(r"\s{2,}")


def clean_caption(text: str, max_words: int = 64) -> str:
    """Clean a caption as the authors' release does before tokenising.

    Lower case; punctuation, hyphens and slashes become spaces; `<person>` becomes `person`; runs of white space fold to
    one space (a single tab survives); at most `max_words` words are kept.

    Args:
        text: the caption as the data set has it.
        max_words: 64 for CUSA on CLIP, 30 for X2-VLM's default.

    Returns:
        The cleaned caption, at least one character long.

    Raises:
        DataError: if nothing is left.

    Source: Huang et al., AAAI 2024, as their release computes it.
    """
    cleaned = _RUNS.sub(" ", text.lower().translate(_TO_SPACE).replace("<person>", "person"))
    cleaned = " ".join(cleaned.rstrip("\n").strip(" ").split(" ")[:max_words])
    if not cleaned:
        raise DataError(
            f"Nothing is left of the caption {text[:80]!r} once cleaned. Remove it or give it words.", text=text
        )
    return cleaned


TRANSFORMS = {"none": lambda text: text, "clean": clean_caption}
"""Text transforms by name, as a teacher table's `transform` records them."""
