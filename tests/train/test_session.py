"""What of a recipe decides a run: every option reaches the optimiser and the identity of its checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cusa.errors import ConfigError, DataError, StaleError, StoppedError
from cusa.manifests.samples import Split
from cusa.manifests.settings import Settings
from cusa.models import student as students
from cusa.train import checkpoint
from cusa.train.config import LossConfig, TrainConfig
from cusa.train.data.batch import Batch, Substitute
from cusa.train.session import Session, settings
from cusa.train.terms import make_loss
from tests.train.conftest import STUDENT, TRAIN, Train, replace_row
from tests.train.test_survival import metrics, state

OTHER_TRAIN: dict[str, Any] = {
    **{"seed": 5, "batch": 64, "steps": 9, "epochs": 7, "drop_last": False, "shuffle_window": 2, "batches": "apart"},
    **{"neighbour_similarity": 0.7, "accumulate": 2, "chunk": 4, "lr": 0.5, "min_lr": 1e-7, "warmup_steps": 3},
    "caption_odds": {"human": 2.0},
    **{"schedule": "epoch", "weight_decay": 0.3, "decay": "release", "beta1": 0.8, "beta2": 0.9, "eps": 1e-3},
    **{"clip_norm": 1.0, "precision": "bf16", "ema": 0.9, "freeze": ("text",), "validate_every": 4},
    **{"monitor": "i2t_r1", "decode": "scaled", "max_undecodable": 0.5},
    **{"lr_image": 0.1, "lr_text": 0.2, "layer_decay": 0.9, "layer_decay_image": 0.8, "layer_decay_text": 0.7},
    **{"optimizer": "sgd", "momentum": 0.5},
}
"""Another value for every option that decides what is seen or computed."""
OTHER_LOSS: dict[str, Any] = {
    **{"alpha": 0.2, "beta": 0.2, "infonce_weight": 0.5, "reduction": "release", "fusion": "dot"},
    **{"divergence": "cross_entropy", "false_negatives": "positive", "mask_image": 0.5, "mask_text": 0.5},
    **{"negatives": "local", "impl": "streamed", "csa_temperatures": "separate", "usa_temperatures": "one"},
    **{"teacher_temperatures": "separate", "contrast": "sigmoid", "label_smoothing": 0.1, "sigmoid_bias": -5.0},
    **{"mask_margin": 0.1, "mask_margin_kind": "relative", "pair_weights": "audit"},
    **{"soft_labels": "calibrated", "teacher_temperature": "audit", "hardness": 0.5, "hardness_prior": 0.1},
    **{"threshold_share": 0.1, "threshold_rate": 0.1, "threshold_after": 2},
}


@pytest.mark.parametrize(("config", "others"), [(TrainConfig(), OTHER_TRAIN), (LossConfig(), OTHER_LOSS)])
def test_settings__hold_every_option_that_is_not_free(config: TrainConfig | LossConfig, others: dict[str, Any]) -> None:
    fields = type(config).model_fields
    free = getattr(config, "FREE", frozenset())
    nested = {name for name in fields if isinstance(getattr(config, name), Settings)}
    assert set(others) == set(fields) - free - nested, "a new option is free, or decides a run"
    plain = settings(part=config)
    for name, value in others.items():
        changed = settings(part=config.model_copy(update={name: value}))
        keys = {f"part.{name}.{key}" for key in value} if isinstance(value, dict) else {f"part.{name}"}
        assert {key for key in plain | changed if plain.get(key) != changed.get(key)} == keys
    for name in nested:
        before = getattr(config, name)
        for number in type(before).model_fields:
            value = getattr(before, number)
            other = not value if value in (True, False) else value * 2
            updated = config.model_copy(update={name: before.model_copy(update={number: other})})
            changed = settings(part=updated)
            assert {key for key in plain if plain[key] != changed[key]} == {f"part.{name}.{number}"}


def test_settings__free_options_are_those_that_change_nothing() -> None:
    assert {
        *("workers", "cache_mib", "check_one_in", "teacher_mib", "log_every", "keep_checkpoints", "checkpoint_every"),
        *("device", "gradient_checkpointing", "compile", "wandb", "encode_once"),
    } == TrainConfig.FREE


def _session(world: Path, out: Path, **options: Any) -> Session:
    config = TRAIN.model_copy(update=options)
    student = students.create(STUDENT, captions=Split(world, "train").texts, uni=True, seed=0)
    identity = checkpoint.Identity(settings(train=config), {})
    return Session(config, student=student, loss=make_loss(LossConfig()), out=out, identity=identity)


def test_the_optimizer_has_the_recipes_options(world: Path, tmp_path: Path) -> None:
    options = {"lr": 0.25, "beta1": 0.7, "beta2": 0.8, "eps": 1e-4, "weight_decay": 0.03}
    decaying, spared = _session(world, tmp_path, **options).optimizer.param_groups
    for group in (decaying, spared):
        assert (group["lr"], group["betas"], group["eps"]) == (0.25, (0.7, 0.8), 1e-4)
    assert (decaying["weight_decay"], spared["weight_decay"]) == (0.03, 0.0)
    temperature = "loss.infonce_temperature.value"
    assert temperature in spared["names"]
    assert temperature in _session(world, tmp_path, decay="release").optimizer.param_groups[0]["names"]


def _batch(split: Split, row: int) -> Batch:
    rows = torch.tensor([row])
    failed = Substitute(split.image_keys[3], "00000.tar", "cut", split.caption_keys[row])
    keys = (split.caption_keys[row],)
    return Batch(0, 0, 1, keys, torch.zeros(1), {}, rows // 3, rows, None, None, substitutes=(failed,))


def test_what_could_not_be_decoded_is_remembered_by_the_checkpoint(world: Path, tmp_path: Path) -> None:
    split = Split(world, "train")
    first = _session(world, tmp_path, max_undecodable=0.1)
    first.saw(_batch(split, 0))
    assert first.look(split) is False
    assert first.look(split, wish=True) is True
    first.done = 1
    first.save()
    first.saved()
    second = _session(world, tmp_path, max_undecodable=0.1)
    second.resume(must=True)
    assert second.bad == first.bad == {split.image_keys[3]: ("00000.tar", "cut")}
    assert second.seen == first.seen != 0
    assert "1 image could not be decoded" in second.remarks()[0]


def test_look__refuses_more_images_than_may_fail_and_names_them(world: Path, tmp_path: Path) -> None:
    """Of 12 images one may fail; the second is too many."""
    split = Split(world, "train")
    session = _session(world, tmp_path, max_undecodable=1 / 12)
    for _ in range(3):  # the same one, again and again
        session.saw(_batch(split, 0))
        assert session.look(split) is False
    other = Substitute(split.image_keys[7], "00001.tar", "no image", split.caption_keys[5])
    session.saw(replace(_batch(split, 1), substitutes=(other,)))
    with pytest.raises(
        DataError, match=r"2 of 12 images cannot be decoded, more than train\.max_undecodable=0\.08"
    ) as no:
        session.look(split)
    assert f"the first is {split.image_keys[3]} in {split.folder / '00000.tar'}: cut" in str(no.value)
    assert no.value.values["keys"] == (split.image_keys[3], split.image_keys[7])
    said = session.remarks()[-1]
    assert said == "2 images could not be decoded and others stood in (1 in 00000.tar: cut; 1 in 00001.tar: no image)."


def test_resume__a_name_that_is_no_setting_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'train\.tempo' is nothing"):
        _session(world, tmp_path).resume(allow_changed=["train.tempo"])


def test_allowed_changes_are_named_and_told(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run")
    with pytest.raises(StaleError, match=r"train\.lr was 0\.003.*--allow-changed train\.lr"):
        train(tmp_path / "run", train={"lr": 1e-3, "steps": 12}, allow_changed=["train.steps"])
    with pytest.raises(ConfigError, match=r"'train\.rate' is nothing.*Did you mean"):
        train(tmp_path / "run", allow_changed=["train.rate"])
    told = {"lr": 1e-3, "steps": 12, "weight_decay": 0.5}
    done = train(
        tmp_path / "run", train=told, allow_changed=["train.lr", "train.steps", "train.weight_decay", "data.train"]
    )
    assert (done.steps, done.started_at) == (12, 10)
    assert any("From step 10 on train.lr was 0.003 and is now 0.001, as was allowed." in note for note in done.notes)
    assert state(tmp_path / "run", 12)["optimizer"]["param_groups"][0]["weight_decay"] == 0.5
    assert metrics(tmp_path / "run")[12, "lr"] < 1e-3
    train(tmp_path / "run", train=told)  # the new checkpoints belong to the new recipe


def test_a_changed_teacher_can_be_allowed(train: Train, own_world: Path, tmp_path: Path) -> None:
    asked = iter([False] * 3)
    with pytest.raises(StoppedError):
        train(tmp_path / "run", work=own_world, should_stop=lambda: next(asked, True))
    replace_row(own_world, "colours")
    with pytest.raises(StaleError, match=r"the image teacher changed.*--allow-changed teachers\.image"):
        train(tmp_path / "run", work=own_world)
    done = train(tmp_path / "run", work=own_world, allow_changed=["teachers.image"])
    assert done.started_at == 4
    assert "the image teacher changed, as was allowed" in done.notes[0]


def test_going_on_can_be_demanded(train: Train, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no checkpoint to go on from"):
        train(tmp_path / "run", must_resume=True)
    with pytest.raises(ConfigError, match="leave one of them out"):
        train(tmp_path / "run", must_resume=True, force=True)
    train(tmp_path / "run")
    assert train(tmp_path / "run", must_resume=True).started_at == 10
