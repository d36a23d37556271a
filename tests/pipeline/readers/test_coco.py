"""COCO's own files: their documented counts, and the same captions as Karpathy's file."""

import json
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import DataError
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.storage import store
from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
from tests.pipeline.readers.counting import captions, images


def test_read__annotation_files_have_the_documented_counts_and_agree_with_karpathy(shared: Path) -> None:
    folder = shared / "data/coco-mini"
    reading = readers.read("coco", folder / "annotations", folder)
    assert not reading.drops
    assert images(reading) == {"train": 600, "val": 402}
    assert captions(reading) == {"train": 3000, "val": 2003}
    assert all(record.path is not None and record.path.is_file() for record in reading.images)
    # The same captions under the same keys as in Karpathy's file, which was made of them.
    other = readers.read("karpathy", folder / "dataset_coco_all.json", folder)
    texts = {record.key: sorted(c.text for c in record.captions) for record in reading.images}
    assert texts == {record.key: sorted(c.text for c in record.captions) for record in other.images}


IMAGES: list[Any] = [
    {"id": 7, "file_name": "COCO_val2014_000000000007.jpg"},
    {"id": "12", "file_name": "b.jpg"},
    {"id": 0, "file_name": "c.jpg"},
    {"file_name": "nobody.jpg"},
    {"id": 13, "file_name": "../up.jpg"},
    {"id": 14, "file_name": 5},
]
ANNOTATIONS: list[Any] = [
    {"image_id": 12, "id": 100, "caption": "first of twelve"},
    {"image_id": 7, "id": 0, "caption": "of seven"},
    {"image_id": "12", "id": 101, "caption": "second of twelve"},
    {"image_id": 99, "id": 102, "caption": "of none"},
    {"image_id": 7, "caption": "without an id"},
    {"image_id": 7, "id": 103, "caption": 3},
    {"image_id": 13, "id": 104, "caption": "of a path that leads away"},
    {"image_id": "x", "id": 105, "caption": "of no number"},
]


@pytest.mark.parametrize("below", [True, False])
def test_read__every_row_is_an_image_or_a_drop_with_its_reason(tmp_path: Path, below: bool) -> None:
    file = tmp_path / "captions_val2014.json"
    file.write_text(json.dumps({"info": {}, "images": IMAGES, "annotations": ANNOTATIONS}))
    folder = tmp_path / "val2014" if below else tmp_path
    folder.mkdir(exist_ok=True)
    reading = readers.read("coco", file, tmp_path)
    assert (reading.dataset, reading.files) == ("coco", {file.name: store.sha256_file(file)})
    kept = [
        ("coco/000000000007", "COCO_val2014_000000000007.jpg", [CaptionRecord("0", "of seven")]),
        (
            "coco/000000000012",
            "b.jpg",
            [CaptionRecord("100", "first of twelve"), CaptionRecord("101", "second of twelve")],
        ),
        ("coco/000000000000", "c.jpg", []),
    ]
    assert reading.images == [
        ImageRecord(key, "val", folder / name, f"{folder.name}/{name}", tuple(captions)) for key, name, captions in kept
    ]
    lost = [
        (file.name, "caption", "no field 'id'"),
        (file.name, "caption", "caption is 3, not a text"),
        (file.name, "caption", "invalid literal for int"),
        (f"{file.name} images[3]", "image", "no field 'id'"),
        (f"{file.name} images[4]", "image", "the path '../up.jpg' leaves the image folder"),
        (f"{file.name} images[4]", "caption", "its image was dropped: 'of a path that leads away'"),
        (f"{file.name} images[5]", "image", "file_name is 5, not a text"),
        (f"{file.name} annotation 102", "caption", "no image 99 in the list; 'of none'"),
    ]
    for drop, (source, kind, detail) in zip(reading.drops, lost, strict=True):
        assert drop == Drop("val", "", source, kind, "bad-row", drop.detail)
        assert drop.detail.startswith(detail)
    assert len(reading.images) + sum(drop.kind == "image" for drop in reading.drops) == len(IMAGES)
    captions = sum(len(image.captions) for image in reading.images)
    assert captions + sum(drop.kind == "caption" for drop in reading.drops) == len(ANNOTATIONS)


def test_read__a_folder_of_files_each_with_the_split_in_its_name(tmp_path: Path) -> None:
    for name, number in (("train2017", 1), ("val2017", 2), ("mine", 3)):
        content = {
            "annotations": [{"image_id": number, "id": number, "caption": name}],
            "images": [{"id": number, "file_name": f"{number}.jpg"}],
        }
        (tmp_path / f"captions_{name}.json").write_text(json.dumps(content))
    (tmp_path / "instances_val2017.json").write_text("{}")
    reading = readers.read("coco", tmp_path, tmp_path, ReadConfig(dataset="other"))
    found = {image.key: (image.split, image.captions[0].text) for image in reading.images}
    assert found == {
        "other/000000000001": ("train", "train2017"),
        "other/000000000002": ("val", "val2017"),
        "other/000000000003": ("train", "mine"),
    }
    assert set(reading.files) == {"captions_mine.json", "captions_train2017.json", "captions_val2017.json"}
    (tmp_path / "captions_val2017.json").write_text(json.dumps({"images": []}))
    with pytest.raises(DataError, match=r"captions_val2017\.json is no COCO caption file"):
        readers.read("coco", tmp_path, tmp_path)
