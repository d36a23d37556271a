"""Where a recipe's files go, and what is scored besides its own data."""

from pathlib import Path

import pytest

from cusa import recipe as recipes
from cusa.manifests import datasets
from cusa.manifests.judgements import flickr8k
from cusa.workflow import project as projects
from cusa.workflow.project import Project, folder_name, open_project


def _project(out: Path, *settings: str, **fields: object) -> Project:
    return Project(recipes.load("clip-vit-b-32/coco/cusa", settings), out, **fields)  # type: ignore[arg-type]


def test_places__by_the_data_set_and_the_recipe(tmp_path: Path) -> None:
    project = _project(tmp_path)
    assert (project.dataset, project.needs_teachers) == ("coco", True)
    assert (project.raw, project.work, project.run) == (
        *(tmp_path / "raw/coco", tmp_path / "data/coco", tmp_path / "runs/clip-vit-b-32-coco-cusa"),
    )
    given = _project(tmp_path, given=tmp_path / "mine", name="again")
    assert (given.work, given.run, given.raw) == (tmp_path / "mine", tmp_path / "runs/again", tmp_path / "raw/coco")
    assert folder_name("sgr/coco/cusa") == "sgr-coco-cusa"
    own = _project(tmp_path, f"data.dataset={tmp_path}/lists/own.toml")
    assert (own.raw, own.work) == (tmp_path / "raw/own", tmp_path / "data/own")
    assert not _project(tmp_path, *recipes.method_settings("baseline")).needs_teachers


def test_manifest__of_the_data_set_and_none_of_drawn_scenes(tmp_path: Path) -> None:
    assert _project(tmp_path).manifest() == datasets.load("coco")
    assert _project(tmp_path, "data.dataset=scenes").manifest() is None


def test_scored_on__what_is_there_and_how_to_bring_the_rest(tmp_path: Path) -> None:
    project = _project(tmp_path, 'data.also=["cub", "sts"]')
    folders, missing = project.scored_on()
    assert folders == [project.work]
    cub = datasets.load("cub")
    assert missing == {
        "cub": f"cusa download cub --out {tmp_path}/raw/cub; "
        f"cusa shard {cub.reader} {tmp_path / 'raw/cub' / cub.source} --out {tmp_path}/data/cub",
        "sts": f"cusa download sts --out {tmp_path}/raw/sts",
    }
    (tmp_path / "raw/sts").mkdir(parents=True)
    (tmp_path / "raw/cub").mkdir()
    assert project.scored_on() == ([project.work, tmp_path / "raw/sts"], {"cub": missing["cub"]})
    (tmp_path / "data/cub").mkdir(parents=True)
    assert project.scored_on() == ([project.work, tmp_path / "data/cub", tmp_path / "raw/sts"], {})
    project.raw.mkdir()
    (project.raw / flickr8k.EXPERTS).write_text("")
    assert project.scored_on()[0][-1] == project.raw, "judgements came with the captions"


def test_open_project__a_smoke_has_a_folder_of_its_own_and_drawn_data(tmp_path: Path) -> None:
    plain = open_project("sgr/coco/cusa", tmp_path, name="mine", force=True, work=tmp_path / "there")
    assert (plain.out, plain.given, plain.name, plain.force) == (tmp_path, tmp_path / "there", "mine", True)
    assert plain.recipe == recipes.load("sgr/coco/cusa")
    smoke = open_project("sgr/coco/cusa", tmp_path, smoke=True, work=tmp_path / "there", settings=["train.steps=7"])
    assert (smoke.out, smoke.given, smoke.dataset) == (tmp_path / "smoke", None, "scenes")
    assert smoke.recipe.train.steps == 7, "what the user set stands before what a smoke sets"
    assert smoke.recipe.student.kind == plain.recipe.student.kind
    assert smoke.recipe.loss == plain.recipe.loss
    assert "offline-scenes-image" in projects.SMOKE


@pytest.mark.parametrize("work", [None, "there"])
def test_open_project__a_recipe_without_data_needs_a_work_folder(tmp_path: Path, work: str | None) -> None:
    if work is None:
        with pytest.raises(projects.DataError, match=r"Recipe tiny names no data set \(data\.dataset\)"):
            open_project("tiny", tmp_path)
    else:
        assert open_project("tiny", tmp_path, work=tmp_path / work).work == tmp_path / work
