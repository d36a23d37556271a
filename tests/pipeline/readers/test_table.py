"""Tables of people's own: every kind of file reads the same, and every row is kept or dropped with its reason."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig

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
    told = ReadConfig(image_column="file", caption_column="text", split_column="part", id_column="n")
    reading = readers.read("table", tmp_path / "mine.csv", tmp_path, told)
    (record,) = reading.images
    assert (record.key, record.split, [c.text for c in record.captions]) == ("mine/7", "val", ["one", "two"])
    assert [drop.source for drop in reading.drops] == [f"mine.csv:{n}" for n in (3, 4, 5)]
    with pytest.raises(DataError, match=r"no column 'image'.*--image-column.*'file'|no column 'image'"):
        readers.read("table", tmp_path / "mine.csv", tmp_path)
    with pytest.raises(DataError, match="no known kind"):
        readers.read("table", tmp_path / "mine.xlsx", tmp_path)
