"""Which edit separates two captions: the rules' own edits, whatever the order; nothing where they differ in more."""

import pytest

from cusa.pipeline.probe.blind import separating_edit
from cusa.pipeline.probe.edits import RULES
from tests.pipeline.probe.test_edits import EXAMPLES


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
