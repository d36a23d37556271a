"""Reading one large JSON object without holding it: annotation files outgrow memory long before their images do."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cusa.errors import CusaError, DataError

_CHUNK = 1 << 20  # characters
_TAIL = 4096  # bytes
_LONGEST_STUB = 3  # characters of a number that the decoder leaves where it is cut: `e-`, and one more
_BLANK = " \t\r\n"


def items(path: Path) -> Iterator[tuple[str, Any]]:
    """Give what a JSON file holds at its top, one piece at a time.

    Args:
        path: a file whose top is an object or a list.

    Yields:
        `(name, value)` of each member of the object; a member that is a list comes as one pair for each element, so
        that only one element is in memory at once. A list at the top has the name "".

    Raises:
        DataError: if the file is missing, broken, or its top is neither.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:  # with or without a byte order mark
            yield from _Reader(file).top()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check the path, or run the stage that writes it.", path=path) from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not a JSON file. Name the file.", path=path) from None
    except RecursionError:
        raise DataError(f"{path} is no readable JSON (it is nested too deeply). Make it again.", path=path) from None
    except ValueError as error:  # no UTF-8, no JSON, or an integer of thousands of digits
        if isinstance(error, CusaError):
            raise
        raise DataError(f"{path} is no readable JSON ({error}). Restore it, or make it again.", path=path) from error


def last_text(path: Path, name: str) -> str:
    """Return the text that a JSON object ends with, if its last member has this name, without reading what is before.

    Args:
        path: a file; whether it is whole is not looked at.
        name: of the member: letters, digits and what else JSON writes as it is.

    Returns:
        The text; empty if the last member is another one, no text, or too long.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            tail = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    # A quote inside a text has a backslash before it, so this is a name, and the brace is the outermost one.
    match = re.search(rf'[{{,]\s*"{re.escape(name)}"\s*:\s*("(?:[^"\\]|\\.)*")\s*}}\s*\Z', tail)
    try:
        return str(json.loads(match[1])) if match else ""
    except json.JSONDecodeError:
        return ""


class _Reader:
    """A window over the text that moves on as values are taken off its front."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._ended = False
        self._decoder = json.JSONDecoder()

    def top(self) -> Iterator[tuple[str, Any]]:
        opening = self._peek()
        if opening == "[":
            yield from (("", element) for element in self._elements())
        elif opening == "{":
            yield from self._members()
        else:
            raise json.JSONDecodeError("neither an object nor a list", self._text, self._at)
        if self._peek():
            raise json.JSONDecodeError("text after the end", self._text, self._at)

    def _members(self) -> Iterator[tuple[str, Any]]:
        self._take("{")
        if self._peek() == "}":
            self._take("}")
            return
        while True:
            name = self._value()
            if not isinstance(name, str):
                raise json.JSONDecodeError("a name is not a text", self._text, self._at)
            self._take(":")
            if self._peek() == "[":
                yield from ((name, element) for element in self._elements())
            else:
                yield name, self._value()
            if self._take(",}") == "}":
                return

    def _elements(self) -> Iterator[Any]:
        self._take("[")
        if self._peek() == "]":
            self._take("]")
            return
        while True:
            yield self._value()
            if self._take(",]") == "]":
                return

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            # A number may go on behind the window's end; of `1.` or `1e-` the decoder takes the 1 alone.
            cut = end + _LONGEST_STUB > len(self._text) and not self._text[end:].strip("+-.eE")
            if cut and self._more():
                continue
            self._at = end
            return value

    def _peek(self) -> str:
        """Return the next character that is no blank; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _take(self, allowed: str) -> str:
        character = self._peek()
        if not character or character not in allowed:
            raise json.JSONDecodeError(f"expected one of {' '.join(allowed)}", self._text, self._at)
        self._at += 1
        return character

    def _more(self) -> bool:
        """Read on, forgetting what was taken; a value longer than the window doubles it."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        chunk = self._file.read(max(_CHUNK, len(rest)))
        self._ended = not chunk
        self._text, self._at = rest + chunk, 0
        return bool(chunk)
