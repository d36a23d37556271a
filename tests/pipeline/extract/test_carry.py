"""Teacher rows that a subset takes along: those an extraction would make, or none."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.manifests import ledger, tables
from cusa.manifests.samples import Split
from cusa.pipeline import readers, shard, verify
from cusa.pipeline.config import ExtractConfig, ShardConfig
from cusa.pipeline.extract import carry
from cusa.pipeline.extract import stage as extraction
from tests.worlds import make_work

SHARDS = ShardConfig(max_images=5, workers=1)
TEACHERS = {"offline-gist": "image", "offline-ngrams": "text"}


def _extract(work: Path) -> None:
    for name in ("train", "val", "test"):
        for teacher, modality in TEACHERS.items():
            extraction.run(ExtractConfig(), split=Split(work, name), teacher=teacher, modality=modality)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    made = make_work(tmp_path, images=12, config=SHARDS)
    _extract(made)
    return made


def _subset(work: Path, out: Path, keys: list[str] | None = None) -> Path:
    keys = keys or [key for name in ("train", "val", "test") for key in Split(work, name).image_keys[::2]]
    shard.run(SHARDS, reading=readers.read_subset(work, keys), out=out)
    return out


def test_run__the_rows_are_those_of_an_extraction_which_then_has_nothing_to_do(work: Path, tmp_path: Path) -> None:
    part, again = _subset(work, tmp_path / "part"), _subset(work, tmp_path / "again")
    outcomes = carry.run(work, part)
    assert [outcome.counts["computed"] for outcome in outcomes] == [0] * 6
    _extract(again)
    for name in ("train", "val", "test"):
        split = Split(part, name)
        for teacher, modality in TEACHERS.items():
            mine, made = tables.read_teacher(split, teacher), tables.read_teacher(Split(again, name), teacher)
            assert mine.keys == made.keys
            assert np.array_equal(mine.embeddings, made.embeddings)
            for path in sorted((split.folder / "teachers" / teacher).glob("[0-9]*.parquet")):
                carried, extracted = (
                    tables.read_part_metadata(root / name / "teachers" / teacher / path.name) for root in (part, again)
                )
                assert carried == extracted | {"fidelity": "{}"}, path
            done = extraction.run(ExtractConfig(), split=split, teacher=teacher, modality=modality)
            assert not done.fresh
    assert not verify.run(part, workers=1).findings
    assert not any(outcome.fresh for outcome in carry.run(work, part))


def test_run__a_teacher_that_lacks_a_row_is_left_out(work: Path, tmp_path: Path) -> None:
    part = _subset(work, tmp_path / "part")
    whole = Split(work, "test")
    (whole.folder / "teachers" / "offline-gist" / "ledger.json").unlink()  # never finished: nobody's rows
    outcomes = carry.run(work, part)
    carried = {outcome.out.relative_to(part).as_posix() for outcome in outcomes}
    assert "test/teachers/offline-gist" not in carried
    assert {"train/teachers/offline-gist", "test/teachers/offline-ngrams"} <= carried
    assert "offline-gist" not in tables.teachers(Split(part, "test"))
    assert carry.left_out(work, part) == ["offline-gist"]


def test_run__changed_rows_are_not_carried(work: Path, tmp_path: Path) -> None:
    part = _subset(work, tmp_path / "part")
    path = next((work / "train" / "teachers" / "offline-ngrams").glob("[0-9]*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    carried = {outcome.out.name for outcome in carry.run(work, part)}
    assert carried == {"offline-gist"}


def test_run__tables_of_another_making_stay(work: Path, tmp_path: Path) -> None:
    part = _subset(work, tmp_path / "part")
    split = Split(part, "train")
    extraction.run(ExtractConfig(dtype="float32"), split=split, teacher="offline-ngrams", modality="text")
    before = ledger.read(split.folder / "teachers" / "offline-ngrams" / "ledger.json")
    carry.run(work, part)
    assert ledger.read(split.folder / "teachers" / "offline-ngrams" / "ledger.json") == before


def test_run__a_subset_that_changed_takes_its_rows_anew(work: Path, tmp_path: Path) -> None:
    part = _subset(work, tmp_path / "part")
    carry.run(work, part)
    _subset(work, part, Split(work, "train").image_keys[:3] + Split(work, "test").image_keys[3:9])
    outcomes = carry.run(work, part)
    assert {outcome.out.parent.parent.name for outcome in outcomes if outcome.fresh} == {"train", "test"}
    split = Split(part, "test")
    whole = tables.read_teacher(Split(work, "test"), "offline-gist")
    rows = [whole.keys.index(key) for key in split.image_keys]
    assert np.array_equal(tables.read_teacher(split, "offline-gist").embeddings, whole.embeddings[rows])


def test_run__tables_of_another_state_of_the_split_are_not_carried(work: Path, tmp_path: Path) -> None:
    part = _subset(work, tmp_path / "part")
    path = work / "train" / "captions.parquet"
    pq.write_table(pq.read_table(path), path, compression="none")  # the same rows, other bytes
    carried = {outcome.out.relative_to(part).parts[0] for outcome in carry.run(work, part)}
    assert carried == {"val", "test"}


def test_run__parts_of_tars_that_are_gone_do_not_stay(work: Path, tmp_path: Path) -> None:
    part = _subset(work, tmp_path / "part", Split(work, "train").image_keys)
    carry.run(work, part)
    folder = part / "train/teachers/offline-gist"
    assert len(list(folder.glob("[0-9]*.parquet"))) == 3
    keys = Split(work, "train").image_keys[3:7]
    _subset(work, part, keys)
    outcomes = carry.run(work, part)
    assert {outcome.why for outcome in outcomes} == {"split changed"}
    assert [path.name for path in sorted(folder.glob("[0-9]*.parquet"))] == ["00000.parquet"]
    assert tables.read_teacher(Split(part, "train"), "offline-gist").keys == keys
    assert not verify.run(part, workers=1).findings


def test_run__every_row_is_its_own_contents_wherever_it_lies(work: Path, tmp_path: Path) -> None:
    """From several parts of several splits, in another order than there."""
    keys = [Split(work, name).image_keys[row] for row in (10, 1, 6) for name in ("train", "val", "test")]
    part = _subset(work, tmp_path / "part", keys)
    counts = {(outcome.out.parent.parent.name, outcome.out.name): outcome.counts for outcome in carry.run(work, part)}
    for name in ("train", "val", "test"):
        for teacher, modality in TEACHERS.items():
            whole, got = (tables.read_teacher(Split(root, name), teacher) for root in (work, part))
            row = {key: at for at, key in enumerate(whole.keys)}
            assert len(got.keys) == (3 if modality == "image" else 15)
            assert counts[name, teacher] == {"rows": len(got.keys), "computed": 0, "width": got.embeddings.shape[1]}
            np.testing.assert_array_equal(got.embeddings, whole.embeddings[[row[key] for key in got.keys]])
