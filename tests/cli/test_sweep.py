"""`cusa sweep`: every option reaches the grid, cells that failed are an error, and the best run is reported."""

import json
from pathlib import Path
from typing import Any

import pytest

from cusa.workflow import sweep as sweeps
from tests.cli import calls
from tests.cli.test_cli import cusa_here

ROWS: list[dict[str, Any]] = [
    {"run": "seed=0", "error": "", "cross-modal/rsum": 300.0},
    {"run": "a b", "error": "", "cross-modal/rsum": 310.0},
    {"run": "seed=2", "error": "", "cross-modal/rsum": 305.0},
]


def test_sweep__every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s"
    out.mkdir()
    (out / "results.md").touch()
    done = calls.record(monkeypatch, sweeps, "run", sweeps.Swept(calls.outcome("sweep", out), ROWS, "| table |"))
    words = ["sweep", "tiny", "--grid", "seed=0,1", "--grid", "method=usa", "--data", tmp_path / "w"]
    words += ["--data", tmp_path / "sts", "--out", out]
    printed = calls.every_option(*words, "--set", "train.steps=7", "--force")
    common = {
        "recipe": "tiny",
        "grid": {"seed": [0, 1], "method": ["usa"]},
        "data": [tmp_path / "w", tmp_path / "sts"],
        "out": out,
        "callbacks": calls.CALLBACKS,
    }
    assert done == [{**common, "settings": ["train.steps=7"], "force": True}]
    assert printed.endswith(
        f"| table |\nopen: {out}/results.md\nnext: cusa report {out}/runs/seed=0 '{out}/runs/a b' --sweep {out}\n"
    )
    assert json.loads(calls.plain(*words, "--json")) == ROWS
    assert done[1] == {**common, "settings": (), "force": False}


def test_sweep__a_cell_without_numbers_is_an_error_and_reports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, Any]] = [
        {"run": "a", "error": "No number."},
        {"run": "b", "error": "", "cross-modal/rsum": 0.0},
    ]
    swept = sweeps.Swept(calls.outcome("sweep"), rows, "| table |")
    calls.record(monkeypatch, sweeps, "run", lambda **told: swept)
    words = ("sweep", "tiny", "--grid", "seed=0", "--data", tmp_path, "--out", tmp_path)
    done = cusa_here(*words)
    assert done.returncode == 1
    assert "error: 1 of 2 cells failed; run again" in done.stderr
    assert f"next: cusa report {tmp_path}/runs/b --sweep {tmp_path}\n" in done.stdout
    assert cusa_here(*words, "--json").returncode == 1
    rows[1] |= {"error": "No number.", "cross-modal/rsum": None}
    assert "next:" not in cusa_here(*words).stdout
