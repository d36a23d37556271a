"""Tables of people's own: every kind of file reads the same, and every row is kept or dropped with its reason."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError
from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
from tests.pipeline.readers.counting import shard_counts
from tests.worlds import write_karpathy

TABLE = [
    {"image": "a.jpg", "caption": 'one, "quoted"\nand a second line', "split": "train", "label": "x"},
    {"image": "a.jpg", "caption": "two", "split": "train", "label": "x"},
    {"image": "b.jpg", "caption": "three", "split": "test", "label": ""},
]


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_read__every_kind_reads_the_same(tmp_path: Path, suffix: str) -> None:
    _write_table(tmp_path / f"mine{suffix}", TABLE)
    reading = readers.read("table", tmp_path / f"mine{suffix}", tmp_path)
    assert reading.dataset == "mine"
    assert not reading.drops
    assert [(r.key, r.split, r.label, [c.text for c in r.captions]) for r in reading.images] == [
        ("mine/a", "train", "x", [TABLE[0]["caption"], "two"]),
        ("mine/b", "test", "", ["three"]),
    ]


def test_read__columns_by_name_and_rows_that_disagree(tmp_path: Path) -> None:
    rows = [
        {"file": "d/a.jpg", "text": '["one", "two"]', "part": "val", "n": "7"},
        {"file": "d/a.jpg", "text": "three", "part": "test", "n": "7"},
        {"file": "../b.jpg", "text": "four", "part": "val", "n": "8"},
        {"file": "", "text": "five", "part": "val", "n": "9"},
    ]
    _write_table(tmp_path / "mine.csv", rows)
    config = ReadConfig(image_column="file", caption_column="text", split_column="part", id_column="n")
    reading = readers.read("table", tmp_path / "mine.csv", tmp_path, config)
    (record,) = reading.images
    assert (record.key, record.split, [c.text for c in record.captions]) == ("mine/7", "val", ["one", "two"])
    assert [drop.source for drop in reading.drops] == [f"mine.csv:{n}" for n in (3, 4, 5)]
    with pytest.raises(DataError, match=r"no column 'image'.*--image-column.*'file'|no column 'image'"):
        readers.read("table", tmp_path / "mine.csv", tmp_path)
    with pytest.raises(DataError, match="no known kind"):
        readers.read("table", tmp_path / "mine.xlsx", tmp_path)


def _lines(path: Path, rows: list[str]) -> readers.Reading:
    path.write_text("".join(f"{row}\n" for row in rows))
    return readers.read("table", path, path.parent)


def _by_name(reading: readers.Reading) -> dict[str, list[str]]:
    return {record.source: [caption.text for caption in record.captions] for record in reading.images}


def test_table__a_row_with_other_fields_than_the_header_is_a_drop(tmp_path: Path) -> None:
    reading = _lines(tmp_path / "t.csv", ["image,caption", "0.jpg,A dog, a cat", "1.jpg,fine", "2.jpg"])
    assert _by_name(reading) == {"1.jpg": ["fine"]}
    assert [(d.source, d.kind, d.reason) for d in reading.drops] == [
        ("t.csv:2", "caption", "bad-row"),
        ("t.csv:4", "caption", "bad-row"),
    ]
    assert "3 fields separated by ','" in reading.drops[0].detail


def test_table__no_tsv_row_is_swallowed_by_a_quote(tmp_path: Path) -> None:
    texts = ["plain", '"No parking" sign by a wall', "plain", '"What a day, says the man', "plain", 'five inches 5"']
    rows = [f"{number}.jpg\t{text}" for number, text in enumerate(texts)]
    reading = _lines(tmp_path / "t.tsv", ["image\tcaption", *rows])
    assert _by_name(reading) == {f"{number}.jpg": [text] for number, text in enumerate(texts)}
    assert reading.drops == []


def test_table__labels_and_ids_of_0_are_labels_and_ids(tmp_path: Path) -> None:
    rows = [{"image": f"{n}.jpg", "caption": "x", "label": n % 2, "id": n} for n in range(3)]
    for name in ("t.jsonl", "t.parquet", "t.csv"):
        _write_table(tmp_path / name, rows)
        images = readers.read("table", tmp_path / name).images
        assert [(record.key, record.label) for record in images] == [("t/0", "0"), ("t/1", "1"), ("t/2", "0")], name
    _write_table(tmp_path / "t.parquet", [{**rows[1], "label": None}, {**rows[2], "label": 1}])
    assert [record.label for record in readers.read("table", tmp_path / "t.parquet").images] == ["", "1"]


def test_table__splits_are_words_or_an_error(tmp_path: Path) -> None:
    rows = ["image,caption,Split", "0.jpg,x,Train", "1.jpg,x,test ", "2.jpg,x,valid", "3.jpg,x,"]
    reading = _lines(tmp_path / "devices.csv", rows)
    assert [record.split for record in reading.images] == ["train", "test", "val", "train"]
    assert "split from 'Split'" in reading.notes[0]
    bad = _lines(tmp_path / "latest.csv", [*rows, "4.jpg,x,train/val", "5.jpg,x,eval"])
    with pytest.raises(DataError, match=r"'train/val' \(1 rows\), 'eval' \(1 rows\)"):
        list(bad.rows)
    with pytest.raises(DataError, match=r"'train/val'"):
        shard_counts(bad, tmp_path / "work")
    assert not list((tmp_path / "work").glob("*/*")), "nothing is written of a table that is refused"
    own = ReadConfig(split_names={"train/val": "train", "eval": "val"})
    reading = readers.read("table", tmp_path / "latest.csv", tmp_path, own)
    assert [record.split for record in reading.images][-2:] == ["train", "val"]
    with pytest.raises(ConfigError, match=r"--split 'a/b'"):
        readers.read("table", tmp_path / "latest.csv", tmp_path, ReadConfig(split="a/b"))


@pytest.mark.parametrize("name", ["latest", "contest2024", "devices", "festival"])
def test_table__a_part_of_the_file_s_name_is_no_split(tmp_path: Path, name: str) -> None:
    reading = _lines(tmp_path / f"{name}.csv", ["image,caption", "0.jpg,x"])
    assert [record.split for record in reading.images] == ["train"]
    assert any("rows without one are train" in note for note in reading.notes)
    (tmp_path / "evaluation.csv").write_text("image,caption\n0.jpg,x\n")
    with pytest.raises(DataError, match="may mean test or val"):
        list(readers.read("table", tmp_path / "evaluation.csv").rows)


def test_table__columns_are_guessed_aloud_or_asked_for(tmp_path: Path) -> None:
    reading = _lines(tmp_path / "t.csv", ["filepath\ttitle", "0.jpg\ta red, thing"])
    assert _by_name(reading) == {"0.jpg": ["a red, thing"]}
    assert "image from 'filepath', caption from 'title'" in reading.notes[0]
    with pytest.raises(DataError, match=r"no column 'image'.*--column image=NAME"):
        _lines(tmp_path / "t.csv", ["where,title", "0.jpg,x"])
    with pytest.raises(DataError, match=r"no column 'caption'.*--column caption=NAME"):
        _lines(tmp_path / "t.csv", ["image,title,comment", "0.jpg,x,y"])
    with pytest.raises(DataError, match=r"no column 'part'.*--column split=NAME"):
        readers.read("table", tmp_path / "t.csv", tmp_path, ReadConfig(caption_column="title", split_column="part"))
    with pytest.raises(DataError, match="several columns 'caption'"):
        _lines(tmp_path / "t.csv", ["image,caption,caption", "0.jpg,x,y"])


def test_table__what_parquet_columns_hold(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"image": "0.jpg", "caption": [{"text": "a", "id": 0}, {"text": "b", "id": 1}]}]
    _write_table(tmp_path / "t.parquet", rows)
    (record,) = readers.read("table", tmp_path / "t.parquet").images
    assert [tuple(caption[:3]) for caption in record.captions] == [("0", "a", None), ("1", "b", None)]
    for image, caption, match in (
        ({"bytes": b"x", "path": "0.jpg"}, "x", r"column 'image' holds the pictures themselves \(struct"),
        (b"x", "x", r"column 'image' holds the pictures themselves \(binary\)"),
        ("0.jpg", b"x", r"column 'caption' is binary.*--column caption=NAME"),
    ):
        _write_table(tmp_path / "t.parquet", [{"image": image, "caption": caption}])
        with pytest.raises(DataError, match=match):
            readers.read("table", tmp_path / "t.parquet")
    table = pa.table({"image": ["0.jpg"] * 3, "caption": ["a", None, "b"]})
    pq.write_table(table, tmp_path / "t.parquet")
    reading = readers.read("table", tmp_path / "t.parquet")
    assert _by_name(reading) == {"0.jpg": ["a", "b"]}
    assert ["caption is empty" in drop.detail for drop in reading.drops] == [True]
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[4:12] = b"\xff" * 8
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"t\.parquet cannot be read after row 0"):
        list(readers.read("table", tmp_path / "t.parquet").rows)


HOSTILE = ["[" * 100_000, "9" * 5000, "{", "[]", "null", '{"image": 0, "caption": "x"}', '{"image": "1.jpg"}']


def test_table__jsonl_with_a_mark_and_hostile_lines(tmp_path: Path) -> None:
    good = '{"image": "0.jpg", "caption": "x"}'
    for encoding in ("utf-8-sig", "utf-16", "utf-8"):
        text = "\r\n".join([good, *HOSTILE, ""])
        (tmp_path / "t.jsonl").write_bytes(text.encode(encoding))
        reading = readers.read("table", tmp_path / "t.jsonl")
        assert _by_name(reading) == {"0.jpg": ["x"]}
        assert [(d.source, d.reason) for d in reading.drops] == [
            (f"t.jsonl:{number}", "bad-row") for number in range(2, len(HOSTILE) + 2)
        ]


def test_table__equal_names_in_two_folders_and_equal_paths_by_other_words(tmp_path: Path) -> None:
    picture = next(write_karpathy(tmp_path / "raw", images=1).parent.rglob("*.jpg")).read_bytes()
    for name in ("a/1.jpg", "b/1.jpg", "a/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture)
    names = ["a/1.jpg", "b/1.jpg", "./a/1.jpg", "a//1.jpg", "a/1.png"]
    reading = _lines(tmp_path / "t.csv", ["image,caption", *(f"{name},row {n}" for n, name in enumerate(names))])
    assert _by_name(reading) == {"a/1.jpg": ["row 0", "row 2", "row 3"], "b/1.jpg": ["row 1"], "a/1.png": ["row 4"]}
    counts = shard_counts(reading, tmp_path / "work")
    assert (counts["images_kept"], counts["captions_kept"], counts["images_dropped"]) == (3, 5, 0)
