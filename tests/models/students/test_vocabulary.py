import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from cusa.errors import DataError
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


WORDS = ["<pad>", "<unk>", "<start>", "<end>", "hund", "größe"]


def _reference(path: Path, ids: dict[str, object]) -> Path:
    path.write_text(json.dumps({"word2idx": ids, "idx": len(ids)}, ensure_ascii=False), encoding="utf-8")
    return path


def test_from_reference__keeps_the_ids_of_the_file(tmp_path: Path) -> None:
    ids = {word: number for number, word in enumerate(WORDS)}
    order = {**ids, "<unk>": 3, "<end>": 1}
    tokenizer = vocabulary.from_reference(_reference(tmp_path / "words.json", order), context=6)
    assert tokenizer.get_vocab() == order
    assert tokenizer("hund größe maus")["input_ids"] == [2, 4, 5, 3, 1]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.model_max_length) == (0, 3, 6)


@pytest.mark.parametrize(
    "change",
    [
        *({word: None} for word in vocabulary.SPECIAL),
        *({"<pad>": 1, "<unk>": 0}, {"hund": 5}, {"hund": 6}, {"hund": -1, "größe": 4}),
    ],
    ids=str,
)
def test_from_reference__ids_that_are_not_0_to_n_are_refused(tmp_path: Path, change: dict[str, int | None]) -> None:
    ids: dict[str, Any] = {word: number for number, word in enumerate(WORDS)} | change
    kept = [word for word, number in ids.items() if number is not None]
    if None in change.values():  # without a gap: only the special word is missing
        ids = {word: number for number, word in enumerate(kept)}
    path = _reference(tmp_path / "words.json", {word: ids[word] for word in kept})
    with pytest.raises(DataError, match=rf"words\.json: the ids must be 0 to {len(kept) - 1}, each once") as refused:
        vocabulary.from_reference(path, context=6)
    assert refused.value.values["path"] == path


def test_build__rare_and_special_words_have_no_id() -> None:
    captions = ["a dog", "a cat and a dog", "<pad> bird"]
    rare = vocabulary.build(captions, size=100, context=12, min_count=2).get_vocab()
    assert set(rare) == {*vocabulary.SPECIAL, "a", "dog"}
    every = vocabulary.build(captions, size=100, context=12).get_vocab()
    assert [word for word in every if word == "<pad>"] == ["<pad>"]
    assert every["<pad>"] == 0


def test_encode__pads_cuts_and_counts() -> None:
    tokenizer = vocabulary.build(CAPTIONS, size=100, context=40)
    read = vocabulary.encode(tokenizer, ["a b c d e f g h", "a", "a red square", "a b c d e"], context=5)
    assert read.ids.shape == read.mask.shape == (4, 5)
    assert read.mask.sum(1).tolist() == [5, 3, 5, 5]
    assert read.cut == 2
    assert ((read.ids == 0) == (read.mask == 0)).all()
