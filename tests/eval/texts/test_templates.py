"""Prompt templates: what is built in, what a file may say, and what is refused."""

from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.eval.texts import templates


def test_read__the_default_is_the_paper_s_and_seven_are_built_in() -> None:
    assert templates.read("") == ("a photo of a {}.",)
    assert len(set(templates.read("clip-7"))) == 7


def test_read__takes_a_file_with_a_template_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa photo of a {}, a type of bird.\n\n  {} in the wild \n", encoding="utf-8")
    assert templates.read(str(file)) == ("a photo of a {}, a type of bird.", "{} in the wild")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a photo\n", "line 1: 'a photo' is no prompt template"),
        ("a photo of a {}.\n{} and {}\n", "line 2"),
        ("a {c}\n", "line 1"),
        ("a {} of {c}\n", "line 1"),
        ("a {}\nthe {}\na {}\n", "line 3 repeats line 1"),
        ("\n \n", "holds no prompt template"),
    ],
)
def test_read__refuses_what_is_no_template(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        templates.read(str(file))


def test_read__refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read.*clip-7"):
        templates.read(str(tmp_path / "none.txt"))


def test_fill__gives_the_prompts_of_a_class_together() -> None:
    assert templates.fill(["a {}", "the {}"], ["dog", "{}"]) == ["a dog", "the dog", "a {}", "the {}"]
