import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from cusa.models.students import vocabulary

CAPTIONS = ["a red square", "a red circle left of a blue square", "two blue circles", "a b c d e f g h"]


def test_ids_follow_frequency_then_alphabet() -> None:
    tokenizer = vocabulary.build(CAPTIONS, size=9, context=40)
    counts = Counter(word for caption in CAPTIONS for word in caption.split())
    expected = sorted(counts, key=lambda word: (-counts[word], word))[:5]
    assert tokenizer.convert_ids_to_tokens(list(range(9))) == [*vocabulary.SPECIAL, *expected]
    assert len(tokenizer) == 9
    assert tokenizer.eos_token_id == 3  # 2 would make Hugging Face's CLIP pool elsewhere


def test_marks_padding_and_unknown_words() -> None:
    tokenizer = vocabulary.build(CAPTIONS, size=100, context=40)
    tokens = tokenizer(["a red zebra", "a"], padding="longest")
    words = [tokenizer.convert_ids_to_tokens(row) for row in tokens["input_ids"]]
    assert words == [["<start>", "a", "red", "<unk>", "<end>"], ["<start>", "a", "<end>", "<pad>", "<pad>"]]
    assert tokens["attention_mask"] == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_long_captions_are_cut_and_still_end() -> None:
    tokenizer = vocabulary.build(CAPTIONS, size=100, context=5)
    ids = tokenizer(["a b c d e f g h"], truncation=True, max_length=5)["input_ids"][0]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<start>", "a", "b", "c", "<end>"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_every_word_it_was_built_from_is_known(captions: list[str]) -> None:
    tokenizer = vocabulary.build(captions, size=1000, context=200)
    for caption in captions:
        ids = tokenizer(caption)["input_ids"]
        assert (ids[0], ids[-1]) == (2, 3)
        assert tokenizer.unk_token_id not in ids
        assert "".join(tokenizer.convert_ids_to_tokens(ids[1:-1])) == re.sub(r"[^\S\x1c-\x1f]", "", caption)


def test_saved_and_read_again(tmp_path: object) -> None:
    made = vocabulary.build(CAPTIONS, size=100, context=12)
    made.save_pretrained(str(tmp_path))
    read = AutoTokenizer.from_pretrained(str(tmp_path))
    assert read(CAPTIONS, padding=True)["input_ids"] == made(CAPTIONS, padding=True)["input_ids"]
    assert read.model_max_length == 12


def test_the_same_captions_give_the_same_tokenizer() -> None:
    first = vocabulary.build(CAPTIONS, size=100, context=12).get_vocab()
    assert vocabulary.build(reversed(CAPTIONS), size=100, context=12).get_vocab() == first


def test_a_vocabulary_without_room_for_words_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        vocabulary.build(CAPTIONS, size=4, context=12)
