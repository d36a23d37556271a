"""Checkpoints written while training goes on hold the state of when they were begun."""

import threading
from pathlib import Path

import pytest
import torch

from cusa.train import checkpoint
from cusa.train.overlap.writing import Writer, snapshot
from tests.train.test_session import _session
from tests.train.test_survival import state


def test_snapshot__does_not_follow_what_changes() -> None:
    shared = torch.arange(3.0)
    before = {"a": shared, "b": shared, "list": [1, (None, "x", shared[:2])], "empty": torch.empty(0)}
    taken = snapshot(before)
    shared += 1
    assert torch.equal(taken["a"], torch.arange(3.0))
    assert taken["a"] is taken["b"], "two names of one tensor take no more room in the file than one"
    assert torch.equal(taken["list"][1][2], torch.arange(2.0))
    with pytest.raises(AssertionError):
        snapshot({"object": object()})


def test_save__goes_on_while_it_is_written(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, may_write = _session(world, tmp_path, ema=0.9), threading.Event()
    write = checkpoint._write

    def slow(path: Path, state: dict[str, object]) -> None:
        assert may_write.wait(30)
        write(path, state)

    monkeypatch.setattr(checkpoint, "_write", slow)
    before = {name: value.clone() for name, value in session.student.state_dict().items()}
    session.done = 1
    session.save()
    assert session.last_checkpoint is None
    with torch.no_grad():
        for parameter in session.student.parameters():
            parameter.add_(1)
    assert checkpoint.steps(tmp_path / "checkpoints") == []
    may_write.set()
    session.saved()
    assert checkpoint.steps(tmp_path / "checkpoints") == [1]
    saved = state(tmp_path, 1)["student"]
    assert all(torch.equal(saved[name], before[name]) for name in saved)
    assert session.last_checkpoint == tmp_path / "checkpoints" / "step-000000001"
    session.close()


def test_writer__raises_where_it_is_waited_for() -> None:
    writer, done = Writer(), []

    def fail() -> None:
        raise OSError("full")

    writer.start(fail)
    with pytest.raises(OSError, match="full"):
        writer.wait()
    writer.start(lambda: done.append(1))
    writer.close()
    assert done == [1]
