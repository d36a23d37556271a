"""Neighbour tables: cut to a depth, and refused when they are not of this state."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pytest

from cusa.errors import DataError, StaleError
from cusa.manifests import schemas, tables
from cusa.manifests.neighbours import neighbour_path, neighbour_stamp, read_neighbours
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig
from tests.worlds import Words, make_work

IDS = np.array([[1, 2, 3], [0, 2, 4], [5, 4, 3], [4, 5, 0], [3, 2, 1], [2, 1, 0]])
SIMILARITIES = 1 - np.arange(30, dtype=np.float32).reshape(6, 5) / 32


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = make_work(tmp_path_factory.mktemp("near"), images=3, captions=2, splits=("train",))
    split = Split(work, "train")
    extract.run(ExtractConfig(), split=split, teacher="words", modality="text", load=lambda *_: Words())
    return work


@pytest.fixture
def split(made: Path, tmp_path: Path) -> Split:
    shutil.copytree(made, tmp_path / "work", copy_function=shutil.copy2)
    return Split(tmp_path / "work", "train")


def _write(split: Split, ids: np.ndarray, stamp: Mapping[str, str] = MappingProxyType({})) -> Path:
    keys = split.caption_keys[: len(ids)]
    rows = [
        {
            "caption_key": key,
            "neighbours": {"ids": near.tolist(), "distances": (1 - SIMILARITIES[row, : len(near)]).tolist()},
            "neighbour_keys": [split.caption_keys[other % 6] for other in near],
            "similarities": SIMILARITIES[row, : len(near)].tolist(),
        }
        for row, (key, near) in enumerate(zip(keys, ids, strict=True))
    ]
    schema = schemas.neighbour_table("caption_key")
    rows = [{name: row.get(name) for name in schema.names} for row in rows]
    path = neighbour_path(split, "words")
    metadata = {**neighbour_stamp(split, "words"), **stamp}
    store.write_table(path, pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata)))
    return path


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_read_neighbours__cut_to_a_depth(split: Split, depth: int) -> None:
    path = _write(split, IDS)
    assert path == split.folder / "index/neighbours-words.parquet"
    near = read_neighbours(split, "words", depth=depth)
    np.testing.assert_array_equal(near.ids, IDS[:, :depth])
    assert near.similarities.dtype == np.float32
    np.testing.assert_allclose(near.similarities, SIMILARITIES[:, :depth])


def test_neighbour_stamp__says_what_it_was_made_from(split: Split) -> None:
    assert neighbour_stamp(split, "words") == {
        **{"teacher": "words", "modality": "text", "split": split.digest},
        "teacher_digest": tables.teacher_digest(split, "words"),
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [("split", "another state of the split"), ("teacher_digest", "another table of teacher 'words'")],
)
def test_read_neighbours__of_another_state_is_stale(split: Split, name: str, words: str) -> None:
    _write(split, IDS, {name: "0" * 64})
    with pytest.raises(StaleError, match=rf"was made from {words}\. Run `cusa index .* --split train`"):
        read_neighbours(split, "words", depth=2)


@pytest.mark.parametrize(
    "ids",
    [IDS[:5], np.where(IDS == 5, 6, IDS), np.where(IDS == 0, -1, IDS), [*IDS[:5].tolist(), [2, 1]]],
    ids=["a row too few", "a row beyond", "a row before", "a neighbour too few"],
)
def test_read_neighbours__a_table_that_is_not_whole_is_refused(split: Split, ids: np.ndarray) -> None:
    _write(split, [np.array(row) for row in ids])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"has not one whole row for each of 6 rows\. Run `cusa index .* --force`"):
        read_neighbours(split, "words", depth=2)


def test_read_neighbours__deeper_than_the_table_says_what_to_do(split: Split) -> None:
    _write(split, IDS)
    with pytest.raises(DataError, match=r"has 3 neighbours a row and 4 are asked for\. Run `.* --neighbours 4`"):
        read_neighbours(split, "words", depth=4)
    whole = np.array([[other for other in range(6) if other != row] for row in range(6)])
    _write(split, whole)
    assert read_neighbours(split, "words", depth=99).ids.tolist() == whole.tolist(), "there are no more rows"
    neighbour_path(split, "words").unlink()
    with pytest.raises(DataError, match=r"does not exist\. Run `cusa index"):
        read_neighbours(split, "words", depth=1)
