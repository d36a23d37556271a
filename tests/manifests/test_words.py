"""Numbers with their nouns."""

import pytest

from cusa.manifests.words import counted


@pytest.mark.parametrize(
    ("number", "noun", "plural", "words"),
    [
        (1, "group", "", "1 group"),
        (0, "group", "", "0 groups"),
        (1200, "image", "", "1,200 images"),
        (1, "query", "queries", "1 query"),
        (2, "query", "queries", "2 queries"),
    ],
)
def test_counted__one_is_singular(number: int, noun: str, plural: str, words: str) -> None:
    assert counted(number, noun, plural) == words
