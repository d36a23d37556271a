"""Which edit separates two captions: the rules' own edits, whatever the order; nothing where they differ in more."""

import numpy as np
import pytest

from cusa.models.edits.rules import RULES
from cusa.pipeline.probe.blind import BlindSpots, separating_edit
from tests.models.edits.test_rules import EXAMPLES


@pytest.mark.parametrize(("kind", "caption", "edited"), [one for one in EXAMPLES if one[2] is not None])
def test_separating_edit__names_every_rules_own_edits(kind: str, caption: str, edited: str) -> None:
    assert RULES[kind](caption) == edited
    assert separating_edit(caption, edited) == kind
    assert separating_edit(edited, caption) == kind


@pytest.mark.parametrize(
    ("caption", "other", "expected"),
    [
        ("A man in a red shirt is standing.", "a man in blue shirt standing", "colour"),
        ("Two dogs run", "Five dogs run", "number"),
        ("A girl holds her cat", "A boy holds his cat", "gender"),
        ("The cat is on the left", "the cat is on the right .", "place"),
        ("A big dog chasing a cat", "A cat chasing a big dog", "swap"),
        ("There is a red bus", "Some blue buses are the bus", None),
        ("There was some red bus", "An blue bus is were", "colour"),
        ("A cat in front of the dog", "A cat behind the dog", "place"),
        ("A cat on top of a dog", "A cat underneath a dog", "place"),
        ("A red bus", "A red bus.", None),
        ("A red bus", "A blue car", None),
        ("A red bus", "A bus", None),
        ("Two red dogs", "Five blue dogs", None),
        ("A man on a horse in a field", "A horse in a field on a man", "swap"),
        ("", "A dog", None),
        ("", "", None),
    ],
)
def test_separating_edit__examples(caption: str, other: str, expected: str | None) -> None:
    assert separating_edit(caption, other) == expected
    assert separating_edit(other, caption) == expected


def test_blind_spots__the_first_own_caption_that_one_edit_separates() -> None:
    texts = [
        "A man in a red shirt",  # of image 0
        "Two dogs run",
        "A man in a blue shirt",  # of image 1
        "Two dogs run.",
        "Five dogs run",  # of image 2
        "A woman in a red shirt",
        "A man in a red shirt with a hat",  # of image 3
        "",
    ]
    spots = BlindSpots(texts, np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    images, captions = (grid.ravel() for grid in np.meshgrid(range(4), range(8), indexing="ij"))
    kinds = dict(zip(zip(images.tolist(), captions.tolist(), strict=True), spots.kinds(images, captions), strict=True))
    assert kinds == {
        pair: {
            (0, 2): "colour",
            (0, 4): "number",
            (0, 5): "gender",
            (1, 0): "colour",
            (1, 4): "number",
            (2, 0): "gender",
            (2, 1): "number",
            (2, 3): "number",
        }.get(pair)
        for pair in kinds
    }


def test_blind_spots__no_candidate() -> None:
    assert BlindSpots([], np.zeros(0, np.int64)).kinds(np.zeros(0, np.int64), np.zeros(0, np.int64)) == []
