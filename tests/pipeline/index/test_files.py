"""Index files: mapped where they are whole, refused by name where they are another's or damaged."""

import shutil
import sys
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.errors import CusaError, DataError, StaleError
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import index
from cusa.pipeline.config import IndexConfig
from cusa.pipeline.index import files, search
from cusa.pipeline.index.exact import flat_index
from tests.pipeline.audited import load, teach
from tests.worlds import make_work


def _written(folder: Path, rows: np.ndarray) -> dict[str, object]:
    """Write an index with its neighbour table; return the arguments that open it."""
    stamp = files.write_index(folder / "one.faiss", flat_index(rows))
    table = folder / "one.parquet"
    store.write_table(table, pq.read_table(_empty(folder)).replace_schema_metadata({"split": "abc", **stamp}))
    return {"table": table, "made_from": {"split": "abc"}, "made_by": "cusa index", "rows": len(rows)}


def _empty(folder: Path) -> Path:
    import pyarrow as pa

    path = folder / "empty.parquet"
    store.write_table(path, pa.table({"key": pa.array([], pa.string())}))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_read_index__maps_the_vectors_and_returns_the_same_rows(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(50_000, 256)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    options = _written(tmp_path, rows)
    path = tmp_path / "one.faiss"
    before = _own_memory()
    opened = files.read_index(path, **options)  # type: ignore[arg-type]
    assert opened.search(rows[:3], 1)[1][:, 0].tolist() == [0, 1, 2]
    assert _own_memory() - before < rows.nbytes / 2
    with pytest.raises(StaleError, match=r"one\.faiss has 50000 rows and the split 5\. Run `cusa index`"):
        files.read_index(path, **{**options, "rows": 5})  # type: ignore[arg-type]


def test_read_index__a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    options = _written(tmp_path, rows)
    path = tmp_path / "one.faiss"
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for place in [0, len(whole) - 1, *rng.integers(0, len(whole), 98).tolist()]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(flipped)
        with pytest.raises(DataError, match=r"one\.faiss is not the index that was written .*cusa index --force"):
            files.read_index(path, **options)  # type: ignore[arg-type]
    path.write_bytes(whole)
    assert files.read_index(path, **options).ntotal == 40  # type: ignore[arg-type]


def test_read_index__missing_stale_or_unmarked_files_are_named(tmp_path: Path) -> None:
    options = _written(tmp_path, np.eye(4, dtype=np.float32))
    path, table = tmp_path / "one.faiss", tmp_path / "one.parquet"
    with pytest.raises(StaleError, match=r"one\.parquet and one\.faiss were made from another state of the split"):
        files.read_index(path, **{**options, "made_from": {"split": "other"}})  # type: ignore[arg-type]
    store.write_table(table, pq.read_table(table).replace_schema_metadata({"split": "abc"}))
    with pytest.raises(StaleError, match=r"holds no checksum of one\.faiss.*--force"):
        files.read_index(path, **options)  # type: ignore[arg-type]
    path.unlink()
    with pytest.raises(DataError, match=r"one\.faiss does not exist\. Run `cusa index`"):
        files.read_index(path, **options)  # type: ignore[arg-type]


def test_read_index__another_format_with_its_own_checksum_is_no_index(tmp_path: Path) -> None:
    options = _written(tmp_path, np.eye(4, dtype=np.float32))
    path = tmp_path / "one.faiss"
    path.write_bytes(b"no index")
    stamp = {"split": "abc", files.CHECKSUM: files.checksums.checksum(path)}
    store.write_table(tmp_path / "one.parquet", pq.read_table(tmp_path / "one.parquet").replace_schema_metadata(stamp))
    with pytest.raises(DataError, match=r"one\.faiss is no readable index"):
        files.read_index(path, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = make_work(tmp_path_factory.mktemp("files"), images=6, splits=("train", "val"))
    for split in ("train", "val"):
        teach(work, split=split, image="colours", text="words")
    return work


@pytest.mark.parametrize("together", [False, True], ids=["index alone", "with its neighbour table"])
def test_search__another_splits_index_is_refused_by_name_and_made_again(work: Path, together: bool) -> None:
    split, folder = Split(work, "train"), work / "train/index"
    expected = search.run([split], words="a red wall", number=3, load=load)
    for name in ("words.faiss", *(["neighbours-words.parquet"] if together else [])):
        shutil.copy2(work / "val/index" / name, folder / name)
    with pytest.raises(CusaError, match=r"words\.faiss (is not the index|were made from another state)"):
        search.run([split], words="a red wall", number=3, load=load)
    outcome = index.run(IndexConfig(neighbours=4), split=split, teacher="words")
    assert outcome.fresh, "a file that was replaced is not up to date"
    assert search.run([split], words="a red wall", number=3, load=load) == expected


def test_search__similarities_that_are_no_numbers_are_refused(work: Path) -> None:
    split, path = Split(work, "val"), work / "val/index/words.faiss"
    whole, table = path.read_bytes(), work / "val/index/neighbours-words.parquet"
    whole_table = table.read_bytes()
    broken = faiss.read_index(str(path)).reconstruct_n(0, split.num_captions)
    broken[3] = 3e38  # what a flipped exponent gives: the product overflows
    stamp = {k.decode(): v.decode() for k, v in pq.read_schema(table).metadata.items()}
    stamp |= files.write_index(path, flat_index(broken))
    store.write_table(table, pq.read_table(table).replace_schema_metadata(stamp))
    try:
        with pytest.raises(DataError, match="similarities that are not finite"):
            search.run([split], words="a red wall", number=30, load=load)
    finally:
        path.write_bytes(whole)
        table.write_bytes(whole_table)


def _own_memory() -> int:
    """Return the bytes of this process that are no file's."""
    return next(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon")
    )
