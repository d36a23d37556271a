"""Recipes as text: what is shown loads to the same recipe, what is new loads, and every key says what it may be."""

import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa import recipe, recipe_file
from cusa.errors import ConfigError
from cusa.train.config import LossConfig


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("name", [name for name in recipe.packaged() if not name.startswith("sgraf/")])
def test_show__loads_to_the_same_recipe(tmp_path: Path, name: str, everything: bool) -> None:
    (tmp_path / "shown.toml").write_text(recipe_file.show(name, everything=everything), encoding="utf-8")
    assert recipe.load(str(tmp_path / "shown.toml")) == recipe.load(name)


def test_show__an_ensemble_names_its_parts_and_overrides_count() -> None:
    assert recipe_file.show("sgraf/coco/cusa").startswith(
        "# The mean of students that are trained apart: sgr/coco/cusa"
    )
    assert "steps = 77\n" in recipe_file.show("tiny", ["train.steps=77"])


def test_show__says_that_it_leaves_defaults_out() -> None:
    hint = "# Keys at their defaults are left out: --all shows them.\n"
    assert hint in recipe_file.show("tiny")
    assert hint not in recipe_file.show("tiny", everything=True)


@pytest.mark.parametrize("student", ["scratch", "heads", "openai/clip-vit-base-patch32", 'odd "name"'])
def test_new__loads_to_what_was_asked_for(tmp_path: Path, student: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(recipe_file.new(student, ["teachers.text=/models/mine", "train.ema=0.5"]), encoding="utf-8")
    loaded = recipe.load(str(path))
    assert (loaded.name, loaded.teachers.text, loaded.train.ema) == ("mine", "/models/mine", 0.5)
    if student in recipe_file.STARTS:
        base = recipe.load(recipe_file.STARTS[student][0])
        assert (loaded.student, loaded.loss) == (base.student, base.loss)
    else:
        assert loaded.student.name == student
        assert loaded.loss == LossConfig(reduction="release"), "the paper's, as its authors ran it"
    commented = [line for line in path.read_text().splitlines() if " = " in line and not line.startswith("description")]
    assert all("#" in line for line in commented)
    assert len(commented) < 24


def test_new__an_unknown_key_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'train\.steps'"):
        recipe_file.new("scratch", ["train.stpes=3"])


@pytest.mark.parametrize("student", ["two-tower", "sgraf", "blip", "x2vlm", "dual-encoder", "Heads", "scrach"])
def test_new__a_kind_or_a_slip_is_no_model_s_name(student: str) -> None:
    with pytest.raises(ConfigError, match=r"--set student\.kind=|Did you mean '(heads|scratch)'"):
        recipe_file.new(student)


def test_every_key__has_a_default_choices_and_a_range() -> None:
    keys = {key.name: key for key in recipe_file.every_key()}
    assert keys.keys() == recipe.keys().keys() - {"parts"}
    assert keys["loss.temperature.initial"].default == 0.05
    assert keys["loss.temperature.initial"].allowed == "number > 0"
    assert keys["loss.mask_text"].allowed == "number or `positive`"
    assert keys["train.ema"].allowed == "number ≥ 0 and < 1"
    assert keys["train.compile"].allowed == "`true`, `false`"
    for name, field in LossConfig.model_fields.items():
        choices = get_args(field.annotation)
        if choices and all(isinstance(choice, str) for choice in choices):
            assert keys[f"loss.{name}"].allowed == ", ".join(f"`{choice}`" for choice in choices)


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


@given(_VALUES)
def test_toml__is_read_back(value: Any) -> None:
    assert tomllib.loads(f"value = {recipe_file.toml(value)}")["value"] == value
