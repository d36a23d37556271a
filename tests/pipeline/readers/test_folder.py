"""Folders of images with sidecars."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
from tests.pipeline.readers.counting import images, shard_counts
from tests.worlds import write_karpathy


def test_read__sidecars_splits_and_odd_names(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=1, splits=("train",))
    picture = next((source.parent / "train").glob("*.jpg")).read_bytes()
    folder = tmp_path / "mine"
    names = [
        "plain.jpg",
        "test/in a split.png",
        "train/deep/er/x.jpeg",
        "quo'te\"d.jpg",
        "line\nbreak.jpg",
        "é" * 100 + ".jpg",
    ]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture)
        (folder / name).with_suffix(".txt").write_text("one\n\ntwo\n")
    raw = bytes(folder) + b"/not\xffutf8.jpg"
    Path(raw.decode("utf-8", "surrogateescape")).write_bytes(picture)
    (folder / "plain.json").write_text(json.dumps({"caption": "three"}))
    (folder / "alone.txt").write_text("no image")
    (folder / "test/in a split.json").write_text("{broken")
    (folder / ".hidden.jpg").write_bytes(picture)
    reading = readers.read("folder", folder)
    assert images(reading) == {"train": 6, "test": 1}
    by = {record.source: record for record in reading.images}
    assert [c.text for c in by["plain.jpg"].captions] == ["one", "two", "three"]
    assert {(d.source, d.reason) for d in reading.drops} == {
        ("alone.txt", "missing"),
        ("test/in a split.json", "bad-row"),
    }
    counts = shard_counts(reading, tmp_path / "work")
    assert (counts["images_kept"], counts["images_dropped"]) == (6, 1), "the one without captions is a drop"
    assert counts["captions_kept"] == 13


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    return next(write_karpathy(tmp_path / "raw", images=1).parent.rglob("*.jpg")).read_bytes()


def _texts(reading: readers.Reading) -> dict[str, list[str]]:
    return {record.source: [caption.text for caption in record.captions] for record in reading.images}


def test_folder__what_img2dataset_wrote_as_files_is_one_caption_each(tmp_path: Path, picture: bytes) -> None:
    folder = tmp_path / "set/00000"
    folder.mkdir(parents=True)
    texts = ["shop photo", "Blue shirt\nfree shipping"]
    rows = [{"url": "u", "key": f"{n:09d}", "caption": text, "status": "success"} for n, text in enumerate(texts)]
    for row in rows:
        (folder / f"{row['key']}.jpg").write_bytes(picture)
        (folder / f"{row['key']}.txt").write_text(row["caption"])
        (folder / f"{row['key']}.json").write_text(json.dumps(row))
    rows += [{"url": "gone", "key": "000000002", "caption": "lost", "status": "failed_to_download"}]
    rows += [{"url": "u", "key": "000000003", "caption": "lost too", "status": "success"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set/00000.parquet")
    (tmp_path / "set/00000_stats.json").write_text('{"count": 4}')
    reading = readers.read("folder", tmp_path / "set")
    assert list(_texts(reading).values()) == [[text] for text in texts]
    assert [(d.source, d.kind, d.reason) for d in reading.drops] == [
        (f"00000.parquet row {row}", kind, "missing") for row in (2, 3) for kind in ("image", "caption")
    ]


def test_folder__sidecars_that_say_more_are_all_kept(tmp_path: Path, picture: bytes) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture)
    (folder / "a.TXT").write_bytes("one\r\ntwo\u2028still two\r\n".encode("utf-16"))
    (folder / "a.json").write_bytes(json.dumps({"captions": ["two", "one", 5]}).encode("utf-8-sig"))
    (folder / "b.jpg").write_bytes(picture)
    (folder / "b.json").write_text('{"caption": null, "url": "x"}')
    (folder / "b.txt").write_text("of the text file")
    (folder / "c.jpg").write_bytes(picture)
    (folder / "c.json").write_text("[" * 100_000)
    reading = readers.read("folder", folder)
    assert _texts(reading) == {
        "a.jpg": ["two\u2028still two", "two", "one"],
        "b.jpg": ["of the text file"],
        "c.jpg": [],
    }
    assert [(drop.source, drop.reason) for drop in reading.drops] == [("a.json", "bad-row"), ("c.json", "bad-row")]


def test_folder__pictures_of_any_name_have_a_row(tmp_path: Path, picture: bytes) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    out = io.BytesIO()
    Image.new("RGB", (32, 32)).save(out, "AVIF")
    kinds = {"a.jfif": picture, "b.jpe": picture, "c.avif": out.getvalue(), "d.heic": b"no picture", "e.PNG": picture}
    kinds |= {"f.data": picture, "g": picture, "h.pjpeg": picture, "x.csv": b"no picture", "a.jpg": picture}
    for name, data in kinds.items():
        (folder / name).write_bytes(data)
        (folder / name).with_suffix(".txt").write_text("a caption")
    (folder / ".hidden.jpg").write_bytes(picture)
    reading = readers.read("folder", folder)
    assert sorted(_texts(reading)) == sorted(kinds.keys() - {"x.csv"})
    assert [(drop.source, drop.kind) for drop in reading.drops] == [("x.txt", "caption")]
    counts = shard_counts(reading, tmp_path / "work")
    assert (counts["images_read"], counts["images_kept"]) == (9, 7)
    drops = pq.read_table(tmp_path / "work/train/drops.parquet").to_pylist()
    assert {row["source"]: row["reason"] for row in drops if row["kind"] == "image"} == {
        "c.avif": "unsupported-format",
        "d.heic": "not-an-image",
    }


def test_folder__folders_are_splits_by_whole_names_in_any_case(tmp_path: Path, picture: bytes) -> None:
    names = ["Train/a.jpg", "valid/a.jpg", "TEST/a.jpg", "latest/a.jpg", "deep/test/a.jpg", "testing/a.jpg"]
    for name in names:
        (tmp_path / "mine" / name).parent.mkdir(parents=True)
        (tmp_path / "mine" / name).write_bytes(picture)
    reading = readers.read("folder", tmp_path / "mine", None, ReadConfig(split="val"))
    assert {record.source: record.split for record in reading.images} == dict(
        zip(names, ["train", "val", "test", "val", "val", "test"], strict=True)
    )
