"""Which images are never mirrored, against Python's own words."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.train.data.augment.config import FLIP_WORDS
from cusa.train.data.augment.words import one_sided

TEXTS = [
    *("A dog on the left.", "a dog", "LEFT of a tree", "leftovers on a plate", "it is bright here", "turns right!"),
    *(
        "upright bass",
        "left-hand side",
        "he left; she stayed",
        "",
        "the_right_one",
        "ein Hund Links",
        "über linksherum",
    ),
    *("clockwise", "right", "(left)", "a\nright\nb", "naïveleft", "left2", "leftmost of three"),
]


def _split(folder: Path, texts: list[str], images: int) -> Any:
    folder.mkdir()
    pq.write_table(pa.table({"text": texts}), folder / "captions.parquet")
    return SimpleNamespace(folder=folder, num_images=images)


@pytest.mark.parametrize("words", [FLIP_WORDS, ("links", "rechts"), ("a tree", "c++")])
def test_one_sided__whole_words_whatever_their_capitals(tmp_path: Path, words: tuple[str, ...]) -> None:
    texts = [*TEXTS, "c++ code", "c+++"]
    split = _split(tmp_path / "train", texts, len(texts))
    expected = [any(re.search(rf"(?i)(?<!\w){re.escape(word)}(?!\w)", text) for word in words) for text in texts]
    assert one_sided([split], np.arange(len(texts)), words).tolist() == expected
    assert any(expected)
    assert not all(expected)


def test_one_sided__one_caption_of_an_image_is_enough_and_splits_stand_one_after_another(tmp_path: Path) -> None:
    first = _split(tmp_path / "a", ["a cat", "on the right", "a dog"], 2)
    second = _split(tmp_path / "b", ["left", "a cow"], 3)  # one image has no caption
    owners = np.array([0, 0, 1, 3, 4])
    assert one_sided([first, second], owners, FLIP_WORDS).tolist() == [True, False, False, True, False]
    assert not one_sided([first, second], owners, ()).any()
