"""The caption clean-up that the paper's training, evaluation and text teacher share."""

import re
from collections.abc import Callable

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


def repair(text: str) -> str:
    """Mend a text's encoding as CLIP's reference tokenizer does before it splits it.

    ftfy undoes mojibake, curly quotes and ligatures; HTML entities are resolved twice (captions from the web are often
    escaped twice); white space at the ends goes. Hugging Face's tokenizer leaves this out, and gives other ids for such
    texts.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, as
    their tokenizer computes it.
    """
    if text.isascii() and text.isprintable() and "&" not in text:
        return text.strip()  # nothing to mend, and ftfy costs more than tokenising
    import html

    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


TRANSFORMS: dict[str, Callable[[str], str]] = {"none": lambda text: text, "clean": clean_caption}
"""Text transforms by name, as a teacher table's `transform` records them."""
