"""A data set in its official layout, evaluated on directly: one split of it, and what of it was dropped."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
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


SIGNS = {
    "Ebay_test.txt": ("sop", "."),
    "Stanford_Online_Products/Ebay_test.txt": ("sop", "Stanford_Online_Products"),
    "image_class_labels.txt": ("cub", "."),
    "CUB_200_2011/image_class_labels.txt": ("cub", "CUB_200_2011"),
    "list_eval_partition.txt": ("in-shop", "."),
    "Eval/list_eval_partition.txt": ("in-shop", "."),
    "Inat_dataset_splits": ("inaturalist", "."),
    "dataset_coco.json": ("karpathy", "dataset_coco.json"),
    "dataset_flickr30k.json": ("karpathy", "dataset_flickr30k.json"),
    "Flickr8k.token.txt": ("flickr8k", "."),
    "Flickr8k_text/Flickr8k.token.txt": ("flickr8k", "."),
    "dataset_flickr8k.json": ("flickr8k", "."),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_layout_of__by_the_file_that_shows_it(tmp_path: Path, sign: str) -> None:
    assert layout_of(tmp_path) is None
    (tmp_path / sign).parent.mkdir(exist_ok=True)
    (tmp_path / sign).touch()
    layout, source = SIGNS[sign]
    assert layout_of(tmp_path) == (layout, tmp_path / source)


def test_shard_split__what_cannot_be_sharded_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is in no layout that can be evaluated on directly"):
        shard_split(tmp_path, out=tmp_path / "work")
    source = write_karpathy(tmp_path / "raw", images=2, captions=1, splits=("train", "val"))
    official = source.rename(source.with_name("dataset_coco.json"))
    with pytest.raises(
        DataError,
        match=rf"has no image in its test split \(it has train, val\)\. `cusa shard karpathy {official} --out",
    ):
        shard_split(official.parent, out=tmp_path / "work")
    assert not (tmp_path / "work").exists()
    events: list[tuple[object, ...]] = []
    shard_split(official.parent, out=tmp_path / "work", split="val", on_event=lambda *event: events.append(event))
    assert events
    assert Split(tmp_path / "work", "val").num_images == 2


def test_shard_split__pictures_of_flickr30k_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=2, captions=1, splits=("test",))
    rows = json.loads(source.read_text())
    rows["images"] = [{name: value for name, value in row.items() if name != "filepath"} for row in rows["images"]]
    (tmp_path / "raw/test").rename(tmp_path / "raw/flickr30k-images")
    source.with_name("dataset_flickr30k.json").write_text(json.dumps(rows))
    work = shard_split(tmp_path / "raw", out=tmp_path / "work")
    assert Split(work, "test").num_images == 2
