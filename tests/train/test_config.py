import inspect
import itertools
import subprocess
import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from cusa.train.config import MOMENTUM, LossConfig, TemperatureConfig, TrainConfig
from cusa.train.losses import CUSALoss, Setting, objective
from cusa.train.losses.by_rows.hardness import Hardness
from cusa.train.losses.by_rows.thresholds import Thresholds


def test_light() -> None:
    code = (
        "import sys, cusa.train.config, cusa.models.config; print(*[m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_the_defaults_are_the_papers() -> None:
    loss, train = LossConfig(), TrainConfig()
    assert (loss.alpha, loss.beta, loss.reduction, loss.fusion) == (0.1, 0.5, "standard", "each")
    assert loss.teacher_image_temperature.initial == 1
    assert not loss.teacher_image_temperature.learned
    assert (train.lr, train.min_lr, train.weight_decay, train.batch, train.epochs) == (1e-5, 1e-6, 1e-4, 128, 30)


def _defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}


def test_the_defaults_of_a_recipe_are_those_of_the_loss_in_python() -> None:
    loss, ours = _defaults(CUSALoss), LossConfig()
    shared = set(loss) & set(LossConfig.model_fields) - {"temperature", "teacher_temperature", "hardness"}
    assert {"alpha", "negatives", "mask_margin_kind", "label_smoothing", "sigmoid_bias", "impl"} <= shared
    assert {name: getattr(ours, name) for name in shared} == {name: loss[name] for name in shared}
    assert (ours.hardness, ours.hardness_prior) == (Hardness().concentration, Hardness().prior)
    thresholds = _defaults(Thresholds)
    read = {name: getattr(ours, f"threshold_{name}") for name in ("share", "rate", "after")}
    assert read == {name: thresholds[name] for name in read}
    settings = {"temperature": objective.INFONCE, "csa_image_temperature": objective.CSA}
    settings |= {"csa_text_temperature": objective.CSA, "teacher_image_temperature": objective.TEACHER}
    settings |= {"usa_image_temperature": objective.USA[0], "usa_text_temperature": objective.USA[1]}
    settings |= {"teacher_text_temperature": objective.TEACHER}
    for name, setting in settings.items():
        told = getattr(ours, name)
        assert Setting(told.initial, told.minimum, told.maximum, told.learned) == setting, name


def test_the_optimizers_defaults_are_torch_s() -> None:
    train, theirs = TrainConfig(), _defaults(torch.optim.AdamW)
    assert ((train.beta1, train.beta2), train.eps) == (theirs["betas"], theirs["eps"])
    assert {"muon": _defaults(torch.optim.Muon)["momentum"], "sgd": 0.9} == MOMENTUM


def test_what_a_loss_reads__every_combination() -> None:
    """Teachers, calibrations and their temperatures, by a table written out in words."""
    axes = [(0.0, 0.5), (0.0, 0.5), ("teacher", "calibrated"), ("soft", "mask", "debiased", "positive")]
    for alpha, beta, labels, treated, audit in itertools.product(*axes, ("set", "audit")):
        told: dict[str, Any] = {"alpha": alpha, "beta": beta, "soft_labels": labels, "false_negatives": treated}
        loss = LossConfig(**told, teacher_temperature=audit, mask_text=0.5 if treated == "mask" else None)
        softmaxes = beta > 0 or (alpha > 0 and labels == "teacher")
        assert loss.reads_teacher_temperature == softmaxes
        assert loss.needs_teachers == (alpha > 0 or beta > 0 or treated in ("mask", "debiased"))
        calibrated = (alpha > 0 and labels == "calibrated") or treated == "debiased"
        assert loss.needs_calibration == (calibrated or (audit == "audit" and softmaxes))


@pytest.mark.parametrize(
    "fields",
    [
        {"min_lr": 1e-5},
        {"batch": 8, "accumulate": 4},
        {"batches": "apart"},
        {"shuffle_window": 3},
        {"optimizer": "muon", "momentum": 0.5},
        {"caption_odds": {"human": 0.0, "synthetic": 2.5}},
        {"compile": True},
        {"augment": {"patches": 0.5}},
        {"max_undecodable": 1.0, "ema": 0.0, "cache_mib": 0},
    ],
)
def test_values_at_their_bounds_are_taken(fields: dict[str, Any]) -> None:
    read = TrainConfig.model_validate(fields).model_dump()
    for name, value in fields.items():
        assert read[name] == value if not isinstance(value, dict) else read[name].items() >= value.items()


def test_free_keys_exist() -> None:
    assert set(TrainConfig.model_fields) >= TrainConfig.FREE
    assert TrainConfig.model_validate({"steps": 9, "warmup_steps": 8}).steps == 9


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"min_lr": 1.0}, r"min_lr 1\.0 is above lr"),
        ({"batch": 1}, "batch"),
        ({"step": 5}, "Extra inputs"),
        ({"decay": "all"}, "decay"),
        ({"shuffle_window": 3, "batches": "apart"}, "shuffle_window 3 and batches 'apart' are two orders"),
        ({"shuffle_window": -1}, "shuffle_window"),
        ({"batches": "near"}, "batches"),
        ({"neighbour_similarity": 1.5}, "neighbour_similarity"),
        ({"batch": 8, "accumulate": 5}, "accumulate 5 leaves parts of less than two pairs.*at most 4"),
        ({"accumulate": 0}, "accumulate"),
        ({"precision": "int8"}, "precision"),
        ({"ema": 1.0}, "ema"),
        ({"freeze": 3}, "freeze"),
        ({"gradient_checkpointing": "some"}, "gradient_checkpointing"),
        ({"compile": "fast"}, "compile"),
        ({"teacher_mib": -1}, "teacher_mib"),
        ({"decode": "fast"}, "decode"),
        ({"steps": 9, "warmup_steps": 9}, "warmup_steps 9 leaves none of the 9 steps.*at most 8"),
        ({"check_one_in": -1}, "check_one_in"),
        ({"wandb": 3}, "wandb"),
        ({"caption_odds": {"alt text": -0.5}}, r"the odds of 'alt text' are -0\.5, below 0"),
        ({"augment": {"patches": 0.5}, "compile": True}, r"augment\.patches 0\.5 .*set compile=false"),
        ({"lr": 0}, "lr"),
        ({"keep_checkpoints": 0}, "keep_checkpoints"),
        ({"layer_decay": 0}, "layer_decay"),
    ],
)
def test_impossible_values_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TrainConfig.model_validate(fields)


def test_a_temperature_starts_within_its_bounds() -> None:
    with pytest.raises(
        ValidationError, match=r"initial 0\.05 is not between minimum 0\.1 and maximum 1\.0; set the three"
    ):
        TemperatureConfig(initial=0.05, minimum=0.1, maximum=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"false_negatives": "mask"},
        {"mask_text": 0.5},
        {"false_negatives": "mask", "mask_text": 1.5},
        {"false_negatives": "mask", "mask_image": "near"},
    ],
)
def test_a_mask_has_thresholds_that_are_cosines(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="mask"):
        LossConfig.model_validate(fields)
    assert LossConfig.model_validate({"false_negatives": "mask", "mask_text": "positive"}).mask_image is None
