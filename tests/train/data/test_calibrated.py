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
from cusa.train.data import calibrated
from cusa.train.data.calibrated import open_calibrated, pair_probability
from cusa.train.data.gather import TeacherRows
from cusa.train.data.mixture.joined import JoinedTable
from tests.train.conftest import STUDENT, TRAIN
from tests.train.losses.matrices import unit

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
        for modality, tau in opened.temperatures.items():
            assert f"That makes the {modality} teacher's temperature {tau:.4g} (loss." in opened.sentence
    else:
        assert np.mean(masses) == pytest.approx(wanted, rel=1e-3)
        assert f"That makes the teachers' temperature {opened.temperatures['image']:.4g} (loss." in opened.sentence
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


@pytest.mark.parametrize(
    ("train", "pairs"), [({"accumulate": 2}, 4), ({"batch": 12, "accumulate": 4}, 3), ({"accumulate": 8}, 2)]
)
def test_training__expects_false_negatives_of_what_is_compared_at_once(
    world: Path, tmp_path: Path, train: dict[str, int], pairs: int
) -> None:
    said: list[str] = []
    run(world, tmp_path / "run", CALIBRATED, calibration(Split(world, "train")), said, steps=1, **train)
    assert f"A row of a batch of {pairs} pairs has" in said[0]


class _Rows:
    """A table of random unit rows that stands for a teacher's."""

    def __init__(self, teacher: str, number: int, seed: int) -> None:
        self.teacher, self.width = teacher, 5
        self.unit = unit(number, 5, seed).numpy()

    def __len__(self) -> int:
        return len(self.unit)

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        return self.unit[numbers].astype(np.float32)


@pytest.mark.parametrize(("modality", "shares"), [("image", (0.8, 0.2)), ("text", (0.1, 0.9)), ("text", (0.8, 0.2))])
def test_open_calibrated__of_several_sets_by_their_shares(
    world: Path, modality: str, shares: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of two pairs: the chance of each two, drawn without replacement by their sets' shares, written out."""
    monkeypatch.setattr(calibrated, "_ROWS", 1200)
    split, images = Split(world, "train"), (5, 3)
    owner = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 6, 7])  # 8 captions of the first set, 5 of the second
    numbers = images if modality == "image" else (8, 5)
    parts = [_Rows(NAMES[modality], number, seed) for seed, number in enumerate(numbers)]
    table = JoinedTable(parts, modality, shares)  # type: ignore[arg-type]
    teachers = {modality: tables.provenance(split, NAMES[modality])}
    told = BatchCalibration(teachers, {modality: 2.0}, {modality: -1.0}, -1.0, {})
    opened = open_calibrated(CALIBRATED, told, split=split, rows={modality: table}, owner=owner, batch=2)
    rows = np.concatenate([part.unit for part in parts])
    rows = rows[owner] if modality == "image" else rows
    mean = sum(share * part.unit.mean(0) for share, part in zip(shares, parts, strict=True))
    odds = np.repeat([shares[0] / 8, shares[1] / 5], [8, 5])
    expected = 0.0
    for i in range(13):
        for j in range(13):
            if owner[i] != owner[j]:
                level = rows[i] @ mean + rows[j] @ mean - 2 * mean @ mean
                true = 1 / (1 + math.exp(-(2 * rows[i] @ rows[j] - level - 1)))
                expected += odds[i] * odds[j] / (1 - odds[i]) * true
    assert opened.expected == pytest.approx(expected, rel=0.05)
    np.testing.assert_allclose(opened.probability.get_buffer(f"{modality}_mean").numpy(), mean, rtol=0, atol=1e-6)


def test_pair_probability__a_text_teacher_alone(world: Path, tmp_path: Path) -> None:
    split = Split(world, "train")
    both = calibration(split)
    text = BatchCalibration({"text": both.teachers["text"]}, {"text": 3.0}, {"text": 0.0}, -4.0, {})
    made = pair_probability(text, rows_of(split, tmp_path))
    assert made.reads("text")
    assert not made.reads("image")
