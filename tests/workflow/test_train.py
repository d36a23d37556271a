"""An ensemble by recipe: its parts are runs, its scores their mean, and what changes is trained again."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cusa import recipe as recipes
from cusa.errors import ConfigError
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.workflow import evaluate as scoring
from cusa.workflow import train as training
from tests import worlds

FEW = [
    *(text for text in recipes.smoke_settings("sgraf") if not text.startswith(("teachers.", "data."))),
    *("train.steps=2", "train.batch=8", "train.validate_every=2", "eval.bootstrap=0"),
]


def test_train__sgraf_scores_by_the_mean_of_its_parts(tmp_path: Path) -> None:
    work = worlds.make_work(tmp_path / "world", images=8, captions=2)
    told = recipes.load("sgraf/coco/baseline", [*FEW, "data.test=test"])
    done = training.train(told, work=work, out=tmp_path / "run", test=True)
    assert done.fresh
    assert {name.rpartition("/")[0] for name in done.counts} == {"sgr/coco/baseline", "saf/coco/baseline"}
    folders = [tmp_path / "run", tmp_path / "run/parts/sgr", tmp_path / "run/parts/saf"]
    assert store.read_json(folders[0] / "recipe.json")["name"] == "sgraf/coco/baseline"
    for folder in folders:
        changes = store.read_json(folder / "run.json")["changes"]
        assert {change["key"]: change["set"] for change in changes}["train.batch"] == "8"
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8))
    scores = []
    for folder in folders:
        student = students.load(folder).eval()
        arrays = torch.from_numpy(np.stack([student.image_array(_image(picture)) for picture in pictures.numpy()]))
        with torch.inference_mode():
            image = student.image_parts(student.pixels(arrays))
            text = student.text_parts(student.tokenize(["a red wall", "a green wall", "a blue wall"]))
            scores.append(student.pair_scores(image, text))
    torch.testing.assert_close(scores[0], (scores[1] + scores[2]) / 2)
    assert (tmp_path / "run/eval/metrics.json").is_file()
    assert not training.train(told, work=work, out=tmp_path / "run").fresh
    (found,) = scoring.evaluate(str(tmp_path / "run"), scoring.EvalRequest(data=[work]))
    assert not found["fresh"]


def test_train__a_work_folder_that_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    work = worlds.make_work(tmp_path / "world", images=2, captions=1)
    other = tmp_path / os.fsdecode(b"w\xe9")
    shutil.move(work, other)
    (tmp_path / "link").symlink_to(other)
    with pytest.raises(ConfigError, match="is not UTF-8"):
        training.train(
            recipes.load("tiny", ["loss.alpha=0", "loss.beta=0"]), work=tmp_path / "link", out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_train__an_unknown_monitor_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for monitor, words in (
        ("rsums", "Did you mean 'rsum'"),
        ("image-to-text/r@2", r"Did you mean 'image-to-text/r@\d+'\? Allowed: image-to-text/.*r@1, .*rsum"),
        ("image-to-text/r@10", r"Allowed: image-to-text/median_rank, image-to-text/r@1, "),
    ):
        for name in ("tiny", "sgraf/coco/cusa"):
            told = recipes.load(name, [f"train.monitor={monitor}", "eval.ks=[1,5]"])
            with pytest.raises(ConfigError, match=rf"train\.monitor is '{monitor}'.*{words}"):
                training.train(told, work=tmp_path / "nowhere", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('train.freeze=["nothing"]', "train.freeze names 'nothing'"),
        ("train.batch=900", "batch"),
        ("loss.infonce_weight=0", "All weights of the loss are 0"),
    ],
)
def test_train__a_training_that_is_refused_leaves_no_folder(tmp_path: Path, setting: str, words: str) -> None:
    work = worlds.make_work(tmp_path / "world", images=8, captions=2)
    few = ["loss.alpha=0", "loss.beta=0", "train.batch=8", "train.steps=2", "train.warmup_steps=0"]
    told = recipes.load("tiny", [*few, setting])
    with pytest.raises(ConfigError, match=words):
        training.train(told, work=work, out=tmp_path / "runs/july/run")
    assert not (tmp_path / "runs").exists()


def _image(pixels: np.ndarray) -> object:
    from PIL import Image

    return Image.fromarray(pixels)


def test_train__an_ensemble_on_several_ranks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="On several ranks train these"):
        training.train(recipes.load("sgraf/coco/cusa", FEW), work=tmp_path, out=tmp_path / "run")
