"""`cusa recipe`: every option reaches what is shown or written."""

import json
import tomllib
from pathlib import Path

import pytest
import typer

from cusa import recipe as recipes
from cusa import recipe_file
from cusa.cli import recipe as command
from tests.cli import calls


def test_show__every_option_arrives() -> None:
    settings = ("--set", "train.steps=77", "--set", "train.lr=0.5")
    short = calls.plain("recipe", "show", "tiny", *settings)
    assert short == recipe_file.show("tiny", ["train.steps=77", "train.lr=0.5"])
    whole = calls.plain("recipe", "show", "tiny", *settings, "--all")
    assert whole == recipe_file.show("tiny", ["train.steps=77", "train.lr=0.5"], everything=True)
    assert len(whole) > 2 * len(short)
    told = json.loads(calls.plain("recipe", "show", "tiny", *settings, "--json"))
    assert told == recipes.load("tiny", ["train.steps=77", "train.lr=0.5"]).model_dump(mode="json")


def test_new__every_option_arrives(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    printed = calls.plain(
        *("recipe", "new", path, "--student", "heads", "--image", "eyes", "--text", "ears", "--set", "train.steps=77"),
    )
    loaded = recipes.load(str(path))
    assert (loaded.teachers.image, loaded.teachers.text, loaded.train.steps) == ("eyes", "ears", 77)
    assert loaded.student.kind == "heads"
    assert printed.splitlines() == [
        f"recipe: {path}",
        f"open: {path}",
        f"next: cusa train {path} --data WORK --out work/runs/mine",
    ]
    calls.plain("recipe", "new", tmp_path / "plain.toml")
    plain = tomllib.loads((tmp_path / "plain.toml").read_text(encoding="utf-8"))
    assert plain["base"] == ["tiny"], "from scratch"
    assert not any(plain["teachers"].values())
    told = json.loads(calls.plain("recipe", "new", tmp_path / "json.toml", "--json"))
    assert told == {"path": str(tmp_path / "json.toml")}
    assert "is there already" in calls.refused("recipe", "new", path)
    assert f"a recipe's file ends in .toml. Write {tmp_path}/mine.toml" in calls.refused(
        "recipe", "new", tmp_path / "mine"
    )


def test_new__a_person_is_asked_for_what_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    answers = {"Student": "heads", "Image": "eyes", "Text": "ears"}

    def ask(question: str, default: str, **more: object) -> str:
        asked.append((question.partition(" ")[0], default))
        return answers[asked[-1][0]]

    monkeypatch.setattr(command, "is_conversation", lambda: True)
    monkeypatch.setattr(typer, "prompt", ask)
    calls.plain("recipe", "new", tmp_path / "a.toml")
    loaded = recipes.load(str(tmp_path / "a.toml"))
    assert (loaded.student.kind, loaded.teachers.image, loaded.teachers.text) == ("heads", "eyes", "ears")
    assert asked == [("Student", "scratch"), ("Image", ""), ("Text", "")]
    asked.clear()
    calls.plain("recipe", "new", tmp_path / "b.toml", "--student", "scratch", "--text", "other")
    assert asked == [("Image", "")]
    assert recipes.load(str(tmp_path / "b.toml")).teachers.text == "other"
