"""A work folder sharded again by what people judged: copies dropped or merged, every left-out row with its reason."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.records import CaptionRecord, ImageRecord
from cusa.manifests.samples import Split
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.readers import work
from tests.manifests.judgements.test_verdicts import make
from tests.pipeline.readers.counting import shard_counts
from tests.worlds import make_work


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Five images of two captions: 0, 2 and 4 are one; captions 2, 6 and 7 are true of other images."""
    split = Split(make_work(tmp_path, images=5, captions=2, splits=("train",)), "train")
    (split.folder / "audit").mkdir()
    said = {
        (2, 0): "duplicate",
        (2, 9): "duplicate",
        (0, 2): "match",
        (1, 6): "match",
        (1, 7): "match",
        (3, 1): "no match",
    }
    with Journal(split.folder / "audit") as journal:
        for number, ((image, caption), word) in enumerate(said.items()):
            keys = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
            journal.append(make(number, word, **keys))
    return split


def _shard(split: Split, out: Path, verdicts: str) -> tuple[Split, Counter[str]]:
    reading = readers.read_subset(split.work, verdicts=verdicts)
    done = shard.run(ShardConfig(workers=1), reading=reading, out=out)
    for kind in ("image", "caption"):
        assert done.counts[f"{kind}s_read"] == done.counts[f"{kind}s_kept"] + done.counts[f"{kind}s_dropped"]
    rows = pq.read_table(out / "train/drops.parquet").to_pylist()
    assert {row["reason"] for row in rows} == {"judged"}
    return Split(out, "train"), Counter(row["kind"] for row in rows)


def test_drop__leaves_out_copies_and_ambiguous_captions(split: Split, tmp_path: Path) -> None:
    part, dropped = _shard(split, tmp_path / "part", "drop")
    keys, texts = split.image_keys, split.texts
    assert part.image_keys == [keys[0], keys[1], keys[3]]
    # Both captions of image 3 are true of image 1: the first stays, an image without captions teaches nothing.
    assert part.texts == [texts[0], texts[1], texts[3], texts[6]]
    assert dropped == {"image": 2, "caption": 6}
    kept = split.caption_keys
    assert part.caption_keys == [kept[0], kept[1], kept[3], kept[6]], "what stays keeps its key, and with it the truth"
    again = readers.read_subset(part.work)
    shard.run(ShardConfig(workers=1), reading=again, out=tmp_path / "again")
    assert Split(tmp_path / "again", "train").caption_keys == part.caption_keys


def test_merge__gives_the_captions_to_the_first(split: Split, tmp_path: Path) -> None:
    part, dropped = _shard(split, tmp_path / "part", "merge")
    keys, texts = split.image_keys, split.texts
    assert part.image_keys == [keys[0], keys[1], keys[3]]
    assert part.texts == [*texts[0:2], *texts[4:6], *texts[8:10], *texts[2:4], *texts[6:8]]
    assert dropped == {"image": 2}
    assert part.caption_keys[:6] == [f"{keys[0]}#{place}" for place in range(6)]


def test_merge__captions_keep_their_language_though_their_keys_are_new(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = [split.caption_keys[0], split.caption_keys[5]]  # of the first image, and of a copy of it
    monkeypatch.setattr(work, "captions_in", lambda of, languages: set(of.caption_keys) - {*other})
    reading = readers.read_subset(split.work, verdicts="merge", languages=["en"])
    done = shard.run(ShardConfig(workers=1), reading=reading, out=tmp_path / "part")
    assert done.counts["captions_read"] == 10 == done.counts["captions_kept"] + 2
    part, texts = Split(tmp_path / "part", "train"), split.texts
    assert part.texts == [texts[1], texts[4], *texts[8:10], *texts[2:4], *texts[6:8]]
    assert part.caption_keys[:4] == [f"{split.image_keys[0]}#{place}" for place in range(1, 5)]
    rows = pq.read_table(tmp_path / "part/train/drops.parquet").to_pylist()
    assert [row["key"] for row in rows if row["reason"] == "language"] == other


def test_merge__a_place_whose_caption_is_left_out_stays_empty(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caption's key names the same words before and after, or none: a verdict on it still speaks of these."""
    other = split.caption_keys[1]  # the last of the first image
    monkeypatch.setattr(work, "captions_in", lambda of, languages: set(of.caption_keys) - {other})
    rows = readers.read_subset(split.work, verdicts="merge", languages=["en"]).rows
    first = next(row for row in rows if isinstance(row, ImageRecord))
    assert [caption.position for caption in first.captions] == [0, 2, 3, 4, 5]


def test_read_subset__another_verdict_is_another_source(split: Split) -> None:
    before = readers.read_subset(split.work, verdicts="drop").files
    with Journal(split.folder / "audit") as journal:
        journal.append(make(60, "match", image_key=split.image_keys[4], caption_key=split.caption_keys[3]))
    assert readers.read_subset(split.work, verdicts="drop").files != before
    assert "verdicts" not in readers.read_subset(split.work).files


def test_read_subset__refuses_what_it_does_not_know(split: Split, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="drop, merge"):
        readers.read_subset(split.work, verdicts="dorp")
    with pytest.raises(DataError, match="Nobody has judged"):
        readers.read_subset(make_work(tmp_path / "other", images=2), verdicts="drop")


def test_subset__keeps_bytes_captions_and_truth(tmp_path: Path) -> None:
    whole_work = make_work(tmp_path, images=5)
    split = Split(whole_work, "test")
    wanted = [split.image_keys[3], split.caption_keys[2]]
    shard.run(ShardConfig(workers=1), reading=readers.read_subset(whole_work, wanted), out=tmp_path / "part")
    part = Split(tmp_path / "part", "test")
    assert part.image_keys == [split.image_keys[0], split.image_keys[3]]
    assert [part.image_bytes(0), part.image_bytes(1)] == [split.image_bytes(0), split.image_bytes(3)]
    assert part.texts == split.texts[:5] + split.texts[15:20]
    whole = readers.read_subset(whole_work)
    shard.run(ShardConfig(workers=1), reading=whole, out=tmp_path / "again")
    assert Split(tmp_path / "again", "test").digest == split.digest, "all of it is the same bytes"
    with pytest.raises(DataError, match="names no key"):
        readers.read_subset(whole_work, [])


def test_read_subset__says_that_a_caption_keeps_its_whole_image(split: Split) -> None:
    one, two = (readers.read_subset(split.work, split.caption_keys[:number]) for number in (1, 2))
    assert one.notes == ("1 of the keys is a caption's: its image was kept with all captions.",)
    assert two.notes == ("2 of the keys are captions': their images were kept with all captions.",)
    assert readers.read_subset(split.work, split.image_keys[:1]).notes == ()


def test_read_subset__a_picture_that_was_damaged_since_is_a_drop(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=3, splits=("train",))
    split = Split(work, "train")
    tar = work / "train/00000.tar"
    data = bytearray(tar.read_bytes())
    data[split.samples["image_offset"][1].as_py() + 300] ^= 1
    tar.write_bytes(data)
    counts = shard_counts(readers.read_subset(work), tmp_path / "again")
    assert (counts["images_kept"], counts["images_dropped"]) == (2, 1)
    (drop,) = (d for d in pq.read_table(tmp_path / "again/train/drops.parquet").to_pylist() if d["kind"] == "image")
    assert (drop["key"], drop["reason"]) == (split.image_keys[1], "changed")
    assert split.samples["sha256"][1].as_py() in drop["detail"]


def test_read_subset__features_that_were_damaged_since_are_a_drop(tmp_path: Path) -> None:
    np.arange(24, dtype="<f4").tofile(tmp_path / "features")
    texts = (CaptionRecord("", "x"),)
    records = [
        ImageRecord(f"d/{n}", "train", tmp_path / "features", "f", texts, offset=48 * n, length=48, array=(3, 4))
        for n in range(2)
    ]
    shard.run(ShardConfig(workers=1), reading=readers.Reading("d", records, {}), out=tmp_path / "work")
    split = Split(tmp_path / "work", "train")
    assert shard_counts(readers.read_subset(split.work), tmp_path / "whole")["images_kept"] == 2
    tar = split.folder / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[split.samples["image_offset"][1].as_py() + split.samples["image_bytes"][1].as_py() - 2] ^= 1
    tar.write_bytes(data)
    counts = shard_counts(readers.read_subset(split.work), tmp_path / "again")
    assert (counts["images_kept"], counts["images_dropped"]) == (1, 1)
    drops = pq.read_table(tmp_path / "again/train/drops.parquet").to_pylist()
    assert {(drop["key"].partition("#")[0], drop["reason"]) for drop in drops} == {("d/1", "changed")}


def test_shard__a_subset_is_not_written_over_its_source(split: Split, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(split.work)
    before = (split.work / "shard.ledger.json").read_bytes()
    reading = readers.read_subset(split.work, split.image_keys[:1])
    for out, words in (
        (split.work, "is the work folder that is read"),
        (tmp_path / "link", "is the work folder that is read"),
        (split.work / "part", "lies in"),
        (split.work.parent, "holds"),
    ):
        with pytest.raises(ConfigError, match=rf"--out .* {words}.* Give a folder outside of it"):
            shard.run(ShardConfig(workers=1), reading=reading, out=out)
        with pytest.raises(ConfigError, match=words):
            readers.refuse_own_source(split.work, out)
    assert (split.work / "shard.ledger.json").read_bytes() == before
    assert not (split.work / "part").exists()
