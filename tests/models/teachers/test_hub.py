"""Names of teachers' folders: what people write, what a file system takes, and what two models must not share."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.errors import ConfigError
from cusa.models.teachers.hub import teacher_name, teacher_source


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("offline-gist", "offline-gist"),
        ("sentence-transformers/all-mpnet-base-v2", "all-mpnet-base-v2"),
        ("facebook/dinov2-base@abc", "dinov2-base_abc"),
        ("mine.module:Class", "mine.module_Class"),
        ("/data/runs/clip/model/", "clip-model"),
        ("C:\\models\\clip", "clip"),
        ("~/models/clip", "clip"),
    ],
)
def test_names_as_people_write_them(name: str, expected: str) -> None:
    assert teacher_name(name) == expected


@pytest.mark.parametrize("name", [".", "./", "..", "sub/..", "./."])
def test_dots_are_the_folders_they_stand_for(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "outer" / "inner"
    (inside / "sub").mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert teacher_name(name) == ("outer" if name == ".." else "inner")


@pytest.mark.parametrize("name", ["/", "models/.hidden", ".hidden", "a" * 300, "org/" + "\u00e9a" * 100])
def test_names_that_no_folder_can_have_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="gives no folder name.*1 to 150 characters"):
        teacher_name(name)


def test_the_longest_name_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / teacher_name("b" * 150)).mkdir()
    with pytest.raises(ConfigError):
        teacher_name("b" * 151)


def test_models_of_one_name_have_two_sources(tmp_path: Path) -> None:
    for parent in ("first", "second"):
        (tmp_path / parent / "clip").mkdir(parents=True)
    names = ["org/clip", "other/clip", f"{tmp_path}/first/clip", f"{tmp_path}/second/clip"]
    assert {teacher_name(name) for name in names} == {"clip"}
    assert len({teacher_source(name) for name in names}) == 4
    assert teacher_source("org/clip@main") == teacher_source("org/clip")
    assert str(tmp_path) not in teacher_source(names[2])


@given(st.text(max_size=400))
def test_whatever_is_written_it_is_one_plain_part_of_a_path_or_an_error(name: str) -> None:
    try:
        plain = teacher_name(name)
    except (ConfigError, ValueError):
        return
    assert 0 < len(plain) <= 150
    assert not plain.startswith(".")
    assert set(plain) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
