"""Rates from ledgers: which are believed, and what they are of."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import DataError
from cusa.manifests import ledger
from cusa.manifests.ledger import Clock
from cusa.workflow.forecast.rates import OwnRates, packaged, student_of


def write(folder: Path, stage: str, counts: dict[str, int], parameters: dict[str, Any] | None = None) -> float:
    """Write the ledger of a stage with one output of 1,000 bytes; return its seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "output").write_bytes(bytes(1000))
    clock = Clock()
    clock._start -= 7  # as if it had taken so long
    made = clock.finish(
        folder / "ledger.json",
        stage=stage,
        inputs={},
        parameters=parameters or {},
        outputs=[folder / "output"],
        counts=counts,
    )
    return made.seconds


def test_a_rate_is_items_a_second_with_what_they_leave(tmp_path: Path) -> None:
    seconds = write(tmp_path / "work", "shard", {"images_read": 100})
    rate = OwnRates([tmp_path]).of("shard")
    assert rate is not None
    assert rate.items == pytest.approx(100 / seconds)
    assert rate.item_bytes == 10
    assert rate.memory is not None
    assert rate.memory > 1 << 20
    assert "100 items in" in rate.source
    assert str(tmp_path / "work" / "ledger.json") in rate.source


def test_the_ledger_of_the_most_items_is_believed(tmp_path: Path) -> None:
    for name, images in (("a", 100), ("b", 5000), ("c", 70)):
        write(tmp_path / name, "audit", {"images": images})
    rate = OwnRates([tmp_path / "c", tmp_path]).of("audit")
    assert rate is not None
    assert "5,000 items" in rate.source


def test_an_extraction_is_its_teacher_s_and_one_from_another_table_is_no_measure(tmp_path: Path) -> None:
    write(tmp_path / "a", "extract-teachers", {"rows": 100, "computed": 99, "width": 12}, {"teacher": "mine"})
    write(tmp_path / "b", "extract-teachers", {"rows": 900, "computed": 3, "width": 12}, {"teacher": "mine"})
    own = OwnRates([tmp_path])
    rate = own.of("extract-teachers", "mine")
    assert rate is not None
    assert "100 items" in rate.source
    assert own.of("extract-teachers", "other") is None
    assert own.widths == {"mine": 12}


def test_training_is_its_student_s(tmp_path: Path) -> None:
    student = {"kind": "heads", "name": "scratch", "image_size": 64, "width": 5}
    seconds = write(tmp_path, "train", {"steps_done_now": 30, "steps": 90}, {"train": {"batch": 8}, "student": student})
    own = OwnRates([tmp_path])
    rate = own.of("train", student_of({**student, "width": 9}))
    assert rate is not None
    assert rate.items == pytest.approx(240 / seconds)
    assert own.of("train", student_of({**student, "kind": "dual-encoder"})) is None


def test_a_folder_without_a_finished_stage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text("{}")
    with pytest.raises(DataError, match="holds no ledger of a finished stage"):
        OwnRates([tmp_path])


@pytest.mark.parametrize("when", ["while the folder is listed", "before a ledger is read"])
def test_a_folder_that_is_being_cleared_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    for name in "ab":
        write(tmp_path / "work" / name, "shard", {"images_read": 100})
    if when == "while the folder is listed":
        scandir = os.scandir

        def cleared(path: Any) -> Any:
            if Path(path).name == "b":
                monkeypatch.undo()
                shutil.rmtree(path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", cleared)
    else:
        read = ledger.read

        def gone(path: Path) -> Any:
            shutil.rmtree(tmp_path / "work/b", ignore_errors=True)
            return read(path)

        monkeypatch.setattr(ledger, "read", gone)
    if when == "before a ledger is read":
        rate = OwnRates([tmp_path / "work"]).of("shard")
        assert rate is not None, "the ledger that is still there serves"
        return
    with pytest.raises(DataError, match=r"--from .*work/b went away while the ledgers below were read\. Name a folder"):
        OwnRates([tmp_path / "work"])


def test_packaged_rates_are_a_core_s() -> None:
    rates = {"machine": "m", "shard": {"images": 10.0}}
    rate = packaged(rates, 8, "shard", "images")
    assert rate is not None
    assert (rate.items, rate.source) == (80, "8 x one core of m")
    assert packaged(rates, 8, "shard", "captions") is None
    assert packaged(rates, 8, "audit", "images") is None
