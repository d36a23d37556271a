"""Recipes: composition, overrides, and errors that name the dotted path and the nearest valid name."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from cusa import recipe
from cusa.errors import ConfigError
from cusa.pipeline.config import ScenesConfig


def _write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_load__a_packaged_recipe_and_its_base() -> None:
    cusa, infonce = recipe.load("scenes-cusa"), recipe.load("scenes-infonce")
    assert cusa.student == infonce.student
    assert cusa.train == infonce.train
    assert cusa.teachers == infonce.teachers
    assert (infonce.loss.alpha, infonce.loss.beta) == (0, 0)
    assert cusa.loss.alpha > 0
    assert cusa.loss.beta > 0


def test_load__the_paper_s_figures_are_the_defaults(tmp_path: Path) -> None:
    loss = recipe.load(_write(tmp_path, "empty.toml", "")).loss
    assert (loss.alpha, loss.beta, loss.reduction, loss.fusion) == (0.1, 0.5, "standard", "each")
    infonce, csa, usa, teacher = (
        loss.temperature,
        loss.csa_image_temperature,
        loss.usa_image_temperature,
        loss.teacher_image_temperature,
    )
    assert (infonce.initial, infonce.minimum, infonce.maximum) == (0.05, 0.01, 0.10)
    assert (csa.initial, csa.minimum, csa.maximum) == (0.45, 0.10, 0.99)
    assert (usa.initial, usa.minimum, usa.maximum) == (0.45, 0.10, 1.00)
    assert (teacher.initial, teacher.learned) == (1.0, False)


def test_load__overrides_are_toml_and_win(tmp_path: Path) -> None:
    _write(tmp_path, "base.toml", "[train]\nsteps = 7\nlr = 0.5\n")
    path = _write(tmp_path, "mine.toml", 'base = ["base.toml"]\n[train]\nsteps = 8\n')
    loaded = recipe.load(path, ["train.lr=0.25", "student.name=some/model", "loss.csa_temperatures=separate"])
    assert loaded.name == "mine"
    assert (loaded.train.steps, loaded.train.lr) == (8, 0.25)
    assert loaded.student.name == "some/model"
    assert loaded.loss.csa_temperatures == "separate"
    with pytest.raises(ValidationError):
        loaded.name = "other"


def test_changes__are_what_overrides_changed_of_the_recipe_and_no_part_of_it(tmp_path: Path) -> None:
    assert recipe.load("scenes-cusa").changes == ()
    overrides = ["loss.alpha=0.2", "train.seed=0", "teachers.image=other"]  # the seed is 0 anyway
    loaded = recipe.load("scenes-cusa", overrides)
    assert [tuple(change) for change in loaded.changes] == [
        ("teachers.image", '"offline-scenes-image"', '"other"'),
        ("loss.alpha", "0.5", "0.2"),
    ]
    assert not {"changes", "_changes"} & loaded.model_dump().keys()
    alone = _write(tmp_path, "alone.toml", '[loss]\nfalse_negatives = "mask"\n')
    with pytest.raises(ConfigError, match="needs a threshold"):
        recipe.load(alone)
    (change,) = [one for one in recipe.load(alone, ["loss.mask_text=0.9"]).changes if one.key == "loss.mask_text"]
    assert (change.recipe, change.set) == ("nothing", "0.9")


def test_changes__an_ensemble_s_parts_have_them_too() -> None:
    loaded = recipe.load("sgraf/coco/cusa", ["train.batch=32"])
    for one in (loaded, *loaded.parts):
        assert [(change.key, change.set) for change in one.changes] == [("train.batch", "32")]


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("[train]\nstpes = 3", [], r"Unknown key 'train\.stpes'\. Did you mean 'train\.steps'\?"),
        ("[trian]\nsteps = 3", [], r"Unknown key 'trian'\. Did you mean 'train'\?"),
        ("[loss.temperature]\ninitail = 3", [], r"Unknown key 'loss\.temperature\.initail'"),
        ("", ["train.stpes=3"], r"Unknown key 'train\.stpes'"),
        ("[train]\nlr = -1", [], r"train\.lr = -1: Input should be greater than 0"),
        ("[train]\nbatch = 'many'", [], r"train\.batch = 'many'"),
        ("[loss]\nreduction = 'mean'", [], r"loss\.reduction = 'mean': Input should be 'standard' or 'release'"),
        ("[loss]\nalpha = nan", [], r"loss\.alpha = nan: Input should be a finite number"),
        ("", ["loss.alpha=1e999"], r"loss\.alpha = inf: Input should be a finite number"),
        ("", ["train.lr=inf"], r"train\.lr = inf: Input should be a finite number"),
        ("", ["loss.temperature={initial=inf, minimum=0.1, maximum=inf}"], r"temperature\.initial = inf: .*finite"),
        ("[expected]\nrsum = inf", [], r"expected\.rsum = inf: Input should be a finite number"),
        ("", ["alfa=1"], r"Unknown key 'alfa'\. Did you mean 'loss\.alpha'\? The nearest: loss\.alpha, "),
        ("", ["batch_size=1"], r"Did you mean 'eval\.batch_size'\? The nearest: eval\.batch_size, "),
        ("", ["min_lr=1"], r"Did you mean 'train\.min_lr'\?"),
        ("[train", [], "is no TOML"),
        ("base = 'x'", [], "must be a list"),
        ("base = ['nowhere.toml']", [], "no recipe file"),
        ("", ["train.steps"], "is no assignment"),
        ("", ["name.x=3"], "name holds a value, not a section|name"),
    ],
)
def test_load__errors_name_the_path_and_the_way_out(
    tmp_path: Path, text: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe.load(_write(tmp_path, "r.toml", text), overrides)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            'data.train=["a"]',
            "data.train.1 = 'a': a data set of a mixture is a table with the keys data, split, weight",
        ),
        ("data.train=3", "data.train = 3: Input should be a list. (split to train on, or several"),
        (
            "data=3",
            "data = 3: Input should be a section, that is a table of keys and values. (its keys: also, caption",
        ),
        ('data.train=[{data="x", weight="a"}]', "(its share of the draws is its weight"),
    ],
)
def test_load__values_of_another_shape_are_told_in_the_words_of_a_recipe(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe.load("heads", [override])
    assert said in str(caught.value)
    assert "instance of" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.lr=0.1", "train.min_lr=0.2"], "train: min_lr 0.2 is above lr 0.1; set the two together."),
        (["train.steps=5", "train.warmup_steps=5"], "train: warmup_steps 5 leaves none of the 5 steps"),
        (["student.image_size=65"], "student: image_size 65 is no multiple of patch_size 16."),
        (["loss.temperature={initial=2, minimum=1, maximum=1.5}"], "loss.temperature: initial 2.0 is not between"),
    ],
)
def test_load__keys_that_do_not_fit_together_are_named_and_nothing_else(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe.load("tiny", overrides)
    assert message in str(caught.value)
    assert "{" not in str(caught.value), "the whole section as a dictionary"
    assert "Value error" not in str(caught.value)


def test_load__a_recipe_that_is_its_own_base_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "a.toml", 'base = ["b.toml"]')
    _write(tmp_path, "b.toml", 'base = ["a.toml"]')
    with pytest.raises(ConfigError, match="is its own base"):
        recipe.load(str(tmp_path / "a.toml"))


def test_load__unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'tiny'"):
        recipe.load("tinny")
    with pytest.raises(ConfigError, match="There is no recipe file"):
        recipe.load("nowhere/tiny.toml")


def test_section__reads_settings_over_a_base() -> None:
    assert recipe.section(ScenesConfig, ["train=5"]).train == 5
    assert recipe.section(ScenesConfig, ["train=5"], base={"seed": 3, "train": 9}).seed == 3
    assert recipe.section(ScenesConfig, ["scenes.train=5", "seed=2"], name="scenes").train == 5
    with pytest.raises(ConfigError, match="Unknown key 'trian'.*Did you mean 'train'"):
        recipe.section(ScenesConfig, ["trian=5"])


def test_load__a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "bin.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bin\.toml is no text in UTF-8 .* Save it as UTF-8"):
        recipe.load(str(tmp_path / "bin.toml"))
