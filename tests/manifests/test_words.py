"""Numbers with their nouns, and the data sets of a run with their shares."""

import pytest

from cusa.manifests.words import counted, mixture


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


def test_mixture__each_data_set_with_its_share_of_the_draws() -> None:
    assert mixture({}) == mixture({"mixture": []}) == ""
    sets = [{"name": "coco", "pairs": 300, "weight": None}, {"name": "cub", "pairs": 100, "weight": None}]
    assert mixture({"mixture": sets}) == "coco (75%), cub (25%)", "as many as they have pairs"
    weighed = [{**one, "weight": weight} for one, weight in zip(sets, (1.0, 4.0), strict=True)]
    assert mixture({"mixture": weighed}) == "coco (20%), cub (80%)"
    assert mixture({"mixture": [{**sets[0], "weight": 0}, {**sets[1], "weight": 2}]}) == "coco (0%), cub (100%)"
