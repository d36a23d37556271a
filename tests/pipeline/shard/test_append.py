"""Appending: what was there stays byte for byte, what is new comes behind it, and nothing is lost on the way."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests import ledger, schemas
from cusa.manifests.ledger import Ledger
from cusa.manifests.records import CaptionRecord, ImageRecord
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome
from cusa.manifests.storage import store
from cusa.pipeline import extract, readers, verify
from cusa.pipeline.config import ExtractConfig, ShardConfig
from cusa.pipeline.shard import append, tar
from cusa.pipeline.shard import stage as shard
from tests.worlds import Colours, write_karpathy


def _run(source: Path, out: Path, **options: Any) -> Outcome:
    config = ShardConfig(workers=1, max_images=4, **options.pop("config", {}))
    return shard.run(config, reading=readers.read("karpathy", source), out=out, **options)


def _grown(folder: Path, *, images: int = 6, more: int = 2) -> tuple[Path, Path]:
    """Write a source, and the same with `more` images at its end in each split; return both."""
    whole = write_karpathy(folder / "grown", images=images + more)
    rows = json.loads(whole.read_text())
    small = {"images": [], "dataset": "mini"}
    for split in ("train", "val", "test"):
        small["images"] += [row for row in rows["images"] if row["split"] == split][:images]
    path = whole.with_name("dataset_small.json")
    path.write_text(json.dumps(small))
    return path, whole


def _bytes(folder: Path, pattern: str = "*") -> dict[str, str]:
    files = (f for f in folder.rglob(pattern) if f.is_file() and f.name not in ("shard.ledger.json", store.LOCK))
    return {f.relative_to(folder).as_posix(): store.sha256_file(f) for f in files}


def test_append__old_tars_stay_and_new_rows_come_behind(tmp_path: Path) -> None:
    small, whole = _grown(tmp_path)
    work = tmp_path / "work"
    _run(small, work)
    before = _bytes(work, "*.tar")
    keys = Split(work, "train").image_keys
    outcome = _run(whole, work, append=True)
    after = _bytes(work, "*.tar")
    assert {name: after[name] for name in before} == before
    assert sorted(after.keys() - before.keys()) == ["test/00002.tar", "train/00002.tar", "val/00002.tar"]
    split = Split(work, "train")
    assert split.image_keys[:6] == keys
    assert (split.num_images, split.num_captions) == (8, 40)
    for row, name in enumerate(split.samples["source"].to_pylist()):
        assert split.image_bytes(row) == (whole.parent / name).read_bytes()
    assert outcome.counts["images_kept"] == 24 == outcome.counts["images_read"]
    assert "18 there already" in outcome.notes[0]
    assert verify.run(work, workers=1).findings == ()
    assert not _run(whole, work, append=True).fresh
    assert not _run(small, work).fresh, "the first source is still what the folder was made of"
    assert not (work / append.NOTE).exists()


def test_append__costs_the_teachers_only_what_is_new(tmp_path: Path) -> None:
    small, whole = _grown(tmp_path, images=8, more=1)
    work = tmp_path / "work"
    _run(small, work)
    run = {"teacher": "colours", "modality": "image", "load": lambda name, modality: Colours()}
    extract.run(ExtractConfig(), split=Split(work, "train"), **run)
    _run(whole, work, append=True)
    assert extract.run(ExtractConfig(), split=Split(work, "train"), **run).counts["computed"] == 1


def test_append__another_data_set_and_a_new_split(tmp_path: Path) -> None:
    first = write_karpathy(tmp_path / "one", images=2, splits=("train",))
    second = write_karpathy(tmp_path / "two", images=3, splits=("test",), seed=1)
    rows = json.loads(second.read_text())
    second.write_text(json.dumps({**rows, "dataset": "other"}))
    _run(first, tmp_path / "work")
    _run(second, tmp_path / "work", append=True)
    assert Split(tmp_path / "work", "test").image_keys[0] == "other/picture_0000"
    assert Split(tmp_path / "work", "train").num_images == 2
    outputs = ledger.read(tmp_path / "work/shard.ledger.json").outputs  # type: ignore[union-attr]
    assert {"train/00000.tar", "test/00000.tar"} <= set(outputs)


def test_append__rows_that_changed_are_refused_by_name(tmp_path: Path) -> None:
    small, whole = _grown(tmp_path)
    work = tmp_path / "work"
    _run(small, work)
    rows = json.loads(whole.read_text())
    rows["images"][0]["sentences"][2]["raw"] = "Another caption."
    whole.write_text(json.dumps(rows))
    with (whole.parent / "val/picture_0008.jpg").open("ab") as file:
        file.write(b"more")
    outcome = _run(whole, work, append=True)
    drops = [row for name in ("train", "val") for row in pq.read_table(work / name / "drops.parquet").to_pylist()]
    assert [(row["key"], row["reason"]) for row in drops if row["kind"] == "image"] == [
        ("mini/picture_0000", "duplicate-key"),
        ("mini/picture_0008", "duplicate-key"),
    ]
    assert outcome.counts["images_kept"] == 24
    assert outcome.counts["images_dropped"] == 2


def test_append__a_lost_image_that_came_back_is_kept_and_no_drop_any_more(tmp_path: Path) -> None:
    small, whole = _grown(tmp_path)
    picture = whole.parent / "train/picture_0003.jpg"
    aside = picture.read_bytes()
    picture.unlink()
    work = tmp_path / "work"
    assert _run(small, work).counts["images_dropped"] == 1
    picture.write_bytes(aside)
    assert _run(whole, work, append=True).counts["images_dropped"] == 0
    assert "mini/picture_0003" in Split(work, "train").image_keys[5:]


def test_append__what_cannot_be_is_explained(tmp_path: Path) -> None:
    small, whole = _grown(tmp_path)
    work = tmp_path / "work"
    with pytest.raises(DataError, match="no finished shards to append to"):
        _run(whole, work, append=True)
    _run(small, work)
    with pytest.raises(ConfigError, match="was sharded with resize 0, not 20"):
        _run(whole, work, append=True, config={"resize": 20})
    assert not _run(small, work).fresh, "a refused append leaves the folder as it was"
    _run(whole, work, append=True)
    (small.parent / "train/picture_0001.jpg").unlink()
    with pytest.raises(StaleError, match="images changed.*would lose"):
        _run(small, work)
    assert _run(small, work, force=True).counts["images_kept"] == 17


@pytest.mark.parametrize("where", ["first tar", "last tar", "tables", "before the ledger"])
def test_append__killed_anywhere_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    small, whole = _grown(tmp_path)
    _run(small, tmp_path / "start")
    shutil.copytree(tmp_path / "start", tmp_path / "whole")
    _run(whole, tmp_path / "whole", append=True)
    work = tmp_path / "start"

    calls = 0
    points = {"first tar": (tar, "write", 0), "last tar": (tar, "write", 2)}
    points |= {"tables": (shard, "_images", 3), "before the ledger": (shard, "_tar_digests", 0)}
    module, name, after = points[where]
    real = getattr(module, name)

    def dies(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, name, dies)
        _run(whole, work, append=True)
    assert (work / append.NOTE).is_file()
    with pytest.raises(StaleError, match="interrupted"):
        _run(small, work)
    other = write_karpathy(tmp_path / "other", images=1)
    with pytest.raises(StaleError, match="Another append"):
        _run(other, work, append=True)
    _run(whole, work, append=True)
    assert _bytes(work) == _bytes(tmp_path / "whole")


CHANGES: dict[str, Callable[[ImageRecord, Path], ImageRecord]] = {
    "label": lambda record, folder: record._replace(label="b"),
    "label of 0": lambda record, folder: record._replace(label="0"),
    "no label": lambda record, folder: record._replace(label=""),
    "role": lambda record, folder: record._replace(role="query"),
    "split": lambda record, folder: record._replace(split="val"),
    "source": lambda record, folder: record._replace(source="other.jpg"),
    "a caption": lambda record, folder: record._replace(captions=(CaptionRecord("", "x"),)),
    "captions in another order": lambda record, folder: record._replace(captions=record.captions[::-1]),
    "a caption more": lambda record, folder: record._replace(captions=(*record.captions, CaptionRecord("", "x"))),
    "no picture": lambda record, folder: record._replace(path=None),
    "bytes of the same number": lambda record, folder: record._replace(path=_flipped(record, folder)),
}


def _flipped(record: ImageRecord, folder: Path) -> Path:
    assert record.path is not None
    data = bytearray(record.path.read_bytes())
    data[-20] ^= 1
    (folder / "flipped.jpg").write_bytes(data)
    return folder / "flipped.jpg"


@pytest.mark.parametrize("change", CHANGES)
def test_append__another_content_under_a_key_is_refused(tmp_path: Path, change: str) -> None:
    reading = readers.read("karpathy", write_karpathy(tmp_path / "raw", images=3, splits=("train",)))
    records = [record._replace(label="a") for record in reading.images]
    work = tmp_path / "work"
    config = ShardConfig(workers=1)
    shard.run(config, reading=replace(reading, rows=records), out=work)
    before = _bytes(work, "*.tar")
    digest = Split(work, "train").samples.to_pylist()
    other = CHANGES[change](records[1], tmp_path)
    appended = [records[0], other, records[2]]
    counts = shard.run(config, reading=replace(reading, rows=appended), out=work, append=True).counts
    assert _bytes(work, "*.tar") == before
    assert Split(work, "train").samples.to_pylist() == digest
    assert counts["images_dropped"] == 1
    drops = pq.read_table(work / other.split / "drops.parquet").to_pylist()
    (image,) = (drop for drop in drops if drop["kind"] == "image")
    assert (image["key"], image["reason"]) == (other.key, "duplicate-key")
    assert sum(drop["kind"] == "caption" for drop in drops) == len(other.captions)


def test_append__a_picture_gone_from_the_source_and_features_are_there_already(tmp_path: Path) -> None:
    reading = readers.read("karpathy", write_karpathy(tmp_path / "raw", images=2, splits=("train",)))
    np.arange(12, dtype="<f4").tofile(tmp_path / "features")
    about = ("mini/features", "train", tmp_path / "features", "features", (CaptionRecord("", "x"),))
    records = [
        *reading.images,
        ImageRecord(*about, length=48, array=(3, 4)),
        ImageRecord(*about[:1], "train", None, "t", about[4]),
    ]
    records[-1] = records[-1]._replace(key="mini/text")
    work, config = tmp_path / "work", ShardConfig(workers=1)
    shard.run(config, reading=replace(reading, rows=records), out=work)
    assert records[0].path is not None
    records[0].path.unlink()
    new = records[1]._replace(key="mini/new")
    done = shard.run(config, reading=replace(reading, rows=[*records, new]), out=work, append=True)
    assert done.counts["images_dropped"] == 0
    assert "4 there already" in done.notes[0]
    np.ones(12, dtype="<f4").tofile(tmp_path / "features")
    done = shard.run(config, reading=replace(reading, rows=records), out=work, append=True)
    assert done.counts["images_dropped"] == 1


def test_append__a_drop_that_comes_again_stands_once(tmp_path: Path) -> None:
    small, whole = _grown(tmp_path)
    rows = json.loads(small.read_text())
    rows["images"].append({"filename": "../x", "split": "train", "sentences": [{"raw": "lost"}]})
    small.write_text(json.dumps(rows))
    work = tmp_path / "work"
    _run(small, work)
    first = pq.read_table(work / "train/drops.parquet").to_pylist()
    assert [row["kind"] for row in first] == ["image", "caption"]
    rows["images"] = [*json.loads(whole.read_text())["images"], rows["images"][-1]]
    # The same words about the same place: the source keeps its name and the row its number.
    number = len(json.loads(small.read_text())["images"]) - 1
    rows["images"].insert(number, rows["images"].pop())
    (small.parent / "more").mkdir()
    again = small.parent / "more" / small.name
    again.write_text(json.dumps(rows))
    reading = readers.read("karpathy", again, small.parent)
    shard.run(ShardConfig(workers=1, max_images=4), reading=reading, out=work, append=True)
    assert pq.read_table(work / "train/drops.parquet").to_pylist() == first
    assert Split(work, "train").num_images == 8


@pytest.mark.parametrize("rows", range(9))
def test_base__gives_a_table_as_it_was_before_the_append(tmp_path: Path, rows: int) -> None:
    """A killed append may have written more rows behind them, in row groups that end anywhere."""
    table = pa.table({"key": [f"k{row}" for row in range(9)], "source": [""] * 9})
    (tmp_path / "train").mkdir()
    pq.write_table(table, tmp_path / "train/captions.parquet", row_group_size=4)
    base = append.Base(Ledger("shard", {}, {}, {}, {}, 0.0, 0), {"train": {"captions.parquet": rows}})
    given = list(base.tables(tmp_path / "train", "captions.parquet"))
    assert [key for part in given for key in part["key"].to_pylist()] == table["key"].to_pylist()[:rows]
    assert all(part.num_rows for part in given), "no empty part behind the last row"
    assert base.has_sources(tmp_path / "train") == (rows > 0)
    assert list(base.tables(tmp_path / "val", "captions.parquet")) == [], "a split that is new"
    assert list(base.tables(tmp_path / "train", "shards.parquet")) == []


def test_base__the_first_new_tar_comes_behind_the_last(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    table = pa.table({"shard": ["00000.tar", "00001.tar", "00012.tar", "00013.tar"]})
    pq.write_table(table, tmp_path / "train/shards.parquet")
    for rows, number in ((0, 0), (1, 1), (3, 13), (4, 14)):
        base = append.Base(Ledger("shard", {}, {}, {}, {}, 0.0, 0), {"train": {"shards.parquet": rows}})
        assert base.first_number(tmp_path / "train") == number


def test_old_and_new_drops__nothing_stands_twice_and_what_is_kept_now_is_none(tmp_path: Path) -> None:
    def row(key: str, detail: str) -> dict[str, str]:
        about = {"key": key, "source": "s", "kind": "image", "reason": "missing", "detail": detail}
        return {name: about.get(name, "") for name in schemas.DROPS.names}

    old = [row("d/a", "gone"), row("d/b", "gone"), row("d/c", "gone")]
    (tmp_path / "train").mkdir()
    pq.write_table(pa.Table.from_pylist(old, schema=schemas.DROPS), tmp_path / "train/drops.parquet")
    base = append.Base(Ledger("shard", {}, {}, {}, {}, 0.0, 0), {"train": {"drops.parquet": 3}})
    new = [row("d/b", "gone"), row("d/b", "another reason"), row("d/e", "gone")]
    found = append.old_and_new_drops(base, tmp_path / "train", {"d/a"}, new)
    assert found == [old[1], old[2], new[1], new[2]]


def test_begin__other_settings_are_refused_by_name_and_leave_no_note(tmp_path: Path) -> None:
    small, _ = _grown(tmp_path, images=2)
    work = tmp_path / "work"
    _run(small, work)
    parameters = dict(ledger.read(work / "shard.ledger.json").parameters)  # type: ignore[union-attr]
    base, inputs = append.begin(work, addition="x" * 64, parameters={**parameters, "dataset": "other"})
    assert inputs == {**base.old.inputs, "appended-001": "x" * 64}
    append.end(work)
    for name in parameters:
        if name == "dataset":
            continue
        with pytest.raises(ConfigError, match=f"was sharded with {name} "):
            append.begin(work, addition="x" * 64, parameters={**parameters, name: "other"})
        assert not (work / append.NOTE).exists()
    with pytest.raises(ConfigError, match="was sharded with quality 92, not None"):
        append.begin(work, addition="x" * 64, parameters={n: v for n, v in parameters.items() if n != "quality"})


def test_append__every_addition_stands_in_the_ledger(tmp_path: Path) -> None:
    small, whole = _grown(tmp_path, images=2, more=4)
    rows = json.loads(whole.read_text())
    names = {row["filename"] for split in ("train", "val", "test") for row in _of(rows, split)[:4]}
    middle = whole.with_name("dataset_middle.json")
    middle.write_text(json.dumps({**rows, "images": [row for row in rows["images"] if row["filename"] in names]}))
    work = tmp_path / "work"
    _run(small, work)
    additions: list[dict[str, str]] = []
    for source in (middle, whole):
        _run(source, work, append=True)
        written = ledger.read(work / "shard.ledger.json")
        assert written is not None
        additions.append(append.appended(written.inputs))
    assert [sorted(one) for one in additions] == [["appended-001"], ["appended-001", "appended-002"]]
    assert additions[1]["appended-001"] == additions[0]["appended-001"], "the first stays as it was"
    assert not _run(whole, work, append=True).fresh


def _of(rows: dict[str, Any], split: str) -> list[dict[str, Any]]:
    return [row for row in rows["images"] if row["split"] == split]
