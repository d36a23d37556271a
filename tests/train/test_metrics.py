"""Who is called with the metrics, what a run that goes on keeps of them, and how fast steps are."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from cusa.errors import ConfigError
from cusa.train import metrics as metrics_module
from cusa.train.metrics import Metrics, Pace
from tests.train.conftest import Train


class _Fake:
    """Stands in for wandb: remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def init(self, **options: Any) -> "_Fake":
        self.told.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.told.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.told.append(exit_code)


def test_wandb_hears_every_row(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    heard: list[Any] = []
    train(
        tmp_path / "run", train={"wandb": "trial"}, on_metrics=lambda step, values: heard.append((step, dict(values)))
    )
    options, *rows, code = fake.told
    assert (options["project"], options["name"], options["resume"], code) == ("trial", "run", "allow", 0)
    assert rows == heard
    train(tmp_path / "run", train={"wandb": "trial"})
    assert fake.told[len(heard) + 2]["id"] == options["id"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"wandb is not installed.*pip install 'cusa\[wandb\]'"):
        train(tmp_path / "other", train={"wandb": "trial"})


def _events(out: Path) -> dict[str, list[tuple[int, float]]]:
    """Return TensorBoard's curves as it shows them, points of killed runs hidden."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(out / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0})
    read.Reload()
    scalars = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    return {tag: [(step, round(value, 5)) for step, value in points] for tag, points in scalars.items()}


def test_rows_and_curves_go_on_from_the_checkpoint(tmp_path: Path) -> None:
    """The first run logs steps 1 to 5 and is killed; its checkpoint is of step 3, and the second goes on from there."""
    heard: list[tuple[int, dict[str, float]]] = []
    with Metrics(tmp_path, done=0, on_metrics=lambda step, values: heard.append((step, dict(values)))) as metrics:
        for step in range(1, 6):
            metrics.log(step, {"loss": step / 8, "temperature.csa.image": 0.5})
            metrics.save()
    with Metrics(tmp_path, done=3, on_metrics=lambda step, values: heard.append((step, dict(values)))) as metrics:
        assert metrics.notes == ()
        metrics.log(4, {"loss": 9.0})
        metrics.save()
    rows = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    expected = [(s, n, v) for s in (1, 2, 3) for n, v in (("loss", s / 8), ("temperature.csa.image", 0.5))]
    assert [(row["step"], row["name"], row["value"]) for row in rows] == [*expected, (4, "loss", 9.0)]
    assert heard[-1] == (4, {"loss": 9.0})
    assert len(heard) == 6
    assert _events(tmp_path) == {
        "loss": [(1, 0.125), (2, 0.25), (3, 0.375), (4, 9.0)],
        "temperature/csa.image": [(1, 0.5), (2, 0.5), (3, 0.5)],
    }


def test_metrics__that_are_lost_or_of_a_run_without_rows(tmp_path: Path) -> None:
    with Metrics(tmp_path, done=2, on_metrics=lambda step, values: None) as metrics:
        assert "The metrics before step 2 are lost" in metrics.notes[0]
        metrics.save()
    assert pq.read_table(tmp_path / "metrics.parquet").num_rows == 0
    with Metrics(tmp_path, done=0, on_metrics=lambda step, values: None) as metrics:
        assert metrics.notes == (), "a fresh run does not look"


def test_wandb_hears_of_a_run_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(KeyError), Metrics(tmp_path, done=0, on_metrics=lambda step, values: None, wandb="trial"):
        raise KeyError
    assert fake.told[-1] == 1
    assert fake.told[0]["dir"] == str(tmp_path)


class _Clock:
    """A clock that only moves when told."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


def test_pace__counts_pairs_and_waiting_since_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(metrics_module, "time", clock)

    def flow() -> Any:
        for pairs, seconds in ((8, 3.0), (4, 1.0), (6, 0.5)):
            clock.now += seconds
            yield SimpleNamespace(pairs=pairs)

    pace = Pace()
    coming = pace.around(flow())
    next(coming)
    clock.now += 1.0  # the step computes
    next(coming)
    clock.now += 3.0
    read = pace.read(torch.device("cpu"))
    assert read["samples_per_second"] == 12 / 8
    assert read["data_wait_share"] == 4 / 8
    assert read["peak_memory_bytes"] > 1 << 20
    assert "peak_device_memory_bytes" not in read
    pace.start()
    next(coming)
    clock.now += 0.5
    again = pace.read(torch.device("cpu"))
    assert (again["samples_per_second"], again["data_wait_share"]) == (6, 0.5)
    assert next(coming, None) is None
