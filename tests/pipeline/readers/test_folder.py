"""Folders of images with sidecars."""

import json
from pathlib import Path

from cusa.pipeline import readers
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
