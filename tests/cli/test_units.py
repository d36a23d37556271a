"""Stages shared by the tasks of an array, from the command line."""

from pathlib import Path

import pytest

from cusa.manifests.storage import store
from cusa.pipeline.audit import units
from cusa.pipeline.index import units as index_units
from tests.cli.test_cli import cusa_here
from tests.pipeline.audited import make_taught


def test_index_and_audit__by_an_array_as_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_taught(tmp_path, images=12)

    def tables() -> dict[str, bytes]:
        files = [file for room in ("index", "audit") for file in store.files_below(work / "train" / room)]
        return {file.name: file.read_bytes() for file in files if not file.name.endswith("ledger.json")}

    def runs(command: str, *options: object) -> str:
        done = cusa_here(command, work, "--neighbours", 4, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(command: str, *options: object) -> str:
        done = cusa_here(command, work, "--neighbours", 4, *options)
        assert done.returncode != 0
        return " ".join(done.stderr.split())

    monkeypatch.setattr(units, "image_units", lambda number: [range(at, at + 3) for at in range(0, number, 3)])
    monkeypatch.setattr(index_units, "row_units", lambda rows: [range(at, at + 6) for at in range(0, rows, 6)])
    runs("index", "--force")
    runs("audit", "--gallery", 3)
    expected = tables()

    assert "No unit of `index colours of train` was made" in refused("index", "--force", "--unit-range", "merge")
    assert "up to date" in runs("index"), "what was there is there after a merge that was refused"
    refused("audit", "--force", "--gallery", 3, "--unit-range", "merge")
    assert "up to date" in runs("audit", "--gallery", 3)
    for task in range(2):
        shown = runs("index", "--force", "--unit-range", f"{task}/2")
        assert "put them together with --unit-range merge" in shown
        assert "next:" not in shown
    assert "next: cusa audit" in runs("index", "--force", "--unit-range", "merge")
    runs("audit", "--force", "--gallery", 3, "--unit-range", "1:2")
    runs("audit", "--force", "--gallery", 3, "--unit-range", "2:4")
    assert "these were not made: 0:1." in refused("audit", "--force", "--gallery", 3, "--unit-range", "merge")
    assert "names no units" in refused("audit", "--unit-range", "4")
    assert "this stage has 4 units" in refused("audit", "--force", "--gallery", 3, "--unit-range", "0:5")
    runs("audit", "--gallery", 3)
    assert tables() == expected
