"""Who is called with the metrics."""

import sys
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import ConfigError
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
