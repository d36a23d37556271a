"""Captions say what they claim and nothing else: read back by their words."""

import re
from random import Random

import pytest

from cusa.pipeline.scenes.captions import CAPTIONS, draw_captions, word
from cusa.pipeline.scenes.meaning import Claim, Mention, Scene, Thing, is_true
from cusa.pipeline.scenes.stage import draw_meaning

# A reader of its own: what a person takes each word for.
SHAPES = {
    "circle": "circle|disc",
    "square": "square|box(?:es)?",
    "triangle": "triangle",
    "star": "star",
    "heart": "heart",
    "ring": "ring|hoop",
    "cross": "cross(?:es)?|plus sign",
    "moon": "moon|crescent",
}
COLOURS = {
    "red": "red|scarlet",
    "blue": "blue",
    "yellow": "yellow",
    "green": "green",
    "purple": "purple|violet",
    "orange": "orange",
    "pink": "pink",
    "black": "black",
}
SIZES = {"small": "small|little|tiny", "large": "large|big|huge"}
TEXTURES = {
    "plain": "plain|solid",
    "striped": "striped|stripy",
    "dotted": "dotted|spotted|polka dot",
    "checked": "checked|chequered",
}
BACKGROUNDS = {
    "sky": "in the sky|clouds|cloudy",
    "meadow": "grass|meadow|lawn",
    "beach": "beach|sand|seaside",
    "night": "at night|in the dark|night sky",
    "snow": "snow|winter",
    "bricks": "bricks?|wall",
}


def _named(vocabulary: dict[str, str], text: str) -> set[str]:
    return {name for name, words in vocabulary.items() if re.search(rf"\b(?:{words})s?\b", text)}


def _drawn(seed: int, number: int) -> list[tuple[Scene, list[tuple[str, Claim]]]]:
    rng = Random(seed)
    scenes = [draw_meaning(rng) for _ in range(number)]
    return [(scene, draw_captions(scene, rng)) for scene in scenes]


def test_every_caption_is_true_of_its_own_image_and_none_is_said_twice() -> None:
    for scene, captions in _drawn(1, 500):
        assert len(captions) == CAPTIONS
        assert len({text for text, _ in captions}) == CAPTIONS
        assert all(is_true(claim, scene) for _, claim in captions)


def test_the_words_are_the_claim() -> None:
    for _, captions in _drawn(2, 400):
        for text, claim in captions:
            lower = text.lower()
            said = claim.mentions
            assert _named(SHAPES, lower) == {mention.shape for mention in said} - {None}, text
            assert _named(COLOURS, lower) == {mention.colour for mention in said} - {None}, text
            assert _named(SIZES, lower) == {mention.size for mention in said} - {None}, text
            assert _named(TEXTURES, lower) == {mention.texture for mention in said} - {None}, text
            assert _named(BACKGROUNDS, lower) == {claim.background} - {None}, text
            counted = re.search(r"(?:only|just|exactly|a single) ?(one|two|three|)\b", lower)
            assert (counted is not None) == (claim.count is not None), text
            if counted:
                assert {"": 1, "one": 1, "two": 2, "three": 3}[counted[1]] == claim.count, text


SPLITTERS = {
    "left of": "(?:to the )?left of",
    "right of": "(?:to the )?right of",
    "above": "above|higher than|over",
    "below": "below|lower than|under",
    "next to": "next to|beside",
}
INVERSES = {
    "left of": "on its left",
    "right of": "on its right",
    "above": "above it",
    "below": "below it",
}


def test_relations_are_worded_the_right_way_round() -> None:
    """Two mentions of different shapes; which comes first in the words decides what the relation must be."""
    met = set()
    rng = Random(3)
    for relation in SPLITTERS:
        claim = Claim((Mention("star"), Mention("ring")), relation)
        for _ in range(60):
            text = word(claim, rng).lower()
            star, ring = re.search(r"\bstar\b", text), re.search(r"\b(?:ring|hoop)\b", text)
            assert star is not None
            assert ring is not None
            if star.start() < ring.start():
                assert re.search(rf"star (?:{SPLITTERS[relation]}) an? (?:ring|hoop)", text), text
            else:
                assert re.search(rf"(?:ring|hoop) with an? star {INVERSES[relation]}", text), text
                met.add(relation)
    assert met == set(INVERSES)


def test_places_are_worded_as_claimed() -> None:
    rng = Random(4)
    expected = {"top": "top|high", "bottom": "bottom|low", "left": "left", "right": "right", "middle": "middle|centre"}
    expected_corner = {"top": "top|upper", "bottom": "bottom|lower", "left": "left", "right": "right"}
    for place in ("top", "bottom", "left", "right", "middle", "top left", "top right", "bottom left", "bottom right"):
        words = expected if " " not in place else expected_corner
        for _ in range(20):
            text = word(Claim((Mention("heart", place=place),)), rng).lower()
            assert {name for name, pattern in words.items() if re.search(pattern, text)} == set(place.split()), text


@pytest.mark.parametrize(
    ("mentions", "expected"),
    [
        ((Mention("star", "red"),) * 2, "two (red|scarlet) stars"),
        ((Mention("cross"),) * 3, "three (crosses|plus signs)"),
        ((Mention("star"), Mention("heart"), Mention("star")), "two stars and a heart"),
        ((Mention("star"), Mention("heart", "orange")), "a star and an orange heart"),
    ],
)
def test_equal_things_are_counted(mentions: tuple[Mention, ...], expected: str) -> None:
    rng = Random(0)
    for _ in range(20):
        text = word(Claim(mentions), rng).lower()
        assert re.search(expected, text), text
        assert not re.search(r"\bis (two|three)\b|\bare a\b", text), text


def test_captions_differ_in_detail() -> None:
    rng = Random(8)
    scene = Scene(
        tuple(Thing(s, "red", "small", "dotted", n, n) for n, s in enumerate(("star", "ring", "moon"))), "sky"
    )
    lengths = sorted(len(text.split()) for _ in range(20) for text, _ in draw_captions(scene, rng))
    assert lengths[0] <= 4
    assert lengths[-1] >= 14
