"""Flickr's token file with the real lists of its splits."""

import shutil
from pathlib import Path

from cusa.pipeline import readers
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
    assert images(reading) == {"train": 6001, "val": 1000, "test": 1000}
    assert captions(reading) == {"train": 30_001, "val": 5000, "test": 5000}
    assert [drop.source for drop in reading.drops] == ["Flickr8k.token.txt:40002", "Flickr8k.token.txt:40003"]
