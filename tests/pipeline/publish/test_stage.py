"""Exports of a work folder: other tools read them, they come back as equal rows, and the card says what is in them."""

import gc
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests.samples import SPLIT_FILES, Split
from cusa.manifests.storage import store
from cusa.pipeline import publish, readers, shard
from cusa.pipeline.config import PublishConfig, ReadConfig, ShardConfig
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
    publish.run(ONE, work=work, to="parquet", out=out)
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
