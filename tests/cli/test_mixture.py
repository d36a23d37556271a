"""Several data sets in one training, by the commands: from the plan to the report and the card."""

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import cusa_here
from tests.worlds import make_work

RECIPE = """
base = ["tiny"]
description = "Two worlds at once."

[data]
train = [
    {{ data = "{one}", name = "one", weight = 2 }},
    {{ data = "{two}", name = "two", weight = 1 }},
]

[teachers]
image = "offline-gist"
text = "offline-ngrams"

[train]
batch = 6
steps = 4
warmup_steps = 0
validate_every = 2
device = "cpu"

[eval]
bootstrap = 0
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    works = {name: make_work(tmp_path / name, images=images, captions=2) for name, images in (("one", 12), ("two", 8))}
    path = tmp_path / "mix.toml"
    path.write_text(RECIPE.format(**works))
    return path


def test_a_mixture_is_planned_run_and_said_everywhere(recipe: Path, tmp_path: Path) -> None:
    share = "one 24 (66.7%"
    planned = cusa_here("plan", recipe, "--out", tmp_path / "project")
    assert share in planned.stdout
    assert "download" not in planned.stdout
    done = cusa_here("run", recipe, "--out", tmp_path / "project")
    assert done.returncode == 0, done.stderr
    assert share in done.stderr
    assert ", the mean of one " in done.stderr
    run = tmp_path / "project" / "runs" / "mix"
    for name in ("one", "two"):
        for table in ("offline-gist", "offline-ngrams"):
            assert (tmp_path / name / "work" / "train" / "teachers" / table).is_dir()
    assert "one (67%), two (33%)" in (run / "report.html").read_text()
    assert "up to date" in cusa_here("run", recipe, "--out", tmp_path / "project").stdout
    exported = cusa_here("export", run, "--to", "folder", "--out", tmp_path / "model")
    assert exported.returncode == 0, exported.stderr
    assert "Data: one (67%), two (33%)." in (tmp_path / "model" / "README.md").read_text()
    looked = json.loads(cusa_here("doctor", "--recipe", recipe, "--json").stdout)
    rows = {row["what"]: row["found"] for row in looked}
    assert rows["data set one"].endswith("tables: offline-gist, offline-ngrams")
    assert rows["mixture"] == "one 66.7%, two 33.3%"


def test_train_without_data_says_how_to_evaluate_on_every_set(recipe: Path, tmp_path: Path) -> None:
    plain = ("--set", "loss.alpha=0", "--set", "loss.beta=0", "--set", "train.steps=1")
    done = cusa_here("train", recipe, "--out", tmp_path / "run", *plain)
    assert done.returncode == 0, done.stderr
    assert f"cusa eval {tmp_path / 'run'} --data {tmp_path / 'one' / 'work'} --data {tmp_path / 'two' / 'work'}" in (
        done.stdout + done.stderr
    )
    refused = cusa_here("train", recipe, "--data", tmp_path, "--out", tmp_path / "run2")
    assert refused.returncode
    assert "every data set of data.train names its own folder" in refused.stderr
    nowhere = cusa_here("train", "tiny", "--out", tmp_path / "run2")
    assert "Give the work folder with --data." in nowhere.stderr


def test_recipe_show_writes_a_list_that_reads_back(recipe: Path, tmp_path: Path) -> None:
    shown = cusa_here("recipe", "show", recipe)
    again = tmp_path / "again.toml"
    again.write_text(shown.stdout)
    first, second = (json.loads(cusa_here("recipe", "show", one, "--json").stdout) for one in (recipe, again))
    assert first["data"] == second["data"]
    assert [one["weight"] for one in first["data"]["train"]] == [2.0, 1.0]
