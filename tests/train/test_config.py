import subprocess
import sys

import pytest
from pydantic import ValidationError

from cusa.train.config import LossConfig, TemperatureConfig, TrainConfig


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
