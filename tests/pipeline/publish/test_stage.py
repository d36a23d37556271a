"""Exports of a work folder: other tools read them, they come back as equal rows, and the card says what is in them."""

import gc
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests import ledger
from cusa.manifests.records import CaptionRecord, ImageRecord
from cusa.manifests.samples import SPLIT_FILES, Split, caption_json
from cusa.manifests.storage import store
from cusa.pipeline import publish, readers, shard
from cusa.pipeline.config import PublishConfig, ReadConfig, ShardConfig
from cusa.pipeline.publish import parquet
from cusa.pipeline.readers import Reading
from tests.cli.test_cli import cusa
from tests.worlds import make_work

ONE = PublishConfig(workers=1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(
        tmp_path_factory.mktemp("world"), images=7, captions=2, config=ShardConfig(max_images=3, workers=1)
    )


def _tables(work: Path, split: str) -> dict[str, pa.Table]:
    return {file: pq.read_table(work / split / file) for file in SPLIT_FILES}


def test_parquet__comes_back_as_equal_rows(work: Path, tmp_path: Path) -> None:
    outcome = publish.run(ONE, work=work, to="parquet", out=tmp_path / "out")
    assert outcome.counts == {"images": 21, "captions": 42, "files": 9}
    reading = readers.read("hub", tmp_path / "out")
    shard.run(ShardConfig(max_images=3, workers=1), reading=reading, out=tmp_path / "again")
    for split in ("train", "val", "test"):
        for file, table in _tables(work, split).items():
            assert _tables(tmp_path / "again", split)[file].equals(table), (split, file)


def test_parquet__is_what_the_datasets_library_reads(work: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    publish.run(ONE, work=work, to="parquet", out=tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    split = Split(work, "val")
    assert loaded["val"]["key"][:] == split.image_keys
    assert [text for row in loaded["val"]["captions"][:] for text in row] == split.texts
    assert loaded["val"][0]["image"].size == (48, 40)
    loaded.save_to_disk(str(tmp_path / "saved"))
    from_disk = readers.read("hub", tmp_path / "saved").images
    assert [one.key for one in from_disk if one.split == "val"] == split.image_keys


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset__is_what_the_webdataset_library_reads(work: Path, tmp_path: Path) -> None:
    import webdataset

    publish.run(ONE, work=work, to="webdataset", out=tmp_path / "out")
    split = Split(work, "train")
    tars = sorted(str(file) for file in (tmp_path / "out/data").glob("train-*.tar"))
    samples: list[Any] = list(webdataset.WebDataset(tars, shardshuffle=False))
    gc.collect()  # the library leaves its last file open
    assert [sample["__key__"] for sample in samples] == split.image_keys
    assert [sample["jpg"] for sample in samples] == [split.image_bytes(row) for row in range(split.num_images)]
    assert [sample["txt"].decode() for sample in samples] == split.texts[::2]
    shard.run(
        ShardConfig(max_images=3, workers=1),
        reading=readers.read("webdataset", tmp_path / "out/data", config=ReadConfig(dataset="mini")),
        out=tmp_path / "again",
    )
    assert _tables(tmp_path / "again", "train")["captions.parquet"].equals(_tables(work, "train")["captions.parquet"])


def test_run__is_up_to_date_and_goes_on_after_a_kill(work: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    first = publish.run(ONE, work=work, to="parquet", out=out)
    assert first.fresh
    assert not publish.run(ONE, work=work, to="parquet", out=out).fresh
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in (out / "data").iterdir()}
    (out / "ledger.json").unlink()
    (out / "data/train-00001-of-00003.parquet").write_bytes(b"half")
    again = publish.run(ONE, work=work, to="parquet", out=out)
    assert (again.counts, again.why) == (first.counts, "never finished")
    after = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in (out / "data").iterdir()}
    assert {name: data for name, (data, _) in after.items()} == {name: data for name, (data, _) in before.items()}
    assert [name for name in after if after[name][1] != before[name][1]] == ["train-00001-of-00003.parquet"]
    publish.run(ONE, work=work, to="webdataset", out=out)
    assert {file.suffix for file in (out / "data").iterdir()} == {".tar"}


def test_run__a_damaged_tar_is_named(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=2, captions=1, splits=("train",))
    tar = work / "train/00000.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DataError, match=r"not those that were sharded"):
        publish.run(ONE, work=work, to="parquet", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="lies in"):
        publish.run(ONE, work=work, to="parquet", out=work / "out")


def test_card_and_metadata__say_what_was_measured(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=4, captions=1, splits=("train", "test"))
    drops = pq.read_table(work / "test/drops.parquet")
    row = {"key": "", "source": "x.gif", "kind": "image", "reason": "not-an-image", "detail": ""}
    store.write_table(work / "test/drops.parquet", pa.Table.from_pylist([row, row], schema=drops.schema))
    likely = {"total": 12.4, "interval": [9.0, 16.0]}
    summary = {
        "open_pairs": 12,
        "likely": likely,
        "calibration": {"expected": {"batch": {"size": 4, "false_negatives": 1.25}}},
        "duplicates": {"images": {"rows": 2, "groups": 1, "exact_rows": 0}},
        "leaks": {"exact_images": 1, "near_images": 3, "captions": 5},
    }
    store.write_json(work / "test/audit/summary.json", summary)
    config = PublishConfig(licence="CC BY 4.0", workers=1)
    publish.run(config, work=work, to="parquet", out=tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert 'license_name: "CC BY 4.0"' in card
    assert "| test | image | not-an-image | 2 |" in card
    assert "about 12 matches are missing (95 % interval 9 to 16) among 12 pairs" in card
    assert "a random batch of 4 pairs holds 1.2 false negatives" in card
    assert "test: 1 images stand in another split too, 3 nearly so, and 5 captions" in card
    assert "- train: not audited" in card
    described = json.loads((tmp_path / "out/croissant.json").read_text())
    files = {one["@id"]: one for one in described["distribution"] if one["@type"] == "cr:FileObject"}
    assert files.keys() == {f"data/{name}-00000-of-00001.parquet" for name in ("train", "test")}
    for path, one in files.items():
        assert one["sha256"] == store.sha256_file(tmp_path / "out" / path)
    sets = {one["@id"] for one in described["distribution"]}
    for records in described["recordSet"]:
        for field in records["field"]:
            assert field["source"]["fileSet"]["@id"] in sets
            assert field["source"]["extract"]["column"] in publish.stage.parquet.SCHEMA.names


def test_command__writes_a_folder_to_open(work: Path, tmp_path: Path) -> None:
    done = cusa("export", work, "--to", "parquet", "--out", tmp_path / "out", "--licence", "CC0", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "open: " in done.stdout
    assert "Licence: CC0" in (tmp_path / "out/README.md").read_text()


def _shard(work: Path, raw: Path, **changes: Any) -> None:
    """Shard two pictures and a sample of texts alone."""
    texts = (CaptionRecord("7", "Erste", source="human"), CaptionRecord("8", "zweite"))
    rows = [
        ImageRecord("own/a", "train", raw / "train/picture_0000.jpg", "x/a.jpg", texts, label="dog", role="query"),
        ImageRecord("own/b", "train", raw / "train/picture_0001.jpg", "x/b.jpg", texts[:1], label="cat"),
        ImageRecord("own/c", "train", None, "x/c", texts[1:]),
    ]
    rows = [row._replace(**changes) if row.key == "own/a" else row for row in rows]
    shard.run(ShardConfig(workers=1), reading=Reading("own", rows, {}), out=work, force=bool(changes))


def _exported(out: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((out / "data").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_parquet__every_column_of_a_row(work: Path, tmp_path: Path) -> None:
    raw = work.parent / "raw"
    _shard(tmp_path / "work", raw)
    publish.run(ONE, work=tmp_path / "work", to="parquet", out=tmp_path / "out")
    split = Split(tmp_path / "work", "train")
    names = ("key", "label", "role", "source", "sha256", "width", "height")
    plain = [{name: row[name] for name in names} for row in split.samples.to_pylist()]
    assert [(row["label"], row["role"], row["source"]) for row in plain] == [
        *(("dog", "query", "x/a.jpg"), ("cat", "", "x/b.jpg"), ("", "", "x/c")),
    ]
    pictures = [
        {"bytes": (raw / f"train/picture_000{n}.jpg").read_bytes(), "path": f"{x}.jpg"} for n, x in enumerate("ab")
    ]
    expected = [
        {
            "image": pictures[0],
            "captions": ["Erste", "zweite"],
            "caption_ids": ["7", "8"],
            "caption_sources": ["human", ""],
        },
        {"image": pictures[1], "captions": ["Erste"], "caption_ids": ["7"], "caption_sources": ["human"]},
        {"image": None, "captions": ["zweite"], "caption_ids": ["8"], "caption_sources": [""]},
    ]
    keys = [["own/a#0", "own/a#1"], ["own/b#0"], ["own/c#0"]]
    assert _exported(tmp_path / "out") == [
        {**one, "caption_keys": of_keys, **row} for one, of_keys, row in zip(expected, keys, plain, strict=True)
    ]
    (file,) = (tmp_path / "out/data").iterdir()
    told = json.loads(pq.read_schema(file).metadata[b"huggingface"])["info"]["features"]
    texts = {"_type": "List", "feature": {"_type": "Value", "dtype": "string"}}
    assert {name: kind for name, kind in told.items() if kind != {"_type": "Value", "dtype": "string"}} == {
        "image": {"_type": "Image"},
        **dict.fromkeys(("captions", "caption_keys", "caption_ids", "caption_sources"), texts),
        **dict.fromkeys(("width", "height"), {"_type": "Value", "dtype": "int32"}),
    }
    assert list(told) == pq.read_schema(file).names


def test_webdataset__every_member_of_a_tar(work: Path, tmp_path: Path) -> None:
    _shard(tmp_path / "work", work.parent / "raw")
    outcome = publish.run(ONE, work=tmp_path / "work", to="webdataset", out=tmp_path / "out")
    assert outcome.counts == {"images": 3, "captions": 4, "files": 1}
    split = Split(tmp_path / "work", "train")
    with tarfile.open(tmp_path / "out/data/train-00000.tar") as tar:
        members = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
    assert list(members) == [
        f"own/{name}" for name in ["a.jpg", "a.txt", "a.json", "b.jpg", "b.txt", "b.json", "c.txt", "c.json"]
    ]
    captions = split.captions.to_pylist()
    for row, (key, first) in enumerate((("own/a", 0), ("own/b", 2), ("own/c", 3))):
        sample = split.samples.slice(row, 1).to_pylist()[0]
        assert members.get(f"{key}.jpg", b"") == (split.image_bytes(row) if row < 2 else b"")
        assert members[f"{key}.txt"].decode() == captions[first]["text"]
        assert json.loads(members[f"{key}.json"]) == {
            **{name: sample[name] for name in ("key", "label", "role", "source", "sha256", "width", "height")},
            "captions": [caption_json(one) for one in captions if one["key"] == key],
        }


@pytest.mark.parametrize("number", [1, 2, 3, 100])
def test_parquet__rows_in_groups_each_once(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(parquet, "_ROWS", number)
    publish.run(ONE, work=work, to="parquet", out=tmp_path)
    files = [pq.ParquetFile(file).metadata for file in sorted((tmp_path / "data").glob("val-*.parquet"))]
    groups = [[file.row_group(at).num_rows for at in range(file.num_row_groups)] for file in files]
    whole = [[min(number, size - at) for at in range(0, size, number)] for size in (3, 3, 1)]
    assert groups == whole
    assert [row["key"] for row in _exported(tmp_path) if row["key"] in Split(work, "val").image_row] == Split(
        work, "val"
    ).image_keys


@pytest.mark.parametrize(
    "changes", [{"role": "gallery"}, {"source": "y/a.jpg"}, {"captions": (CaptionRecord("9", "Dritte"),)}]
)
def test_run__files_of_a_killed_export_count_only_for_the_tables_of_now(
    work: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Roles and sources stand in no tar: the same bytes of it say nothing of them."""
    _shard(tmp_path / "work", work.parent / "raw")
    publish.run(ONE, work=tmp_path / "work", to="parquet", out=tmp_path / "out")
    before = _exported(tmp_path / "out")
    (tmp_path / "out/ledger.json").unlink()
    _shard(tmp_path / "work", work.parent / "raw", **changes)
    publish.run(ONE, work=tmp_path / "work", to="parquet", out=tmp_path / "out")
    publish.run(ONE, work=tmp_path / "work", to="parquet", out=tmp_path / "fresh")
    assert _exported(tmp_path / "out") == _exported(tmp_path / "fresh") != before


def test_run__what_is_another_export_and_what_is_not(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=2, captions=1, splits=("train", "test"))

    def due(to: str = "parquet", **more: Any) -> str:
        config = PublishConfig(**{"workers": 1, **more})
        return publish.run(config, work=work, to=to, out=tmp_path / "out").why

    assert due() == "never finished"
    card = (tmp_path / "out/README.md").read_text()
    assert all(f"  - split: {name}\n    path: data/{name}-*.parquet\n" in card for name in ("train", "test"))
    assert "load_dataset(FOLDER)" in card
    assert due() == due(workers=2) == ""
    assert due(licence="CC0") == "facts changed"
    assert due(name="x", licence="CC0") == "facts changed"
    assert due(name="x", licence="CC0", url="https://a.example") == "facts changed"
    described = json.loads((tmp_path / "out/croissant.json").read_text())
    assert [described[key] for key in ("name", "license", "url")] == ["x", "CC0", "https://a.example"]
    assert due(name="x") == "facts changed"
    assert due("webdataset", name="x") == "to was 'parquet' and is now 'webdataset'"
    assert publish.run(ONE, work=work, to="parquet", out=tmp_path / "out", force=True).why == "--force"
    store.write_json(work / "test/audit/summary.json", {"open_pairs": 2})
    assert due() == "facts changed", "what is known to be wrong stands on the card"
    (tmp_path / "out/data/mine.txt").touch()
    (tmp_path / "out/data/older.parquet").touch()
    assert due("webdataset").startswith("to was")
    assert {file.name for file in (tmp_path / "out/data").iterdir()} == {
        *("mine.txt", "train-00000.tar", "test-00000.tar"),
    }
    with pytest.raises(ConfigError, match=r"There is no export to 'parket'\. Did you mean 'parquet'"):
        publish.run(ONE, work=work, to="parket", out=tmp_path / "out")
    captions = work / "test/captions.parquet"
    captions.write_bytes(captions.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"captions\.parquet was changed after `cusa shard` wrote it"):
        due("webdataset")


def test_run__features_of_regions_have_no_place(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=1, captions=1, splits=("train",))
    samples = pq.read_table(work / "train/samples.parquet")
    at = samples.column_names.index("ext")
    store.write_table(work / "train/samples.parquet", samples.set_column(at, "ext", pa.array(["npy"])))
    (work / "shard.ledger.json").unlink()
    with pytest.raises(DataError, match="holds features of regions and no pictures"):
        publish.run(ONE, work=work, to="parquet", out=tmp_path / "out")


def test_run__one_that_fails_counts_as_unfinished_and_leftovers_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, out = make_work(tmp_path, images=2, captions=1, splits=("train",)), tmp_path / "out"
    publish.run(ONE, work=work, to="parquet", out=out)
    done = ledger.read(out / "ledger.json")
    assert done is not None
    assert done.stage == "export"
    assert done.outputs.keys() == {"README.md", "croissant.json", "data/train-00000-of-00001.parquet"}
    assert done.digests == {name: store.sha256_file(out / name) for name in done.outputs}
    (out / "data" / f"{store.TEMPORARY}left").touch()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(publish.stage, "card", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        publish.run(ONE, work=work, to="parquet", out=out, force=True)
    assert ledger.read(out / "ledger.json") is None
    assert [file.name for file in (out / "data").iterdir()] == ["train-00000-of-00001.parquet"]
    assert publish.run(ONE, work=work, to="parquet", out=out).why == "never finished"


def test_run__pictures_of_classes_have_no_captions(work: Path, tmp_path: Path) -> None:
    path = work.parent / "raw/train/picture_0000.jpg"
    rows = [ImageRecord("own/a", "train", path, "a.jpg", (), label="dog")]
    shard.run(ShardConfig(workers=1), reading=Reading("own", rows, {}), out=tmp_path / "work")
    publish.run(ONE, work=tmp_path / "work", to="parquet", out=tmp_path / "parquet")
    (row,) = _exported(tmp_path / "parquet")
    assert (row["label"], row["captions"], row["caption_keys"]) == ("dog", [], [])
    publish.run(ONE, work=tmp_path / "work", to="webdataset", out=tmp_path / "tars")
    with tarfile.open(tmp_path / "tars/data/train-00000.tar") as tar:
        assert tar.getnames() == ["own/a.jpg", "own/a.json"]
