"""Flickr's token file with the real lists of its splits."""

import shutil
from pathlib import Path

from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
from tests.pipeline.readers.counting import captions, images


def test_read__tokens_with_real_split_lists(shared: Path, tmp_path: Path) -> None:
    for file in (shared / "data/layouts/flickr8k").iterdir():
        shutil.copy(file, tmp_path)
    names = {
        split: [line for line in (tmp_path / f"Flickr_8k.{split}Images.txt").read_text().splitlines() if line]
        for split in ("train", "dev", "test")
    }
    lines = [f"{name}#{i}\tcaption {i} of {name}" for found in names.values() for name in found for i in range(5)]
    lines += ["1.jpg#0\tin no list", "no tab here", "x.jpg\tno number"]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(lines))
    reading = readers.read("flickr", tmp_path / "Flickr8k.token.txt", tmp_path)
    assert reading.dataset == "flickr8k"
    assert images(reading) == {"train": 6000, "val": 1000, "test": 1000}
    assert captions(reading) == {"train": 30_000, "val": 5000, "test": 5000}
    assert [(drop.source, drop.kind, drop.reason) for drop in reading.drops] == [
        ("Flickr8k.token.txt:40002", "caption", "bad-row"),
        ("Flickr8k.token.txt:40003", "caption", "bad-row"),
        ("1.jpg", "image", "no-split"),
        ("1.jpg", "caption", "no-split"),
    ]
    said = readers.read("flickr", tmp_path / "Flickr8k.token.txt", tmp_path, ReadConfig(split="val"))
    assert images(said) == {"train": 6000, "val": 1001, "test": 1000}


def test_read__lists_that_disagree_with_the_tokens(tmp_path: Path) -> None:
    """Without lists all train; a name in two lists, and a name that has no caption, become rows of drops."""
    token = tmp_path / "results.token"
    token.write_text("".join(f"{name}.jpg#0\ta caption\n" for name in "abc"))
    assert images(readers.read("flickr", token, tmp_path)) == {"train": 3}
    (tmp_path / "train.txt").write_text("a\nb\nz\n")
    (tmp_path / "test.txt").write_text("b.jpg\nc.jpg\n")
    reading = readers.read("flickr", token, tmp_path)
    assert [(image.source, image.split) for image in reading.images] == [("a.jpg", "train"), ("c.jpg", "test")]
    drops = {(drop.source, drop.kind): (drop.reason, drop.detail) for drop in reading.drops}
    assert drops["b.jpg", "image"] == ("no-split", "the lists of test and train both name it")
    assert drops["z", "image"] == ("no-captions", "results.token has no caption of it")
    assert set(drops) == {("b.jpg", "image"), ("b.jpg", "caption"), ("z", "image")}
