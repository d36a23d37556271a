"""An index in units: the same bytes whoever searches."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cusa.errors import BusyError, DataError
from cusa.manifests import lock
from cusa.manifests.samples import Split
from cusa.manifests.stage import asking
from cusa.manifests.storage import packed, store
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig, IndexConfig
from cusa.pipeline.engine import Workers
from cusa.pipeline.index import approximate, exact, units
from cusa.pipeline.index import stage as index
from cusa.pipeline.units.sharing import UnitRange, sharing
from tests.pipeline.audited import load
from tests.worlds import make_work

CONFIG = IndexConfig(neighbours=5)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_work(tmp_path_factory.mktemp("world"), images=20, splits=("train",))
    extract.run(ExtractConfig(), split=Split(folder, "train"), teacher="words", modality="text", load=load)
    return folder


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "row_units", lambda rows: [range(at, min(at + 30, rows)) for at in range(0, rows, 30)])


def _bytes(work: Path) -> dict[str, str]:
    files = [file for file in store.files_below(work / "train/index") if not file.name.endswith("ledger.json")]
    return {file.relative_to(work).as_posix(): store.sha256_file(file) for file in files}


def _index(work: Path, config: IndexConfig, *ranges: str, workers: int = 1) -> None:
    for words in ranges or ("",):
        with sharing(Workers(workers), UnitRange(words) if words else None):
            index.run(config, split=Split(work, "train"), teacher="words", force=True)


WAYS: dict[str, Callable[[Path, IndexConfig], None]] = {
    "threads": lambda work, config: _index(work, config),
    "processes": lambda work, config: _index(work, config, workers=2),
    "array": lambda work, config: _index(work, config, "0:1", "1/2", "1:2", "merge"),
}


@pytest.mark.parametrize("way", WAYS)
def test_run__exact__the_same_bytes_as_in_one_unit(work: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(units, "row_units", lambda rows: [range(rows)])
        _index(work, CONFIG)
    expected = _bytes(work)
    assert len(expected) == 2
    if way == "threads":
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
    WAYS[way](work, CONFIG)
    assert _bytes(work) == expected


@pytest.mark.parametrize("method", ["ivf", "hnsw"])
def test_run__approximate__an_array_finds_what_one_process_finds(work: Path, method: str) -> None:
    config = IndexConfig(neighbours=5, method=method, recall=0.5, latency=1e9)  # type: ignore[arg-type]
    _index(work, config)
    expected = _bytes(work)
    _index(work, config, "0/3", "1/3", "2/3", "merge")
    assert _bytes(work) == expected


def _rows(number: int, width: int = 24) -> np.ndarray:
    rows = np.random.default_rng(number).standard_normal((number, width), dtype=np.float32)
    rows[number // 2 :: 7] = rows[0]  # ties
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


@pytest.fixture
def _blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "ROWS_A_BLOCK", 64)
    monkeypatch.setattr(units, "ROWS_A_BLOCK", 64)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("shift", [0, 1])
def test_part__mapped_rows_are_searched_as_rows_in_memory(tmp_path: Path, shift: int) -> None:
    rows = _rows(1000)
    task = units.task()
    packed.write(tmp_path, packed.pack(units.Searched(rows, 9), classes=task.classes, outside={}))
    opened, _ = packed.read(tmp_path, classes=task.classes, outside={})
    assert isinstance(opened.rows, np.memmap)
    expected = exact.nearest_rows(rows, 9)
    some = range(64 * shift, 64 * shift + 192)
    found = units.read_part(task.work(opened, some), 9)
    assert np.array_equal(found.ids, expected.ids[some.start : some.stop])
    assert np.array_equal(found.similarities, expected.similarities[some.start : some.stop])


@pytest.mark.parametrize("factory", ["IVF16,Flat", "IVF16,SQ8", "HNSW32,Flat"])
def test_part__an_opened_index_answers_as_the_one_that_was_built(tmp_path: Path, factory: str) -> None:
    import faiss

    rows = _rows(2000)
    built = approximate.build(rows, approximate.Plan("", factory, 16 * factory.startswith("IVF"), 0, True))
    approximate.tune(built, rows, 9, IndexConfig(latency=1e9))
    exact_rows = not factory.endswith("SQ8")
    searched = units.Searched(rows, 9, faiss.serialize_index(built), exact_rows)
    packed.write(tmp_path, packed.pack(searched, classes=units.task().classes, outside={}))
    opened, _ = packed.read(tmp_path, classes=units.task().classes, outside={})
    expected = approximate.neighbours(built, rows, 9, exact_rows=exact_rows)
    found = units.read_part(units.task().work(opened, range(2000)), 9)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.similarities, expected.similarities)


@pytest.mark.parametrize("other", ["settings", "rows"])
def test_run__parts_of_other_settings_or_rows_are_not_put_together(work: Path, other: str) -> None:
    """A task of an array made the first unit with five neighbours, or of other rows; the others come later."""
    split, config = Split(work, "train"), IndexConfig(neighbours=4)
    _index(work, config)
    expected = _bytes(work)
    shutil.rmtree(work / "train/index")
    if other == "settings":
        _index(work, CONFIG, "0:1")
    else:
        extracted = ExtractConfig(dtype="float32")
        extract.run(extracted, split=split, teacher="words", modality="text", load=load)
        _index(work, config, "0:1")
        extract.run(ExtractConfig(), split=split, teacher="words", modality="text", load=load)
    with pytest.raises(DataError, match="No unit of"):
        _index(work, config, "merge")
    _index(work, config, "0/1", "merge")
    assert _bytes(work) == expected


def test_run__by_force_every_unit_is_made_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[range] = []
    part = units._part

    def counted(searched: units.Searched, rows: range) -> object:
        made.append(rows)
        return part(searched, rows)

    monkeypatch.setattr(units, "_part", counted)
    shutil.rmtree(work / "train/index", ignore_errors=True)
    _index(work, CONFIG, "0:2")
    assert len(made) == 2
    _index(work, CONFIG)
    assert len(made) == 2 + 4, "the two that a task had made as well"
    with sharing(Workers(1), UnitRange("0:2")):
        index.run(IndexConfig(neighbours=3), split=Split(work, "train"), teacher="words")
    assert len(made) == 8
    with sharing(Workers(1), None):
        index.run(IndexConfig(neighbours=3), split=Split(work, "train"), teacher="words")
    assert len(made) == 10, "what a task had made is taken"
    assert not (work / "train/index/.units").exists()


def test_run__a_refused_merge_leaves_the_index_that_was_there(work: Path) -> None:
    _index(work, CONFIG)
    before = _bytes(work)
    with sharing(Workers(1), UnitRange("merge")), pytest.raises(DataError, match="No unit of"):
        index.run(IndexConfig(neighbours=3), split=Split(work, "train"), teacher="words")
    assert _bytes(work) == before
    assert not index.run(CONFIG, split=Split(work, "train"), teacher="words").fresh


def test_run__what_a_task_left_is_cleared_up_once_the_index_is_there(work: Path) -> None:
    _index(work, CONFIG)
    with sharing(Workers(1), UnitRange("0:1")):
        index.run(CONFIG, split=Split(work, "train"), teacher="words", force=True)
    assert (work / "train/index/.units").exists()
    with asking():
        assert not index.run(CONFIG, split=Split(work, "train"), teacher="words").fresh
    assert (work / "train/index/.units").exists(), "a question removes nothing"
    assert not index.run(CONFIG, split=Split(work, "train"), teacher="words").fresh
    assert not (work / "train/index/.units").exists()


@pytest.mark.parametrize("held", ["a range", "the split"])
def test_run__waits_for_nobody_who_works_on_what_it_reads_or_writes(
    work: Path, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split(work, "train")
    _index(work, CONFIG, "0:1")
    holder = lock.Holder("there", 1, "cusa other", "now")
    of = [path.parent for path in split.locks] if held == "the split" else ["000000-000001"]
    monkeypatch.setattr(lock, "holder", lambda path: holder if {path.parent, path.parent.name} & {*of} else None)
    with pytest.raises(BusyError, match="cusa other"):
        index.run(CONFIG, split=split, teacher="words", force=True)
    if held == "the split":
        with sharing(Workers(1), UnitRange("1:2")), pytest.raises(BusyError, match="cusa other"):
            index.run(CONFIG, split=split, teacher="words", force=True)
    monkeypatch.undo()
    shutil.rmtree(work / "train/index")
