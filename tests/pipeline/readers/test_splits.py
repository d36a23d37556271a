"""Splits are read in whole words; a word that is none is an error and never train."""

from pathlib import Path

import pytest

from cusa.errors import ConfigError, DataError
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.splits import RowSplits, default_note, default_split, named_split, named_splits, split_option

MEANINGS = {
    "train": ["train", "training", "trn", "restval"],
    "val": ["val", "valid", "validation", "dev", "devel", "development"],
    "test": ["test", "testing", "tst"],
    "train val": ["trainval"],
    "test val": ["eval", "evaluation"],
}
"""Every word for a split, in a file's name; each is told from its neighbours by signs, digits and capitals."""


@pytest.mark.parametrize(("split", "word"), [(split, word) for split, words in MEANINGS.items() for word in words])
def test_named_splits__every_word(split: str, word: str) -> None:
    for name in (word, word.upper(), f"captions_{word}2014", f"my{word.capitalize()}Set", f"x.{word}-1"):
        assert named_splits(name) == split.split(), name
    assert named_splits(f"un{word}") == []
    if " " not in split:
        assert split_option(f" {word.upper()} ") == split


CELLS = {
    "train": ("train", "Train", " TRAIN\t", "training", "trn", "restval"),
    "val": ("val", "Val", "valid", "validation", "VALIDATION ", "dev", "development"),
    "test": ("test", "Test", "TEST", "test ", "testing", "tst"),
}
UNKNOWN = ("train/val", "eval", "2", 2, "tests", "latest", "train val", "0", 0)


@pytest.mark.parametrize(("split", "cell"), [(split, cell) for split, cells in CELLS.items() for cell in cells])
def test_of__whole_words_trimmed_in_any_case(tmp_path: Path, split: str, cell: str) -> None:
    splits = RowSplits(tmp_path, ReadConfig(split="other"))
    assert splits.of(cell) == split
    splits.check()


@pytest.mark.parametrize("cell", UNKNOWN)
def test_of__an_unknown_word_is_an_error_with_every_value(tmp_path: Path, cell: object) -> None:
    splits = RowSplits(tmp_path / "t.csv", ReadConfig())
    assert [splits.of(value) for value in (cell, "test", cell, "nowhere")] == ["", "test", "", ""]
    with pytest.raises(DataError, match=r"t\.csv.*'nowhere' \(1 rows\).*train.*--split-name") as error:
        splits.check()
    assert f"'{cell}' (2 rows)" in str(error.value)


@pytest.mark.parametrize("cell", [None, "", "  ", float("nan")])
def test_of__a_row_that_names_none_gets_the_default(tmp_path: Path, cell: object) -> None:
    assert RowSplits(tmp_path, ReadConfig(), "captions_val2014").of(cell) == "val"
    assert RowSplits(tmp_path, ReadConfig(split="test"), "captions_val2014").of(cell) == "test"
    assert RowSplits(tmp_path, ReadConfig(), "pairs").of(cell) == "train"


def test_of__the_user_s_own_words(tmp_path: Path) -> None:
    splits = RowSplits(tmp_path, ReadConfig(split_names={"Eval": "val", "fold 1": "fold1", "test": "dev"}))
    assert [splits.of(word) for word in ("eval", "FOLD 1", "test", "train")] == ["val", "fold1", "val", "train"]
    splits.check()


def test_of__a_column_of_anything_ends_early(tmp_path: Path) -> None:
    splits = RowSplits(tmp_path, ReadConfig())
    with pytest.raises(DataError, match="'row 0'"):
        for number in range(1000):
            splits.of(f"row {number}")
    assert number < 30


NAMES = {
    "captions_val2014": ["val"],
    "Flickr_8k.trainImages": ["train"],
    "Flickr_8k.devImages": ["val"],
    "Inaturalist_test_set1": ["test"],
    "TEST": ["test"],
    "00000": [],
    "latest": [],
    "contest2024": [],
    "devices": [],
    "festival": [],
    "image_retrieval": [],
    "restrain": [],
    "my_train_and_test": ["test", "train"],
    "instances_trainval2017": ["train", "val"],
    "evaluation": ["test", "val"],
}


@pytest.mark.parametrize("name", NAMES)
def test_named_splits__whole_words_of_a_file_s_name(name: str) -> None:
    assert named_splits(name) == NAMES[name]
    assert named_split(name) == (NAMES[name][0] if len(NAMES[name]) == 1 else "")


def test_default_split__a_name_of_several_asks_for_the_option() -> None:
    with pytest.raises(DataError, match=r"'my_train_and_test' may mean test or train.*--split"):
        default_split(ReadConfig(), "my_train_and_test")
    assert default_split(ReadConfig(split="Test"), "my_train_and_test") == "test"
    assert default_split(ReadConfig(), "00000", "cc3m-validation") == "val"
    assert default_note(ReadConfig(), "00000", "mine") == (
        "Neither --split nor the name '00000' names a split: rows without one are train.",
    )
    assert default_note(ReadConfig(), "00000", "val") == default_note(ReadConfig(split="train"), "x") == ()


def test_split_option__a_name_that_no_folder_can_have() -> None:
    assert [split_option(name) for name in ("dev", " Test", "testall", "Fold_1")] == [
        "val",
        "test",
        "testall",
        "Fold_1",
    ]
    for name in ("a/b", "..", "train val", "."):
        with pytest.raises(ConfigError, match="--split"):
            split_option(name)


def test_split_option__names_the_option_that_was_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--split-name 'a b' cannot be the name of a split's folder"):
        RowSplits(tmp_path, ReadConfig(split_names={"x": "a b"}))


def test_of__twenty_unknown_words_end_the_reading(tmp_path: Path) -> None:
    splits = RowSplits(tmp_path, ReadConfig())
    for number in range(19):
        assert splits.of(f"row {number}") == splits.of("row 0") == ""
    with pytest.raises(DataError, match=r"'row 0' \(20 rows\).*'row 19' \(1 rows\)"):
        splits.of("row 19")
