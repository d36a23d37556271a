"""Tables with pictures inside: every shape that the hub knows, each row kept or dropped with its reason."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cusa.errors import ConfigError, DataError
from cusa.manifests.records import ImageRecord
from cusa.manifests.storage.paths import place
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ReadConfig, ShardConfig
from cusa.pipeline.readers.table_cells import arrow_batches, arrow_cells, read_cell

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _jpeg(colour: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 12), (colour, 90, 40)).save(out, "JPEG")
    return out.getvalue()


def _write(path: Path, columns: dict[str, Any], *, group: int = 2, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=group)
    return path


def _pictures(number: int, *, names: bool = True) -> pa.Array:
    rows = [{"bytes": _jpeg(row), "path": f"p{row}.jpg" if names else None} for row in range(number)]
    return pa.array(rows, PICTURE)


def _bytes(record: ImageRecord) -> bytes:
    assert record.path is not None
    if record.column:
        return read_cell(record.path, record.column, record.offset)
    with record.path.open("rb") as file:
        file.seek(record.offset)
        return file.read(record.length or 0)


def _texts(record: ImageRecord) -> list[str]:
    return [caption.text for caption in record.captions]


def test_read__lists_and_several_columns_of_captions(tmp_path: Path) -> None:
    columns = {"image": _pictures(3), "alt_text": pa.array([["a", "b"], ["c"], []]), "caption_0": ["d", None, "e"]}
    path = _write(tmp_path / "pets/data/validation-00000-of-00001.parquet", columns)
    reading = readers.read("hub", path)
    assert [(one.key, one.split, _texts(one)) for one in reading.images] == [
        ("pets/p0", "val", ["a", "b", "d"]),
        ("pets/p1", "val", ["c"]),
        ("pets/p2", "val", ["e"]),
    ]
    assert [_bytes(one) for one in reading.images] == [_jpeg(row) for row in range(3)]
    one = readers.read("hub", path, config=ReadConfig(caption_column="caption_0"))
    assert [_texts(row) for row in one.images] == [["d"], [], ["e"]]
    with pytest.raises(DataError, match="has no column 'caption_9'"):
        readers.read("hub", path, config=ReadConfig(caption_column="caption_0,caption_9"))


def test_read__a_binary_column_under_another_name_and_names_of_classes(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}
    columns = {"jpg": pa.array([_jpeg(1), _jpeg(2)]), "label": [1, 0]}
    path = _write(tmp_path / "pets.parquet", columns, metadata={"huggingface": json.dumps(features)})
    reading = readers.read("hub", path)
    assert [(one.key, one.label) for one in reading.images] == [
        ("pets/pets-0000000", "dog"),
        ("pets/pets-0000001", "cat"),
    ]


@pytest.mark.parametrize("keys", [[7, 8], ["x", "y"]])
def test_read__a_column_of_other_keys_means_nothing(tmp_path: Path, keys: list[Any]) -> None:
    rows = [{"bytes": _jpeg(0), "path": "a/p.jpg"}, {"bytes": _jpeg(1), "path": "b/p.jpg"}]
    columns = {"image": pa.array(rows, PICTURE), "text": ["one", "two"], "key": keys, "source": [1, 2]}
    reading = readers.read("hub", _write(tmp_path / "pets.parquet", columns))
    outcome = shard.run(ShardConfig(workers=1), reading=reading, out=tmp_path / "work")
    assert outcome.counts["images_kept"] == 2
    keys_kept = pq.read_table(tmp_path / "work/train/samples.parquet")["key"].to_pylist()
    assert keys_kept == ["pets/p", "pets/pets-0000001"]


def test_read__a_row_without_a_picture_is_a_drop_with_its_captions(tmp_path: Path) -> None:
    rows = [{"bytes": _jpeg(0), "path": "a/p.jpg"}, {"bytes": b"no picture", "path": "b/p.jpg"}, None]
    columns = {"image": pa.array(rows, PICTURE), "text": ["one", "two", "three"]}
    path = _write(tmp_path / "train.parquet", columns)
    outcome = shard.run(ShardConfig(workers=1), reading=readers.read("hub", path), out=tmp_path / "work")
    assert (outcome.counts["images_kept"], outcome.counts["images_dropped"]) == (1, 2)
    assert outcome.counts["captions_dropped"] == 2
    drops = pq.read_table(tmp_path / "work/train/drops.parquet").to_pylist()
    reasons = {(row["kind"], row["reason"]) for row in drops}
    assert reasons == {(kind, reason) for kind in ("image", "caption") for reason in ("missing", "not-an-image")}


def test_read__arrow_pictures_are_read_where_they_lie(tmp_path: Path) -> None:
    table = pa.table({"image": _pictures(5), "text": [f"text {row}" for row in range(5)]})
    folder = tmp_path / "saved/test"
    folder.mkdir(parents=True)
    path = str(folder / "data-00000-of-00001.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    with pa.OSFile(str(tmp_path / "feather.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.slice(1), max_chunksize=3)
    reading = readers.read("hub", tmp_path / "saved")
    assert [_bytes(one) for one in reading.images] == [_jpeg(row) for row in range(5)]
    assert {one.split for one in reading.images} == {"test"}
    one = readers.read("hub", tmp_path / "feather.arrow")
    assert [_bytes(row) for row in one.images] == [_jpeg(row) for row in range(1, 5)]


def test_read__compressed_arrow_is_refused_in_words(tmp_path: Path) -> None:
    table = pa.table({"image": _pictures(3), "text": ["a", "b", "c"]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    path = str(tmp_path / "x.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="buffers are compressed. Save it as Parquet"):
        list(readers.read("hub", tmp_path / "x.arrow").rows)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a.jpg"], "text": ["x"]}, "no column holds pictures"),
        ({"a": [b"x"], "b": [b"y"], "text": ["x"]}, "a, b hold pictures"),
        ({"image": [b"x"], "number": [1]}, "no column of captions"),
    ],
)
def test_read__columns_that_are_missing_are_named(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        readers.read("hub", _write(tmp_path / "t.parquet", columns))
    with pytest.raises(DataError, match="holds none"):
        readers.read("hub", tmp_path / "nothing.csv")


def test_read__a_broken_file_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.parquet", {"image": _pictures(4), "text": list("abcd")})
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    rows = readers.read("hub", path).images  # the pictures are not read yet
    with pytest.raises(OSError, match="."):
        _bytes(rows[0])
    path.write_bytes(data[:100])
    with pytest.raises(DataError, match="is no readable table"):
        readers.read("hub", path)


@settings(deadline=None)
@given(st.lists(st.none() | st.binary(max_size=20), min_size=1, max_size=9), st.integers(1, 4), st.booleans())
def test_cells__every_cell_of_any_column(values: list[bytes | None], chunk: int, wide: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.arrow"
        kind = pa.large_binary() if wide else pa.binary()
        table = pa.table({"x": pa.array(values, kind)})
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=chunk)
        data = path.read_bytes()
        cells = [
            cell for batch, address, size in arrow_batches(path) for cell in arrow_cells(batch.column(0), address, size)
        ]
        assert [cell and data[cell.offset : cell.offset + cell.length] for cell in cells] == values
        pq.write_table(table, path, row_group_size=chunk)
        for row, value in enumerate(values):
            if value is None:
                with pytest.raises(OSError, match="holds no bytes"):
                    read_cell(path, "x", row)


def test_place__the_hub_offline_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE forbids to ask it.*hf download"):
        place("hf://datasets/owner/name")


@pytest.mark.parametrize(
    ("file", "config", "split"),
    [
        ("pets/data/test-00000-of-00002.parquet", {}, "test"),
        ("pets/data/validation-00000-of-00001-0123456789abcdef.parquet", {}, "val"),
        ("pets/dev.parquet", {}, "val"),
        ("pets/test/data-00000-of-00001.parquet", {}, "test"),
        ("pets/val/part-00000.parquet", {}, "val"),
        ("pets/part-00000.parquet", {}, "train"),
        ("pets/latest.parquet", {}, "train"),
        ("pets/test-00000-of-00002.parquet", {"split": "val"}, "val"),
        ("pets/queries-00000-of-00001.parquet", {}, "queries"),
    ],
)
def test_read__the_split_is_told_by_the_option_the_file_or_its_folder(
    tmp_path: Path, file: str, config: dict[str, str], split: str
) -> None:
    _write(tmp_path / file, {"image": _pictures(1), "text": ["a"]})
    reading = readers.read("hub", tmp_path / "pets", config=ReadConfig(**config))
    assert [one.split for one in reading.images] == [split]
    assert any("train" in note for note in reading.notes) == (split == "train")


def test_read__a_column_of_splits_comes_before_the_files_name(tmp_path: Path) -> None:
    columns = {"image": _pictures(4), "text": list("abcd"), "split": ["test", "validation", None, "train"]}
    path = _write(tmp_path / "val-00000-of-00001.parquet", columns)
    reading = readers.read("hub", path)
    assert [one.split for one in reading.images] == ["test", "val", "val", "train"]


@pytest.mark.parametrize(
    ("file", "given", "dataset"),
    [
        ("pets/data/train-00000-of-00001.parquet", "pets/data/train-00000-of-00001.parquet", "pets"),
        ("pets/data/train-00000-of-00001.parquet", "pets/data", "pets"),
        ("pets/data/train-00000-of-00001.parquet", "pets", "pets"),
        ("pets/cats.parquet", "pets/cats.parquet", "cats"),
        ("my pets!/train.parquet", "my pets!", "my_pets_"),
    ],
)
def test_read__a_data_set_is_called_as_its_file_or_folder(tmp_path: Path, file: str, given: str, dataset: str) -> None:
    _write(tmp_path / file, {"image": _pictures(1), "text": ["a"]})
    assert [one.key for one in readers.read("hub", tmp_path / given).images] == [f"{dataset}/p0"]
    named = readers.read("hub", tmp_path / given, config=ReadConfig(dataset="other"))
    assert [one.key for one in named.images] == ["other/p0"]


def test_read__rows_are_numbered_through_groups_and_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cusa.pipeline.readers.hub._BATCH", 2)
    columns = {"image": _pictures(7, names=False), "text": [f"text {row}" for row in range(7)]}
    path = _write(tmp_path / "pets/data/train-00000-of-00001.parquet", columns, group=3)
    reading = readers.read("hub", path)
    assert [one.key for one in reading.images] == [f"pets/train-00000-of-00001-{row:07d}" for row in range(7)]
    assert [one.source for one in reading.images] == [f"train-00000-of-00001.parquet row {row}" for row in range(7)]
    assert [_bytes(one) for one in reading.images] == [_jpeg(row) for row in range(7)]
    assert [_texts(one) for one in reading.images] == [[f"text {row}"] for row in range(7)]
    size = len(_jpeg(0))
    assert all(0 < (one.length or 0) < 4 * size for one in reading.images), "about what a picture takes"


def test_read__ids_name_keys_and_labels_their_classes_where_they_can(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    columns = {"image": _pictures(4), "label": [1, 0, 2, -1], "id": ["a", "", "c", "d"]}
    path = _write(tmp_path / "pets.parquet", columns, metadata={"huggingface": json.dumps(features)})
    reading = readers.read("hub", path)
    assert [(one.key, one.label) for one in reading.images] == [
        ("pets/a", "dog"),
        ("pets/p1", "cat"),
        ("pets/c", "2"),
        ("pets/d", "-1"),
    ]
    assert [one.other_key for one in reading.images] == ["", "pets/pets-0000001", "", ""]


def test_read__captions_in_lists_of_structs_and_texts_that_are_lists(tmp_path: Path) -> None:
    structs = pa.list_(pa.struct([("raw", pa.string()), ("sentid", pa.int64())]))
    columns = {
        "image": _pictures(2),
        "sentences": pa.array([[{"raw": "a", "sentid": 1}, {"raw": "b", "sentid": 2}], []], structs),
        "sentids": pa.array([[1, 2], []], pa.list_(pa.int64())),
        "raw": ['["c", "d"]', "e"],
    }
    reading = readers.read("hub", _write(tmp_path / "pets.parquet", columns))
    assert [_texts(one) for one in reading.images] == [["a", "b", "c", "d"], ["e"]]
    assert reading.notes == ("Captions were taken from sentences, raw. --column caption=NAME,NAME names others.",) or (
        "sentences, raw" in " ".join(reading.notes)
    )


@pytest.mark.parametrize("option", ["split", "label", "id", "source"])
def test_read__a_column_that_was_named_and_is_not_there_is_refused(tmp_path: Path, option: str) -> None:
    path = _write(tmp_path / "pets.parquet", {"image": _pictures(1), "caption": ["a"]})
    with pytest.raises(DataError, match="has no column 'mine'"):
        readers.read("hub", path, config=ReadConfig(**{f"{option}_column": "mine"}))
    with pytest.raises(DataError, match="column 'image' is struct.*, not texts"):
        readers.read("hub", path, config=ReadConfig(caption_column="image"))


def test_read__of_several_pictures_a_row_the_named_ones(tmp_path: Path) -> None:
    other = pa.array([{"bytes": _jpeg(9), "path": "q.jpg"}], PICTURE)
    path = _write(tmp_path / "pets.parquet", {"first": _pictures(1), "second": other, "caption": ["a"]})
    with pytest.raises(DataError, match="first, second hold pictures"):
        readers.read("hub", path)
    (one,) = readers.read("hub", path, config=ReadConfig(image_column="second")).images
    assert (one.key, _bytes(one)) == ("pets/q", _jpeg(9))
    both = _write(tmp_path / "more.parquet", {"image": _pictures(1), "second": other, "caption": ["a"]})
    (one,) = readers.read("hub", both).images
    assert _bytes(one) == _jpeg(0), "the one that is called image"


def test_read__the_cache_of_the_datasets_library_is_no_part_of_a_data_set(tmp_path: Path) -> None:
    for name in ("train.parquet", "cache-0123.parquet", ".hidden.parquet"):
        _write(tmp_path / "pets" / name, {"image": _pictures(1), "caption": ["a"]})
    reading = readers.read("hub", tmp_path / "pets")
    assert list(reading.files) == ["train.parquet"]
    assert len(reading.images) == 1


def test_read__our_own_export_gives_keys_ids_places_and_sources_again(tmp_path: Path) -> None:
    columns = {
        "image": _pictures(3),
        "text": [["a", "b"], ["c", "d"], ["e"]],
        "key": ["mini/one", "mini/two", "no key of ours"],
        "caption_keys": [["mini/one#0", "mini/one#3"], ["mini/two#1"], ["mini/x#4"]],
        "caption_ids": [["7", "9"], ["1", "2"], ["5"]],
        "caption_sources": [["human", "synthetic"], ["", "human"], ["human"]],
        "source": ["raw/one.jpg", "raw/two.jpg", "raw/three.jpg"],
        "role": ["query", "", "gallery"],
    }
    one, two, three = readers.read("hub", _write(tmp_path / "pets.parquet", columns)).images
    assert [(row.key, row.source, row.role, row.other_key) for row in (one, two)] == [
        ("mini/one", "raw/one.jpg", "query", ""),
        ("mini/two", "raw/two.jpg", "", ""),
    ]
    assert [(c.text, c.caption_id, c.position, c.source) for c in one.captions] == [
        ("a", "7", 0, "human"),
        ("b", "9", 3, "synthetic"),
    ]
    assert [(c.text, c.caption_id, c.source) for c in two.captions] == [("c", "1", ""), ("d", "2", "human")]
    assert two.captions[1].position != 1, "one key of two captions says nothing of them"
    assert (three.key, three.source, three.role) == ("pets/p2", "p2.jpg", "")
    assert [(c.caption_id, c.source) for c in three.captions] == [("", "")]


def test_read__arrow_pictures_without_names(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([_jpeg(row) for row in range(5)]), "text": list("abcde")})
    with pa.OSFile(str(tmp_path / "pets.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    reading = readers.read("hub", tmp_path / "pets.arrow")
    assert [(one.key, *_texts(one)) for one in reading.images] == [
        (f"pets/pets-{row:07d}", word) for row, word in enumerate("abcde")
    ]
    assert [_bytes(one) for one in reading.images] == [_jpeg(row) for row in range(5)]
