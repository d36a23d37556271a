"""The index: neighbours as plain loops find them, read back by FAISS itself, ties and small data included."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError, StaleError
from cusa.manifests import neighbours, schemas, tables
from cusa.manifests.samples import Split
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig, IndexConfig
from cusa.pipeline.index import stage as index
from cusa.pipeline.index.vectors import unit_rows
from tests.worlds import Colours, Words, make_work


class Noise:
    """Unit rows that belong to nothing."""

    name = "noise"
    width = 16

    def __init__(self, modality: str) -> None:
        self.modality = modality

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        rows = np.random.default_rng(len(items)).normal(size=(len(items), self.width)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def provenance(self) -> dict[str, str]:
        return {"teacher": self.name, "revision": "1"}


def _load(name: str, modality: str) -> Any:
    return {"colours": Colours, "words": Words, "noise": lambda: Noise(modality)}[name]()


def _extract(work: Path, teacher: str, modality: str, dtype: str = "float16", **more: Any) -> None:
    config = ExtractConfig(dtype=dtype)  # type: ignore[arg-type]
    extract.run(config, split=Split(work, "train"), teacher=teacher, modality=modality, load=_load, **more)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = make_work(tmp_path, images=9, splits=("train",))
    _extract(folder, "noise", "image")
    _extract(folder, "words", "text")
    return folder


def _loop(rows: np.ndarray, k: int) -> list[list[int]]:
    """Return every row's neighbours by a plain loop in float64, ties by row number."""
    rows = rows.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    out = []
    for i, row in enumerate(rows):
        others = [(-round(float(row @ other), 5), j) for j, other in enumerate(rows) if j != i]
        out.append([j for _, j in sorted(others)[:k]])
    return out


@pytest.mark.parametrize("block", [4096, 4])
def test_run__neighbours_are_what_a_loop_finds(work: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_ROWS_A_BLOCK", block)
    split = Split(work, "train")
    for teacher, key in (("noise", "key"), ("words", "caption_key")):
        outcome = index.run(IndexConfig(neighbours=6), split=split, teacher=teacher)
        taught = tables.read_teacher(split, teacher)
        assert outcome.counts == {"rows": len(taught.keys), "neighbours": 6}
        table = pq.read_table(work / f"train/index/neighbours-{teacher}.parquet")
        assert table.schema.remove_metadata() == schemas.neighbour_table(key)
        assert table[key].to_pylist() == taught.keys
        expected = _loop(taught.embeddings, 6)
        for row, wanted in zip(table.to_pylist(), expected, strict=True):
            assert row["neighbours"]["ids"] == wanted
            assert row["neighbour_keys"] == [taught.keys[j] for j in wanted]
            np.testing.assert_allclose(np.add(row["similarities"], row["neighbours"]["distances"]), 1, atol=1e-6)
        near = neighbours.read_neighbours(split, teacher, depth=4)
        assert near.ids.tolist() == [wanted[:4] for wanted in expected]
        np.testing.assert_allclose(near.similarities, np.array(table["similarities"].to_pylist())[:, :4], atol=1e-6)


def test_run__any_faiss_user_can_open_the_index(work: Path) -> None:
    split = Split(work, "train")
    index.run(IndexConfig(neighbours=3), split=split, teacher="noise")
    opened = faiss.read_index(str(work / "train/index/noise.faiss"))
    assert (opened.ntotal, opened.d, opened.metric_type) == (9, 16, faiss.METRIC_INNER_PRODUCT)
    rows = tables.read_teacher(split, "noise").embeddings.astype(np.float32)
    similarities, ids = opened.search(rows, 1)
    assert ids[:, 0].tolist() == list(range(9))
    np.testing.assert_allclose(similarities[:, 0], 1, atol=1e-3)


def test_run__one_image_has_no_neighbours_and_k_is_capped(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=1, splits=("train",))
    _extract(work, "colours", "image")
    _extract(work, "words", "text")
    split = Split(work, "train")
    image, text = (index.run(IndexConfig(), split=split, teacher=name) for name in ("colours", "words"))
    assert image.notes == ("colours has 1 rows, so each has 0 neighbours, not the 50 asked for.",)
    assert text.notes == ("words has 5 rows, so each has 4 neighbours, not the 50 asked for.",)
    assert neighbours.read_neighbours(split, "colours", depth=50).ids.shape == (1, 0)
    assert neighbours.read_neighbours(split, "words", depth=50).ids.shape == (5, 4)


def test_run__again_is_up_to_date_until_something_changes(work: Path) -> None:
    split = Split(work, "train")
    config = IndexConfig(neighbours=4)
    assert index.run(config, split=split, teacher="noise").why == "never finished"
    assert index.run(config, split=split, teacher="words").fresh
    assert not index.run(config, split=split, teacher="noise").fresh
    assert index.run(config, split=split, teacher="noise", force=True).why == "--force"
    assert index.run(IndexConfig(neighbours=5), split=split, teacher="noise").why == "neighbours was 4 and is now 5"
    _extract(work, "words", "text", dtype="float32")
    assert index.run(config, split=split, teacher="words").why == "teacher changed"
    (work / "train/index/words.faiss").unlink()
    assert index.run(config, split=split, teacher="words").why == "words.faiss is missing"


def test_run__up_to_date_is_said_without_faiss(work: Path) -> None:
    index.run(IndexConfig(), split=Split(work, "train"), teacher="words")
    code = (
        "import sys; from pathlib import Path; from cusa.manifests.samples import Split\n"
        "from cusa.pipeline import index; from cusa.pipeline.config import IndexConfig\n"
        f"split = Split(Path({str(work)!r}), 'train')\n"
        "print(index.run(IndexConfig(), split=split, teacher='words').fresh, 'faiss' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_run__killed_halfway_leaves_nothing_that_counts_as_done(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(work, "train")
    index.run(IndexConfig(neighbours=2), split=split, teacher="words")

    def dies(*more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(index, "_neighbour_table", dies)
        index.run(IndexConfig(neighbours=3), split=split, teacher="words")
    assert not list((work / "train/index").glob(".partial-*"))
    assert index.run(IndexConfig(neighbours=2), split=split, teacher="words").why == "never finished"


def test_run__stale_foreign_or_broken_teachers_are_refused(work: Path, tmp_path: Path) -> None:
    split = Split(work, "train")
    with pytest.raises(DataError, match=r"no teacher 'nois'; it has noise, words\. Run `cusa extract-teachers"):
        index.run(IndexConfig(), split=split, teacher="nois")
    part = work / "train/teachers/words/00000.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"words/00000\.parquet is no readable Parquet"):
        index.run(IndexConfig(), split=split, teacher="words")
    other = make_work(tmp_path / "other", images=8, splits=("train",))
    _extract(other, "words", "text")
    part.write_bytes((other / "train/teachers/words/00000.parquet").read_bytes())
    with pytest.raises(StaleError, match=r"made from another 00000\.tar"):
        index.run(IndexConfig(), split=split, teacher="words")


def test_read_neighbours__stale_shallow_missing_or_cut_tables_are_refused(work: Path) -> None:
    split = Split(work, "train")
    with pytest.raises(
        DataError, match=r"neighbours-noise\.parquet does not exist\. Run `cusa index .* --split train`"
    ):
        neighbours.read_neighbours(split, "noise", depth=3)
    index.run(IndexConfig(neighbours=3), split=split, teacher="noise")
    with pytest.raises(DataError, match=r"has 3 neighbours a row and 10 are asked for\. Run .*--neighbours 10"):
        neighbours.read_neighbours(split, "noise", depth=10)
    path = work / "train/index/neighbours-noise.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="no readable Parquet"):
        neighbours.read_neighbours(split, "noise", depth=3)
    path.write_bytes(whole)
    _extract(work, "noise", "image", dtype="float32")
    with pytest.raises(StaleError, match="made from another table of teacher 'noise'"):
        neighbours.read_neighbours(split, "noise", depth=3)
    index.run(IndexConfig(neighbours=3), split=split, teacher="noise")
    assert neighbours.read_neighbours(split, "noise", depth=3).ids.shape == (9, 3)


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_unit_rows__a_row_that_is_no_direction_is_named(value: float) -> None:
    rows = np.eye(3, dtype=np.float32)
    rows[1] = value
    table = tables.TeacherTable("odd", "image", ["d/a", "d/b", "d/c"], rows, {})
    with pytest.raises(DataError, match="'d/b'"):
        unit_rows(table)
    rows[1] = [0, 3, 4]
    np.testing.assert_allclose(unit_rows(table)[1], [0, 0.6, 0.8])
    assert rows[1].tolist() == [0, 3, 4], "the caller's rows are left as they were"


@pytest.mark.parametrize(("most", "exact"), [(9, True), (8, False)])
def test_run__is_exact_up_to_so_many_rows_and_then_says_how_it_searches(work: Path, most: int, exact: bool) -> None:
    config = IndexConfig(neighbours=3, exact_up_to=most, memory=7, latency=1e6, recall=1.0)
    done = index.run(config, split=Split(work, "train"), teacher="noise")
    assert len(done.notes) == (0 if exact else 1)
    if not exact:
        assert "chosen for at most 7 GiB and 1e+06 ms a query; recall@3 against exact search" in done.notes[0]
        assert "below" not in done.notes[0]
        assert "above" not in done.notes[0]


def test_run__a_table_with_as_many_rows_as_neighbours_are_asked_for_says_nothing_is_missing(work: Path) -> None:
    assert index.run(IndexConfig(neighbours=8), split=Split(work, "train"), teacher="noise").notes == ()
    assert (
        "8 neighbours, not the 9"
        in index.run(IndexConfig(neighbours=9), split=Split(work, "train"), teacher="noise").notes[0]
    )
