"""What a calibration says of a split, against plain loops over the tables, and what training makes of it."""

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, StaleError
from cusa.manifests import tables
from cusa.manifests.batch_calibration import BatchCalibration
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.train import loop
from cusa.train.config import LossConfig
from cusa.train.data.calibrated import open_calibrated, pair_probability
from cusa.train.data.gather import TeacherRows
from tests.train.conftest import STUDENT, TRAIN

CALIBRATED = LossConfig(alpha=1, beta=0, infonce_weight=0, soft_labels="calibrated")
AUDIT = LossConfig(alpha=0.5, beta=0.5, teacher_temperature="audit")
NAMES = {"image": "colours", "text": "words"}


def calibration(split: Split, intercept: float = -4.0) -> BatchCalibration:
    return BatchCalibration(
        teachers={modality: tables.provenance(split, name) for modality, name in NAMES.items()},
        cosines={"image": 2.0, "text": 3.0},
        levels={"image": -1.0, "text": -0.5},
        intercept=intercept,
        about={},
    )


def rows_of(split: Split, folder: Path) -> dict[str, TeacherRows]:
    return {modality: TeacherRows(split, name, fallback=folder) for modality, name in NAMES.items()}


def loops(split: Split, told: BatchCalibration) -> np.ndarray:
    """Return the probability of every pair of captions of different images, 0 for those of the same one."""
    unit = {}
    for modality, name in NAMES.items():
        rows = tables.read_teacher(split, name).embeddings.astype(np.float64)
        unit[modality] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = {modality: rows.mean(0) for modality, rows in unit.items()}
    number = split.num_captions
    out = np.zeros((number, number))
    for i in range(number):
        for j in range(number):
            owners = split.caption_owner[i], split.caption_owner[j]
            if owners[0] == owners[1]:
                continue
            logit = told.intercept
            for modality, (one, other) in {"image": owners, "text": (i, j)}.items():
                a, b, mean = unit[modality][one], unit[modality][other], means[modality]
                level = a @ mean + b @ mean - 2 * mean @ mean
                logit += told.cosines[modality] * (a @ b) + told.levels[modality] * level
            out[i, j] = 1 / (1 + math.exp(-logit))
    return out


def test_open_calibrated__expects_what_loops_expect(world: Path, tmp_path: Path) -> None:
    split = Split(world, "train")
    told, rows = calibration(split), rows_of(split, tmp_path)
    options = {"split": split, "rows": rows, "owner": split.caption_owner}
    whole = open_calibrated(CALIBRATED, told, batch=split.num_captions, **options)  # type: ignore[arg-type]
    every = loops(split, told)
    assert whole.expected == pytest.approx(every.sum(1).mean(), rel=1e-4)
    assert f"{whole.expected:.2g} expected false negatives" in whole.sentence
    small = open_calibrated(CALIBRATED, told, batch=8, **options)  # type: ignore[arg-type]
    assert small.expected == pytest.approx(every.sum(1).mean() * 7 / 35, rel=0.05), "of batches drawn"
    assert not small.temperatures


@pytest.mark.parametrize("apart", [False, True])
def test_open_calibrated__the_temperature_gives_the_expected_mass(world: Path, tmp_path: Path, apart: bool) -> None:
    split = Split(world, "train")
    told, rows = calibration(split), rows_of(split, tmp_path)
    loss = AUDIT.model_copy(update={"teacher_temperatures": "separate" if apart else "one"})
    batch = split.num_captions
    opened = open_calibrated(loss, told, split=split, rows=rows, owner=split.caption_owner, batch=batch)
    wanted = opened.expected / (1 + opened.expected)
    masses = []
    same = split.caption_owner[:, None] == split.caption_owner[None, :]
    solved = opened.solved(loss)
    for modality, name in NAMES.items():
        vectors = tables.read_teacher(split, name).embeddings.astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors[split.caption_owner] if modality == "image" else vectors
        read = modality if apart else "image"
        tau = getattr(solved, f"teacher_{read}_temperature").initial
        labels = np.exp((vectors @ vectors.T - 1) / tau)
        labels /= labels.sum(1, keepdims=True)
        masses.append(np.where(same, 0, labels).sum(1).mean())
    if apart:
        assert masses == pytest.approx([wanted, wanted], rel=1e-3)
    else:
        assert np.mean(masses) == pytest.approx(wanted, rel=1e-3)
    assert list(opened.temperatures) == (["image", "text"] if apart else ["image"])
    assert not solved.teacher_image_temperature.learned


def run(
    world: Path, out: Path, loss: LossConfig, told: BatchCalibration | None, said: list[str], **train: int
) -> loop.Trained:
    split = Split(world, "train")
    student = students.create(STUDENT, captions=split.texts, uni=loss.beta > 0, seed=0)
    return loop.run(
        TRAIN.model_copy(update=train),
        loss,
        student=student,
        data=loop.TrainingSplit(split, calibration=told),
        out=out,
        callbacks=loop.Callbacks(on_message=said.append),
    )


@pytest.mark.parametrize("loss", [CALIBRATED, LossConfig(alpha=0, beta=0, false_negatives="debiased"), AUDIT])
def test_training__says_what_it_expects_before_the_first_step(world: Path, tmp_path: Path, loss: LossConfig) -> None:
    said: list[str] = []
    done = run(world, tmp_path / "run", loss, calibration(Split(world, "train")), said, steps=2)
    assert len(said) == 1
    assert "A row of a batch of 8 pairs has" in said[0]
    table = pq.read_table(tmp_path / "run/metrics.parquet").to_pylist()
    before = {row["name"]: row["value"] for row in table if row["step"] == 0}
    assert before["expected_false_negatives"] > 0
    if loss is AUDIT:
        assert f"{before['teacher_temperature.image']:.4g} (loss.teacher_temperature=audit)" in said[0]
        assert done.last["temperature.teacher"] == pytest.approx(before["teacher_temperature.image"], rel=1e-6)
    else:
        assert done.last["expected_false_negatives"] > 0


def test_training__refuses_no_calibration_another_teacher_s_and_another_one_on_resume(
    world: Path, tmp_path: Path
) -> None:
    split = Split(world, "train")
    with pytest.raises(ConfigError, match=r"soft_labels is 'calibrated', which needs a calibration.*cusa calibrate"):
        run(world, tmp_path / "run", CALIBRATED, None, [])
    told = calibration(split)
    other = BatchCalibration(
        {**told.teachers, "text": {**told.teachers["text"], "transform": "none", "preprocessing": "other"}},
        told.cosines,
        told.levels,
        told.intercept,
        {},
    )
    with pytest.raises(StaleError, match="was fitted on other teachers: its text teacher"):
        run(world, tmp_path / "run", CALIBRATED, other, [])
    run(world, tmp_path / "run", CALIBRATED, told, [], steps=2, checkpoint_every=1)
    with pytest.raises(StaleError, match="the calibration"):
        run(world, tmp_path / "run", CALIBRATED, calibration(split, -3.0), [], steps=4, checkpoint_every=1)


def test_pair_probability__a_text_teacher_alone(world: Path, tmp_path: Path) -> None:
    split = Split(world, "train")
    both = calibration(split)
    text = BatchCalibration({"text": both.teachers["text"]}, {"text": 3.0}, {"text": 0.0}, -4.0, {})
    made = pair_probability(text, rows_of(split, tmp_path))
    assert made.reads("text")
    assert not made.reads("image")
