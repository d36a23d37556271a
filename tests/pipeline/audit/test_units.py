"""An audit in units: the same bytes whoever makes them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import DataError
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.storage import packed, store
from cusa.pipeline.audit import stage as audit
from cusa.pipeline.audit import units
from cusa.pipeline.calibrate import calibration
from cusa.pipeline.calibrate.calibration import Calibration
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.engine import Workers
from cusa.pipeline.pairs.neighbourhoods import Encoders, choose, open_neighbourhoods, stamps
from cusa.pipeline.units.parts import FOLDER
from cusa.pipeline.units.sharing import UnitRange, sharing
from tests.manifests.judgements.test_verdicts import make
from tests.pipeline.audited import make_taught

IMAGES = 22
CONFIG = AuditConfig(neighbours=4, gallery=5, floor=0.0, whole=0)


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        units, "image_units", lambda number: [range(at, min(at + 6, number)) for at in range(0, number, 6)]
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return make_taught(tmp_path, images=IMAGES)


@pytest.fixture
def calibrated(work: Path, tmp_path: Path) -> Path:
    """Write a calibration over every feature, whatever its numbers."""
    split = Split(work, "train")
    chosen = choose(split, Encoders())
    names = open_neighbourhoods(split, chosen, depth=4).features(split).names
    some = tuple(0.1 + 0.05 * place for place in range(len(names)))
    made = Calibration(
        teachers=stamps(split, chosen),
        features=names,
        means=(0.0,) * len(names),
        scales=(1.0,) * len(names),
        products=False,
        coefficients=some,
        intercept=-1.0,
        decisions=(),
        probabilities=(),
        resampled=((*some, -0.9), (*some, -1.1)),
        unselected=(),
        about={"fitted": {"caveat": ""}},
    )
    calibration.write(tmp_path / "p.json", made)
    return tmp_path / "p.json"


def _bytes(work: Path) -> dict[str, str]:
    folder = work / "train/audit"
    files = [file for file in store.files_below(folder) if file.name != "ledger.json"]
    return {file.relative_to(folder).as_posix(): store.sha256_file(file) for file in files}


def _audit(work: Path, **more: Any) -> Any:
    return audit.run(CONFIG, split=Split(work, "train"), **more)


def _in_one(work: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> dict[str, str]:
    with monkeypatch.context() as patch:
        patch.setattr(units, "image_units", lambda number: [range(number)])
        _audit(work, force=True, **more)
    return _bytes(work)


def _by_processes(work: Path, **more: Any) -> None:
    with sharing(Workers(2)):
        _audit(work, force=True, **more)


def _by_an_array(work: Path, **more: Any) -> None:
    for words in ("0:1", "2:4", "1:2"):
        with sharing(Workers(1), UnitRange(words)):
            done = _audit(work, force=True, **more)
        assert done.counts["units_in_all"] == 4
    with sharing(Workers(1), UnitRange("merge")):
        _audit(work, force=True, **more)


def _by_a_mixture(work: Path, **more: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "read_part", _stop)
        with pytest.raises(DataError, match="stopped"):
            _audit(work, force=True, **more)
    folder = work / "train/audit" / FOLDER
    parts = sorted(folder.rglob("0*.parquet"))
    assert len(parts) == 4
    parts[1].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:-9])
    with sharing(Workers(1), UnitRange("1:2")):
        _audit(work, **more)
    with sharing(Workers(2)):
        _audit(work, **more)


def _stop(table: Any) -> Any:
    raise DataError("stopped")


@pytest.mark.parametrize("shared", [_by_processes, _by_an_array, _by_a_mixture])
def test_run__the_same_bytes_as_in_one_unit(
    work: Path, calibrated: Path, monkeypatch: pytest.MonkeyPatch, shared: Callable[..., None]
) -> None:
    expected = _in_one(work, monkeypatch, calibrated=calibrated)
    assert audit.read_summary(Split(work, "train"))["likely"]["total"] > 0
    shared(work, calibrated=calibrated)
    assert _bytes(work) == expected
    assert not _audit(work, calibrated=calibrated).fresh


def test_run__without_a_calibration_too(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _in_one(work, monkeypatch)
    _by_an_array(work)
    assert _bytes(work) == expected


def test_run__a_worker_names_the_pair_that_cannot_be_ranked(work: Path, calibrated: Path, tmp_path: Path) -> None:
    split = Split(work, "train")
    prepared = audit._prepare(split, choose(split, Encoders()), calibrated, CONFIG)
    task = units.task(split, CONFIG)
    taken = packed.pack(prepared, classes=task.classes, outside=units.outside(split, CONFIG))
    packed.write(tmp_path / "packed", taken)
    opened, _ = packed.read(tmp_path / "packed", classes=task.classes, outside=task.open_outside())
    assert repr(task.work(opened, range(3)).to_pydict()) == repr(task.work(prepared, range(3)).to_pydict())
    opened.scorer._model = replace(opened.scorer._model, intercept=float("nan"))
    with pytest.raises(DataError, match=r"mini/picture_0000 with mini/.* the probability nan, which cannot be ranked"):
        task.work(opened, range(3))


def test_run__only_parts_of_the_same_settings_calibration_and_tables_are_put_together(
    work: Path, calibrated: Path
) -> None:
    split = Split(work, "train")
    with sharing(Workers(1), UnitRange("0:4")):
        _audit(work, calibrated=calibrated)

    def merges(config: AuditConfig = CONFIG, **more: Any) -> bool:
        with sharing(Workers(1), UnitRange("merge")):
            try:
                return audit.run(config, split=split, **more).fresh
            except DataError as error:
                if "No unit of" not in str(error):
                    raise
                return False

    for change in ({"floor": 0.5}, {"minimum_score": 0.5}, {"per_image": 3}, {"whole": 10**6}, {"neighbours": 3}):
        assert not merges(CONFIG.model_copy(update=change), calibrated=calibrated), change
    assert not merges(), "without the calibration"
    text = calibrated.read_text()
    calibrated.write_text(text.replace('"intercept": -1.0', '"intercept": -2.0'))
    assert calibrated.read_text() != text
    assert not merges(calibrated=calibrated), "other numbers in the same file"
    calibrated.write_text(text)
    # What people said meanwhile decides no candidate, so that the parts still serve.
    with Journal(split.folder / "audit") as journal:
        journal.append(make(0, "match", image_key=split.image_keys[0], caption_key=split.caption_keys[-1]))
    assert merges(calibrated=calibrated)
    assert not (work / "train/audit" / FOLDER).exists()
