"""A split opened for reading: rows by key, and the one rule for which image or caption of COCO's a row is."""

import hashlib
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cusa.errors import ConfigError, DataError
from cusa.eval.tasks import coco, cxc
from cusa.manifests import keys
from cusa.manifests.judgements import cxc_ratings, eccv_truth
from cusa.manifests.judgements.truth import read_truth
from cusa.manifests.records import CaptionRecord, ImageRecord
from cusa.manifests.samples import CocoIds, Split, caption_json, sample_json, splits, with_caption_sources
from cusa.manifests.storage import store
from cusa.pipeline import readers, shard
from cusa.pipeline.audit import export_eccv
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.pairs import ratings
from tests.worlds import make_work


@pytest.fixture(scope="module")
def coco_splits(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Split]:
    """Return COCO's test images under the keys that readers make of ids, and of file names."""
    folder = shared / "data/coco-mini"
    reading = readers.read("karpathy", folder / "dataset_coco.json", folder)
    images = [image for image in reading.images if image.split == "test"]
    named = [image._replace(key=f"coco/COCO_val2014_{image.key.rpartition('/')[2]}") for image in images]
    out = {}
    for form, rows in (("coco/000000391895", images), ("coco/COCO_val2014_000000391895", named)):
        work = tmp_path_factory.mktemp("work")
        shard.run(ShardConfig(workers=1), reading=readers.Reading("coco", rows, reading.files), out=work)
        out[form] = Split(work, "test")
    return out


@pytest.mark.parametrize("form", ["coco/000000391895", "coco/COCO_val2014_000000391895"])
def test_coco_ids__one_rule_for_ratings_truth_and_tasks(coco_splits: dict[str, Split], shared: Path, form: str) -> None:
    split, folder = coco_splits[form], shared / "data/coco-mini"
    official = eccv_truth.read(folder / "eccv_caption")
    owners = {c: i for i, answers in official.image_to_text["coco"].items() for c in answers}
    # By COCO's own lists: a caption's row is owned by the image that the official file gives it.
    rows = split.coco_ids.caption_row()
    assert len(rows) == split.num_captions
    for caption, row in rows.items():
        if caption in owners:
            assert split.coco_ids.images[split.caption_owner[row]] == owners[caption]
    assert len(owners.keys() & rows.keys()) == 1000

    assert len(read_truth(split, folder / "eccv_caption").images) == 1000 + 56
    gallery = coco.Gallery(official, *split.coco_ids)
    assert (len(gallery.images), len(gallery.captions)) == (200, 1000)
    rated = {what: cxc_ratings.read(path) for what, path in cxc_ratings.files(folder / "cxc", "test").items()}
    found = cxc.rows_of(rated, *split.coco_ids)
    first, second, _ = found.pairs["image-to-text"]
    assert [split.coco_ids.images[row] for row in first] == rated["image-to-text"].first
    assert [split.coco_ids.captions[row] for row in second] == rated["image-to-text"].second
    pairs = ratings.read_ratings(split, folder / "cxc/sits_test.csv")
    assert pairs.unknown == 0
    assert len(pairs.images)
    assert export_eccv._ids(split)[2] == "numbers"


def test_coco_ids__the_same_tables_under_both_forms(coco_splits: dict[str, Split], shared: Path) -> None:
    one, other = coco_splits.values()
    assert sorted(one.coco_ids.images) == sorted(other.coco_ids.images)
    truths = [read_truth(split, shared / "data/coco-mini/eccv_caption") for split in (one, other)]
    named = [
        {
            (split.coco_ids.images[image], split.coco_ids.captions[caption])
            for image, caption in zip(truth.images, truth.captions, strict=True)
        }
        for split, truth in zip((one, other), truths, strict=True)
    ]
    assert named[0] == named[1]


def test_coco_image_id__only_coco_s_own_forms() -> None:
    ids = {
        "coco/000000391895": 391895,
        "coco/COCO_val2014_000000391895": 391895,
        "COCO_train2014_000000000009": 9,
        "coco/391895": 391895,
        "mini/picture_0003": -1,
        "mini/3-1a2b3c4d": -1,
        "mini/\u0663": -1,  # a digit of another script
        "mini/" + "9" * 5000: -1,
        "": -1,
    }
    assert {key: keys.coco_image_id(key) for key in ids} == ids
    assert [keys.coco_caption_id(name) for name in ("15575", "", "12a", "9" * 5000, "-1")] == [15575, -1, -1, -1, -1]


def test_coco_ids__an_id_of_two_rows_is_nobody_s(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=4, splits=("train",)), "train")
    split.image_keys = ["coco/7", "other/000007", "coco/8", "coco/x"]
    assert split.coco_ids.images == [-1, -1, 8, -1]
    assert split.coco_ids.image_row() == {8: 2}
    assert split.coco_ids.captions == list(range(20)), "sentids"


def test_image_row__and_caption_row_invert_the_keys(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=4, splits=("train",)), "train")
    assert [split.image_row[key] for key in split.image_keys] == list(range(split.num_images))
    np.testing.assert_array_equal([split.caption_row[key] for key in split.caption_keys], np.arange(20))


def test_shard_rows__are_the_rows_whose_images_lie_in_each_tar(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=5, splits=("train",), captions=3, config=ShardConfig(workers=1, max_images=2))
    split = Split(work, "train")
    tars = split.samples["shard"].to_pylist()
    told = split.shard_rows()
    assert [name for name, *_ in told] == sorted(set(tars)) == ["00000.tar", "00001.tar", "00002.tar"]
    for name, sha256, images, captions in told:
        assert sha256 == store.sha256_file(split.folder / name)
        assert [*images] == [row for row, tar in enumerate(tars) if tar == name]
        assert [*captions] == [row for row, owner in enumerate(split.caption_owner) if owner in images]


def test_checked_image_bytes__one_flipped_byte_is_found(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=3, splits=("train",))
    split = Split(work, "train")
    whole = [split.image_bytes(row) for row in range(3)]
    assert [split.checked_image_bytes(row) for row in range(3)] == whole
    tar = work / "train/00000.tar"
    data = bytearray(tar.read_bytes())
    at = split.samples["image_offset"][1].as_py() + len(whole[1]) // 2
    data[at] ^= 1
    tar.write_bytes(data)
    again = Split(work, "train")
    assert again.image_bytes(1) != whole[1], "the plain way does not compare"
    assert [again.checked_image_bytes(row) for row in (0, 2)] == [whole[0], whole[2]]
    with pytest.raises(DataError, match=r"00000\.tar: the bytes of mini/picture_0001 are not those that were sharded"):
        again.checked_image_bytes(1)


def _rewrite(split: Split, file: str, column: str, value: pa.Array) -> None:
    table = store.read_table(split.folder / file)
    store.write_table(split.folder / file, table.set_column(table.column_names.index(column), column, value))


def _column(split: Split, file: str, column: str) -> list[Any]:
    values: list[Any] = store.read_table(split.folder / file)[column].to_pylist()
    return values


@pytest.mark.parametrize(
    ("file", "column", "kind"),
    [
        ("samples.parquet", "image_offset", pa.float64()),
        ("samples.parquet", "image_bytes", pa.string()),
        ("samples.parquet", "key", pa.binary()),
        ("shards.parquet", "images", pa.float32()),
        ("captions.parquet", "position", pa.string()),
    ],
)
def test_split__a_column_of_the_wrong_type_is_named(tmp_path: Path, file: str, column: str, kind: pa.DataType) -> None:
    work = make_work(tmp_path, images=2, splits=("train",))
    split = Split(work, "train")
    _rewrite(split, file, column, pa.array(_column(split, file, column)).cast(kind))
    with pytest.raises(DataError, match=rf"{file}: the column '{column}' is {kind}; it must be"):
        Split(work, "train")


def test_split__other_writers_widths_are_read(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=2, splits=("train",))
    before = Split(work, "train")
    for file, column, kind in (
        ("samples.parquet", "key", pa.large_string()),
        ("samples.parquet", "image_offset", pa.uint32()),
        ("captions.parquet", "key", pa.large_string()),
    ):
        _rewrite(before, file, column, pa.array(_column(before, file, column)).cast(kind))
    after = Split(work, "train")
    assert after.image_keys == before.image_keys
    np.testing.assert_array_equal(after.caption_owner, before.caption_owner)
    assert after.image_bytes(1) == before.image_bytes(1)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("image_offset", None, "2 rows have no 'image_offset'"),
        ("image_offset", -512, "said to be"),
        ("image_bytes", 1 << 50, "said to be"),
        ("image_bytes", 1 << 39, "ends within"),
        ("width", 1 << 40, "wrong type"),
    ],
)
def test_image_bytes__a_table_that_lies_is_refused(tmp_path: Path, column: str, value: int | None, words: str) -> None:
    work = make_work(tmp_path, images=2, splits=("train",))
    _rewrite(Split(work, "train"), "samples.parquet", column, pa.array([value, value], pa.int64()))
    with pytest.raises(DataError, match=words):
        Split(work, "train").image_bytes(0)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", ".", "", "a/b.tar", "..\\x.tar", "a\0b"])
def test_image_bytes__no_tar_outside_the_folder_is_read(tmp_path: Path, name: str) -> None:
    work = make_work(tmp_path, images=2, splits=("train",))
    (work / "secret").write_bytes(b"x" * 100_000)
    _rewrite(Split(work, "train"), "samples.parquet", "shard", pa.array([name, name]))
    with pytest.raises(DataError, match="which is no file of that folder"):
        Split(work, "train").image_bytes(0)


def test_split__a_work_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=2, splits=("train",))
    other = tmp_path / os.fsdecode(b"w\xe9")
    shutil.move(work, other)
    with pytest.raises(ConfigError, match="is not UTF-8"):
        Split(other, "train")


def test_splits__in_the_order_in_which_people_name_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none does not exist\. Make one with `cusa shard \.\.\. --out .*none`"):
        splits(tmp_path / "none")
    with pytest.raises(DataError, match=r"holds no split\. Make one with"):
        splits(tmp_path)
    for name in ("b", "test", "val", "restval", "train", "a"):
        store.write_text(tmp_path / name / "samples.parquet", "")
    (tmp_path / "raw").mkdir()
    assert splits(tmp_path) == ["train", "restval", "val", "test", "a", "b"]


def test_split__what_is_missing_is_named_with_the_way_out(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=2, splits=("train", "val"))
    with pytest.raises(DataError, match=r"has no split 'test'; it has train, val\."):
        Split(work, "test")
    for file in ("captions.parquet", "shards.parquet"):
        (work / "val" / file).unlink()
        with pytest.raises(DataError, match=rf"{file} does not exist\. Run `cusa shard \.\.\. --out {work}`"):
            Split(work, "val")


def test_coco_ids__rows_by_number_0_included() -> None:
    ids = CocoIds(images=[7, -1, 0], captions=[-1, 3, 0, -1])
    assert ids.image_row() == {7: 0, 0: 2}
    assert ids.caption_row() == {3: 1, 0: 2}


def test_split__opens_its_tars_once_and_closes_them(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=3, splits=("train",)), "train")
    images = [split.image_bytes(row) for row in range(3)]
    (descriptor,) = split._tars.values()
    there = pickle.loads(pickle.dumps(split))
    assert there._tars == {}, "an open file does not travel"
    assert [there.image_bytes(row) for row in range(3)] == images
    os.fstat(descriptor)
    split.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    split.close()
    assert [split.image_bytes(row) for row in range(3)] == images, "opened again"
    del there


def test_bytes_at__to_the_tar_s_end_and_not_beyond(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=2, splits=("train",)), "train")
    whole = (split.folder / "00000.tar").read_bytes()
    size = len(whole)
    for offset, number in ((0, size), (size - 5, 5), (size, 0), (100, 7)):
        assert split.bytes_at("00000.tar", offset, number, key="k") == whole[offset : offset + number]
    for offset, number in ((0, size + 1), (size - 5, 6), (size + 9, 1)):
        with pytest.raises(DataError, match=r"00000\.tar ends within k"):
            split.bytes_at("00000.tar", offset, number, key="k")
    (split.folder / "00000.tar").unlink()
    fresh = Split(split.work, "train")
    with pytest.raises(DataError, match=r"00000\.tar cannot be opened \(No such file"):
        fresh.bytes_at("00000.tar", 0, 1, key="k")


def test_digest__is_over_the_bytes_of_the_three_tables(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=2, splits=("train",)), "train")
    files = [split.folder / name for name in ("shards.parquet", "samples.parquet", "captions.parquet")]
    whole = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
    assert split.digest == hashlib.sha256(whole).hexdigest()


def test_captions__of_no_image_of_the_split_are_refused(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=2, captions=3, splits=("train",)), "train")
    owners = _column(split, "captions.parquet", "key")
    assert split.caption_owner.tolist() == [0, 0, 0, 1, 1, 1]
    assert split.caption_owner.dtype == np.int64
    _rewrite(split, "captions.parquet", "key", pa.array(["mini/gone", *owners[1:]]))
    with pytest.raises(DataError, match="1 captions belong to no image of the split"):
        _ = Split(split.work, "train").caption_owner


def test_sample_json__sorted_on_one_line() -> None:
    line = sample_json(key="k", captions=[{"text": "ü", "id": "1"}], width=3)
    assert line == '{"captions": [{"id": "1", "text": "ü"}], "key": "k", "width": 3}'.encode()


def test_split__the_digest_of_each_tar_by_its_name(tmp_path: Path) -> None:
    """What a mirror asks for by name when it fetches a tar."""
    split = Split(
        make_work(tmp_path, images=3, splits=("train",), config=ShardConfig(workers=1, max_images=2)), "train"
    )
    assert split._sha256 == {path.name: store.sha256_file(path) for path in split.folder.glob("*.tar")}
    assert len(split._sha256) == 2


def _told(work: Path, *captions: tuple[tuple[str, str], ...]) -> Split:
    """Shard samples of texts alone: words and source of each caption of each sample."""
    rows = [
        ImageRecord(
            f"own/{name}", "train", None, name, tuple(CaptionRecord("", text, source=who) for text, who in of_one)
        )
        for name, of_one in zip("abcdef", captions, strict=False)
    ]
    shard.run(ShardConfig(workers=1), reading=readers.Reading("own", rows, {}), out=work)
    return Split(work, "train")


def test_caption_sources__rows_by_what_made_them(tmp_path: Path) -> None:
    split = _told(tmp_path / "some", (("a", "human"), ("b", "")), (("c", "alt text"), ("d", "human")), (("e", ""),))
    assert split.caption_sources == ["human", "", "alt text", "human", ""]
    assert {name: rows.tolist() for name, rows in split.source_rows.items()} == {
        **{"no source": [1, 4], "alt text": [2], "human": [0, 3]},
    }
    rows = split.captions.to_pylist()
    assert [caption_json(row) for row in rows[:2]] == [
        {"caption_key": "own/a#0", "caption_id": "", "text": "a", "source": "human"},
        {"caption_key": "own/a#1", "caption_id": "", "text": "b"},
    ]
    nobody = _told(tmp_path / "none", (("a", ""), ("b", "")))
    assert (nobody.caption_sources, nobody.source_rows) == (["", ""], {})
    assert "source" not in store.column_names(nobody.folder / "captions.parquet")
    assert nobody.captions.schema.field("source").type == pa.string()
    table = with_caption_sources(split.captions)
    assert table is split.captions or table == split.captions
    assert with_caption_sources(table.drop_columns("source"))["source"].to_pylist() == [""] * 5


def test_image_bytes__of_texts_alone_there_are_none(tmp_path: Path) -> None:
    split = _told(tmp_path / "work", (("a", ""),))
    for read in (split.image_bytes, split.checked_image_bytes):
        with pytest.raises(
            DataError, match=r"own/a has no image: .*train holds texts alone\. Use it with text teachers"
        ):
            read(0)
