"""Known matches: a data set's own table, and ECCV Caption's files, found again in our keys."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.manifests import schemas
from cusa.manifests.judgements.truth import find_truth, read_truth, truth_digest, write_truth
from cusa.manifests.samples import CocoIds, Split
from cusa.manifests.storage import store
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig
from tests.worlds import make_work


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(make_work(tmp_path, images=4, splits=("train",)), "train")


def _write(path: Path, rows: list[tuple[str, str]], **metadata: str) -> Path:
    images, captions = zip(*rows, strict=True)
    table = pa.table([pa.array(images), pa.array(captions)], schema=schemas.TRUTH)
    pq.write_table(table.replace_schema_metadata(metadata or None), path)
    return path


def test_read_truth__a_table_is_complete_unless_it_says_otherwise(split: Split, tmp_path: Path) -> None:
    images, captions = split.image_keys, split.caption_keys
    rows = [(images[2], captions[10]), (images[0], captions[7]), (images[0], captions[7]), ("other/x", captions[0])]
    truth = read_truth(split, _write(tmp_path / "t.parquet", rows))
    assert (truth.images.tolist(), truth.captions.tolist()) == ([0, 2], [7, 10])
    assert (truth.complete, truth.unknown) == (True, 1)
    found = truth.false_negatives(split.caption_owner)
    assert [x.tolist() for x in found] == [[0], [7]], "caption 10 is image 2's own"
    assert not read_truth(split, _write(tmp_path / "t.parquet", rows, complete="false")).complete
    write_truth(tmp_path / "again.parquet", split, truth)
    again = read_truth(split, tmp_path / "again.parquet")
    assert (again.images.tolist(), again.captions.tolist(), again.complete) == ([0, 2], [7, 10], True)


def test_read_truth__pairs_of_which_the_split_lacks_either_end_are_counted(split: Split, tmp_path: Path) -> None:
    image, caption = split.image_keys[1], split.caption_keys[7]
    rows = [(image, caption), (image, "other/x#0"), ("other/x", caption), ("other/x", "other/x#0")]
    truth = read_truth(split, _write(tmp_path / "t.parquet", rows))
    assert (truth.images.tolist(), truth.captions.tolist(), truth.unknown) == ([1], [7], 3)


def test_find_truth__named_then_own_then_none(split: Split, tmp_path: Path) -> None:
    assert find_truth(split, None) is None
    own = _write(split.folder / "truth.parquet", [(split.image_keys[0], split.caption_keys[0])])
    assert find_truth(split, None) == own
    assert find_truth(split, tmp_path) == tmp_path
    with pytest.raises(DataError, match="--truth .*nowhere does not exist"):
        find_truth(split, tmp_path / "nowhere")


def test_read_truth__eccv_caption_on_coco(shared: Path, tmp_path: Path) -> None:
    coco = shared / "data/coco-mini"
    reading = readers.read("karpathy", coco / "dataset_coco.json", coco)
    test = readers.Reading("coco", [r for r in reading.images if r.split == "test"], reading.files)
    shard.run(ShardConfig(workers=1), reading=test, out=tmp_path)
    split = Split(tmp_path, "test")
    truth = read_truth(split, coco / "eccv_caption")
    assert not truth.complete
    images, captions = truth.false_negatives(split.caption_owner)
    # Independently: by file, by official id.
    pairs = set()
    own = {
        (int(image), caption)
        for image, answers in json.loads((coco / "eccv_caption/original_image_to_caption.json").read_text()).items()
        for caption in answers
    }
    for name in ("cxc", "eccv"):
        for image, answers in json.loads((coco / f"eccv_caption/{name}_image_to_caption.json").read_text()).items():
            pairs |= {(int(image), caption) for caption in answers}
        for caption, answers in json.loads((coco / f"eccv_caption/{name}_caption_to_image.json").read_text()).items():
            pairs |= {(image, int(caption)) for image in answers}
    ids = split.captions["caption_id"].to_pylist()
    got = {(int(split.image_keys[i].split("/")[1]), int(ids[c])) for i, c in zip(images, captions, strict=True)}
    assert got == pairs - own
    assert len(got) == 56
    assert len(truth.images) == 1000 + 56


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.json", {"1": [2]}, "holds no file NAME_image_to_caption.json"),
        ("eccv_image_to_caption.json", [1, 2], "not in ECCV Caption's layout"),
        ("eccv_image_to_caption.json", {"1": 5}, "not in ECCV Caption's layout"),
        ("eccv_caption_to_image.json", {"one": [5]}, "not in ECCV Caption's layout"),
        ("eccv_caption_to_image.json", {"999999999": [5]}, "knows no pair of the split 'train' .1 pairs of other"),
    ],
)
def test_read_truth__foreign_or_broken_folders_are_refused(
    split: Split, tmp_path: Path, name: str, content: object, message: str
) -> None:
    folder = tmp_path / "truth"
    folder.mkdir()
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_truth(split, folder)


def test_read_truth__foreign_or_broken_tables_are_refused(split: Split, tmp_path: Path) -> None:
    path = _write(tmp_path / "t.parquet", [("other/x", "other/x#0")])
    with pytest.raises(DataError, match="knows no pair of the split"):
        read_truth(split, path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="no readable Parquet"):
        read_truth(split, path)


def test_read_truth__a_folder_by_keys_and_by_numbers_in_either_direction(split: Split, tmp_path: Path) -> None:
    images, captions = split.image_keys, split.caption_keys
    split.coco_ids = CocoIds([70, -1, 72, 73], [*range(500, 500 + split.num_captions)])
    folder = tmp_path / "truth"
    content = {
        "b_image_to_caption.json": {images[1]: [captions[0], captions[6], "x/none#0"], "0072": [507, "508"]},
        "a_caption_to_image.json": {captions[6]: [images[1]], "519": ["73", 70, 999], "999": [70]},
        "a_image_to_image.json": {images[0]: [images[1]]},
        "notes.json": {"of": ["another"]},
    }
    for name, matches in content.items():
        store.write_json(folder / name, matches)
    truth = read_truth(split, folder)
    pairs = {(1, 0), (1, 6), (2, 7), (2, 8), (3, 19), (0, 19)}
    assert list(zip(truth.images.tolist(), truth.captions.tolist(), strict=True)) == sorted(pairs)
    assert (truth.unknown, truth.complete) == (4, False)
    assert truth.source == "truth: a, b"
    foreign = [pair for pair in sorted(pairs) if split.caption_owner[pair[1]] != pair[0]]
    found = truth.false_negatives(split.caption_owner)
    assert list(zip(*(rows.tolist() for rows in found), strict=True)) == foreign


def test_write_truth__what_is_incomplete_stays_so_and_says_where_it_comes_from(split: Split, tmp_path: Path) -> None:
    keys = [(split.image_keys[3], split.caption_keys[1])]
    truth = read_truth(split, _write(tmp_path / "t.parquet", keys, complete="false"))
    assert (truth.source, truth.complete) == ("t.parquet", False)
    write_truth(tmp_path / "again.parquet", split, truth)
    table = pq.read_table(tmp_path / "again.parquet")
    assert table.to_pylist() == [{"image_key": keys[0][0], "caption_key": keys[0][1]}]
    assert table.schema.metadata == {b"complete": b"false", b"source": b"t.parquet"}
    assert not read_truth(split, tmp_path / "again.parquet").complete


def test_truth_digest__of_a_table_s_bytes_or_of_all_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"table")
    assert truth_digest(tmp_path / "t.parquet") == hashlib.sha256(b"table").hexdigest()
    folder = tmp_path / "truth"
    store.write_json(folder / "a_image_to_caption.json", {"1": [2]})
    before = truth_digest(folder)
    assert before == store.sha256_folder(folder)
    store.write_json(folder / "a_image_to_caption.json", {"1": [3]})
    assert truth_digest(folder) != before


def test_read_truth__of_a_split_of_one_pair_and_tables_that_lack_a_column(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=2, captions=1, splits=("train",)), "train")
    split.caption_keys = split.caption_keys[:1]
    split._num_captions = 1
    rows = [(image, split.caption_keys[0]) for image in split.image_keys]
    truth = read_truth(split, _write(tmp_path / "t.parquet", rows))
    assert (truth.images.tolist(), truth.captions.tolist()) == ([0, 1], [0, 0])
    for column in schemas.TRUTH.names:
        pq.write_table(pa.table({"other": ["x"], column: ["y"]}), tmp_path / "t.parquet")
        with pytest.raises(DataError, match=r"t\.parquet lacks the columns"):
            read_truth(split, tmp_path / "t.parquet")
