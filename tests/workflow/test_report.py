"""The report of runs: beside the last of them, on the data of the first, unless told otherwise."""

from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.eval import report as reporting
from cusa.manifests.storage import store
from cusa.workflow.report import report
from tests.cli import calls


def test_report__where_and_on_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = calls.record(monkeypatch, reporting, "run", calls.outcome("report"))
    runs = [tmp_path / "one", tmp_path / "two"]
    for run in runs:
        run.mkdir()
    report(runs)
    assert made[0] == {"folders": runs, "out": runs[1] / "report.html", "work": None, "sweep": None, "force": False}
    store.write_json(runs[1] / "run.json", {"data": "second"})
    report(runs)
    assert made[1]["work"] is None
    store.write_json(runs[0] / "run.json", {"data": "first"})
    report(runs)
    assert made[2]["work"] == Path("first")
    report(runs, work=tmp_path / "w", out=tmp_path / "p.html", sweep=tmp_path / "s", force=True)
    told = {"work": tmp_path / "w", "out": tmp_path / "p.html", "sweep": tmp_path / "s", "force": True}
    assert made[3] == {"folders": runs, **told}
    with pytest.raises(DataError, match="There is no run .*three"):
        report([*runs, tmp_path / "three"])
    assert len(made) == 4
