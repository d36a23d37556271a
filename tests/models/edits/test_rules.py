"""The rules: grammatical edits of whole words that keep the case; what a rule cannot be sure of it leaves alone."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.models.edits import rules as edits
from cusa.models.edits import words

EXAMPLES = [
    ("colour", "A red bus on a street.", "A green bus on a street."),
    ("colour", "Red umbrellas in the rain", "Green umbrellas in the rain"),
    ("colour", "A WHITE SINK", "A BLACK SINK"),
    ("colour", "A black and white dog", None),
    ("colour", "A redwood tree, a greenhouse and a red-haired man", None),
    ("colour", "a purple ball", "a grey ball"),
    ("colour", "an orange on a plate", None),
    ("number", "Two dogs run .", "Four dogs run ."),
    ("number", "a two-story bus", None),
    ("number", "One of the players", None),
    ("number", "someone and ten kites", "someone and six kites"),
    ("number", "an eight year old", "a five year old"),
    ("place", "A dog in front of a door.", "A dog behind a door."),
    ("place", "Behind the man stands a horse.", "In front of the man stands a horse."),
    ("place", "a cat on top of a car", "a cat underneath a car"),
    ("place", "the man left the room", None),
    ("place", "the man on the left waves", "the man on the right waves"),
    ("negation", "A man is riding a wave.", "A man is not riding a wave."),
    ("negation", "Two girls playing in mud", "Two girls not playing in mud"),
    ("negation", "A cat with a hat", "A cat without a hat"),
    ("negation", "A building with a clock", "A building without a clock"),
    ("negation", "A standing man in a living room", None),
    ("negation", "A man without a hat is here", None),
    ("negation", "A dog that isn't here is gone", None),
    ("gender", "A man locks his bike.", "A woman locks her bike."),
    ("gender", "Women in hats", "Men in hats"),
    ("gender", "A boy says he is tired", "A girl says she is tired"),
    ("gender", "A woman with her dog", None),
    ("gender", "A man and a woman", None),
    ("gender", "A manhole and a fireman", None),
    ("swap", "A bull is charging a man in an arena .", "A man is charging a bull in an arena ."),
    ("swap", "A man riding a horse.", "A horse riding a man."),
    ("swap", "a black cat under the table", "the table under a black cat"),
    ("swap", "A man kissing a woman.", None),
    ("swap", "Two men riding horses.", None),
    ("swap", "A man eats.", None),
]


@pytest.mark.parametrize(("kind", "caption", "expected"), EXAMPLES)
def test_rules__edit_as_a_person_would(kind: str, caption: str, expected: str | None) -> None:
    assert edits.RULES[kind](caption) == expected


@pytest.mark.parametrize("table", [words.COLOURS, words.NUMBERS, words.PLACES, words.GENDERS])
def test_words__are_exchanged_for_words_of_the_same_table(table: dict[str, str]) -> None:
    for word, other in table.items():
        assert other in table
        assert other != word
        assert word == word.lower()


_TOKENS = st.lists(
    st.sampled_from(
        [*["a", "an", "the", "red", "white", "two", "six", "man", "her", "boy", "dog", "is", "riding", "with", "near"]]
        + [
            *[
                "without",
                "behind",
                "in",
                "front",
                "of",
                "Orange",
                "left",
                ".",
                "Red",
                "TWO",
                "A",
                "not",
                "\n",
                "é",
                "🐕",
            ]
        ]
    ),
    max_size=12,
)


@given(_TOKENS)
def test_rules__change_words_of_their_table_alone(tokens: list[str]) -> None:
    caption = " ".join(tokens)
    for kind, rule in edits.RULES.items():
        edited = rule(caption)
        if edited is None:
            continue
        assert edited != caption
        if kind in ("colour", "number"):
            before, after = re.findall(r"\S+", caption), re.findall(r"\S+", edited)
            table = words.COLOURS if kind == "colour" else words.NUMBERS
            changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
            exchanged = [pair for pair in changed if pair[0].lower() not in ("a", "an")]
            assert [(old.lower(), new.lower()) for old, new in exchanged] == [
                (old.lower(), table[old.lower()]) for old, _ in exchanged
            ]
            assert len(exchanged) == 1
            assert exchanged[0][0][0].isupper() == exchanged[0][1][0].isupper()
        if kind == "negation":
            assert len(edited) > len(caption)
