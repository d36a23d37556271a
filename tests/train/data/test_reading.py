"""The data of a run: what its options change, and what they do not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cusa.errors import ConfigError, StaleError
from cusa.manifests.samples import Split
from cusa.train.data.gather import TeacherRows
from tests.train.conftest import Train
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
