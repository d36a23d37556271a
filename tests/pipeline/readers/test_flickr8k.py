"""Flickr8k as it comes: the official counts by either annotation, and what no list names."""

import json
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers import flickr8k
from tests.pipeline.readers.counting import captions, images

COUNTS = {"train": 6000, "val": 1000, "test": 1000}


def test_read__the_official_counts_by_either_annotation(shared: Path) -> None:
    folder = shared / "data/flickr8k"
    official = readers.read("flickr8k", folder)
    karpathy = readers.read("flickr8k", folder / "dataset_flickr8k.json")
    for reading in (official, karpathy):
        assert reading.dataset == "flickr8k"
        assert images(reading) == COUNTS
        assert captions(reading) == {split: 5 * number for split, number in COUNTS.items()}
    texts = [
        {(image.key, image.split): [caption.text for caption in image.captions] for image in reading.images}
        for reading in (official, karpathy)
    ]
    assert texts[0] == texts[1]
    assert all(image.path is not None and image.path.is_file() for image in official.images)
    lost = [drop for drop in official.drops if drop.kind == "image"]
    assert len(lost) == 92
    assert {drop.reason for drop in official.drops} == {"no-split"}
    assert "2258277193_586949ec62.jpg.1" in {drop.source for drop in lost}
    assert len(official.drops) == 92 + 460
    assert karpathy.drops == []


def _folder(folder: Path, texts: str, pictures: str) -> Path:
    """Write three pictures' names and captions as one of the ways in which people unpack the archives."""
    (folder / texts).mkdir(parents=True, exist_ok=True)
    (folder / pictures).mkdir(parents=True)
    lines = [f"{name}.jpg#{k}\t{name} {k}" for name in "abc" for k in range(5)]
    (folder / texts / flickr8k.TOKENS).write_text("\n".join(lines))
    for name, list_ in zip("abc", flickr8k.LISTS, strict=True):
        (folder / texts / list_).write_text(f"{name}.jpg\n")
        (folder / pictures / f"{name}.jpg").write_bytes(b"picture")
    return folder


@pytest.mark.parametrize(
    ("texts", "pictures"),
    [
        (".", "Flicker8k_Dataset"),
        ("Flickr8k_text", "Flickr8k_Dataset/Flicker8k_Dataset"),
        (".", "images"),
        ("Flickr8k_text", "Images"),
    ],
)
def test_read__archives_as_people_unpack_them(tmp_path: Path, texts: str, pictures: str) -> None:
    folder = _folder(tmp_path, texts, pictures)
    for source, at in ((folder, None), (folder / texts / flickr8k.TOKENS, folder)):
        reading = readers.read("flickr8k", source, at)
        assert [(image.key, image.split) for image in reading.images] == [
            ("flickr8k/a", "train"),
            ("flickr8k/b", "val"),
            ("flickr8k/c", "test"),
        ]
        assert all(image.path is not None and image.path.is_file() for image in reading.images)


def test_read__a_list_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path, ".", "images")
    (folder / "Flickr_8k.devImages.txt").unlink()
    with pytest.raises(DataError, match=r"lacks Flickr_8k\.devImages\.txt, so"):
        readers.read("flickr8k", folder)
    reading = readers.read("flickr8k", folder, config=ReadConfig(split="val"))
    assert images(reading) == {"train": 1, "val": 1, "test": 1}


def test_read__the_token_file_before_karpathy_s(tmp_path: Path) -> None:
    folder = _folder(tmp_path, ".", "images")
    row = {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "of Karpathy's file"}]}
    (folder / flickr8k.KARPATHY).write_text(json.dumps({"images": [row], "dataset": "flickr8k"}))
    assert images(readers.read("flickr8k", folder)) == {"train": 1, "val": 1, "test": 1}
    (folder / flickr8k.TOKENS).unlink()
    assert images(readers.read("flickr8k", folder)) == {"test": 1}
