"""WebDataset tars as others write them."""

import io
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.manifests.records import REASONS
from cusa.manifests.samples import Split
from cusa.pipeline import readers
from tests.pipeline.readers.counting import images, shard_counts
from tests.worlds import make_work

IMG2DATASET = Path(__file__).with_name("img2dataset")


def test_read__what_img2dataset_wrote(tmp_path: Path) -> None:
    # Written by img2dataset 1.47.0's own WebDatasetSampleWriter; see the folder's README.
    reading = readers.read("webdataset", IMG2DATASET)
    records = reading.images
    rows = pq.read_table(IMG2DATASET / "00000.parquet").to_pylist()
    good = [row for row in rows if row["status"] == "success"]
    assert [(r.captions[0].text, r.split) for r in records] == [(row["caption"], "train") for row in good]
    assert [(d.kind, d.reason) for d in reading.drops] == [("image", "missing"), ("caption", "missing")]
    assert "404" in reading.drops[0].detail
    counts = shard_counts(reading, tmp_path)
    assert (counts["images_read"], counts["images_kept"], counts["images_dropped"]) == (4, 3, 1)
    split = Split(tmp_path, "train")
    with tarfile.open(IMG2DATASET / "00000.tar") as archive:
        stored = [archive.extractfile(m).read() for m in archive if m.name.endswith("jpg")]  # type: ignore[union-attr]
    assert [split.image_bytes(row) for row in range(3)] == stored


def test_read__our_own_shards_and_broken_tars(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=4)
    reading = readers.read("webdataset", work)
    assert images(reading) == {"train": 4, "val": 4, "test": 4}
    other = Split(work, "test")
    own = [record for record in reading.images if record.split == "test"]
    assert [record.key for record in own] == other.image_keys
    assert [c.text for record in own for c in record.captions] == other.texts
    lone = tmp_path / "lone"
    lone.mkdir()
    tar = (work / "test/00000.tar").read_bytes()
    (lone / "cut.tar").write_bytes(tar[: len(tar) // 2 + 100])
    with tarfile.open(lone / "odd.tar", "w") as archive:
        for name, kind in (("x.jpg", tarfile.SYMTYPE), ("y.txt", tarfile.REGTYPE), ("z.json", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            info.size = 5 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"hello") if info.size else None)
    reading = readers.read("webdataset", lone)
    assert {(drop.kind, drop.reason) for drop in reading.drops} >= {("image", "truncated"), ("image", "missing")}
    assert not [record for record in reading.images if "x" in record.source]
    assert all(drop.reason in REASONS for drop in reading.drops)
    (lone / "packed.tar").write_bytes(b"\x1f\x8b rest")
    with pytest.raises(DataError, match=r"packed\.tar is compressed"):
        readers.read("webdataset", lone)
