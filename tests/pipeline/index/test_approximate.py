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


def _taught(source: Path, work: Path, *, dtype: str = "float16", **more: bool) -> Split:
    reading = readers.read("karpathy", source)
    shard.run(ShardConfig(workers=1, max_images=4), reading=reading, out=work, **more)
    split = Split(work, "train")
    config = ExtractConfig(dtype=dtype)  # type: ignore[arg-type]
    extract.run(config, split=split, teacher="words", modality="text", load=load)
    return split


@pytest.mark.parametrize(
    ("before", "after", "added"),
    [(3, 3, True), (3, 5, False), (5, 3, False), (39, 39, True), (45, 45, False), (60, 60, False)],
)
def test_run__what_is_extended_equals_what_is_searched_anew(
    tmp_path: Path, before: int, after: int, added: bool
) -> None:
    """40 rows become 55: only lists that were as deep as what is asked for now can be extended."""
    small, whole = grown(tmp_path, images=8, more=3)
    work = tmp_path / "work"
    index.run(IndexConfig(neighbours=before), split=_taught(small, work), teacher="words")
    split = _taught(whole, work, append=True)
    done = index.run(IndexConfig(neighbours=after), split=split, teacher="words")
    assert ("rows_added" in done.counts) == added
    rows = unit_rows(tables.read_teacher(split, "words"))
    expected = nearest_rows(rows, after)
    near = neighbours.read_neighbours(split, "words", depth=min(after, 54))
    assert near.ids.tolist() == expected.ids.tolist()
    np.testing.assert_allclose(near.similarities, expected.similarities, atol=1e-6)
    np.testing.assert_array_equal(faiss.read_index(str(work / "train/index/words.faiss")).reconstruct_n(0, 55), rows)


def test_run__rows_are_not_added_to_those_of_another_precision(tmp_path: Path) -> None:
    small, whole = grown(tmp_path, images=8, more=3)
    work, config = tmp_path / "work", IndexConfig(neighbours=3)
    index.run(config, split=_taught(small, work), teacher="words")
    split = _taught(whole, work, dtype="float32", append=True)
    assert "rows_added" not in index.run(config, split=split, teacher="words").counts
    rows = unit_rows(tables.read_teacher(split, "words"))
    np.testing.assert_array_equal(faiss.read_index(str(work / "train/index/words.faiss")).reconstruct_n(0, 55), rows)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (IndexConfig(neighbours=3, exact_up_to=50, latency=1e6, recall=1.0), "IVF1,Flat"),
        (IndexConfig(neighbours=3, exact_up_to=50, latency=1e-6, recall=1.0), "HNSW32,Flat"),
        # 20 bytes a row, an id of 8 and one list: 40 rows fit as they are, 55 do not.
        (IndexConfig(neighbours=3, method="ivf", latency=1e6, memory=1200 / 2**30), "IVF1,SQ8"),
    ],
    ids=["lists", "graph", "codes"],
)
def test_run__an_index_does_not_grow_into_one_of_another_kind_unbuilt(
    tmp_path: Path, config: IndexConfig, kind: str
) -> None:
    """The limit of rows, or the memory allowed, is passed by what is added."""
    small, whole = grown(tmp_path, images=8, more=3)
    work = tmp_path / "work"
    index.run(config, split=_taught(small, work), teacher="words")
    split = _taught(whole, work, append=True)
    done = index.run(config, split=split, teacher="words")
    assert done.notes[0].startswith(f"{kind}, about")
    assert done.counts == {"rows": 55, "neighbours": 3}
    opened = faiss.read_index(str(work / "train/index/words.faiss"))
    assert opened.ntotal == 55
    near = neighbours.read_neighbours(split, "words", depth=3)
    expected = nearest_rows(unit_rows(tables.read_teacher(split, "words")), 3)
    np.testing.assert_allclose(near.similarities, expected.similarities, atol=1e-5)


@pytest.mark.parametrize("code", ["Flat", "SQ8"])
def test_run__an_index_of_codes_is_built_anew_not_extended(tmp_path: Path, code: str) -> None:
    """A budget of a kilobyte holds 55 rows of 5 numbers as bytes, not as floats."""
    small, whole = grown(tmp_path, images=8, more=3)
    work = tmp_path / "work"
    memory = 2000 / 2**30 if code == "Flat" else 1000 / 2**30
    config = IndexConfig(neighbours=3, method="ivf", memory=memory, latency=1e6, recall=0.5)
    done = index.run(config, split=_taught(small, work), teacher="words")
    assert f"IVF1,{code}" in done.notes[0]
    split = _taught(whole, work, append=True)
    done = index.run(config, split=split, teacher="words")
    assert ("rows_added" in done.counts) == (code == "Flat")
    near = neighbours.read_neighbours(split, "words", depth=3)
    rows = unit_rows(tables.read_teacher(split, "words"))
    exact = np.einsum("nd,nkd->nk", rows, rows[near.ids])
    np.testing.assert_allclose(near.similarities, exact, atol=1e-5, err_msg="of the rows, not of their codes")


@pytest.mark.parametrize(
    ("config", "factory"),
    [
        # 1,000 rows of 64 numbers: 256 bytes a row, an id of 8 bytes, 15 lists of 256 bytes; HNSW 520 bytes a row.
        (IndexConfig(memory=267_840 / 2**30, latency=1), "IVF15,Flat"),
        (IndexConfig(memory=267_839 / 2**30, latency=1), "IVF15,SQ8"),
        (IndexConfig(memory=75_840 / 2**30, latency=1), "IVF15,SQ8"),
        (IndexConfig(memory=75_839 / 2**30, latency=1), "IVF15,PQ32"),
        (IndexConfig(memory=43_839 / 2**30, latency=1), "IVF15,PQ16"),
        (IndexConfig(memory=27_839 / 2**30, latency=1), "IVF15,PQ8"),
        (IndexConfig(memory=520_000 / 2**30, latency=1e-3), "HNSW32,Flat"),
        (IndexConfig(memory=519_999 / 2**30, latency=1e-3), "IVF15,Flat"),
        (IndexConfig(memory=1, latency=1.9e-3), "HNSW32,Flat"),  # 7.68 MB at 4 GB a second take 1.92 microseconds
        (IndexConfig(memory=1, latency=1.93e-3), "IVF15,Flat"),
        (IndexConfig(memory=1, latency=1e9, method="hnsw"), "HNSW32,Flat"),
        (IndexConfig(memory=1, latency=1e-9, method="ivf"), "IVF15,Flat"),
    ],
)
def test_choose__to_the_byte(config: IndexConfig, factory: str) -> None:
    plan = approximate.choose(1000, 64, config)
    assert plan.factory == factory
    assert plan.exact_rows == factory.endswith("Flat")
    assert plan.bytes <= config.memory * 2**30 + 1e-6
    assert plan.lists == (15 if factory.startswith("IVF") else 0)


def test_choose__widths_that_no_code_divides_have_fewer_codes() -> None:
    assert approximate.choose(1000, 61, IndexConfig(memory=80_000 / 2**30, latency=1)).factory == "IVF15,SQ8"
    with pytest.raises(ConfigError, match="product codes"):
        approximate.choose(1000, 61, IndexConfig(memory=50_000 / 2**30, latency=1))


class _Found:
    """An index that finds what it is told."""

    def __init__(self, similarities: list[list[float]], ids: list[list[int]]) -> None:
        self._found = np.array(similarities, np.float32), np.array(ids, np.int64)

    def search(self, rows: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
        return tuple(part[: len(rows), :places] for part in self._found)  # type: ignore[return-value]


def test_search_block__places_that_stay_empty_repeat_the_last_row_found() -> None:
    rows = np.eye(5, dtype=np.float32)
    lowest = np.finfo(np.float32).min  # what FAISS writes where it found nothing
    index = _Found(
        [[1.0, 0.9, lowest, lowest], [0.8, 1.0, 0.7, 0.6]],
        [[0, 3, -1, -1], [4, 1, 2, 0]],
    )
    near = approximate.search_block(index, rows, np.arange(2), 3, exact_rows=True)  # type: ignore[arg-type]
    assert near.ids.tolist() == [[3, 3, 3], [4, 2, 0]]
    np.testing.assert_allclose(near.similarities, [[0.9, 0.9, 0.9], [0.8, 0.7, 0.6]])


def test_search_block__similarities_of_codes_are_computed_from_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "_EXACT_A_BLOCK", 2)
    rows = _clustered(5, 4)
    ids = [[n, (n + 1) % 5, (n + 3) % 5] for n in range(5)]
    index = _Found([[0.1, 0.2, 0.3]] * 5, ids)
    near = approximate.search_block(index, rows, np.arange(5), 2, exact_rows=False)  # type: ignore[arg-type]
    for n, (found, similarities) in enumerate(zip(near.ids.tolist(), near.similarities, strict=True)):
        expected = sorted(((float(rows[n] @ rows[other]), other) for other in ids[n][1:]), reverse=True)
        assert found == [other for _, other in expected]
        np.testing.assert_allclose(similarities, [value for value, _ in expected], atol=1e-5)


def test_tune__looks_at_twice_as_many_lists_until_the_recall_is_there() -> None:
    rows = np.random.default_rng(3).normal(size=(2000, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    made = approximate.build(rows, approximate.Plan("ivf", "IVF64,Flat", 64, 0, True))
    by_recall = [approximate.tune(made, rows, 10, IndexConfig(recall=goal, latency=1e9)) for goal in (0.01, 0.9, 1.0)]
    assert by_recall[0].setting == "nprobe=1"
    assert all(one.setting in {f"nprobe={2**n}" for n in range(7)} for one in by_recall)
    places = [int(one.setting.partition("=")[2]) for one in by_recall]
    assert places[0] < places[1] < places[2]
    assert faiss.extract_index_ivf(made).nprobe == places[2], "the index is left set so"
    assert by_recall[2].recall == 1.0
    assert 0 < by_recall[2].milliseconds < 1000
    truth = nearest_rows(rows, 10)
    for goal, places_looked_at in zip((0.01, 0.9), places, strict=False):
        faiss.extract_index_ivf(made).nprobe = places_looked_at
        near = approximate.neighbours(made, rows, 10, exact_rows=True)
        hits = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near.ids.tolist(), truth.ids.tolist(), strict=True)])
        assert hits >= goal - 0.05


def test_tune__a_recall_that_was_just_reached_is_enough_and_all_lists_are_the_end() -> None:
    rows = _clustered(400)
    made = approximate.build(rows, approximate.Plan("ivf", "IVF6,Flat", 6, 0, True))
    first = approximate.tune(made, rows, 5, IndexConfig(recall=0.05, latency=1e9))
    again = approximate.tune(made, rows, 5, IndexConfig(recall=first.recall, latency=1e9))
    assert again.setting == first.setting == "nprobe=1"
    made = approximate.build(rows, approximate.Plan("ivf", "IVF6,SQ4", 6, 0, False))
    most = approximate.tune(made, rows, 5, IndexConfig(recall=1.0, latency=1e9))
    assert most.recall < 1
    assert most.setting == "nprobe=6"
    assert "below" in most.sentence(5, 1.0, 1e9)
    assert "below" not in most.sentence(5, most.recall, 1e9)
    assert "above" not in most.sentence(5, 0.1, most.milliseconds)


def test_run__by_force_rows_that_were_added_are_searched_with_all_others(tmp_path: Path) -> None:
    small, whole = grown(tmp_path, images=8, more=3)
    work, config = tmp_path / "work", IndexConfig(neighbours=3)
    index.run(config, split=_taught(small, work), teacher="words")
    split = _taught(whole, work, append=True)
    assert index.run(config, split=split, teacher="words", force=True).counts == {"rows": 55, "neighbours": 3}
