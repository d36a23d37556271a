"""Batches go to the device on a stream of their own, one ahead; told by a device that only takes notes."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cusa.errors import DataError
from cusa.train.data.batch import Batch
from cusa.train.overlap.transfer import on_device, tensors


def _batch(step: int) -> Batch:
    rows = torch.arange(3)
    floats = torch.zeros(3, 4)
    return Batch(step, 0, 3, ("a#0",) * 3, floats.byte(), {"input_ids": rows[:, None]}, rows, rows, floats, None)


class _Notes:
    """Stands for CUDA: notes what is copied, on which stream, and what waits for what; a copy is a clone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.current = "compute"
        notes = self

        class Event:
            def record(self, stream: Any) -> None:
                notes.said.append(("record", threading.current_thread().name[:13]))

        class Stream:
            def __init__(self, device: Any) -> None: ...

            def wait_event(self, event: Event) -> None:
                notes.said.append(("compute waits",))

        @contextmanager
        def stream(side: Any) -> Generator[None, None, None]:
            notes.current = "side"
            yield
            notes.current = "compute"

        to = Tensor.to

        def move(tensor: Tensor, device: Any, non_blocking: bool = False) -> Tensor:
            notes.said.append(("copy", notes.current, non_blocking))
            return to(tensor, "meta")

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.cuda, "current_stream", Stream)
        monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: notes.said.append(("pin",)) or tensor)
        monkeypatch.setattr(Tensor, "to", move)
        monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: notes.said.append(("kept",)))


def test_on_device__copies_the_next_while_one_is_computed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, read = _Notes(monkeypatch), []

    def flow() -> Generator[Batch, None, None]:
        for step in range(3):
            read.append(step)
            yield _batch(step)

    coming = on_device(flow(), torch.device("cuda"))
    first = next(coming)
    assert {one.device.type for one in tensors(first)} == {"meta"}
    assert first.keys == _batch(0).keys
    end = threading.Event()
    for _ in range(500):  # the second is copied although nobody has asked for it
        if notes.said.count(("record", "cusa-transfer")) == 2:
            break
        end.wait(0.01)
    assert read == [0, 1]
    assert notes.said.count(("compute waits",)) == 1
    assert [batch.step for batch in coming] == [1, 2]
    copies = [said for said in notes.said if said[0] == "copy"]
    assert len(copies) == 3 * 5
    assert set(copies) == {("copy", "side", True)}
    assert notes.said.count(("pin",)) == notes.said.count(("kept",)) == len(copies)


def test_on_device__an_error_comes_at_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    _Notes(monkeypatch)
    closed = []

    def flow() -> Generator[Batch, None, None]:
        try:
            yield _batch(0)
            raise DataError("the second is broken")
        finally:
            closed.append(True)

    coming = on_device(flow(), torch.device("cuda"), images=False)
    assert next(coming).images.device.type == "cpu"
    with pytest.raises(DataError, match="second"):
        next(coming)
    assert closed == [True]


def test_on_device__a_flow_that_is_left_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    _Notes(monkeypatch)
    for device in ("cpu", "cuda"):
        closed = []

        def flow(closed: list[bool] = closed) -> Generator[Batch, None, None]:
            try:
                for step in range(100):
                    yield _batch(step)
            finally:
                closed.append(True)

        coming = on_device(flow(), torch.device(device))
        next(coming)
        coming.close()
        assert closed == [True], device


def test_tensors__are_all_that_a_batch_holds() -> None:
    """Every field that is a tensor, and every tokens' one: memory of one that is left out could be taken too early."""
    batch = replace(_batch(0), teacher_text=torch.ones(3, 2), patches=torch.zeros(3, 1, dtype=torch.int64))
    held = [value for field in fields(batch) if isinstance(value := getattr(batch, field.name), Tensor)]
    expected = {id(tensor) for tensor in (*held, *batch.tokens.values())}
    assert {id(tensor) for tensor in tensors(batch)} == expected
    assert len(expected) == 6  # image_ids and rows are one here
    assert len(list(tensors(_batch(0)))) == 5
