"""The lists of the authors' release."""

import json
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import DataError
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.storage import store
from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import other_key
from tests.pipeline.readers.counting import captions, images
from tests.worlds import write_karpathy


def test_read__lists_of_the_authors(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=3)
    rows = json.loads(source.read_text())["images"]
    for split in ("train", "val", "test"):
        pairs = [
            {"image_path": f"{row['filepath']}/{row['filename']}", "caption": s["raw"], "image_id": f"x_{row['imgid']}"}
            for row in rows
            if row["split"] == split
            for s in row["sentences"]
        ]
        pairs += [{"image_path": "a.jpg", "image_id": "x"}, "text"] if split == "val" else []
        (tmp_path / "raw" / f"{split}.json").write_text(json.dumps(pairs))
    source.unlink()
    reading = readers.read("release", tmp_path / "raw", tmp_path / "raw", ReadConfig(dataset="mini"))
    assert images(reading) == {"train": 3, "val": 3, "test": 3}
    assert captions(reading) == {"train": 15, "val": 15, "test": 15}
    assert [(drop.reason, drop.source) for drop in reading.drops] == [
        ("bad-row", "val.json[15]"),
        ("bad-row", "val.json[16]"),
    ]
    coco = [{"image_path": "val2014/COCO_val2014_000000391895.jpg", "caption": ["one", "two"], "image_id": "coco_1"}]
    (tmp_path / "coco_test.json").write_text(json.dumps(coco))
    (record,) = readers.read("release", tmp_path / "coco_test.json", tmp_path, ReadConfig(dataset="coco")).images
    assert (record.key, record.split, len(record.captions)) == ("coco/000000391895", "test", 2)


def test_read__every_row_is_a_caption_or_a_drop_with_its_reason(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"image_path": "b/x.jpg", "caption": "one"},
        {"image_path": "a.jpg", "caption": ["two", "three"]},
        {"image_path": "b/x.jpg", "caption": "four"},
        {"image_path": "../up.jpg", "caption": "away"},
        {"image_path": "c.jpg", "caption": ["good", 5]},
        {"caption": "no path"},
        {"image_path": "COCO_val2014_000000391895.jpg", "caption": "numbered"},
        {"image_path": "COCO_val2014_391895.jpg", "caption": "short"},
        {"image_path": "mine_000000391895.jpg", "caption": "not COCO's"},
        {"image_path": "COCO_val2014_00000039189x.jpg", "caption": "no number"},
    ]
    source = tmp_path / "my list.json"
    source.write_text(json.dumps(rows))
    reading = readers.read("release", source, tmp_path)
    assert (reading.dataset, reading.files) == ("my_list", {source.name: store.sha256_file(source)})
    kept = {
        "b/x.jpg": ("x", ["one", "four"]),
        "a.jpg": ("a", ["two", "three"]),
        "COCO_val2014_000000391895.jpg": ("000000391895", ["numbered"]),
        "COCO_val2014_391895.jpg": ("COCO_val2014_391895", ["short"]),
        "mine_000000391895.jpg": ("mine_000000391895", ["not COCO's"]),
        "COCO_val2014_00000039189x.jpg": ("COCO_val2014_00000039189x", ["no number"]),
    }
    assert reading.images == [
        ImageRecord(
            f"my_list/{item}",
            "train",
            tmp_path / name,
            name,
            tuple(CaptionRecord("", words) for words in captions),
            other_key=other_key("my_list", name),
        )
        for name, (item, captions) in kept.items()
    ]
    said = {
        3: "the path '../up.jpg' leaves the image folder: {",
        4: "caption is 5, not a text: {",
        5: "no field 'image_path': {",
    }
    for drop, (number, detail) in zip(reading.drops, said.items(), strict=True):
        assert drop == Drop("train", "", f"{source.name}[{number}]", "caption", "bad-row", drop.detail)
        assert drop.detail.startswith(detail)


@pytest.mark.parametrize("content", [{"image_path": "a"}, ["text"], [], [[1]], {"images": [{}]}])
def test_read__what_is_no_list_of_rows_is_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"train\.json is no release list"):
        readers.read("release", tmp_path / "train.json", tmp_path)
