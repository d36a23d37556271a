"""The queue: candidates of one split alone, whatever the filter, in the order of their review value."""

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests import schemas
from cusa.manifests.judgements import own_pairs
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import audit
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.review.queue import CANDIDATES, OWN_PAIRS, Candidate, Candidates, Doubt, audited, read_doubts
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


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split whose tables are written by hand."""
    work = make_work(tmp_path_factory.mktemp("few"), images=4, captions=2, splits=("train",))
    split = Split(work, "train")
    images, captions = split.image_keys, split.caption_keys
    numbers = {
        **{"score": 0.5, "image_similarity": 0.25, "text_similarity": float("nan"), "image_rank": 3, "text_rank": None},
        **{"p_positive": 0.75, "worth": 0.2, "text_blind": "swapped"},
    }
    rows = [
        {"image_key": images[0], "caption_key": captions[2], **numbers},
        {"image_key": images[1], "caption_key": captions[0], "score": 0.9, "worth": 0.1},
        {"image_key": images[2], "caption_key": captions[0], "score": 0.8, "worth": 0.1, "text_rank": 2},
    ]
    table = pa.Table.from_pylist(rows, schema=schemas.CANDIDATES).replace_schema_metadata({"split": split.digest})
    store.write_table(split.folder / "audit/candidates.parquet", table)
    own = [
        {"image_key": images[row // 2], "caption_key": captions[row], "p_wrong": p, "reasons": reasons}
        for row, p, reasons in ((0, 0.25, ["too-short", "new"]), (1, None, None), (2, 0.75, []), (3, 0.25, ["blank"]))
    ]
    own[0]["better_caption_keys"] = [captions[5], captions[6]]
    table = pa.Table.from_pylist(own, schema=schemas.PAIRS).replace_schema_metadata({"split": split.digest})
    store.write_table(split.folder / OWN_PAIRS.file, table)
    return work


def _queue(work: Path, **more: Any) -> Candidates:
    return Candidates(Split(work, "train"), **{"limit": 100, **more})


def test_candidates__every_number_under_its_name_and_none_for_what_is_none(few: Path) -> None:
    split = Split(few, "train")
    images, captions = split.image_keys, split.caption_keys
    with closing(_queue(few)) as opened:
        first, second, third = opened.queue("").candidates
        assert first == Candidate(images[0], captions[2], 0.5, 0.25, None, 3, None, 0.75, "swapped")
        assert first.numbers() == {
            **{"score": 0.5, "image_similarity": 0.25, "text_similarity": None, "image_rank": 3, "text_rank": None},
            "p_positive": 0.75,
        }
        assert second == Candidate(images[1], captions[0], pytest.approx(0.9), None, None, None, None, None)
        assert third.text_rank == 2
        assert opened.sha256 == store.sha256_file(split.folder / "audit/candidates.parquet")
        assert opened.path == split.folder / "audit/candidates.parquet"
        assert (first.pair, second.text_blind) == ((images[0], captions[2]), None)


def test_queue__the_first_of_those_that_a_filter_lets_through(few: Path) -> None:
    split = Split(few, "train")
    with closing(_queue(few, limit=2)) as opened:
        whole = opened.queue("")
        assert (len(whole.candidates), whole.total) == (2, 3)
        assert opened.queue("  \n ") is whole, "the same filter, the same queue"
        some = opened.queue("score > 0.7")
        assert (some.total, [one.image_key for one in some.candidates]) == (2, split.image_keys[1:3])
        last = (split.image_keys[2], split.caption_keys[0])
        assert last not in whole.places
        with closing(_queue(few, limit=1)) as other:
            assert other.find(last) == some.candidates[1], "a candidate of no queue is one all the same"
            assert other.find((last[0], split.caption_keys[1])) is None
        for number in range(20):
            assert opened.queue(f"score > {number}").total == (3 if number == 0 else 0)
        assert opened.queue("") == whole
        assert len(opened._queues) <= 8
        opened.queue("true" + " " * 5000)
        with pytest.raises(ConfigError, match=r"The filter has 2001 letters; allowed: 2000"):
            opened.queue("1" * 2001)
        with pytest.raises(ConfigError, match="scor"):
            opened.queue("scor > 1")


def test_candidates__what_cannot_be_asked_about_is_named(few: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(few, tmp_path / "work"))
    needed = {
        CANDIDATES: ("image_key", "caption_key", "score", "worth", "text_blind"),
        OWN_PAIRS: ("image_key", "caption_key", "p_wrong", "reasons", "better_caption_keys"),
    }
    for source, columns in needed.items():
        path = work / "train" / source.file
        table = pq.read_table(path)
        for column in columns:
            pq.write_table(table.drop_columns(column), path)
            with pytest.raises(DataError, match=rf"lacks the columns \['{column}'\].*`cusa audit "):
                _queue(work, source=source)
        pq.write_table(table.replace_schema_metadata({"split": "0" * 64}), path)
        option = " --pairs" if source is OWN_PAIRS else ""
        with pytest.raises(StaleError, match=rf"of another state of the split 'train'\. Run `.* train{option}` again"):
            _queue(work, source=source)
        path.unlink()
        with pytest.raises(DataError, match=rf"nothing to ask about\. Run `cusa audit .* --split train{option}`"):
            _queue(work, source=source)
        assert audited(work, ["train"], source) == []
        assert audited(few, ["train"], source) == ["train"]


def test_own_pairs__the_most_probably_wrong_first_and_why(few: Path) -> None:
    split = Split(few, "train")
    captions = split.caption_keys
    with closing(_queue(few, source=OWN_PAIRS)) as opened:
        asked = opened.queue("").candidates
        assert [one.caption_key for one in asked] == [captions[2], captions[0], captions[3], captions[1]]
        assert [one.p_positive for one in asked] == [0.25, 0.75, 0.75, None]
        assert {value for one in asked for name, value in one.numbers().items() if name != "p_positive"} == {None}
        assert [one.caption_key for one in opened.queue("p_wrong < 0.5").candidates] == [captions[0], captions[3]]
    words = own_pairs.IN_WORDS
    assert read_doubts(split) == {
        (split.image_keys[0], captions[0]): Doubt((words["too-short"], "new"), (captions[5], captions[6])),
        (split.image_keys[0], captions[1]): Doubt((), ()),
        (split.image_keys[1], captions[2]): Doubt((), ()),
        (split.image_keys[1], captions[3]): Doubt((words["blank"],), ()),
    }
