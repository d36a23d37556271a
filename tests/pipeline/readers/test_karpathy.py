"""Karpathy's JSON: every row is kept or dropped with its reason."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import DataError
from cusa.manifests.records import CaptionRecord, ImageRecord
from cusa.manifests.samples import Split
from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import other_key
from tests.pipeline.readers.counting import shard_counts
from tests.worlds import write_karpathy

GOOD = {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "a dog", "sentid": 7}]}


def _read(folder: Path, rows: list[Any], **top: Any) -> readers.Reading:
    path = folder / "dataset_any.json"
    path.write_text(json.dumps({"images": rows, **top}))
    return readers.read("karpathy", path, folder)


def test_read__coco_mini_has_the_documented_counts(shared: Path) -> None:
    folder = shared / "data/coco-mini"
    reading = readers.read("karpathy", folder / "dataset_coco.json", folder)
    assert reading.dataset == "coco"
    assert not reading.drops
    images = Counter(record.split for record in reading.images)
    captions = Counter[str]()
    for record in reading.images:
        captions[record.split] += len(record.captions)
    assert images == {"train": 599, "val": 199, "test": 200}
    assert captions == {"train": 2996, "val": 995, "test": 1001}
    six = next(record for record in reading.images if record.key == "coco/000000328030")
    assert len(six.captions) == 6
    assert six.path.is_file()


def test_read__restval_trains(tmp_path: Path) -> None:
    reading = _read(tmp_path, [{**GOOD, "split": "restval"}], dataset="flickr30k")
    assert reading.images[0].split == "train"
    assert reading.images[0].key == "flickr30k/a"
    assert reading.images[0].captions[0].caption_id == "7"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("a text", "images\\[0\\]"),
        (None, "images\\[0\\]"),
        ({"split": "train"}, "filename"),
        ({**GOOD, "filename": 5}, "filename is 5"),
        ({**GOOD, "filename": "../../etc/passwd"}, "leaves the image folder"),
        ({**GOOD, "filename": "/etc/passwd"}, "leaves the image folder"),
        ({**GOOD, "filename": ""}, "No key"),
        ({**GOOD, "cocoid": "x"}, "invalid literal"),
    ],
)
def test_read__a_bad_row_is_a_drop(tmp_path: Path, row: Any, why: str) -> None:
    reading = _read(tmp_path, [row, {**GOOD, "filename": "b.jpg"}])
    assert [record.key for record in reading.images] == ["any/b"]
    (drop,) = (drop for drop in reading.drops if drop.kind == "image")
    assert drop.reason == "bad-row"
    assert re.search(why, drop.detail + drop.source)


def test_read__a_bad_caption_leaves_its_image(tmp_path: Path) -> None:
    sentences = [{"raw": "a dog"}, {"raw": None}, "text", {}, {"raw": "a cat"}]
    reading = _read(tmp_path, [{**GOOD, "sentences": sentences}])
    assert [caption.text for caption in reading.images[0].captions] == ["a dog", "a cat"]
    assert [(drop.kind, drop.reason) for drop in reading.drops] == [("caption", "bad-row")] * 3


def test_read__equal_file_names_in_two_folders_are_two_images(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=2, splits=("train",))
    rows = json.loads(source.read_text())["images"]
    pictures = [(source.parent / row["filepath"] / row["filename"]).read_bytes() for row in rows]
    for folder, picture in zip("ab", pictures, strict=True):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").write_bytes(picture)
    twice = [{**GOOD, "filepath": folder, "filename": "1.jpg"} for folder in "aba"]
    reading = _read(tmp_path, twice)
    counts = shard_counts(reading, tmp_path / "work")
    assert (counts["images_kept"], counts["images_dropped"]) == (2, 1), "the same file twice stays a drop"
    split = Split(tmp_path / "work", "train")
    assert split.samples["source"].to_pylist() == ["a/1.jpg", "b/1.jpg"]
    assert split.image_keys[0] == "any/1"
    assert [split.image_bytes(row) for row in range(2)] == pictures


def test_read__an_unknown_split_is_an_error_with_its_rows(tmp_path: Path) -> None:
    reading = _read(
        tmp_path, [{**GOOD, "filename": f"{n}.jpg", "split": s} for n, s in enumerate(["Test", 2, "2", "x"])]
    )
    with pytest.raises(DataError, match=r"dataset_any\.json names splits.*'2' \(2 rows\), 'x' \(1 rows\)"):
        list(reading.rows)
    assert [record.split for record in _read(tmp_path, [{**GOOD, "split": "validation "}]).images] == ["val"]


def test_read__ids_of_0_are_ids(tmp_path: Path) -> None:
    rows = [{**GOOD, "cocoid": 0, "sentences": [{"raw": "a", "sentid": 0}, {"raw": "b", "sentid": None}]}]
    (record,) = _read(tmp_path, rows).images
    assert record.key == "any/000000000000"
    assert [caption.caption_id for caption in record.captions] == ["0", ""]
    (record,) = _read(tmp_path, [{**GOOD, "cocoid": None}]).images
    assert record.key == "any/a"


def test_read__every_row_is_an_image_or_a_drop_that_says_which_row_it_was(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"filename": "a.jpg", "split": "val", "sentences": [{"raw": "one", "sentid": 4}, {"sentid": 5}, 3]},
        {"split": "test", "sentences": [{"raw": "lost"}, {"raw": "too"}]},
        "no row",
        {"filename": "b.jpg", "filepath": "val2014", "cocoid": 12, "split": "restval"},
        {"filename": "../c.jpg", "split": "test", "sentences": [{"raw": "away"}]},
    ]
    source = tmp_path / "dataset_mine.json"
    source.write_text(json.dumps({"images": rows, "other": 1}))
    reading = readers.read("karpathy", source, tmp_path)
    assert (reading.dataset, set(reading.files)) == ("mine", {source.name})
    assert reading.images == [
        ImageRecord(
            "mine/a",
            "val",
            tmp_path / "a.jpg",
            "a.jpg",
            (CaptionRecord("4", "one"),),
            other_key=other_key("mine", "a.jpg"),
        ),
        ImageRecord("mine/000000000012", "train", tmp_path / "val2014/b.jpg", "val2014/b.jpg", ()),
    ]
    found = [(drop.split, drop.key, drop.source, drop.kind, drop.reason) for drop in reading.drops]
    bad = f"{source.name} images"
    assert found == [
        ("val", "mine/a", "a.jpg", "caption", "bad-row"),
        ("val", "mine/a", "a.jpg", "caption", "bad-row"),
        ("test", "", f"{bad}[1]", "image", "bad-row"),
        ("test", "", f"{bad}[1]", "caption", "bad-row"),
        ("test", "", f"{bad}[1]", "caption", "bad-row"),
        ("train", "", f"{bad}[2]", "image", "bad-row"),
        ("test", "", f"{bad}[4]", "image", "bad-row"),
        ("test", "", f"{bad}[4]", "caption", "bad-row"),
    ]
    assert [drop.detail for drop in reading.drops][2] == "no field 'filename'"
    named = json.dumps({"dataset": "", "images": rows[:1], "more": [1]})
    source.write_text(named)
    assert readers.read("karpathy", source, tmp_path).dataset == "mine"
    source.write_text(named.replace('"dataset": ""', '"dataset": "theirs"'))
    assert readers.read("karpathy", source, tmp_path).dataset == "theirs"
    assert readers.read("karpathy", source, tmp_path, ReadConfig(dataset="x")).dataset == "x"
