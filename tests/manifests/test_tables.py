"""A teacher's digest speaks of its rows, not of what its files say of themselves."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cusa.errors import CusaError, DataError, StaleError
from cusa.manifests import ledger, tables
from cusa.manifests.neighbours import read_neighbours
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import extract, index
from cusa.pipeline.config import ExtractConfig, IndexConfig
from tests.worlds import Colours, make_work


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = make_work(tmp_path_factory.mktemp("world"), images=8, splits=("train",))
    split = Split(work, "train")
    extract.run(ExtractConfig(), split=split, teacher="colours", modality="image", load=lambda *_: Colours())
    return work


@pytest.fixture
def split(made: Path, tmp_path: Path) -> Split:
    shutil.copytree(made, tmp_path / "work", copy_function=shutil.copy2)
    return Split(tmp_path / "work", "train")


def _part(split: Split) -> Path:
    (part,) = (split.folder / "teachers/colours").glob("[0-9]*.parquet")
    return part


def _turn_rows(part: Path) -> None:
    """Put every row in another's place, under the same keys and metadata."""
    table = store.read_table(part)
    rows = np.roll(tables.embedding_matrix(table), 1, axis=0)
    flat = pa.array(rows.reshape(-1), table.schema.field("embedding").type.value_type)
    column = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    store.write_table(part, table.set_column(1, table.schema.field("embedding"), column))


def test_teacher_digest__other_rows_under_the_same_metadata(split: Split) -> None:
    part = _part(split)
    before, metadata = tables.teacher_digest(split, "colours"), tables.read_part_metadata(part)
    _turn_rows(part)
    assert tables.read_part_metadata(part) == metadata
    assert tables.teacher_digest(split, "colours") != before


def test_teacher_digest__every_kind_of_dependant_sees_it(split: Split) -> None:
    config = IndexConfig(neighbours=3)
    assert index.run(config, split=split, teacher="colours").fresh
    assert not index.run(config, split=split, teacher="colours").fresh
    read_neighbours(split, "colours", depth=3)
    _turn_rows(_part(split))
    with pytest.raises(StaleError, match="made from another table of teacher 'colours'"):
        read_neighbours(split, "colours", depth=3)
    (split.folder / "teachers/colours/ledger.json").unlink()  # else it says that these rows were not extracted
    again = index.run(config, split=split, teacher="colours")
    assert (again.fresh, again.why) == (True, "teacher changed")


def test_teacher_digest__is_that_of_the_bytes_however_it_is_learnt(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = _part(split)
    expected = store.digest([(part.name, store.sha256_file(part))])
    read: list[Path] = []
    sha256_file = store.sha256_file
    monkeypatch.setattr(store, "sha256_file", lambda path: (read.append(path), sha256_file(path))[1])
    assert tables.teacher_digest(split, "colours") == expected
    assert read == [], "size and time are those of the ledger"
    os.utime(part, ns=(1, 1))
    assert tables.teacher_digest(split, "colours") == expected
    assert tables.teacher_digest(split, "colours") == expected
    assert read == [part], "touched: read, once a process"
    (part.parent / "ledger.json").unlink()
    assert tables.teacher_digest(split, "colours") == expected


def test_teacher_digest__a_flipped_byte_anywhere(split: Split) -> None:
    part, before = _part(split), tables.teacher_digest(split, "colours")
    data = part.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 40)):
        part.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        os.utime(part, ns=(place + 2, place + 2))
        assert tables.teacher_digest(split, "colours") != before, place


def test_read_parts__rows_that_the_extraction_did_not_write(split: Split) -> None:
    part = _part(split)
    whole = part.read_bytes()
    _turn_rows(part)
    with pytest.raises(DataError, match=r"00000\.parquet was changed after `cusa extract-teachers` wrote it .*--force"):
        list(tables.read_parts(split, "colours"))
    part.write_bytes(whole)  # restored, at another time
    assert len(list(tables.read_parts(split, "colours"))) == 1
    _turn_rows(part)
    (part.parent / "ledger.json").unlink()  # killed before its end: nothing is known of the part's bytes
    assert len(list(tables.read_parts(split, "colours"))) == 1


def test_read_parts__rows_in_another_order_are_not_the_split_s(split: Split) -> None:
    """The same keys and the same rows, written by somebody who left no ledger."""
    part = _part(split)
    table = store.read_table(part)
    (part.parent / "ledger.json").unlink()
    store.write_table(part, table.take([1, 0, *range(2, table.num_rows)]))
    with pytest.raises(StaleError, match="its keys in another order"):
        tables.read_teacher(split, "colours")


def test_find_teacher__a_folder_is_known_by_its_weights(split: Split, tmp_path: Path) -> None:
    for name in ("mine", "theirs", "other"):
        store.write_text(tmp_path / name / "weights.bin", "one" if name != "other" else "two")
    part = _part(split)
    table = store.read_table(part)
    weights = store.sha256_folder(tmp_path / "mine")
    store.write_table(part, table.replace_schema_metadata({**table.schema.metadata, b"weights_sha256": weights}))
    assert tables.find_teacher(split, "image", str(tmp_path / "mine")) == "colours"
    assert tables.find_teacher(split, "image", str(tmp_path / "theirs")) == "colours", "the same weights elsewhere"
    assert tables.find_teacher(split, "image", str(tmp_path / "other")) == "", "no table was made with these"
    assert tables.find_teacher(split, "text", str(tmp_path / "mine")) == ""


def test_read_parts__no_flipped_byte_is_taken_for_a_row(split: Split) -> None:
    part = _part(split)
    whole = part.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(CusaError):
            list(tables.read_parts(split, "colours"))


def test_extraction__a_changed_part_is_not_up_to_date(split: Split) -> None:
    def extracted() -> tuple[bool, str]:
        done = extract.run(ExtractConfig(), split=split, teacher="colours", modality="image", load=lambda *_: Colours())
        return done.fresh, done.why

    part = _part(split)
    assert extracted() == (False, "")
    os.utime(part, ns=(1, 1))
    assert extracted() == (False, ""), "the same bytes at another time"
    data = part.read_bytes()
    part.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    assert extracted() == (True, f"{part.name} was changed after it was written")
    assert ledger.read(part.parent / "ledger.json") is not None
