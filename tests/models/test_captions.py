"""The caption clean-up equals the reference's on every stored caption."""

import json
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.models.captions import clean_caption, repair


@pytest.mark.parametrize("max_words", [64, 30, 5])
def test_clean_caption__equals_reference(golden: Path, max_words: int) -> None:
    rows = json.loads((golden / "02_captions/captions.json").read_text())
    assert len(rows) > 100
    for row in rows:
        expected = row[f"max_words_{max_words}"]
        if expected is None:
            with pytest.raises(DataError, match="Nothing is left"):
                clean_caption(row["raw"], max_words)
        else:
            assert clean_caption(row["raw"], max_words) == expected


SIGNS = ",.'!?\"()*#:;~-/"


@pytest.mark.parametrize("sign", SIGNS)
def test_clean_caption__every_sign_becomes_a_space(sign: str) -> None:
    assert clean_caption(f"A{sign}B") == "a b"
    assert clean_caption(f"{sign} A {sign}{sign} B{sign}") == "a b"


@pytest.mark.parametrize("sign", ["&", "_", "+", "%", "$", "@", "=", "[", "<", "\u2019"])
def test_clean_caption__other_signs_stay(sign: str) -> None:
    assert clean_caption(f"A{sign}B") == f"a{sign}b"


def test_clean_caption__words_and_white_space() -> None:
    assert clean_caption("a\tb  c \n d\n") == "a\tb c d"
    assert clean_caption("A <PERSON> waves") == "a person waves"
    words = [f"w{n}" for n in range(70)]
    assert clean_caption(" ".join(words)) == " ".join(words[:64]), "64 words unless told otherwise"
    assert clean_caption(" ".join(words), 3) == "w0 w1 w2"
    for nothing in ("", "  ", "...", "\n"):
        with pytest.raises(DataError, match="Nothing is left of the caption"):
            clean_caption(nothing)


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("  plain text ", "plain text"),
        ("fish &amp; chips", "fish & chips"),
        ("fish &amp;amp; chips", "fish & chips"),
        ("5 &lt; 6 ", "5 < 6"),
        ("schÃ¶n", "schön"),
        ("\u201cquoted\u201d", '"quoted"'),
        ("ﬁne", "fine"),
        ("tab\there", "tab\there"),
        (" caf\u00e9\u00a0", "caf\u00e9"),
    ],
)
def test_repair__mends_what_clips_tokenizer_mends(text: str, mended: str) -> None:
    assert repair(text) == mended
