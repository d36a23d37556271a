"""What a run survives: kills at any moment, other numbers of workers and ranks, lost files, a full disk."""

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from cusa.errors import DataError, StaleError, StoppedError
from cusa.manifests.storage import seal, store
from cusa.train import checkpoint
from tests.train import processes
from tests.train.conftest import TRAIN, Train

TIMED = {"samples_per_second", "data_wait_share", "peak_memory_bytes"}


def state(out: Path, step: int = TRAIN.steps) -> dict[str, Any]:
    return torch.load(out / "checkpoints" / f"step-{step:09d}" / "state.pt", weights_only=True)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one if key not in TIMED)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def metrics(out: Path) -> dict[tuple[int, str], float]:
    rows = pq.read_table(out / "metrics.parquet").to_pylist()
    return {(row["step"], row["name"]): row["value"] for row in rows if row["name"] not in TIMED}


def wait_for_checkpoint(out: Path, step: int) -> None:
    """Wait until a checkpoint, which is written while training goes on, is there."""
    place = out / "checkpoints" / f"step-{step:09d}"
    end = time.monotonic() + 60
    while not place.is_dir():
        assert time.monotonic() < end, place
        time.sleep(0.01)


def test_killed_ten_times_it_ends_with_the_same_bits(world: Path, tmp_path: Path) -> None:
    train = {"steps": 30, "validate_every": 5, "checkpoint_every": 2, "ema": 0.9}
    whole = processes.Run(world, tmp_path / "whole", train).ends()
    at, done = processes.killed(world, tmp_path / "killed", train, kills=10, seed=0)
    assert len(at) == 10
    assert len(set(at)) > 5
    assert done.seen == whole.seen
    assert same(state(tmp_path / "whole", 30), state(tmp_path / "killed", 30))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "killed")
    model = (tmp_path / "whole" / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "killed" / "model" / "model.safetensors").read_bytes() == model
    assert not list((tmp_path / "killed").rglob(".partial-*"))


def test_two_ranks_go_on_with_what_one_began(world: Path, train: Train, tmp_path: Path) -> None:
    told = {"dropout": 0.0, "batch": 9, "drop_last": False, "accumulate": 2}
    alone = processes.Run(world, tmp_path / "one", told).ends()
    begun = processes.Run(world, tmp_path / "both", {**told, "checkpoint_every": 1}, waits_at=10)
    assert begun.reaches(4)
    wait_for_checkpoint(tmp_path / "both", 4)
    begun.kill()
    results = [run.ends() for run in processes.together(world, tmp_path / "both", told, world=2)]
    assert [result.started_at >= 4 for result in results] == [True, True]
    assert [result.seen for result in results] == [alone.seen] * 2
    one, both = metrics(tmp_path / "one"), metrics(tmp_path / "both")
    for step in range(1, 11):
        for name in ("loss", "infonce", "csa", "usa", "lr", "grad_norm", "effective_weight.csa"):
            if (step, name) in one:
                assert both[step, name] == pytest.approx(one[step, name], rel=1e-4), (step, name)
    first, second = state(tmp_path / "one"), state(tmp_path / "both")
    for name, value in first["student"].items():
        if not name.endswith("k_proj.bias"):  # a softmax does not see it: its gradient is rounding
            torch.testing.assert_close(second["student"][name], value, rtol=2e-3, atol=2e-4)


def test_a_lost_rank_is_named_and_two_ranks_end_with_the_same_bits(world: Path, tmp_path: Path) -> None:
    told = {"checkpoint_every": 1}
    whole = [run.ends() for run in processes.together(world, tmp_path / "whole", told, world=2)]
    first, second = processes.together(world, tmp_path / "lost", told, world=2, waits_at=5)
    assert first.reaches(5)
    second.kill()  # in the next step, where it waits for the first
    first.go_on()
    words = first.ends()
    assert "Rank 0 of 2 lost another rank" in words
    assert "run the same command again" in words
    again = [run.ends() for run in processes.together(world, tmp_path / "lost", told, world=2)]
    assert {result.seen for result in (*whole, *again)} == {whole[0].seen}
    assert again[0].started_at >= 5
    assert same(state(tmp_path / "whole"), state(tmp_path / "lost"))
    assert len(state(tmp_path / "lost")["random_of_other_ranks"]) == 1


def test_all_ranks_stop_where_one_is_asked_to(world: Path, tmp_path: Path) -> None:
    runs = processes.together(world, tmp_path / "run", {"dropout": 0.0, "stops_on_rank": "1"}, world=2)
    messages = [run.ends() for run in runs]
    assert all("Training was stopped after step 1 of 10; everything is saved" in str(message) for message in messages)
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [1]


def test_a_shard_deleted_in_mid_run_is_named(own_world: Path, train: Train, tmp_path: Path) -> None:
    def delete(what: str, done: int, total: int) -> None:
        if done == 0:  # before it is opened; an open file outlives its name
            (own_world / "train" / "00001.tar").rename(tmp_path / "away.tar")

    with pytest.raises(DataError, match=r"00001\.tar cannot be opened.*Restore it"):
        train(tmp_path / "run", work=own_world, on_event=delete, train={"cache_mib": 0})
    (tmp_path / "away.tar").rename(own_world / "train" / "00001.tar")
    whole = train(tmp_path / "whole", work=own_world)
    assert train(tmp_path / "run", work=own_world).seen == whole.seen
    assert same(state(tmp_path / "whole"), state(tmp_path / "run"))


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "whole")
    save, calls = torch.save, []

    def full(value: Any, file: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            file.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(value, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match=r"disk is full while writing .*step-000000006.*Free some space"):
        train(tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [2, 4]
    assert not list((tmp_path / "run").rglob(".partial-*"))
    assert train(tmp_path / "run").started_at == 4
    assert same(state(tmp_path / "whole"), state(tmp_path / "run"))


def test_a_foreign_checkpoint_is_refused_and_the_one_before_offered(train: Train, tmp_path: Path) -> None:
    asked = iter([False] * 5)
    with pytest.raises(StoppedError):
        train(tmp_path / "run", should_stop=lambda: next(asked, True))
    folder = tmp_path / "run" / "checkpoints"
    meta = store.read_json(folder / "step-000000006" / "meta.json")
    meta["settings"]["train.seed"] = 1
    store.write_json(folder / "step-000000006" / "meta.json", seal.sealed(meta))
    with pytest.raises(StaleError, match=r"train\.seed was 1.*Step 4 does belong to this one"):
        train(tmp_path / "run")


@pytest.mark.parametrize("moved", [True, False])
def test_a_run_folder_that_is_gone_is_named_and_not_made_again(train: Train, tmp_path: Path, moved: bool) -> None:
    out = tmp_path / "run"

    def remove(what: str, done: int, total: int) -> None:
        if done == 4:
            wait_for_checkpoint(out, 4)
            out.rename(tmp_path / "away") if moved else shutil.rmtree(out)

    with pytest.raises(DataError, match=r"run was removed or replaced while step [56] was computed.*same command"):
        train(out, on_event=remove)
    assert not out.exists()
    assert not list(tmp_path.rglob(".partial-*"))
    if moved:
        assert checkpoint.steps(tmp_path / "away" / "checkpoints") == [2, 4]
        (tmp_path / "away").rename(out)
    whole = train(tmp_path / "whole")
    again = train(out)
    assert (again.started_at, again.seen) == (4 if moved else 0, whole.seen)
    assert same(state(out), state(tmp_path / "whole"))


def test_a_folder_put_in_the_place_of_the_runs_stays_as_it_is(train: Train, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def replace(what: str, done: int, total: int) -> None:
        if done == 4:
            wait_for_checkpoint(out, 4)
            out.rename(tmp_path / "away")
            out.mkdir()
            (out / "mine").touch()

    with pytest.raises(DataError, match="removed or replaced"):
        train(out, on_event=replace, validate=lambda student: {"rsum": 1.0})
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_seen_tells_sequences_apart(train: Train, tmp_path: Path) -> None:
    fingerprints = {
        train(tmp_path / name, train={"steps": 3, "checkpoint_every": 3, **options}).seen
        for name, options in (("a", {}), ("b", {"workers": 3}), ("c", {"seed": 1}), ("d", {"batch": 9}))
    }
    assert len(fingerprints) == 3
