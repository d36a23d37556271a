"""The queue: candidates of one split alone, whatever the filter, in the order of their review value."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError
from cusa.manifests.samples import Split
from cusa.pipeline import audit
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.review.queue import Candidates, audited
from tests.pipeline.audited import teach
from tests.worlds import make_work


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two audited splits, and one that is not."""
    work = make_work(tmp_path_factory.mktemp("queue"), images=8, splits=("train", "val", "test"))
    for split in ("train", "val"):
        teach(work, split=split, image="colours", text="words")
        audit.run(AuditConfig(neighbours=4, gallery=0), split=Split(work, split))
    return work


def _pairs(work: Path, split: str) -> set[tuple[str, str]]:
    table = pq.read_table(work / split / "audit/candidates.parquet", columns=["image_key", "caption_key"])
    return set(zip(*table.to_pydict().values(), strict=True))


@pytest.mark.parametrize(
    "where", ["", "true", "score >= 0 OR split <> 'val'", "1 = 1) OR (1 = 1", "candidates.score >= 0 --"]
)
def test_queue__holds_the_split_alone_whatever_the_filter(work: Path, where: str) -> None:
    expected, others = _pairs(work, "val"), _pairs(work, "train")
    assert expected
    assert others
    assert not expected & others
    candidates = Candidates(Split(work, "val"), limit=10_000)
    try:
        queue = candidates.queue(where)
        assert set(queue.places) == {one.pair for one in queue.candidates} == expected
        assert queue.total == len(expected)
        assert candidates.find(min(others)) is None, "a pair of another split is no candidate of this one"
        assert candidates.find(min(expected)) is not None
    finally:
        candidates.close()


def test_queue__a_filter_that_ends_the_statement_is_refused(work: Path) -> None:
    candidates = Candidates(Split(work, "val"), limit=10)
    try:
        with pytest.raises(ConfigError):
            candidates.queue("true); SELECT 1; --")
        assert len(candidates.queue("").candidates) == 10
        assert candidates.queue("").total == len(_pairs(work, "val"))
    finally:
        candidates.close()


def test_audited__splits_with_candidates(work: Path) -> None:
    assert audited(work, ["train", "val", "test"]) == ["train", "val"]


def test_queue__the_most_worth_first_then_the_highest_score_then_by_key(work: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(work, tmp_path / "work")
    path = copied / "val/audit/candidates.parquet"
    table = pq.read_table(path)
    rows = [
        {**row, "worth": (0.1, None, 0.2, None, 0.2)[number % 5], "score": (7 * number % 5) / 10}
        for number, row in enumerate(table.to_pylist())
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["worth"] is None, -(row["worth"] or 0), -row["score"], row["image_key"], row["caption_key"]

    candidates = Candidates(Split(copied, "val"), limit=10_000)
    try:
        asked = [one.pair for one in candidates.queue("").candidates]
    finally:
        candidates.close()
    assert asked == [(row["image_key"], row["caption_key"]) for row in sorted(rows, key=place)]
