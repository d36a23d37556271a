"""`cusa train` with augmentation, layer decay and another optimiser, from a folder of pictures to a run."""

import json
from pathlib import Path

from cusa.manifests.storage import store
from tests.cli.test_cli import cusa_here
from tests.worlds import make_work


def test_train__augmented_with_another_optimizer_and_rates_by_layer(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=8, captions=2, splits=("train", "val"))
    few = ["loss.alpha=0", "loss.beta=0", "train.batch=8", "train.steps=4", "train.warmup_steps=0", "eval.bootstrap=0"]
    new = ["train.augment.crop=0.5", "train.augment.flip=0.5", "train.augment.hue=0.02", "train.augment.patches=0.25"]
    new += ["train.optimizer=muon", "train.layer_decay=0.7", "train.lr_text=1e-4"]
    settings = [word for setting in (*few, *new) for word in ("--set", setting)]
    done = cusa_here("train", "tiny", "--data", work, "--out", tmp_path / "run", *settings)
    assert done.returncode == 0, done.stderr
    assert (
        "Pictures change from epoch to epoch: crops of at least 50% of the area, 50% mirrored, other hue" in done.stderr
    )
    assert "Never mirrored: 0 images of 8 with a caption that says left, right" in done.stderr
    assert "The image tower learns at" in done.stderr
    assert "(what stands before its 3 layers)" in done.stderr
    recipe = store.read_json(tmp_path / "run/recipe.json")
    assert recipe["train"]["augment"]["crop"] == 0.5
    assert recipe["train"]["optimizer"] == "muon"
    again = cusa_here("train", "tiny", "--data", work, "--out", tmp_path / "run", *settings)
    assert "is up to date" in again.stdout
    other = cusa_here(
        "train", "tiny", "--data", work, "--out", tmp_path / "run", *settings, "--set", "train.augment.flip=1"
    )
    assert other.returncode == 1
    assert "train.augment.flip was 0.5 and is now 1" in other.stderr
    scored = cusa_here("eval", tmp_path / "run", "--data", work, "--split", "val", "--json", "--set", "bootstrap=0")
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)


def test_train__what_it_refuses_names_the_key(tmp_path: Path) -> None:
    for setting, words in (
        ("train.augment.crop=1.5", "train.augment.crop"),
        ("train.augment.flips=0.5", "train.augment.flip"),
        ("train.momentum=0.5", "momentum 0.5 is not read by the optimizer 'adamw'"),
        ("train.optimizer=lion", "train.optimizer"),
        ('train.augment.flip_words=[" "]', "' ' is no word"),
    ):
        done = cusa_here("train", "tiny", "--data", tmp_path, "--out", tmp_path / "run", "--set", setting)
        assert done.returncode != 0
        assert words in done.stderr
        assert not (tmp_path / "run").exists()
