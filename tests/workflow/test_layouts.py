"""A data set in its official layout, evaluated on directly: one split of it, and what of it was dropped."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from cusa.manifests.samples import Split, splits
from cusa.workflow.layouts import layout_of, shard_split
from tests.worlds import write_karpathy


def test_shard_split__one_split_and_every_row_that_was_dropped(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=2, captions=1)
    rows = json.loads(source.read_text())
    outside = {"filename": "../x.jpg", "sentences": [{"raw": "lost", "sentid": 900}]}
    rows["images"] += [
        {**outside, "split": split, "imgid": 900 + number} for number, split in enumerate(("train", "test"))
    ]
    official = source.with_name("dataset_coco.json")
    official.write_text(json.dumps(rows))
    assert layout_of(official.parent) == ("karpathy", official)
    work = shard_split(official.parent, out=tmp_path / "work")
    assert [Split(work, name).num_images for name in splits(work)] == [0, 2]
    for split, row in (("train", 6), ("test", 7)):
        drops = pq.read_table(work / split / "drops.parquet").to_pylist()
        assert [(drop["kind"], drop["source"]) for drop in drops] == [
            (kind, f"dataset_coco.json images[{row}]") for kind in ("image", "caption")
        ]
