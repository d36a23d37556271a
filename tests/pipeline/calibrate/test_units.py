"""A calibration's features in units: the same bytes whoever computes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cusa.errors import BusyError, DataError
from cusa.manifests import lock
from cusa.manifests.samples import Split
from cusa.manifests.storage import packed, store
from cusa.pipeline import calibrate
from cusa.pipeline.calibrate import units
from cusa.pipeline.engine import Workers
from cusa.pipeline.pairs import features
from cusa.pipeline.pairs.neighbourhoods import Encoders, choose, open_neighbourhoods
from cusa.pipeline.pairs.ratings import RatedSplit
from cusa.pipeline.units.sharing import UnitRange, sharing
from tests.pipeline.calibrate.conftest import CONFIG


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PAIRS_A_BLOCK", 90)
    monkeypatch.setattr(
        units, "pair_units", lambda number: [range(at, min(at + 90, number)) for at in range(0, number, 90)]
    )


def _calibrate(work: Path, out: Path, **more: Any) -> Any:
    return calibrate.run(CONFIG, split=Split(work, "val"), test=RatedSplit(Split(work, "test")), out=out, **more)


def _by_processes(work: Path, out: Path) -> None:
    with sharing(Workers(2)):
        _calibrate(work, out)


def _by_an_array(work: Path, out: Path) -> None:
    for words in ("0/3", "2/3", "1/3"):
        with sharing(Workers(1), UnitRange(words)):
            done = _calibrate(work, out)
        assert len(done.notes) == 2, "both splits are told"
    assert not out.exists()
    with sharing(Workers(1), UnitRange("merge")):
        _calibrate(work, out)


def _by_a_mixture(work: Path, out: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "read_part", _stop)
        with pytest.raises(DataError, match="stopped"):
            _calibrate(work, out)
    parts = sorted((out.parent / ".units").rglob("0*.parquet"))
    assert len(parts) >= 3
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-9])
    with sharing(Workers(1), UnitRange("1/2")):
        _calibrate(work, out)
    with sharing(Workers(2)):
        _calibrate(work, out)


def _stop(table: Any) -> Any:
    raise DataError("stopped")


@pytest.mark.parametrize("shared", [_by_processes, _by_an_array, _by_a_mixture])
def test_run__the_same_bytes_as_in_one_unit(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Callable[[Path, Path], None]
) -> None:
    one, out = tmp_path / "one/p.json", tmp_path / "shared/p.json"
    with monkeypatch.context() as patch:
        patch.setattr(units, "pair_units", lambda number: [range(number)])
        _calibrate(work, one)
    shared(work, out)
    assert out.read_bytes() == one.read_bytes()
    assert not _calibrate(work, out).fresh
    left = {file.relative_to(out.parent).as_posix() for file in store.files_below(out.parent)}
    assert {name for name in left if not name.endswith(".lock")} == {"p.json", "p.ledger.json"}


def test_run__a_merge_that_lacks_parts_leaves_the_earlier_calibration(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    _calibrate(work, out)
    with sharing(Workers(1), UnitRange("merge")), pytest.raises(DataError, match="No unit of `calibrate on val` was"):
        _calibrate(work, out, force=True)
    assert not _calibrate(work, out).fresh


@pytest.mark.parametrize("other", [{"seed": 1}, {"neighbours": CONFIG.neighbours - 1}])
def test_run__parts_of_other_settings_are_not_put_together(work: Path, tmp_path: Path, other: dict[str, int]) -> None:
    out, config = tmp_path / "p.json", CONFIG.model_copy(update=other)
    with sharing(Workers(1), UnitRange("0/1")):
        _calibrate(work, out)
    with sharing(Workers(1), UnitRange("merge")), pytest.raises(DataError, match="No unit of `calibrate on val` was"):
        calibrate.run(config, split=Split(work, "val"), test=RatedSplit(Split(work, "test")), out=out)


def test_run__nobody_puts_it_together_while_a_task_works(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "p.json"
    with sharing(Workers(1), UnitRange("0/2")):
        _calibrate(work, out)
    holder = lock.Holder("there", 1, "cusa calibrate", "now")
    monkeypatch.setattr(lock, "holder", lambda path: holder if "ranges" in path.parts else None)
    with pytest.raises(BusyError, match="cusa calibrate"):
        _calibrate(work, out)
    monkeypatch.setattr(lock, "holder", lambda path: holder if path.name == ".p.json.lock" else None)
    with sharing(Workers(1), UnitRange("1/2")), pytest.raises(BusyError, match="cusa calibrate"):
        _calibrate(work, out)


def test_part__mapped_tables_give_the_features_of_tables_in_memory(work: Path, tmp_path: Path) -> None:
    split = Split(work, "val")
    by_pair = open_neighbourhoods(split, choose(split, Encoders()), depth=4).features(split)
    images = np.repeat(np.arange(split.num_images), 7)
    captions = np.arange(len(images)) * 5 % split.num_captions
    expected = by_pair.matrix(images, captions)
    task = units.task()
    compared = units.prepared(by_pair, images, captions)
    packed.write(tmp_path, packed.pack(compared, classes=task.classes, outside=units.outside(split)))
    opened, _ = packed.read(tmp_path, classes=task.classes, outside=task.open_outside())
    parts = [units.read_part(task.work(opened, rows)) for rows in (range(40), range(40, len(images)))]
    assert np.allclose(np.concatenate(parts), expected, atol=1e-6)
    assert parts[0].dtype == np.float32
