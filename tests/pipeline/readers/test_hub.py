"""Tables with pictures inside: every shape that the hub knows, each row kept or dropped with its reason."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
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
