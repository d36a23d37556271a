"""Parts: the same whoever makes them, made once, merged when all are there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cusa.errors import BusyError, ConfigError, DataError
from cusa.manifests import lock
from cusa.manifests.stage import StageRun
from cusa.manifests.storage import store
from cusa.pipeline.engine import Workers
from cusa.pipeline.units.parts import FOLDER, Parts, Task, units_of
from cusa.pipeline.units.sharing import UnitRange, sharing

ROWS = units_of(10, 3, 1)
VALUES = np.arange(10, dtype=np.int64) ** 2


def _nothing() -> Mapping[str, object]:
    return {}


def _some(values: np.ndarray, rows: range) -> pa.Table:
    return pa.table({"value": values[rows.start : rows.stop]}).replace_schema_metadata({"mine": "kept"})


def _fails_at_six(values: np.ndarray, rows: range) -> pa.Table:
    if rows.start == 6:
        raise DataError("Row 6 is broken.")
    return _some(values, rows)


def _parts(folder: Path, *, key: str = "a" * 20, work: Any = _some) -> Parts:
    return Parts(folder, what="count mini", key=key, task=Task(work, _nothing, ()))


def _made(parts: Parts, values: np.ndarray = VALUES) -> list[int]:
    shared = parts.prepare(lambda: values, {})
    return [value for table in parts.make(shared, ROWS) for value in table["value"].to_pylist()]


def _make_some(folder: Path, words: str) -> dict[str, Any]:
    stage = StageRun("count", folder / "ledger.json", inputs={}, parameters={})
    with sharing(Workers(1), UnitRange(words)):
        return dict(_parts(folder).make_some(stage, lambda: VALUES, {}, ROWS).counts)


def test_units_of__cuts_at_blocks_alone_and_never_into_too_many() -> None:
    assert [range(0, 3), range(3, 6), range(6, 9), range(9, 10)] == ROWS
    assert units_of(10, 3, 2) == [range(0, 6), range(6, 10)]
    assert units_of(0, 3, 1) == []
    many = units_of(100_000_001, 256, 4)
    assert len(many) <= 4096
    assert all(unit.start % 256 == 0 for unit in many)
    assert [unit.stop for unit in many[:-1]] == [unit.start for unit in many[1:]]


@pytest.mark.parametrize("workers", [1, 2])
def test_make__gives_all_parts_in_order(tmp_path: Path, workers: int) -> None:
    with sharing(Workers(workers)):
        assert _made(_parts(tmp_path)) == VALUES.tolist()
    (tmp_path / FOLDER / ("a" * 16) / "0000.parquet").is_file()


def test_make__goes_on_where_it_was_with_other_workers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Row 6"):
        _made(_parts(tmp_path, work=_fails_at_six))
    files = sorted((tmp_path / FOLDER).rglob("*.parquet"))
    assert [file.name for file in files] == ["0000.parquet", "0001.parquet"]
    before = [file.stat().st_mtime_ns for file in files]
    with sharing(Workers(2)):
        assert _made(_parts(tmp_path)) == VALUES.tolist()
    assert [file.stat().st_mtime_ns for file in files] == before, "what was made is not made again"


def test_make__progress_goes_on_from_what_was_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Row 6"):
        _made(_parts(tmp_path, work=_fails_at_six))
    events: list[tuple[str, int, int]] = []
    parts = _parts(tmp_path)
    shared = parts.prepare(lambda: VALUES, {})
    list(parts.make(shared, ROWS, on_event=lambda *event: events.append(event)))
    assert {(what, total) for what, _, total in events} == {("count mini", 10)}
    assert sorted({done for _, done, _ in events}) == [6, 9, 10], "rows 0 to 5 were there"


@pytest.mark.parametrize("harm", ["flip", "cut", "other rows"])
def test_make__a_damaged_part_is_made_again(tmp_path: Path, harm: str) -> None:
    _made(_parts(tmp_path))
    part = next((tmp_path / FOLDER).rglob("0001.parquet"))
    data = bytearray(part.read_bytes())
    if harm == "flip":
        data[30] ^= 255
        part.write_bytes(data)
    elif harm == "cut":
        part.write_bytes(data[:-20])
    else:
        part.write_bytes(part.with_name("0002.parquet").read_bytes())
    assert _made(_parts(tmp_path)) == VALUES.tolist()


def test_make__parts_of_other_numbers_are_made_again(tmp_path: Path) -> None:
    assert _made(_parts(tmp_path)) == VALUES.tolist()
    assert _made(_parts(tmp_path), VALUES + 1) == (VALUES + 1).tolist()


def test_ranges__made_apart_and_merged(tmp_path: Path) -> None:
    assert _make_some(tmp_path, "0:2") == {"units": 2, "units_in_all": 4}
    with sharing(Workers(1), UnitRange("merge")), pytest.raises(DataError, match=r"Of 4 units.*not made: 2:4\."):
        _made(_parts(tmp_path))
    _make_some(tmp_path, "2:4")
    with sharing(Workers(1), UnitRange("merge")):
        parts = _parts(tmp_path)
        assert _made(parts, np.zeros(10, np.int64)) == VALUES.tolist(), "what the ranges were made from is not computed"
    parts.remove()
    assert store.files_below(tmp_path) == []


def test_remove__leaves_the_parts_of_other_settings_to_whoever_makes_them(tmp_path: Path) -> None:
    _made(_parts(tmp_path))
    other = _parts(tmp_path, key="b" * 20)
    _made(other)
    other.remove(others=False)
    assert [folder.name for folder in (tmp_path / FOLDER).iterdir()] == ["a" * 16]
    other.remove()
    assert not (tmp_path / FOLDER).exists()


def test_ranges__nothing_was_made(tmp_path: Path) -> None:
    with sharing(Workers(1), UnitRange("merge")), pytest.raises(DataError, match=r"No unit of `count mini` was made"):
        _made(_parts(tmp_path))


def test_ranges__that_overlap_one_at_work_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make_some(tmp_path, "0:2")
    assert _make_some(tmp_path, "1/2")["units"] == 2
    holder = lock.Holder("there", 1, "cusa count", "now")
    with monkeypatch.context() as patch:
        patch.setattr(lock, "holder", lambda path: holder if path.parent.name == "000000-000002" else None)
        with pytest.raises(ConfigError, match=r"the units 1:3 overlap 0:2, which `cusa count`.* is making"):
            _make_some(tmp_path, "1:3")
        with pytest.raises(ConfigError, match="0:4 overlap 0:2"):
            _make_some(tmp_path, "0/1")
        assert _make_some(tmp_path, "2:4")["units"] == 2, "what does not overlap goes on"
    assert _make_some(tmp_path, "0:2")["units"] == 2


def test_ranges__what_a_task_left_is_made_by_another_and_the_task_may_come_back(tmp_path: Path) -> None:
    stage = StageRun("count", tmp_path / "ledger.json", inputs={}, parameters={})
    with sharing(Workers(1), UnitRange("0:4")), pytest.raises(DataError, match="Row 6"):
        _parts(tmp_path, work=_fails_at_six).make_some(stage, lambda: VALUES, {}, ROWS)
    with sharing(Workers(1), UnitRange("merge")), pytest.raises(DataError, match=r"not made: 2:4\."):
        _parts(tmp_path).check(ROWS)
    assert _make_some(tmp_path, "2:4")["units"] == 2
    assert _make_some(tmp_path, "0:4")["units"] == 4
    with sharing(Workers(1), UnitRange("merge")):
        _parts(tmp_path).check(ROWS)
        assert _made(_parts(tmp_path)) == VALUES.tolist()


def test_merge__of_no_rows_needs_no_task(tmp_path: Path) -> None:
    with sharing(Workers(1), UnitRange("merge")):
        parts = _parts(tmp_path)
        parts.check([])
        assert list(parts.make(parts.prepare(lambda: VALUES, {}), [])) == []
        with pytest.raises(DataError, match="No unit of"):
            _parts(tmp_path, key="b" * 20).check(ROWS)


def test_ranges__more_shares_than_units_leave_some_with_nothing(tmp_path: Path) -> None:
    made = [_make_some(tmp_path, f"{share}/6")["units"] for share in range(6)]
    assert sum(made) == 4
    with sharing(Workers(1), UnitRange("merge")):
        assert _made(_parts(tmp_path)) == VALUES.tolist()


def test_ranges__nobody_puts_them_together_meanwhile_and_the_other_way_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _parts(tmp_path)
    _make_some(tmp_path, "0:2")
    assert [path.parent.name for path in parts.locks] == ["000000-000002"]
    assert _parts(tmp_path, key="b" * 20).locks == parts.locks, "their parts would be removed"
    holder = lock.Holder("there", 1, "cusa count", "now")
    monkeypatch.setattr(lock, "holder", lambda path: holder if path.parent == tmp_path else None)
    with pytest.raises(BusyError, match="cusa count"):
        _make_some(tmp_path, "2:4")
