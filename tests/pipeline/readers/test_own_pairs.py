"""A work folder sharded again by what was said of its own pairs, every left-out caption a row with who said so."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cusa.cli import app
from cusa.errors import DataError
from cusa.manifests import schemas
from cusa.manifests.judgements.own_pairs import FOLDER, pairs_path
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.records import CaptionRecord, Drop
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.readers import work
from cusa.pipeline.readers.own_pairs import OwnPairs
from tests.manifests.judgements.test_verdicts import make
from tests.worlds import make_work


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Three images of two captions; 1 is wrong and 4 stands in its place, 2 is kept, 5 is wrong without another."""
    split = Split(make_work(tmp_path, images=3, captions=2, splits=("train",)), "train")
    store.make_folder(split.folder / FOLDER)
    said = {(0, 1): "no match", (0, 4): "match", (1, 2): "match", (2, 5): "no match"}
    with Journal(split.folder / FOLDER) as journal:
        for number, ((image, caption), word) in enumerate(said.items()):
            keys = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
            journal.append(make(number, word, **keys))
    return split


def _shard(split: Split, out: Path, verdicts: str = "", max_p_wrong: float | None = None) -> Split:
    reading = readers.read_subset(split.work, verdicts=verdicts, max_p_wrong=max_p_wrong)
    shard.run(ShardConfig(workers=1), reading=reading, out=out)
    return Split(out, "train")


def test_drop__leaves_wrong_captions_out(split: Split, tmp_path: Path) -> None:
    part = _shard(split, tmp_path / "part", "drop")
    assert part.caption_keys == [split.caption_keys[row] for row in (0, 2, 3, 4)]
    rows = pq.read_table(tmp_path / "part/train/drops.parquet").to_pylist()
    assert [row["key"] for row in rows] == [split.caption_keys[1], split.caption_keys[5]]
    assert all(row["reason"] == "judged" and "judged wrong by" in row["detail"] for row in rows)
    assert split.texts[1] in rows[0]["detail"]


def test_repair__puts_the_chosen_caption_in_its_place(split: Split, tmp_path: Path) -> None:
    part = _shard(split, tmp_path / "part", "repair")
    assert part.texts == [split.texts[row] for row in (0, 4, 2, 3, 4)]
    assert part.caption_keys[1] == f"{split.image_keys[0]}#2", "a new key: the wrong caption's is not given again"
    rows = pq.read_table(tmp_path / "part/train/drops.parquet").to_pylist()
    assert f"{split.image_keys[0]}#2 came from {split.caption_keys[4]}" in rows[0]["detail"]


def test_repair__the_chosen_caption_keeps_its_language_though_its_key_is_new(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other, texts, dropped in ((0, (4, 2, 3, 4), [0, 1, 5]), (4, (0, 2, 3), [1, 4, 5])):
        monkeypatch.setattr(work, "captions_in", lambda of, _, row=other: {*of.caption_keys} - {of.caption_keys[row]})
        reading = readers.read_subset(split.work, verdicts="repair", languages=["en"])
        shard.run(ShardConfig(workers=1), reading=reading, out=tmp_path / str(other))
        assert Split(tmp_path / str(other), "train").texts == [split.texts[row] for row in texts]
        rows = pq.read_table(tmp_path / str(other) / "train/drops.parquet").to_pylist()
        assert sorted(row["key"] for row in rows if row["kind"] == "caption") == [
            split.caption_keys[row] for row in dropped
        ]


def test_merge__leaves_own_pairs_alone(split: Split, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Nobody has judged"):
        _shard(split, tmp_path / "part", "merge")


def test_max_p_wrong__leaves_out_what_the_audit_doubts(split: Split, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cusa audit .* --pairs"):
        _shard(split, tmp_path / "none", max_p_wrong=0.5)
    p_wrong = np.array([0.1, 0.9, 0.5, 0.2, 0.6, 0.0], dtype=np.float32)
    named = zip(split.caption_keys, p_wrong.tolist(), strict=True)
    table = pa.Table.from_pylist([{"caption_key": key, "p_wrong": p} for key, p in named], schema=schemas.PAIRS)
    store.write_table(pairs_path(split), table.replace_schema_metadata({"split": split.digest}))
    command = ["shard", "subset", str(split.work), "--max-p-wrong", "nan", "--out", str(tmp_path / "part")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "--max-p-wrong" in refused.output
    command[4] = "0.5"
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert Split(tmp_path / "part", "train").caption_keys == [split.caption_keys[row] for row in (0, 2, 3, 5)]
    rows = pq.read_table(tmp_path / "part/train/drops.parquet").to_pylist()
    assert {row["reason"] for row in rows} == {"doubted"}
    assert "p = 0.900" in rows[0]["detail"]


def test_read_subset__another_verdict_is_another_source(split: Split) -> None:
    before = readers.read_subset(split.work, verdicts="repair").files
    with Journal(split.folder / FOLDER) as journal:
        journal.append(make(60, "no match", image_key=split.image_keys[1], caption_key=split.caption_keys[3]))
    assert readers.read_subset(split.work, verdicts="repair").files != before


def test_apply__every_caption_stays_goes_or_comes_with_its_key(split: Split) -> None:
    """Also where none of an image's own is left, and where the audit doubts what people kept."""
    pairs = OwnPairs(split, judged=True, repair=True, max_p_wrong=None)
    keys, texts = split.image_keys, split.texts
    captions = [CaptionRecord("7", "kept", 0), CaptionRecord("8", "wrong", 1)]
    wrong, chosen = list(pairs.apply(keys[0], "a source", captions))[1:]
    key = f"{keys[0]}#1"
    assert isinstance(wrong, Drop)
    assert wrong == Drop("train", key, "a source", "caption", "judged", wrong.detail)
    assert wrong.detail.startswith("judged wrong by ")
    assert wrong.detail.endswith(f": 'wrong'; {keys[0]}#2 came from {split.caption_keys[4]}")
    row = split.captions["caption_id"][4].as_py()
    assert chosen == CaptionRecord(row, texts[4], 2, split.caption_sources[4])
    assert list(pairs.apply(keys[0], "a source", [])) == [CaptionRecord(row, texts[4], 0, split.caption_sources[4])]
    alone = list(pairs.apply(keys[1], "a source", [CaptionRecord("1", "as it is", 0)]))
    assert alone == [CaptionRecord("1", "as it is", 0)]
    unjudged = OwnPairs(split, judged=False, repair=False, max_p_wrong=None)
    assert list(unjudged.apply(keys[0], "", captions)) == captions
    assert (pairs.any, unjudged.any) == (True, False)


@pytest.mark.parametrize(("limit", "left"), [(0.5, [0, 2]), (0.4999, [0]), (0.9, [0, 1, 2]), (0.0, [])])
def test_apply__what_the_audit_doubts_more_than_told_goes(split: Split, limit: float, left: list[int]) -> None:
    p_wrong = [0.25, 0.75, 0.5, 0.0, 0.0, 0.0]
    named = zip(split.caption_keys, p_wrong, strict=True)
    table = pa.Table.from_pylist([{"caption_key": key, "p_wrong": p} for key, p in named], schema=schemas.PAIRS)
    store.write_table(pairs_path(split), table.replace_schema_metadata({"split": split.digest}))
    pairs = OwnPairs(split, judged=False, repair=False, max_p_wrong=limit)
    got = []
    for image in (0, 1):
        captions = [CaptionRecord("", split.texts[row], row % 2) for row in (2 * image, 2 * image + 1)]
        got += list(pairs.apply(split.image_keys[image], "s", captions))
    assert [row for row, one in enumerate(got[:3]) if isinstance(one, CaptionRecord)] == left
    for row, one in enumerate(got[:3]):
        if isinstance(one, Drop):
            detail = f"the audit calls it wrong with p = {p_wrong[row]:.3f}: {split.texts[row]!r}"
            assert one == Drop("train", split.caption_keys[row], "s", "caption", "doubted", detail)
    digests = {OwnPairs(split, judged=False, repair=False, max_p_wrong=at).digest for at in (limit, 0.33, None)}
    assert len(digests) == 3
