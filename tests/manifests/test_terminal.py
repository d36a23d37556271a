"""Other people's text on a terminal: nothing in it is obeyed, and what people write stays as it is."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.manifests.terminal import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        ("\x9b31m", r"\x9b31m"),  # one byte that begins a sequence as ESC [ does
        ("a\rb\x08c\x7f", r"a\rb\x08c\x7f"),  # written over what stands before
        ("evil \u202egnp.exe", r"evil \u202egnp.exe"),
        ("half \ud800 a pair", r"half \ud800 a pair"),
        ("a\u2028b", r"a\u2028b"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("naïve 犬 كلب 👩‍👩‍👧 می‌خواهم ❤️", "naïve 犬 كلب 👩‍👩‍👧 می‌خواهم ❤️"),
    ],
)
def test_printable__escapes_are_shown_and_words_stay(text: str, expected: str) -> None:
    assert printable(text) == expected


@given(st.text(st.characters(exclude_categories=())))
def test_printable__no_control_of_any_kind_is_left(text: str) -> None:
    shown = printable(text)
    shown.encode()  # no surrogate
    left = {unicodedata.category(letter) for letter in shown if letter not in "\n\t\u200c\u200d"}
    assert not left & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable(shown) == shown
