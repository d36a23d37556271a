"""Names of teachers become names of folders, within the folder of teachers and nowhere else."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.errors import ConfigError
from cusa.models.teachers.hub import LONGEST_NAME, teacher_name, teacher_source


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


def test_teacher_source__tells_apart_what_shares_a_name(tmp_path: Path) -> None:
    assert teacher_source("one/model") == "one/model"
    assert teacher_source("two/model@abc") == "two/model"
    for folder in ("a/model", "b/model"):
        (tmp_path / folder).mkdir(parents=True)
    one, other = teacher_source(str(tmp_path / "a/model")), teacher_source(str(tmp_path / "b/model/"))
    assert one != other
    assert one == teacher_source(str(tmp_path / "b/../a/model"))
    assert str(tmp_path) not in one


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


def test_teacher_source__of_one_model_name_by_two_makers(tmp_path: Path) -> None:
    for maker in ("first", "second"):
        (tmp_path / maker / "clip").mkdir(parents=True)
    names = ["org/clip", "other/clip", f"{tmp_path}/first/clip", f"{tmp_path}/second/clip"]
    assert {teacher_name(name) for name in names} == {"clip"}
    assert len({teacher_source(name) for name in names}) == 4
