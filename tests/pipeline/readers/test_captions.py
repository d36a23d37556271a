"""What stands for captions in people's files, against Python's, NumPy's and JSON's own ways to write a list."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.manifests.records import CaptionRecord
from cusa.pipeline.readers.captions import as_text, caption_records, listed_texts

TEXTS = [["two dogs", "dogs in snow"], ["a man's hat", 'a "hat"'], ["one"], ["tab\tand\nline", "ü 🙂"]]


@pytest.mark.parametrize("texts", TEXTS)
def test_listed_texts__every_way_to_write_a_list(texts: list[str]) -> None:
    numpy = str(np.array(texts, dtype=object))
    written = [json.dumps(texts), json.dumps(texts, indent=1), f" {json.dumps(texts)}\n", repr(texts), numpy]
    for text in [*written, json.dumps(texts, ensure_ascii=False)]:
        assert listed_texts(text) == texts, text


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_listed_texts__reads_back_what_json_and_repr_wrote(texts: list[str]) -> None:
    assert listed_texts(json.dumps(texts)) == texts
    assert listed_texts(repr(texts)) == texts


@pytest.mark.parametrize(
    "text", ["a dog", "[laughs] a dog", "[sic]", "[1, 2]", "[", "[]x", "['a'", "['a' b]", '["a", 1]']
)
def test_listed_texts__what_is_no_list_of_texts_is_a_text(text: str) -> None:
    assert listed_texts(text) == [text]


def test_listed_texts__nesting_and_blanks_without_end_take_no_time() -> None:
    for text in ("[" * 100_000 + "]" * 100_000, "['a'" + " " * 100_000 + "x]", "[" + "9" * 5000 + "]"):
        assert listed_texts(text) == [text]


def test_caption_records__texts_objects_and_what_is_neither() -> None:
    value = ["a", {"text": "b", "caption_id": 0}, {"raw": "c", "sentid": 7}, {"caption": "d"}, 5, None, {"text": None}]
    records, refused = caption_records(value)
    assert records == [CaptionRecord("", "a"), CaptionRecord("0", "b"), CaptionRecord("7", "c"), CaptionRecord("", "d")]
    assert [why.split(",")[0] for why in refused] == [f"a caption is {v!r}" for v in (5, None, {"text": None})]
    assert caption_records("a") == ([CaptionRecord("", "a")], [])
    assert caption_records(None) == ([], [])


def test_as_text__zero_is_a_label() -> None:
    values = [0, 0.0, False, "0", "", None, float("nan"), 7, "x"]
    assert [as_text(value) for value in values] == ["0", "0.0", "False", "0", "", "", "", "7", "x"]
    for value in ([0], {"a": 1}, b"x"):
        with pytest.raises(TypeError, match="no label or id"):
            as_text(value)
