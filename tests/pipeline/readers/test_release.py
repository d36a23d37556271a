"""The lists of the authors' release."""

import json
from pathlib import Path

from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
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
