"""Approximate neighbours: chosen within a budget, measured against exact search, growing, read by FAISS."""

import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from cusa.errors import ConfigError
from cusa.manifests import neighbours, tables
from cusa.manifests.samples import Split
from cusa.pipeline import extract, readers, shard
from cusa.pipeline.config import ExtractConfig, IndexConfig, ShardConfig
from cusa.pipeline.index import approximate
from cusa.pipeline.index import stage as index
from cusa.pipeline.index.exact import nearest_rows
from cusa.pipeline.index.vectors import unit_rows
from tests.pipeline.audited import load, teach
from tests.pipeline.shard.test_append import _grown as grown
from tests.worlds import make_work


def _clustered(number: int, width: int = 32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(60, width))
    rows = centres[rng.integers(0, 60, number)] + 0.4 * rng.normal(size=(number, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("number", "width", "memory", "latency", "kind", "storage"),
    [
        (10_000_000, 512, 100, 1, "hnsw", "Flat"),
        (10_000_000, 512, 100, 10_000, "ivf", "Flat"),
        (10_000_000, 512, 8, 1, "ivf", "SQ8"),
        (10_000_000, 512, 3, 1, "ivf", "PQ256"),
    ],
)
def test_choose__what_fits_memory_and_latency(
    number: int, width: int, memory: float, latency: float, kind: str, storage: str
) -> None:
    plan = approximate.choose(number, width, IndexConfig(memory=memory, latency=latency))
    assert plan.kind == kind
    assert plan.factory.endswith(storage)
    assert plan.bytes <= memory * 2**30
    assert plan.exact_rows == (storage == "Flat")


def test_choose__what_fits_nowhere_names_the_least() -> None:
    with pytest.raises(ConfigError, match=r"product codes of 10,000,000 rows take 0\.69 GiB .* allows 0\.5"):
        approximate.choose(10_000_000, 512, IndexConfig(memory=0.5))
    with pytest.raises(ConfigError, match=r"HNSW .* GiB and --memory allows 1"):
        approximate.choose(10_000_000, 512, IndexConfig(method="hnsw", memory=1))


@pytest.mark.parametrize("factory", ["IVF40,Flat", "IVF40,SQ8", "HNSW32,Flat"])
def test_neighbours__the_measured_recall_is_the_real_one(factory: str) -> None:
    rows = _clustered(2500)
    exact = factory.endswith("Flat")
    lists = 40 if factory.startswith("IVF") else 0
    made = approximate.build(rows, approximate.Plan("", factory, lists, 0, exact))
    config = IndexConfig(recall=0.95, latency=1e9)
    measured = approximate.tune(made, rows, 10, config)
    near = approximate.neighbours(made, rows, 10, exact_rows=exact)
    truth = nearest_rows(rows, 10)
    hits = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near.ids.tolist(), truth.ids.tolist(), strict=True)])
    assert measured.recall >= 0.95
    assert hits == pytest.approx(measured.recall, abs=0.03)
    assert hits >= 0.93
    assert not (near.ids == np.arange(2500)[:, None]).any(), "a row is not its own neighbour"
    cosines = np.einsum("nd,nkd->nk", rows, rows[near.ids])
    np.testing.assert_allclose(near.similarities, cosines, atol=1e-5)


def test_tune__stops_at_the_latency_and_says_so() -> None:
    rows = _clustered(2000)
    made = approximate.build(rows, approximate.Plan("ivf", "IVF64,Flat", 64, 0, True))
    config = IndexConfig(recall=1.0, latency=1e-9)
    measured = approximate.tune(made, rows, 50, config)
    assert measured.setting in ("nprobe=1", "nprobe=2")
    assert "below the 1 asked for" in measured.sentence(50, 1.0, 1e-9)
    assert "above the 1e-09 ms allowed" in measured.sentence(50, 1.0, 1e-9)


@pytest.mark.parametrize("method", ["ivf", "hnsw"])
def test_run__a_split_by_an_approximate_index(tmp_path: Path, method: str) -> None:
    work = make_work(tmp_path, images=30, splits=("train",))
    teach(work, image="colours", text="words")
    split = Split(work, "train")
    config = IndexConfig(neighbours=4, method=method, recall=1.0, latency=1e6)  # type: ignore[arg-type]
    outcome = index.run(config, split=split, teacher="words")
    assert any("recall@4 against exact search on held queries: 1.000" in note for note in outcome.notes)
    near = neighbours.read_neighbours(split, "words", depth=4)
    exact = index.run(IndexConfig(neighbours=4), split=split, teacher="words")
    assert exact.fresh
    truth = neighbours.read_neighbours(split, "words", depth=4)
    np.testing.assert_allclose(near.similarities, truth.similarities, atol=1e-5)
    assert not index.run(IndexConfig(neighbours=4), split=split, teacher="words").fresh


@pytest.mark.parametrize("method", ["exact", "ivf"])
def test_run__added_rows_are_added_to_the_index(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small, whole = grown(tmp_path, images=8, more=3)
    work = tmp_path / "work"
    config = IndexConfig(neighbours=3, method=method, recall=1.0, latency=1e6)  # type: ignore[arg-type]

    def taught(source: Path, **more: bool) -> Split:
        reading = readers.read("karpathy", source)
        shard.run(ShardConfig(workers=1, max_images=4), reading=reading, out=work, **more)
        split = Split(work, "train")
        extract.run(ExtractConfig(), split=split, teacher="words", modality="text", load=load)
        return split

    index.run(config, split=taught(small), teacher="words")
    split = taught(whole, append=True)
    with monkeypatch.context() as patch:
        if method == "exact":
            patch.setattr(index, "_in_units", None)  # the old rows are not searched against one another again
        patch.setattr(index, "flat_index", None)
        outcome = index.run(config, split=split, teacher="words")
    assert outcome.counts["rows_added"] == 15
    assert faiss.read_index(str(work / "train/index/words.faiss")).ntotal == 55
    grown_near = neighbours.read_neighbours(split, "words", depth=3)
    anew = index.run(config, split=split, teacher="words", force=True)
    assert "rows_added" not in anew.counts
    near = neighbours.read_neighbours(split, "words", depth=3)
    np.testing.assert_allclose(grown_near.similarities, near.similarities, atol=1e-6)
    if method == "exact":
        assert grown_near.ids.tolist() == near.ids.tolist()


def test_run__a_shard_made_anew_is_indexed_anew(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=6, splits=("train",))
    teach(work, text="words")
    shutil.move(work / "train/index", tmp_path / "index")
    shutil.rmtree(work / "train")
    make_work(tmp_path, images=9, splits=("train",), captions=4)
    shutil.move(tmp_path / "index", work / "train/index")  # 30 rows, of which the first are others among the 36 of now
    split = Split(work, "train")
    extract.run(ExtractConfig(), split=split, teacher="words", modality="text", load=load)
    assert index.run(IndexConfig(neighbours=4), split=split, teacher="words").counts == {"rows": 36, "neighbours": 4}
    rows = unit_rows(tables.read_teacher(split, "words"))
    expected = nearest_rows(rows, 4)
    near = neighbours.read_neighbours(split, "words", depth=4)
    assert near.ids.tolist() == expected.ids.tolist()
    np.testing.assert_array_equal(faiss.read_index(str(work / "train/index/words.faiss")).reconstruct_n(0, 36), rows)


@pytest.mark.parametrize("name", ["words.faiss", "neighbours-words.parquet"])
def test_run__rows_are_added_to_nothing_but_what_was_written(tmp_path: Path, name: str) -> None:
    small, whole = grown(tmp_path, images=8, more=3)
    work, config = tmp_path / "work", IndexConfig(neighbours=3)

    def taught(source: Path, **more: bool) -> Split:
        reading = readers.read("karpathy", source)
        shard.run(ShardConfig(workers=1, max_images=4), reading=reading, out=work, **more)
        split = Split(work, "train")
        extract.run(ExtractConfig(), split=split, teacher="words", modality="text", load=load)
        return split

    index.run(config, split=taught(small), teacher="words")
    path = work / "train/index" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # its size stays
    path.write_bytes(data)
    split = taught(whole, append=True)
    assert "rows_added" not in index.run(config, split=split, teacher="words").counts
    expected = nearest_rows(unit_rows(tables.read_teacher(split, "words")), 3)
    assert neighbours.read_neighbours(split, "words", depth=3).ids.tolist() == expected.ids.tolist()
