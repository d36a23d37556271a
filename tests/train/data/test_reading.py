"""The data of a run: what its options change, and what they do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from cusa.errors import ConfigError, StaleError
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.train.config import LossConfig
from cusa.train.data import reading
from cusa.train.data.augment.config import AugmentConfig
from cusa.train.data.gather import TeacherRows
from cusa.train.data.rows import Rows
from cusa.train.data.stream import PairStream, Pictures
from cusa.train.data.training import TrainingSplit
from tests.train.conftest import LOSS, STUDENT, TRAIN, Train
from tests.train.test_survival import same, state


def test_parts_of_the_last_small_step_hold_pairs(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"smallest step has 1 pairs, too few for 1 ranks and train\.accumulate=2"):
        train(tmp_path / "run", train={"batch": 5, "drop_last": False, "accumulate": 2})


def test_teachers_on_the_device_change_nothing(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "file")
    train(tmp_path / "device", train={"teacher_mib": 1})
    assert same(state(tmp_path / "file"), state(tmp_path / "device"))


def test_teachers_beyond_the_budget_stay_in_their_file(world: Path, tmp_path: Path) -> None:
    rows = TeacherRows(Split(world, "train"), "words", fallback=tmp_path)
    assert rows.on(torch.device("cpu"), budget=rows.nbytes - 1) is None
    table = rows.on(torch.device("cpu"), budget=rows.nbytes)
    assert table is not None
    assert torch.equal(table.float(), torch.from_numpy(rows[np.arange(len(rows))]))


def test_windows_of_shards_are_an_order_of_their_own(train: Train, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    windows = train(tmp_path / "windows", train={"shuffle_window": 1})
    assert windows.seen != plain.seen
    with pytest.raises(StaleError, match=r"train\.shuffle_window was 1 and is now 2"):
        train(tmp_path / "windows", train={"shuffle_window": 2})


def test_teachers_beyond_what_is_left_are_read_from_their_file_and_it_is_said(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each table is said to take 600 KiB: the first fits into 1 MiB, the second does not."""
    monkeypatch.setattr(Rows, "nbytes", property(lambda self: 600 << 10))
    first = train(tmp_path / "one", train={"teacher_mib": 1})
    (note,) = first.notes
    assert "The text teacher's rows take 0 MiB, more than what train.teacher_mib=1 leaves for them" in note
    assert train(tmp_path / "both", train={"teacher_mib": 2}).notes == ()
    assert same(state(tmp_path / "one"), state(tmp_path / "both"))


@pytest.mark.parametrize(
    ("options", "draft"),
    [
        ({}, 0),
        ({"decode": "scaled"}, 16),
        ({"decode": "scaled", "augment": AugmentConfig(crop=0.25)}, 37),  # 16 / sqrt(0.25 / (4 / 3))
        ({"decode": "scaled", "augment": AugmentConfig(crop=0.25, crop_ratio=1.0)}, 32),
    ],
)
def test_scaled_decoding_keeps_the_pixels_that_a_crop_needs(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], draft: int
) -> None:
    asked: list[Pictures] = []

    def stream(*given: Any, pictures: Pictures, **told: Any) -> PairStream:
        asked.append(pictures)
        return PairStream(*given, pictures=pictures, **told)

    monkeypatch.setattr(reading, "PairStream", stream)
    train(tmp_path / "run", train={"steps": 1, "cache_mib": 3, "check_one_in": 5, **options})
    (pictures,) = asked
    assert (pictures.draft, pictures.cache_bytes, pictures.check_one_in) == (draft, 3 << 20, 5)


class _NearImages:
    """Stands in for the neighbour tables: remembers what is asked of them."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def near_images(self, split: Split, teachers: dict[str, str], owner: np.ndarray, *, similarity: float) -> Any:
        self.asked.append((dict(teachers), similarity))
        group = np.arange(split.num_images) // 2
        return sparse.csr_array((group[:, None] == group[None]) & ~np.eye(len(group), dtype=bool)).astype(np.int32)


@pytest.mark.parametrize(
    ("options", "similarity"),
    [
        ({"neighbour_similarity": 0.65}, 0.65),
        ({"batches": "apart"}, 0.8),
        ({"batches": "close"}, 0.8),
        ({"batches": "apart", "neighbour_similarity": 0.65}, 0.65),
        ({}, None),
    ],
)
@pytest.mark.parametrize("loss", [LOSS, LossConfig(alpha=0, beta=0)])
def test_open__looks_at_near_images_as_the_recipe_says(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    similarity: float | None,
    loss: LossConfig,
) -> None:
    from cusa.train.data import neighbourhood

    split, near = Split(world, "train"), _NearImages()
    monkeypatch.setattr(neighbourhood, "near_images", near.near_images)
    # In place of a table's file: for each teacher one of the split's.
    files = {"colours": "samples.parquet", "words": "captions.parquet"}
    monkeypatch.setattr(reading, "neighbour_path", lambda split, teacher: split.folder / files[teacher])
    config = TRAIN.model_copy(update=options)
    student = students.create(STUDENT, captions=split.texts, uni=True, seed=0)
    data = reading.Data.open(
        config, loss, TrainingSplit(split), student, out=tmp_path / "run", device=torch.device("cpu")
    )
    if similarity is None:
        assert not near.asked
        assert not data.met
        assert "the neighbour tables" not in data.digests
        return
    assert near.asked == [({"image": "colours", "text": "words"}, similarity)]
    assert data.met.keys() == {"near_in_batch", "near_at_random"}
    assert data.met["near_at_random"] == pytest.approx(12 * 3 * 3 / (36 * 35))
    read = [store.sha256_file(split.folder / file) for file in files.values()]
    assert data.digests["the neighbour tables"] == store.digest(read)
    images = [split.caption_owner[data.order.rows(step)] for step in range(data.order.steps_per_epoch)]
    met = [sum(a // 2 == b // 2 and a != b for a in batch for b in batch) for batch in images]
    if options.get("batches") == "apart":
        # An image's three captions and its neighbour's three are dealt out to four steps: two of each meet at most.
        assert data.order.blocks is not None
        assert data.order.blocks.apart
        assert data.met["near_in_batch"] < data.met["near_at_random"] * 1.05
    if options.get("batches") == "close":
        assert data.met["near_in_batch"] > 2 * data.met["near_at_random"]
    assert data.met["near_in_batch"] == pytest.approx(np.mean(met) / 56)


def test_open__says_how_pictures_change_and_what_people_judged(world: Path, tmp_path: Path) -> None:
    split = Split(world, "train")
    student = students.create(STUDENT, captions=split.texts, uni=True, seed=0)
    opened = {}
    for name, options in (("plain", {}), ("crops", {"augment": AugmentConfig(crop=0.5)})):
        opened[name] = reading.Data.open(
            TRAIN.model_copy(update=options),
            LOSS,
            TrainingSplit(split),
            student,
            out=tmp_path / name,
            device=torch.device("cpu"),
        )
    assert opened["plain"].augmented == opened["plain"].mixture == ""
    assert opened["crops"].augmented == AugmentConfig(crop=0.5).sentence()
    for data in opened.values():
        assert (data.order.pairs, data.order.batch, data.order.seed) == (36, 8, 0)
        assert data.digests.keys() == {"the image teacher", "the text teacher"}
        assert (data.judged, data.pair_weights, data.calibrated, data.notes) == (None, None, None, ())
        assert not data.on_device
