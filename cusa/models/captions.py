"""The caption clean-up that the paper's training, evaluation and text teacher share, and how long captions may be."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cusa.errors import ConfigError, DataError

_TO_SPACE = str.maketrans(dict.fromkeys(",.'!?\"()*#:;~-/", " "))
_RUNS = re.compile(r"\s{2,}")
_AFTER_PADDING = ("altclip_text_model", "camembert", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl", "xmod")
"""Text models whose first token has the position behind the padding's, so that they read fewer than they have."""


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


def prepare(texts: Sequence[str], reading: Mapping[str, Any]) -> tuple[list[str], int]:
    """Return captions as a student's tokenizer gets them, and how many of them lost words.

    Args:
        texts: captions.
        reading: `text` of a student's card: `transform` (`clean` or `none`), `max_words` and, where the tokenizer
            wants it, `repair`.

    Raises:
        DataError: if nothing is left of a caption once cleaned.
    """
    prepared, cut = list(texts), 0
    if reading["transform"] == "clean":
        most = reading["max_words"]
        for place, text in enumerate(prepared):
            longer = clean_caption(text, most + 1)
            is_cut = longer.count(" ") >= most
            prepared[place] = clean_caption(text, most) if is_cut else longer
            cut += is_cut
    return ([repair(text) for text in prepared] if reading.get("repair") else prepared), cut


def token_positions(config: Any) -> int | None:
    """Return how many tokens a text model reads at most, marks included; None where its positions have no end.

    Args:
        config: its configuration in transformers.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if not positions or positions < 0:
        return None
    behind = int(config.pad_token_id or 0) + 1 if config.model_type in _AFTER_PADDING else 0
    return int(positions) - behind


def choose_tokens(wish: int, own: int, most: int | None, *, key: str, name: str, marks: int = 2) -> int:
    """Return how many tokens of a caption a student reads.

    Args:
        wish: 0 = the model's own.
        own: what the model says of itself.
        most: what its text tower has positions for; None = no end.
        key: of the recipe, for the message.
        name: of the model, likewise.
        marks: tokens that its tokenizer puts around a caption's own.

    Raises:
        ConfigError: if more are asked for than the tower has positions for, or so few that no word is left.
    """
    if 0 < wish <= marks:
        raise ConfigError(
            f"{key} is {wish}, and the tokenizer of {name!r} puts up to {marks} marks around a caption: no word would "
            f"be left. Set it to at least {marks + 1}, or to 0 for the model's own {own}.",
            key=key,
        )
    if most and wish > most:
        raise ConfigError(
            f"{key} is {wish}, and {name!r} reads {most} at most. Set it to at most that, or to 0 for the model's own "
            f"{own}.",
            key=key,
        )
    return wish or own


TRANSFORMS: dict[str, Callable[[str], str]] = {"none": lambda text: text, "clean": clean_caption}
"""Text transforms by name, as a teacher table's `transform` records them."""
