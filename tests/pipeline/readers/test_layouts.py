"""Each layout against real files of it, counted as their documentation counts them, and against made-up faults."""

import csv
import io
import json
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests.records import REASONS
from cusa.manifests.samples import Split
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ReadConfig, ShardConfig
from tests.worlds import make_work, write_karpathy


def _images(reading: readers.Reading) -> Counter[str]:
    return Counter(record.split for record in reading.images)


def _captions(reading: readers.Reading) -> Counter[str]:
    counted = Counter[str]()
    for record in reading.images:
        counted[record.split] += len(record.captions)
    return counted


def _shard(reading: readers.Reading, out: Path) -> dict[str, Any]:
    return dict(shard.run(ShardConfig(workers=1), reading=reading, out=out).counts)


# --- real files


def test_coco__annotation_files_have_the_documented_counts_and_agree_with_karpathy(shared: Path) -> None:
    folder = shared / "data/coco-mini"
    reading = readers.read("coco", folder / "annotations", folder)
    assert not reading.drops
    assert _images(reading) == {"train": 600, "val": 402}
    assert _captions(reading) == {"train": 3000, "val": 2003}
    assert all(record.path is not None and record.path.is_file() for record in reading.images)
    # The same captions under the same keys as in Karpathy's file, which was made of them.
    other = readers.read("karpathy", folder / "dataset_coco_all.json", folder)
    texts = {record.key: sorted(c.text for c in record.captions) for record in reading.images}
    assert texts == {record.key: sorted(c.text for c in record.captions) for record in other.images}


def test_cub__classes_divide_and_name(shared: Path) -> None:
    folder = shared / "data/cub-mini/CUB_200_2011"
    reading = readers.read("cub", folder, None, ReadConfig(train_classes="1-5"))
    assert not reading.drops
    assert _images(reading) == {"train": 282, "test": 261}
    assert len({record.label for record in reading.images}) == 10
    assert "001.Black_footed_Albatross" in {record.label for record in reading.images}
    with pytest.raises(ConfigError, match=r"--train-classes '5'.*1-100"):
        readers.read("cub", folder, None, ReadConfig(train_classes="5"))


@pytest.mark.parametrize(
    ("layout", "source", "images", "labels", "roles"),
    [
        ("sop", "sop/Stanford_Online_Products", {"train": 144, "test": 156}, 25, {""}),
        ("in-shop", "inshop", {"train": 144, "test": 156}, 25, {"", "query", "gallery"}),
        ("inaturalist", "inat2018", {"train": 144, "test": 156}, 25, {""}),
    ],
)
def test_standins__are_counted_and_sharded(
    shared: Path, tmp_path: Path, layout: str, source: str, images: dict[str, int], labels: int, roles: set[str]
) -> None:
    reading = readers.read(layout, shared / "data/standins" / source)
    assert _images(reading) == images
    assert not reading.drops
    assert len({record.label for record in reading.images}) == labels
    assert {record.role for record in reading.images} == roles
    counts = _shard(reading, tmp_path)
    assert (counts["images_kept"], counts["images_dropped"]) == (300, 0)
    if layout == "in-shop":
        assert Counter(Split(tmp_path, "test").samples["role"].to_pylist()) == {"query": 78, "gallery": 78}


def test_inaturalist__the_list_with_categories(shared: Path) -> None:
    folder = shared / "data/layouts/inaturalist-2018"
    reading = readers.read("inaturalist", folder / "iNaturalist18_val.txt", folder)
    assert _images(reading) == {"val": 24_426}
    assert len({record.label for record in reading.images}) == 8_142
    assert all(record.label == Path(record.source).parent.name for record in reading.images)


STS = {"sts12": 3108, "sts13": 1500, "sts14": 3750, "sts15": 3000, "sts16": 1186}
STS |= {"stsb-train": 5749, "stsb-dev": 1500, "stsb-test": 1379, "sick-train": 4500, "sick-trial": 500}


def test_sts__every_scored_pair(shared: Path) -> None:
    reading = readers.read("sts", shared / "data/sts")
    records = reading.images
    assert Counter(record.split for record in records) == {**STS, "sick-test": 4927}
    drops = reading.drops
    lost = Counter((drop.split, drop.kind, drop.reason) for drop in drops)
    assert lost == {
        ("sts15", "image", "no-score"): 8500 - 3000,
        ("sts15", "caption", "no-score"): 2 * (8500 - 3000),
        ("sts16", "image", "no-score"): 9183 - 1186,
        ("sts16", "caption", "no-score"): 2 * (9183 - 1186),
    }
    assert len({record.key for record in records}) == len(records)
    assert all(0 <= float(record.label) <= 5 and len(record.captions) == 2 for record in records)
    sick = next(r for r in records if r.split == "sick-test")
    assert [c.text for c in sick.captions] == [
        "There is no boy playing outdoors and there is no man smiling",
        "A group of kids is playing in a yard and an old man is standing in the background",
    ]
    assert sick.label == "3.3"


def test_sts__pairs_become_samples_of_texts(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "sts/STS").mkdir(parents=True)
    shutil.copytree(shared / "data/sts/STS/STS16-en-test", tmp_path / "sts/STS/STS16-en-test")
    counts = _shard(readers.read("sts", tmp_path / "sts"), tmp_path / "work")
    assert (counts["images_kept"], counts["captions_kept"]) == (1186, 2372)
    split = Split(tmp_path / "work", "sts16")
    assert set(split.samples["ext"].to_pylist()) == {""}
    with pytest.raises(DataError, match="has no image"):
        split.image_bytes(0)


def test_flickr__tokens_with_real_split_lists(shared: Path, tmp_path: Path) -> None:
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
    assert _images(reading) == {"train": 6001, "val": 1000, "test": 1000}
    assert _captions(reading) == {"train": 30_001, "val": 5000, "test": 5000}
    assert [drop.source for drop in reading.drops] == ["Flickr8k.token.txt:40002", "Flickr8k.token.txt:40003"]


IMG2DATASET = Path(__file__).with_name("img2dataset")


def test_webdataset__what_img2dataset_wrote(tmp_path: Path) -> None:
    # Written by img2dataset 1.47.0's own WebDatasetSampleWriter; see the folder's README.
    reading = readers.read("webdataset", IMG2DATASET)
    records = reading.images
    rows = pq.read_table(IMG2DATASET / "00000.parquet").to_pylist()
    good = [row for row in rows if row["status"] == "success"]
    assert [(r.captions[0].text, r.split) for r in records] == [(row["caption"], "train") for row in good]
    assert [(d.kind, d.reason) for d in reading.drops] == [("image", "missing"), ("caption", "missing")]
    assert "404" in reading.drops[0].detail
    counts = _shard(reading, tmp_path)
    assert (counts["images_read"], counts["images_kept"], counts["images_dropped"]) == (4, 3, 1)
    split = Split(tmp_path, "train")
    with tarfile.open(IMG2DATASET / "00000.tar") as archive:
        stored = [archive.extractfile(m).read() for m in archive if m.name.endswith("jpg")]  # type: ignore[union-attr]
    assert [split.image_bytes(row) for row in range(3)] == stored


# --- layouts written here, exactly as their readers' authors describe them


def test_release__lists_of_the_authors(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=3)
    rows = json.loads(source.read_text())["images"]
    for split in ("train", "val", "test"):
        pairs = [
            {"image_path": f"{row['filepath']}/{row['filename']}", "caption": s["raw"], "image_id": f"x_{row['imgid']}"}
            for row in rows
            if row["split"] == split
            for s in row["sentences"]
        ]
        pairs += [{"image_path": "a.jpg", "image_id": "x"}, "text"] if split == "val" else []
        (tmp_path / "raw" / f"{split}.json").write_text(json.dumps(pairs))
    source.unlink()
    reading = readers.read("release", tmp_path / "raw", tmp_path / "raw", ReadConfig(dataset="mini"))
    assert _images(reading) == {"train": 3, "val": 3, "test": 3}
    assert _captions(reading) == {"train": 15, "val": 15, "test": 15}
    assert [(drop.reason, drop.source) for drop in reading.drops] == [
        ("bad-row", "val.json[15]"),
        ("bad-row", "val.json[16]"),
    ]
    coco = [{"image_path": "val2014/COCO_val2014_000000391895.jpg", "caption": ["one", "two"], "image_id": "coco_1"}]
    (tmp_path / "coco_test.json").write_text(json.dumps(coco))
    (record,) = readers.read("release", tmp_path / "coco_test.json", tmp_path, ReadConfig(dataset="coco")).images
    assert (record.key, record.split, len(record.captions)) == ("coco/000000391895", "test", 2)


TABLE = [
    {"image": "a.jpg", "caption": 'one, "quoted"\nand a second line', "split": "train", "label": "x"},
    {"image": "a.jpg", "caption": "two", "split": "train", "label": "x"},
    {"image": "b.jpg", "caption": "three", "split": "test", "label": ""},
]


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_table__every_kind_reads_the_same(tmp_path: Path, suffix: str) -> None:
    _write_table(tmp_path / f"mine{suffix}", TABLE)
    reading = readers.read("table", tmp_path / f"mine{suffix}", tmp_path)
    assert reading.dataset == "mine"
    assert not reading.drops
    assert [(r.key, r.split, r.label, [c.text for c in r.captions]) for r in reading.images] == [
        ("mine/a", "train", "x", [TABLE[0]["caption"], "two"]),
        ("mine/b", "test", "", ["three"]),
    ]


def test_table__columns_by_name_and_rows_that_disagree(tmp_path: Path) -> None:
    rows = [
        {"file": "d/a.jpg", "text": '["one", "two"]', "part": "val", "n": "7"},
        {"file": "d/a.jpg", "text": "three", "part": "test", "n": "7"},
        {"file": "../b.jpg", "text": "four", "part": "val", "n": "8"},
        {"file": "", "text": "five", "part": "val", "n": "9"},
    ]
    _write_table(tmp_path / "mine.csv", rows)
    told = ReadConfig(image_column="file", caption_column="text", split_column="part", id_column="n")
    reading = readers.read("table", tmp_path / "mine.csv", tmp_path, told)
    (record,) = reading.images
    assert (record.key, record.split, [c.text for c in record.captions]) == ("mine/7", "val", ["one", "two"])
    assert [drop.source for drop in reading.drops] == [f"mine.csv:{n}" for n in (3, 4, 5)]
    with pytest.raises(DataError, match=r"no column 'image'.*--image-column.*'file'|no column 'image'"):
        readers.read("table", tmp_path / "mine.csv", tmp_path)
    with pytest.raises(DataError, match="no known kind"):
        readers.read("table", tmp_path / "mine.xlsx", tmp_path)


def test_folder__sidecars_splits_and_odd_names(tmp_path: Path) -> None:
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
    assert _images(reading) == {"train": 6, "test": 1}
    by = {record.source: record for record in reading.images}
    assert [c.text for c in by["plain.jpg"].captions] == ["one", "two", "three"]
    assert {(d.source, d.reason) for d in reading.drops} == {
        ("alone.txt", "missing"),
        ("test/in a split.json", "bad-row"),
    }
    counts = _shard(reading, tmp_path / "work")
    assert (counts["images_kept"], counts["images_dropped"]) == (6, 1), "the one without captions is a drop"
    assert counts["captions_kept"] == 13


def _write_precomp(folder: Path, split: str, images: int, *, repeat: bool = False, ids: bool = False) -> np.ndarray:
    rng = np.random.default_rng(images)
    array = rng.normal(size=(images, 36, 2048)).astype(np.float32)
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{split}_ims.npy", np.repeat(array, 5, axis=0) if repeat else array)
    lines = [f"caption {i % 5} of image {i // 5}" for i in range(images * 5)]
    (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n")
    if ids:
        (folder / f"{split}_ids.txt").write_text("\n".join(str(1000 + i) for i in range(images)) + "\n")
    return array


@pytest.mark.parametrize("repeat", [False, True])
def test_regions__each_image_is_an_npy_member(tmp_path: Path, repeat: bool) -> None:
    folder = tmp_path / "f30k_precomp"
    train = _write_precomp(folder, "train", 4, ids=True)
    dev = _write_precomp(folder, "dev", 3, repeat=repeat)
    dev[1, 3, 7] = np.nan
    np.save(folder / "dev_ims.npy", np.repeat(dev, 5, axis=0) if repeat else dev)
    reading = readers.read("regions", folder)
    counts = _shard(reading, tmp_path / "work")
    assert (counts["images_kept"], counts["images_dropped"], counts["captions_dropped"]) == (6, 1, 5)
    split = Split(tmp_path / "work", "train")
    assert split.samples.select(["ext", "width", "height"]).to_pylist()[0] == {
        "ext": "npy",
        "width": 2048,
        "height": 36,
    }
    for row in range(4):
        assert np.array_equal(np.load(io.BytesIO(split.image_bytes(row))), train[row])
        assert split.texts[row * 5] == f"caption 0 of image {row}"
    val = Split(tmp_path / "work", "val")
    assert [np.load(io.BytesIO(val.image_bytes(row))).tolist() for row in range(2)] == [
        dev[0].tolist(),
        dev[2].tolist(),
    ]
    (drop,) = (d for d in pq.read_table(tmp_path / "work/val/drops.parquet").to_pylist() if d["kind"] == "image")
    assert (drop["reason"], drop["source"]) == ("not-finite", f"dev_ims.npy[{5 if repeat else 1}]")
    # And the work folder read again, as `cusa shard subset` does.
    again = readers.read_subset(tmp_path / "work", [split.image_keys[2], "f30k_precomp/nowhere"])
    counts = _shard(again, tmp_path / "part")
    assert (counts["images_kept"], counts["images_dropped"]) == (1, 1)
    part = Split(tmp_path / "part", "train")
    assert part.image_bytes(0) == split.image_bytes(2)


def test_regions__what_does_not_fit_is_explained(tmp_path: Path) -> None:
    folder = tmp_path / "precomp"
    _write_precomp(folder, "train", 2)
    with (folder / "train_caps.txt").open("a") as file:
        file.write("one more\n")
    with pytest.raises(DataError, match="2 rows and train_caps.txt has 11 lines"):
        readers.read("regions", folder)
    np.save(folder / "train_ims.npy", np.zeros((2, 36, 2048)))
    with pytest.raises(DataError, match=r"float64.*float32"):
        readers.read("regions", folder)
    (folder / "train_ims.npy").unlink()
    with pytest.raises(DataError, match=r"train_ims\.npy does not exist"):
        readers.read("regions", folder)


def test_webdataset__our_own_shards_and_broken_tars(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=4)
    reading = readers.read("webdataset", work)
    assert _images(reading) == {"train": 4, "val": 4, "test": 4}
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


@pytest.mark.parametrize(
    ("layout", "match"),
    [
        ("coco", "no captions_|no COCO"),
        ("release", "no JSON lists"),
        ("flickr", "no file|does not exist"),
        ("table", "no known kind"),
        ("folder", "holds no image"),
        ("webdataset", "no tar"),
        ("cub", r"images\.txt does not exist"),
        ("sop", r"Ebay_train\.txt does not exist"),
        ("in-shop", "does not exist"),
        ("inaturalist", "holds no list"),
        ("sts", "holds no STS"),
        ("regions", "holds no <split>_caps"),
        ("karpathy", "is a folder|does not exist"),
    ],
)
def test_read__an_empty_folder_is_explained_by_every_layout(tmp_path: Path, layout: str, match: str) -> None:
    assert set(readers.READERS) >= {layout}
    with pytest.raises(DataError, match=match):
        readers.read(layout, tmp_path)


def test_subset__keeps_bytes_captions_and_truth(shared: Path, tmp_path: Path) -> None:
    work = make_work(tmp_path, images=5)
    split = Split(work, "test")
    wanted = [split.image_keys[3], split.caption_keys[2]]
    shard.run(ShardConfig(workers=1), reading=readers.read_subset(work, wanted), out=tmp_path / "part")
    part = Split(tmp_path / "part", "test")
    assert part.image_keys == [split.image_keys[0], split.image_keys[3]]
    assert [part.image_bytes(0), part.image_bytes(1)] == [split.image_bytes(0), split.image_bytes(3)]
    assert part.texts == split.texts[:5] + split.texts[15:20]
    whole = readers.read_subset(work)
    shard.run(ShardConfig(workers=1), reading=whole, out=tmp_path / "again")
    assert Split(tmp_path / "again", "test").digest == split.digest, "all of it is the same bytes"
    with pytest.raises(DataError, match="names no key"):
        readers.read_subset(work, [])


def test_first_line_of_each_reader_says_what_it_reads() -> None:
    for name, reader in readers.READERS.items():
        assert re.match(r"Read .*[.:]", (reader.__doc__ or "").strip().split("\n")[0]), name
