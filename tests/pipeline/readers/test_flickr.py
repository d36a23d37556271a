"""Flickr's token file with the real lists of its splits."""

import shutil
from pathlib import Path

import pytest

from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.storage import store
from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import other_key
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


def test_read__every_line_is_a_caption_or_a_drop_with_its_reason(tmp_path: Path) -> None:
    token = tmp_path / "results_20130124.token"
    lines = [
        "b.jpg#0\tB zero\twith a tab",
        "a.jpg#1\tA one",
        "",
        "b.jpg#10\tB ten",
        "c#d.jpg#2\tC",
        "#3\tno name",
        "e.jpg#x\tno number",
        "../f.jpg#0\tup",
    ]
    token.write_text("\n".join(lines))
    (tmp_path / "notes.txt").write_text("train these: a b")
    (tmp_path / "train_notes.txt").write_text("not a list")
    reading = readers.read("flickr", token, tmp_path)
    assert (reading.dataset, set(reading.files)) == ("flickr30k", {token.name})
    assert reading.files[token.name] == store.sha256_file(token)
    kept = [
        ("b", [CaptionRecord("b.jpg#0", "B zero\twith a tab"), CaptionRecord("b.jpg#10", "B ten")]),
        ("a", [CaptionRecord("a.jpg#1", "A one")]),
        ("c#d", [CaptionRecord("c#d.jpg#2", "C")]),
    ]
    assert reading.images == [
        ImageRecord(
            keys.image_key("flickr30k", stem),
            "train",
            tmp_path / f"{stem}.jpg",
            f"{stem}.jpg",
            tuple(captions),
            other_key=other_key("flickr30k", f"{stem}.jpg"),
        )
        for stem, captions in kept
    ]
    form = "not '<file>#<number><TAB><caption>'"
    assert reading.drops == [
        Drop("train", "", f"{token.name}:6", "caption", "bad-row", f"{form}: '#3\\tno name'"),
        Drop("train", "", f"{token.name}:7", "caption", "bad-row", f"{form}: 'e.jpg#x\\tno number'"),
        Drop("train", "", "../f.jpg", "image", "bad-row", "the path '../f.jpg' leaves the image folder"),
        Drop("train", "", "../f.jpg", "caption", "bad-row", "its image was dropped: 'up'"),
    ]
    (tmp_path / "test.txt").write_text("a\n")
    listed = readers.read("flickr", token, tmp_path)
    assert [(image.source, image.split) for image in listed.images] == [("a.jpg", "test")]
    refused = [drop for drop in listed.drops if drop.reason == "no-split"]
    assert [(drop.source, drop.kind) for drop in refused] == [
        ("b.jpg", "image"),
        ("b.jpg", "caption"),
        ("b.jpg", "caption"),
        ("c#d.jpg", "image"),
        ("c#d.jpg", "caption"),
        ("../f.jpg", "image"),
        ("../f.jpg", "caption"),
    ]
    assert refused[0].detail == "none of test.txt names it"
    assert set(listed.files) == {token.name, "test.txt"}


@pytest.mark.parametrize("line", ["a\tcaption", "a caption", "a.jpg#0"])
def test_read__a_text_of_captions_is_no_list_whatever_its_name(tmp_path: Path, line: str) -> None:
    token = tmp_path / "Flickr8k.token.txt"
    token.write_text("a.jpg#0\tone\n")
    (tmp_path / "test_captions.txt").write_text(f"b\n{line}\n")
    reading = readers.read("flickr", token, tmp_path)
    assert (reading.dataset, images(reading), reading.drops) == ("flickr8k", {"train": 1}, [])
    (tmp_path / "test_captions.txt").write_text("b\n  a.jpg \n")
    assert images(readers.read("flickr", token, tmp_path)) == {"test": 1}
