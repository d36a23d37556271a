"""The caption clean-up equals the reference's on every stored caption."""

import json
from pathlib import Path

import pytest

from cusa.errors import ConfigError, DataError
from cusa.models.captions import choose_tokens, clean_caption, prepare, repair, token_positions


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


@pytest.mark.parametrize("max_words", [1, 3, 64])
def test_prepare__is_the_clean_up_and_counts_what_lost_words(max_words: int, golden: Path) -> None:
    rows = [row["raw"] for row in json.loads((golden / "02_captions/captions.json").read_text())]
    texts = [text for text in rows if clean_caption("a " + text) != "a"]
    texts = ["a " + text for text in texts]
    prepared, cut = prepare(texts, {"transform": "clean", "max_words": max_words})
    assert prepared == [clean_caption(text, max_words) for text in texts]
    assert cut == sum(clean_caption(text, max_words) != clean_caption(text, 10_000) for text in texts)


def test_prepare__what_is_not_cleaned_is_not_cut() -> None:
    texts = ["Caf\u00e9 &amp; bar ", "a " * 70]
    assert prepare(texts, {"transform": "none", "max_words": 3}) == (texts, 0)
    assert prepare(texts, {"transform": "none", "max_words": 3, "repair": True})[0] == [
        "Caf\u00e9 & bar",
        ("a " * 70).strip(),
    ]


def test_token_positions__leaves_out_those_before_the_first_token() -> None:
    """Against the models themselves: they read so many tokens, and one more is too many."""
    import torch
    import transformers as hf

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    for kind in ("Roberta", "MPNet", "Bert", "CLIPText", "Siglip2Text"):
        fields = {**small, "vocab_size": 20, "max_position_embeddings": 10, "pad_token_id": 1}
        config = getattr(hf, f"{kind}Config")(**fields, bos_token_id=2, eos_token_id=3)
        model, most = getattr(hf, f"{kind}Model")(config).eval(), token_positions(config)
        assert most == (8 if kind in ("Roberta", "MPNet") else 10), kind
        with torch.no_grad():
            model(input_ids=torch.full((1, most), 4))
            with pytest.raises((IndexError, RuntimeError, ValueError)):
                model(input_ids=torch.full((1, most + 1), 4))
    assert token_positions(hf.T5Config()) is None


def test_choose_tokens() -> None:
    where = {"key": "student.max_tokens", "name": "long"}
    assert [choose_tokens(wish, 77, 248, **where) for wish in (0, 5, 248)] == [77, 5, 248]
    assert choose_tokens(9_000, 512, None, **where) == 9_000
    with pytest.raises(ConfigError, match=r"student\.max_tokens is 249, and 'long' reads 248 at most.*own 77"):
        choose_tokens(249, 77, 248, **where)
    with pytest.raises(ConfigError, match=r"student\.max_tokens is 2.*2 marks.*at least 3.*own 77"):
        choose_tokens(2, 77, 248, **where)
    assert choose_tokens(2, 77, 248, **where, marks=1) == 2
