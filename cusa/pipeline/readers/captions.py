"""What can stand for captions in people's files: a text, a list of texts, a list written as text, texts with ids."""

import ast
import contextlib
import json
import math
import re
from typing import Any

from cusa.manifests.records import CaptionRecord

_TEXTS = ("text", "caption", "raw")
_IDS = ("caption_id", "sentid", "id")
_LONGEST_SOURCE = 80  # characters: it is a kind of caption and no description
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LIST = re.compile(rf"\[\s*{_QUOTED}(?:\s*(?:,\s*)?{_QUOTED})*\s*(?:,\s*)?\]", re.DOTALL)
_ITEM = re.compile(_QUOTED, re.DOTALL)


def as_text(value: Any) -> str:
    """Return a label, an id or a role as text: 0 is "0", nothing (None, not a number) is empty.

    Raises:
        TypeError: if it is a list or an object.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict | tuple | bytes):
        raise TypeError(f"{value!r:.80} is no label or id: a text or a number is needed")
    return str(value)


def as_source(value: Any) -> str:
    """Return the name of a source: `alt  text ` is `alt text`, nothing (None, not a number) is empty.

    Raises:
        TypeError: if it is no text.
        ValueError: if it is too long for a kind.
    """
    if value is None or value != value:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no source of a caption: a text is needed, as human or synthetic")
    name = " ".join(value.split())
    if len(name) > _LONGEST_SOURCE:
        raise ValueError(
            f"{name!r:.90} is no source of a caption: it has {len(name)} characters, at most {_LONGEST_SOURCE}"
        )
    return name


def listed_texts(value: str) -> list[str]:
    """Return the captions that a cell holds: those of a list written as JSON, Python or NumPy write it, else the text.

    Args:
        value: for example `a dog`, `["a dog", "a cat"]`, `['a dog', 'a cat']` or `['a dog' 'a cat']`.
    """
    written = value.strip()
    if not (written.startswith("[") and written.endswith("]")):
        return [value]
    try:
        parsed = json.loads(written)
        if isinstance(parsed, list) and all(isinstance(text, str) for text in parsed):
            return parsed
    except (ValueError, RecursionError):
        pass
    if _LIST.fullmatch(written):
        try:
            return [str(ast.literal_eval(text)) for text in _ITEM.findall(written)]
        except (ValueError, SyntaxError):
            pass
    return [value]


def caption_records(value: Any) -> tuple[list[CaptionRecord], list[str]]:
    """Return the captions in a value of a row or a JSON file.

    Args:
        value: a text, an object with `text`, `caption` or `raw` (and an id, and a source), a list of these, or None.

    Returns:
        The captions, and what is wrong with each of the others, in words.
    """
    records: list[CaptionRecord] = []
    refused: list[str] = []
    if value is None:
        return records, refused
    for caption in value if isinstance(value, list) else [value]:
        text, caption_id, source = caption, "", ""
        if isinstance(caption, dict):
            text = next((caption[name] for name in _TEXTS if caption.get(name) is not None), None)
            caption_id = next((str(caption[name]) for name in _IDS if caption.get(name) is not None), "")
            with contextlib.suppress(TypeError, ValueError):  # a field of that name may be something else
                source = as_source(caption.get("source"))
        if isinstance(text, str):
            records.append(CaptionRecord(caption_id, text, source=source))
        else:
            refused.append(f"a caption is {caption!r:.120}, not a text")
    return records, refused
