"""Names of teachers become names of folders, and tables remember what they were made from."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.errors import ConfigError
from cusa.manifests.origin import (
    LONGEST_NAME,
    ORIGIN,
    is_same_origin,
    origin_of,
    read_origin,
    split_revision,
    teacher_name,
    write_origin,
)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("all-mpnet-base-v2", "all-mpnet-base-v2"),
        ("sentence-transformers/all-mpnet-base-v2", "all-mpnet-base-v2"),
        ("org/model@main", "model_main"),
        ("runs/best/model/", "best-model"),
        ("C:\\teachers\\mine", "mine"),
        ("mine.module:Class", "mine.module_Class"),
        ("~/models/clip", "clip"),
        ("org/naïve name\0", "na_ve_name_"),
        ("x" * LONGEST_NAME, "x" * LONGEST_NAME),
    ],
)
def test_teacher_name__is_the_last_part(name: str, folder: str) -> None:
    assert teacher_name(name) == folder


@pytest.mark.parametrize("name", ["", "/", "x" * (LONGEST_NAME + 1), "org/" + "éy" * 100, "org/.hidden", ".partial-x"])
def test_teacher_name__no_name_for_a_folder_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/" if name == "" else tmp_path)
    with pytest.raises(ConfigError, match="gives no folder name: it needs 1 to 150 characters"):
        teacher_name(name)


def test_teacher_name__dots_are_called_what_their_folders_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "teacher/inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "teacher/inner")
    assert [teacher_name(name) for name in (".", "./", "..", "../", "../inner/..")] == [
        *("inner", "inner", "teacher", "teacher", "teacher"),
    ]


def test_origin_of__a_folder_is_its_whole_path_and_all_else_is_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert origin_of("one/model@abc") == "one/model@abc"
    for folder in ("a/model", "b"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert origin_of("a/model") == origin_of(f"{tmp_path}/b/../a/model/") == str(tmp_path / "a/model")
    (tmp_path / "latest").symlink_to("a/model")
    assert origin_of("latest") == str(tmp_path / "latest"), "a link keeps its name, as what it points to may change"


def test_teacher_name__the_longest_one_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / teacher_name("é" + "y" * (LONGEST_NAME - 1))).mkdir()


@given(st.text(st.characters(blacklist_characters="\0"), max_size=2 * LONGEST_NAME))
def test_teacher_name__of_any_text_is_one_plain_part_of_a_path_or_an_error(name: str) -> None:
    try:
        folder = teacher_name(name)
    except ConfigError:
        return
    assert 0 < len(folder) <= LONGEST_NAME
    assert not folder.startswith(".")
    assert set(folder) <= set(string.ascii_letters + string.digits + "._-")


def test_origin_of__one_model_name_by_two_makers(tmp_path: Path) -> None:
    for maker in ("first", "second"):
        (tmp_path / maker / "clip").mkdir(parents=True)
    names = ["org/clip", "other/clip", f"{tmp_path}/first/clip", f"{tmp_path}/second/clip"]
    assert {teacher_name(name) for name in names} == {"clip"}
    assert len({origin_of(name) for name in names}) == 4


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("o/m", "o/m@abc", True), ("o/m", "p/m", False), ("", "o/m", True), ("o/m", "", True), ("/a/m", "/b/m", False)],
)
def test_is_same_origin__whatever_the_revision(one: str, other: str, same: bool) -> None:
    assert is_same_origin(one, other) is same


@pytest.mark.parametrize("broken", ["{", "[]", '{"teacher": 3}', "{}"])
def test_read_origin__a_broken_hint_is_none(tmp_path: Path, broken: str) -> None:
    assert read_origin(tmp_path) == ""
    write_origin(tmp_path, "org/model")
    assert read_origin(tmp_path) == "org/model"
    (tmp_path / ORIGIN).write_text(broken)
    assert read_origin(tmp_path) == ""


@pytest.mark.parametrize("last", ["model", "weights", "checkpoint"])
def test_teacher_name__a_last_part_that_says_nothing_takes_its_parent_s_name(last: str) -> None:
    assert teacher_name(f"best/{last}") == teacher_name(f"runs/best/.//{last}/") == f"best-{last}"
    assert teacher_name(last) == last, "it has no parent"
    assert teacher_name(f"{last}/best") == "best"
    assert teacher_name(f"best/my-{last}") == f"my-{last}"


def test_split_revision__of_hub_names_and_not_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_revision("org/model@abc@d") == ("org/model", "abc@d")
    assert split_revision("org/model") == ("org/model", "")
    (tmp_path / "mine@2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert split_revision("mine@2") == ("mine@2", "")
    assert split_revision(str(tmp_path / "mine@2")) == (str(tmp_path / "mine@2"), "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert split_revision("~/mine@2") == ("~/mine@2", "")
    assert split_revision("~/other@2") == ("~/other", "2")


def test_write_origin__stands_in_the_teacher_s_folder(tmp_path: Path) -> None:
    write_origin(tmp_path, "org/model@main")
    assert json.loads((tmp_path / "origin.json").read_text()) == {"teacher": "org/model@main"}
