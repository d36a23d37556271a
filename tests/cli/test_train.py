"""`cusa train`: every option reaches the training, and what comes next is said."""

from pathlib import Path

import pytest

from cusa import recipe as recipes
from cusa.workflow import train as training
from tests.cli import calls


def test_train__every_option_arrives(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, training, "train", calls.outcome("train"))
    out = tmp_path / "run"
    printed = calls.every_option(
        *("train", "tiny", "--data", small, "--out", out, "--set", "train.lr=0.5", "--set", "loss.alpha=0"),
        *("--resume", "must", "--allow-changed", "train.lr", "--allow-changed", "train.seed", "--test", "--force"),
    )
    common = {"work": small, "out": out, "callbacks": calls.CALLBACKS}
    assert done == [
        {
            **common,
            "recipe": recipes.load("tiny", ["train.lr=0.5", "loss.alpha=0"]),
            "resume": "must",
            "allow_changed": ["train.lr", "train.seed"],
            "test": True,
            "force": True,
        }
    ]
    assert printed.splitlines()[-1] == f"next: cusa eval {out} --data {small}"
    calls.plain("train", "tiny", "--data", small, "--out", out)
    assert done[1] == {
        **common,
        "recipe": recipes.load("tiny"),
        "resume": "auto",
        "allow_changed": (),
        "test": False,
        "force": False,
    }


def test_train__of_several_ranks_the_first_speaks(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, training, "train", calls.outcome("train"))
    for rank, speaks in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert bool(calls.plain("train", "tiny", "--data", small, "--out", tmp_path)) == speaks
    assert len(done) == 2
