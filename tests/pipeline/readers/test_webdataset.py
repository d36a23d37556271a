"""WebDataset tars as others write them."""

import bz2
import io
import lzma
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

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


PICTURE = io.BytesIO()
Image.new("RGB", (32, 32)).save(PICTURE, "JPEG")
JPEG = PICTURE.getvalue()


def _tar(path: Path, members: dict[str, bytes | str] | list[tuple[str, bytes | str]]) -> readers.Reading:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return readers.read("webdataset", path)


def _texts(reading: readers.Reading) -> dict[str, list[str]]:
    return {record.source: [caption.text for caption in record.captions] for record in reading.images}


def test_read__dots_in_names_do_not_fold_samples(tmp_path: Path) -> None:
    names = ["scan_22.05", "scan_22.06", "scan_22.07", "plain", "v1.2.3"]
    members = {f"{name}{ext}": data for name in names for ext, data in ((".jpg", JPEG), (".txt", f"of {name}"))}
    reading = _tar(tmp_path / "set/a.tar", members)
    assert _texts(reading) == {f"a.tar/{name}.jpg": [f"of {name}"] for name in names}
    assert len({record.key for record in reading.images}) == 5
    assert reading.drops == []


def test_read__members_that_are_not_grouped_are_one_sample(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {f"{n}.jpg": JPEG for n in range(3)}
    members |= {f"{n}.txt": f"text {n}" for n in (2, 0, 1)} | {"1.cls": "0"}
    reading = _tar(tmp_path / "set/a.tar", members)
    assert _texts(reading) == {f"a.tar/{n}.jpg": [f"text {n}"] for n in range(3)}
    assert [record.label for record in reading.images] == ["", "0", ""]
    assert reading.drops == []


def test_read__a_further_picture_has_a_row(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | str]] = [("x.png", JPEG), ("x.jpg", JPEG), ("x.txt", "one"), ("x.seg.png", JPEG)]
    members += [("x.jpg", JPEG), ("x.txt", "other"), ("y.image.jpg", JPEG), ("y.caption.txt", "of y")]
    members += [("z.jpg", JPEG), ("z.cls", "7"), ("._z.jpg", b"AppleDouble"), ("d/.DS_Store", b"x")]
    reading = _tar(tmp_path / "set/a.tar", members)
    assert _texts(reading) == {"a.tar/x.jpg": ["one"], "a.tar/y.jpg": ["of y"], "a.tar/z.jpg": []}
    assert Counter((d.source, d.kind, d.reason) for d in reading.drops) == {
        ("a.tar/x.png", "image", "duplicate-key"): 2,
        ("a.tar/x.jpg", "image", "duplicate-key"): 1,
        ("a.tar/x.txt", "caption", "duplicate-key"): 1,
    }
    counts = shard_counts(reading, tmp_path / "work")
    assert (counts["images_read"], counts["images_kept"], counts["images_dropped"]) == (6, 3, 3)
    assert Split(tmp_path / "work", "train").samples["label"].to_pylist() == ["", "", "7"]


def test_read__labels_of_0_in_json_and_texts_beside_it(tmp_path: Path) -> None:
    deep = "[" * 100_000
    members: dict[str, bytes | str] = {}
    described = {"a": '{"label": 0}', "b": '{"label": null}', "c": '{"caption": "same"}', "d": deep, "e": '["p", "q"]'}
    texts = {"a": "of a", "b": "of b", "c": " same\n", "d": "of d", "e": "p\nq\n"}
    for key, content in described.items():
        members |= {f"{key}.jpg": JPEG, f"{key}.json": content, f"{key}.txt": texts[key]}
    reading = _tar(tmp_path / "set/a.tar", {**members, "f.jpg": JPEG, "f.json": '{"captions": ["x", 5]}', "f.txt": "y"})
    assert _texts(reading) == {
        "a.tar/a.jpg": ["of a"],
        "a.tar/b.jpg": ["of b"],
        "a.tar/c.jpg": ["same"],
        "a.tar/d.jpg": ["of d"],
        "a.tar/e.jpg": ["p", "q"],
        "a.tar/f.jpg": ["x", "y"],
    }
    assert [record.label for record in reading.images] == ["0", "", "", "", "", ""]
    assert [(drop.source, drop.reason) for drop in reading.drops] == [
        ("a.tar/d.json", "bad-row"),
        ("a.tar/f.json", "bad-row"),
    ]


def test_read__rows_that_img2dataset_could_not_fetch_without_a_caption_column(tmp_path: Path) -> None:
    rows = [{"url": "u0", "key": "0", "status": "success"}, {"url": "u1", "key": "1", "status": "failed_to_resize"}]
    rows += [{"url": "u2", "key": "2", "status": "success"}]
    (tmp_path / "set").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set/a.parquet")
    reading = _tar(tmp_path / "set/a.tar", {"0.jpg": JPEG, "0.cls": "1"})
    assert [(d.source, d.kind, d.reason, d.detail.split(":")[0]) for d in reading.drops] == [
        ("a.parquet row 1", "image", "missing", "u1"),
        ("a.parquet row 2", "image", "missing", "u2"),
    ]
    (tmp_path / "set/a.parquet").write_bytes(b"no table")
    assert _tar(tmp_path / "set/a.tar", {"0.jpg": JPEG}).drops == []


def test_read__where_a_tar_breaks_is_a_drop(tmp_path: Path) -> None:
    members = {f"{n}.{ext}": data for n in range(3) for ext, data in (("jpg", JPEG), ("txt", "text"))}
    _tar(tmp_path / "set/a.tar", members)
    whole = (tmp_path / "set/a.tar").read_bytes()
    with tarfile.open(tmp_path / "set/a.tar") as archive:
        second = archive.getmember("1.jpg").offset
    broken = {
        "a bad header": whole[:second] + b"\xff" * 512 + whole[second + 512 :],
        "a cut header": whole[: second + 100],
        "no end mark": whole[:second],
        "joined tars": whole + whole,
    }
    for name, data in broken.items():
        (tmp_path / "set/a.tar").write_bytes(data)
        reading = readers.read("webdataset", tmp_path / "set/a.tar")
        assert [drop.reason for drop in reading.drops] == ["truncated"], name
        assert len(reading.images) == (3 if name == "joined tars" else 1), name
    (tmp_path / "set/a.tar").write_bytes(whole + bytes(10_000))
    assert readers.read("webdataset", tmp_path / "set/a.tar").drops == []


def test_read__links_and_packed_tars_are_named(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set/a.tar", "w") as archive:
        for name, kind in (("x.jpg", tarfile.SYMTYPE), ("y.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("x.txt")
        info.size = 2
        archive.addfile(info, io.BytesIO(b"ab"))
    drops = readers.read("webdataset", tmp_path / "set/a.tar").drops
    assert [(d.source, d.kind, d.reason) for d in drops] == [
        ("a.tar/x", "image", "missing"),
        ("a.tar/x", "caption", "missing"),
        ("a.tar/y", "image", "missing"),
    ]
    assert "it is a link" in drops[0].detail
    for data, tool in ((bz2.compress(b"x"), "bunzip2"), (lzma.compress(b"x"), "unxz"), (b"\x28\xb5\x2f\xfd", "unzstd")):
        (tmp_path / "set/a.tar").write_bytes(data)
        with pytest.raises(DataError, match=f"is compressed. Unpack it with {tool}"):
            readers.read("webdataset", tmp_path / "set/a.tar")


def test_read__equal_keys_in_two_tars_are_two_images(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "set" / name).mkdir(parents=True)
        _tar(tmp_path / "set" / name / "00000.tar", {"000.jpg": JPEG, "000.txt": f"of {name}"})
    reading = readers.read("webdataset", tmp_path / "set")
    counts = shard_counts(reading, tmp_path / "work")
    assert (counts["images_kept"], counts["images_dropped"]) == (2, 0)
    assert sorted(Split(tmp_path / "work", "train").texts) == ["of one", "of two"]


@pytest.mark.parametrize(
    ("folder", "tar", "split"), [("x", "latest", "train"), ("x", "val-000", "val"), ("test", "0", "test")]
)
def test_read__splits_of_tars_are_whole_words(tmp_path: Path, folder: str, tar: str, split: str) -> None:
    (tmp_path / folder).mkdir()
    reading = _tar(tmp_path / folder / f"{tar}.tar", {"0.jpg": JPEG, "0.txt": "x"})
    assert [record.split for record in reading.images] == [split]
    assert bool(reading.notes) == (tar == "latest")
