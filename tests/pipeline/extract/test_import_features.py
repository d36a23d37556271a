"""Imported features: joined by identifier whatever their order, every way in, and every file that must be refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome
from cusa.manifests.storage import store
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ExtractConfig, ShardConfig
from cusa.pipeline.extract import import_features
from cusa.pipeline.extract.import_features import read_features
from tests.worlds import make_work

CONFIG = ExtractConfig(dtype="float32")


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(make_work(tmp_path, images=7, config=ShardConfig(max_images=3, workers=1)), "train")


def _vectors(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(number, 6)).astype(np.float32) * 9


def _run(split: Split, path: Path, *, modality: str = "image", ids: Path | None = None, **more: Any) -> Outcome:
    features = read_features(path, ids)
    return import_features.run(
        CONFIG,
        split=split,
        features=features,
        sha256=store.sha256_file(path),
        teacher="mine",
        modality=modality,
        **more,
    )


def _expected(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["key", "half", "path", "name", "stem", "number"])
def test_run__rows_are_found_by_any_identifier_in_any_order(tmp_path: Path, split: Split, kind: str) -> None:
    sources = split.samples["source"].to_pylist()
    names: list[Any] = {
        "key": split.image_keys,
        "half": [key.split("/")[1] for key in split.image_keys],
        "path": sources,
        "name": [Path(source).name for source in sources],
        "stem": [Path(source).stem for source in sources],
        "number": [int(Path(source).stem.split("_")[1]) for source in sources],
    }[kind]
    vectors = _vectors(9)
    order = np.random.default_rng(1).permutation(9)
    further = [*names, *([98, 99] if kind == "number" else ["other", "another"])]
    np.savez(tmp_path / "f.npz", ids=np.array(further)[order], embeddings=vectors[order])
    done = _run(split, tmp_path / "f.npz")
    assert done.counts == {"rows": 7, "left_in_file": 2, "width": 6}
    table = tables.read_teacher(split, "mine")
    np.testing.assert_allclose(table.embeddings, _expected(vectors[:7]), rtol=0, atol=1e-6)
    assert table.metadata["revision"] == "imported"
    assert table.metadata["source_sha256"] == store.sha256_file(tmp_path / "f.npz")
    assert not _run(split, tmp_path / "f.npz").fresh


def test_run__parquet_of_captions_and_npy_with_a_list(tmp_path: Path, split: Split) -> None:
    vectors = _vectors(35)
    columns = {"caption_key": split.caption_keys[::-1], "embedding": list(vectors[::-1])}
    pq.write_table(pa.table(columns), tmp_path / "f.parquet")
    _run(split, tmp_path / "f.parquet", modality="text")
    np.testing.assert_allclose(tables.read_teacher(split, "mine").embeddings, _expected(vectors), rtol=0, atol=1e-6)
    np.save(tmp_path / "f.npy", vectors.astype(np.float16))
    (tmp_path / "ids.txt").write_text("\n".join(split.captions["caption_id"].to_pylist()))
    done = _run(split, tmp_path / "f.npy", modality="text", ids=tmp_path / "ids.txt")
    assert done.why == "features changed"
    assert done.notes == ("Rows were found by caption id.",)
    with pytest.raises(ConfigError, match="Give their identifiers with --ids"):
        read_features(tmp_path / "f.npy")


def test_run__a_changed_file_of_identifiers_is_due(tmp_path: Path, split: Split) -> None:
    vectors = _vectors(7)
    np.save(tmp_path / "f.npy", vectors)
    ids = tmp_path / "ids.txt"
    with pytest.raises(DataError, match=r"--ids .*ids\.txt does not exist"):
        _run(split, tmp_path / "f.npy", ids=ids)
    ids.write_text("\n".join(split.image_keys))
    assert _run(split, tmp_path / "f.npy", ids=ids).fresh
    assert not _run(split, tmp_path / "f.npy", ids=ids).fresh
    ids.write_text("\n".join(split.image_keys[::-1]))
    assert _run(split, tmp_path / "f.npy", ids=ids).why == "ids changed"
    found = tables.read_teacher(split, "mine").embeddings
    np.testing.assert_allclose(found, _expected(vectors[::-1]), rtol=0, atol=1e-6)


def test_run__a_missing_row_and_a_zero_one_are_named(tmp_path: Path, split: Split) -> None:
    vectors = _vectors(7)
    np.savez(tmp_path / "f.npz", ids=np.array(split.image_keys[:6]), embeddings=vectors[:6])
    with pytest.raises(DataError, match=r"6 of 7 were found by key, not for example 'mini/picture_0006'"):
        _run(split, tmp_path / "f.npz")
    for bad in (0.0, np.nan):
        vectors[4] = bad
        np.savez(tmp_path / "f.npz", ids=np.array(split.image_keys), embeddings=vectors)
        with pytest.raises(DataError, match="the vector of 'mini/picture_0004' is zero or not finite"):
            _run(split, tmp_path / "f.npz", force=True)
    with pytest.raises((DataError, StaleError)):
        tables.read_teacher(split, "mine")


def test_read_features__what_is_refused(tmp_path: Path) -> None:
    released = np.empty(2, dtype=object)
    released[:] = [{"1": np.ones((1, 3))}, {}]
    np.save(tmp_path / "pickled.npy", released, allow_pickle=True)
    with pytest.raises(DataError, match=r"never loaded: they may run code.*np\.savez"):
        read_features(tmp_path / "pickled.npy", tmp_path / "ids.txt")
    np.savez(tmp_path / "names.npz", a=np.ones(3), b=np.ones((3, 2)))
    with pytest.raises(DataError, match="has none of key, .*; it has a, b"):
        read_features(tmp_path / "names.npz")
    np.savez(tmp_path / "twice.npz", ids=np.array(["a", "b", "a"]), embeddings=np.ones((3, 2)))
    with pytest.raises(DataError, match="the identifier 'a' more than once"):
        read_features(tmp_path / "twice.npz")
    np.savez(tmp_path / "short.npz", ids=np.array(["a", "b"]), embeddings=np.ones((3, 2)))
    with pytest.raises(DataError, match="has 3 vectors but 2 identifiers"):
        read_features(tmp_path / "short.npz")
    np.savez(tmp_path / "flat.npz", ids=np.array(["a", "b"]), embeddings=np.ones(2))
    with pytest.raises(DataError, match="numbers in two dimensions"):
        read_features(tmp_path / "flat.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "twice.npz").read_bytes()[:90])
    with pytest.raises(DataError, match="cannot be read"):
        read_features(tmp_path / "cut.npz")
    (tmp_path / "f.csv").write_text("a,1")
    with pytest.raises(ConfigError, match="reads .npz, .npy, .parquet and folders"):
        read_features(tmp_path / "f.csv")
    with pytest.raises(DataError, match="does not exist"):
        read_features(tmp_path / "nowhere.npz")
    np.savez(tmp_path / "none.npz", ids=np.array([], dtype=str), embeddings=np.zeros((0, 4)))
    pq.write_table(
        pa.table({"key": pa.array([], pa.string()), "embedding": pa.array([], pa.list_(pa.float32()))}),
        tmp_path / "none.parquet",
    )
    for name in ("none.npz", "none.parquet"):
        with pytest.raises(DataError, match=rf"{name} has no rows: there is nothing to import"):
            read_features(tmp_path / name)


def _clip_retrieval(folder: Path, split: Split, rows: list[int], *, part: str, image: bool, text: bool) -> Path:
    """Write a part as clip-retrieval's `OutputSink` does: one caption an image."""
    rng = np.random.default_rng(int(part))
    columns: dict[str, list[str]] = {}
    first = [int(np.flatnonzero(split.caption_owner == row)[0]) for row in rows]
    for there, name, column, values in (
        (image, "img_emb", "image_path", [f"/data/pictures/{split.samples['source'][row]}" for row in rows]),
        (text, "text_emb", "caption", [split.texts[row] for row in first]),
    ):
        if there:
            (folder / name).mkdir(parents=True, exist_ok=True)
            np.save(folder / name / f"{name}_{part}.npy", rng.normal(size=(len(rows), 6)).astype(np.float16))
            columns[column] = values
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    columns["width"] = ["1"] * len(rows)
    pq.write_table(pa.table(columns), folder / "metadata" / f"metadata_{part}.parquet")
    return folder


def _import_folder(split: Split, folder: Path, modality: str) -> Outcome:
    return import_features.run(
        CONFIG,
        split=split,
        features=read_features(folder, modality=modality),
        sha256=store.sha256_folder(folder),
        teacher=f"clip-{modality}",
        modality=modality,
    )


def test_run__a_folder_of_clip_retrieval_in_any_order_of_parts(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=7, captions=1, config=ShardConfig(max_images=3, workers=1)), "train")
    folder, order = tmp_path / "clip", [4, 0, 6, 1, 5, 2, 3]
    for part, rows in (("00", order[:3]), ("01", order[3:])):
        _clip_retrieval(folder, split, rows, part=part, image=True, text=True)
    for modality, name in (("image", "img_emb"), ("text", "text_emb")):
        done = _import_folder(split, folder, modality)
        assert done.counts["rows"] == 7
        written = np.concatenate([np.load(folder / name / f"{name}_{part}.npy") for part in ("00", "01")])
        expected = np.empty_like(written, dtype=np.float32)
        expected[order] = _expected(written.astype(np.float32))
        rows = tables.read_teacher(split, f"clip-{modality}").embeddings
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-6)


def test_read_features__folders_of_clip_retrieval_that_are_refused(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=4, captions=2, config=ShardConfig(workers=1)), "train")
    folder = _clip_retrieval(tmp_path / "clip", split, [0, 1, 2, 3], part="00", image=True, text=False)
    with pytest.raises(DataError, match="no embeddings of texts .*; it holds those of images: give it with --image"):
        read_features(folder, modality="text")
    _clip_retrieval(folder, split, [0, 1, 2, 3], part="00", image=True, text=True)
    with pytest.raises(DataError, match=r"4 of 8 were found by the words of the caption, not for example 'A .*'"):
        _import_folder(split, folder, "text")
    np.save(folder / "img_emb" / "img_emb_00.npy", np.ones((3, 6), np.float16))
    with pytest.raises(DataError, match=r"shape \(3, 6\), and .*metadata_00.parquet names 4 rows"):
        read_features(folder, modality="image")
    np.save(folder / "img_emb" / "img_emb_00.npy", np.ones((4, 5), np.float16))
    _clip_retrieval(folder, split, [0, 1], part="01", image=True, text=False)
    with pytest.raises(DataError, match=r"img_emb_01\.npy is .* names 2 rows of 5 numbers"):
        read_features(folder, modality="image")
    (folder / "metadata" / "metadata_00.parquet").unlink()
    with pytest.raises(DataError, match=r"metadata_00.parquet"):
        read_features(folder, modality="image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no embeddings of images"):
        read_features(tmp_path / "empty")


def test_run__embeddings_by_the_words_of_the_captions(tmp_path: Path, split: Split) -> None:
    """As an API gives them: texts and their vectors."""
    vectors = _vectors(35)
    table = pa.table({"text": [*split.texts[::-1], "another"], "embedding": [*vectors[::-1], vectors[0]]})
    pq.write_table(table, tmp_path / "api.parquet")
    done = _run(split, tmp_path / "api.parquet", modality="text")
    assert done.notes == ("Rows were found by the words of the caption.",)
    np.testing.assert_allclose(tables.read_teacher(split, "mine").embeddings, _expected(vectors), rtol=0, atol=1e-6)


def test_read_features__columns_that_hold_no_vectors_are_named(tmp_path: Path) -> None:
    def read(**columns: list[object]) -> None:
        pq.write_table(pa.table({"id": ["a", "b"], **columns}), tmp_path / "f.parquet")
        read_features(tmp_path / "f.parquet")

    with pytest.raises(DataError, match="'embedding' is double; a row must be a list"):
        read(embedding=[0.5, 0.25])
    with pytest.raises(DataError, match="1 rows of 'embedding' are empty"):
        read(embedding=[None, [0.5, 0.25]])
    with pytest.raises(DataError, match="not all of one length"):
        read(embedding=[[0.5], [0.5, 0.25]])
    np.savez(tmp_path / "f.npz", ids=np.array(["a", "b"]), embeddings=np.zeros((2, 0), np.float32))
    with pytest.raises(DataError, match="at least one number"):
        read_features(tmp_path / "f.npz")


def test_run__one_vector_is_not_given_to_two_different_pictures(tmp_path: Path) -> None:
    """Pictures of one name in two folders: by name alone the file has one vector for both."""
    (tmp_path / "raw/a").mkdir(parents=True)
    (tmp_path / "raw/b").mkdir()
    for folder, colour in (("a", 40), ("b", 90)):
        Image.new("RGB", (20, 20), (colour, 10, 10)).save(tmp_path / f"raw/{folder}/1.png")
    (tmp_path / "raw/t.csv").write_text("image,caption\na/1.png,one\nb/1.png,two\n")
    shard.run(ShardConfig(workers=1), reading=readers.read("table", tmp_path / "raw/t.csv"), out=tmp_path / "work")
    split = Split(tmp_path / "work", "train")

    def run(ids: list[str]) -> Outcome:
        rows = np.random.default_rng(0).normal(size=(len(ids), 4)).astype(np.float32)
        np.savez(tmp_path / "f.npz", ids=np.array(ids), features=rows)
        features = read_features(tmp_path / "f.npz")
        return import_features.run(
            ExtractConfig(), split=split, features=features, sha256="s", teacher="t", modality="image"
        )

    with pytest.raises(DataError, match=r"by file name, '1\.png' is several different images of split 'train'"):
        run(["1.png"])
    assert run(["b/1.png", "a/1.png"]).fresh
    Image.new("RGB", (20, 20), (40, 10, 10)).save(tmp_path / "raw/b/1.png")
    shard.run(ShardConfig(workers=1), reading=readers.read("table", tmp_path / "raw/t.csv"), out=tmp_path / "work")
    split = Split(tmp_path / "work", "train")
    assert run(["1.png"]).counts["rows"] == 2, "the same bytes have the same vector"
