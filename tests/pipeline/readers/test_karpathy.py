"""Karpathy's JSON: every row is kept or dropped with its reason."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cusa.pipeline import readers

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
