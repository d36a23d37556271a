"""The thirty questions of docs/sql.md on `scenes`: every one answered, and many checked against plain Python."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.manifests import schemas
from cusa.manifests.judgements import own_pairs, verdicts
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.teachers.registry import load_teacher
from cusa.pipeline import audit, calibrate, extract, index, readers, shard
from cusa.pipeline.config import AuditConfig, CalibrateConfig, ExtractConfig, IndexConfig, PairsConfig, ShardConfig
from cusa.pipeline.own_pairs import issues
from cusa.pipeline.own_pairs import stage as pairs_stage
from cusa.pipeline.sql import database as query
from cusa.workflow import demo as demos
from cusa.workflow import download as downloading
from tests.conftest import ROOT

QUESTIONS = {
    int(number): (words, sql)
    for number, words, sql in re.findall(
        r"^(\d+)\. (.*?)\n\n```sql\n(.*?)```", (ROOT / "docs/sql.md").read_text(), re.DOTALL | re.MULTILINE
    )
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`scenes`, small: audited with a calibration, judged once, with a run."""
    folder = tmp_path_factory.mktemp("questions")
    raw, work = folder / "raw/scenes", folder / "work"
    downloading.download("scenes", out=raw, settings=("train=20", "val=30", "test=30"))
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", raw / "dataset_scenes.json", raw), out=work)
    for name in ("val", "test"):
        split = Split(work, name)
        for modality, teacher in demos.DEMO_TEACHERS.items():
            extract.run(ExtractConfig(), split=split, teacher=teacher, modality=modality, load=load_teacher)
            index.run(IndexConfig(neighbours=20), split=split, teacher=teacher)
    test, out = Split(work, "test"), folder / "calibration.json"
    config = CalibrateConfig(neighbours=20, pairs=500, background=100)
    calibrate.run(config, split=Split(work, "val"), out=out)
    audit.run(AuditConfig(neighbours=20, gallery=0, near_image=0.9), split=test, calibrated=out)
    best = store.read_table(test.folder / "audit/candidates.parquet").slice(0, 2).to_pylist()
    with verdicts.Journal(test.folder / "audit") as journal:
        for number, row in enumerate(best):
            keys = row["image_key"], row["caption_key"]
            journal.append(verdicts.Verdict(f"verdict-{number}", *keys, "match", "Ada", datetime.now(UTC)))
            if not number:  # a slip that is taken back, and a pair that is left open
                journal.append(verdicts.Verdict("slip-0001", *keys, "no match", "Ben", datetime.now(UTC)))
                undo = verdicts.Verdict("undo-0001", *keys, "undo", "Ben", datetime.now(UTC), undoes="slip-0001")
                journal.append(undo)
                journal.append(verdicts.Verdict("skip-0001", *keys, "skip", "Ben", datetime.now(UTC)))
                journal.append(verdicts.Verdict("other-0001", *keys, "no match", "Cleo", datetime.now(UTC)))
    verdicts.publish(test.folder / "audit")
    issues.run(PairsConfig(), split=test)
    pairs_stage.run(PairsConfig(gallery=0), split=test)
    _judge_most_doubted(test)
    _run(folder / "runs/tiny", best, rank=4)
    _run(folder / "runs/twin", best, rank=1)
    _table(
        raw / "sources.parquet",
        schemas.SOURCES,
        path="a.zip",
        url="u",
        bytes=1,
        sha256="",
        status="failed",
        error="404",
    )
    drop = {"key": "scenes/1", "source": "a.png", "kind": "image", "reason": "truncated", "detail": ""}
    _table(work / "train/drops.parquet", schemas.DROPS, **drop)
    copy = test.samples.slice(0, 1).to_pylist()[0]
    train = Split(work, "train").samples.to_pylist()
    train[3]["sha256"] = copy["sha256"]
    store.write_table(work / "train/samples.parquet", pa.Table.from_pylist(train, schema=schemas.SAMPLES))
    return work


def _table(file: Path, schema: pa.Schema, **row: Any) -> None:
    store.write_table(file, pa.Table.from_pylist([row], schema=schema))


def _judge_most_doubted(split: Split) -> None:
    """The pair that is doubted most is kept, as a person sees that it is right."""
    most = store.read_table(split.folder / own_pairs.FOLDER / own_pairs.TABLE).slice(0, 1).to_pylist()[0]
    with verdicts.Journal(split.folder / own_pairs.FOLDER) as journal:
        keys = most["image_key"], most["caption_key"]
        journal.append(verdicts.Verdict("keep-0001", *keys, "match", "Ada", datetime.now(UTC)))
    verdicts.publish(split.folder / own_pairs.FOLDER)


def _run(run: Path, best: list[dict[str, Any]], *, rank: int) -> None:
    store.write_json(run / "recipe.json", {"name": "tiny", "train": {"seed": 3}, "student": {"kind": "dual-encoder"}})
    metrics = pa.table([[0, 1], ["loss", "loss"], [2.0, 1.5]], schema=schemas.METRICS)
    store.write_table(run / "metrics.parquet", metrics)
    row = {"task": "cross-modal", "direction": "image-to-text", "query_key": best[0]["image_key"], "rank": rank}
    row |= {"positives": 5, "top_keys": [best[0]["caption_key"]], "top_similarities": [0.9]}
    _table(run / "eval/per_query.parquet", schemas.PER_QUERY, **row)


@pytest.fixture(scope="module")
def database(work: Path) -> Iterator[query.Database]:
    with query.connect(work) as opened:
        yield opened


@pytest.fixture(scope="module")
def rows(work: Path) -> list[dict[str, Any]]:
    return pq.read_table(work / "test/audit/candidates.parquet").to_pylist()


@pytest.fixture(scope="module")
def matches(work: Path) -> set[tuple[str, str]]:
    return set(zip(*pq.read_table(work / "test/truth.parquet").to_pydict().values(), strict=True))


def test_questions__there_are_thirty() -> None:
    assert sorted(QUESTIONS) == list(range(1, 31))


@pytest.mark.parametrize("number", range(1, 31))
def test_questions__every_one_has_an_answer(database: query.Database, number: int) -> None:
    answer = database.run(QUESTIONS[number][1], limit=60)
    assert answer.rows, QUESTIONS[number][0]
    assert not answer.notes


def _answer(database: query.Database, number: int) -> list[dict[str, Any]]:
    answer = database.run(QUESTIONS[number][1])
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def test_question_1__the_most_probable(database: query.Database, rows: list[dict[str, Any]]) -> None:
    best = sorted(rows, key=lambda row: (-row["p_positive"], -row["score"]))[:20]
    assert [row["p_positive"] for row in _answer(database, 1)] == [row["p_positive"] for row in best]


def test_questions_3_6_and_8__counts_and_sums(database: query.Database, rows: list[dict[str, Any]]) -> None:
    high = Counter(row["image_key"] for row in rows if row["score"] > 0.7)
    rows_of_answer = _answer(database, 3)
    assert {row["image_key"]: row["candidates"] for row in rows_of_answer} == dict(
        sorted(high.items(), key=lambda one: (-one[1], one[0]))[:20]
    )
    surest: dict[str, float] = defaultdict(float)
    for row in rows:
        surest[row["image_key"]] = max(surest[row["image_key"]], row["p_positive"])
    (six,) = _answer(database, 6)
    assert six["missing"] == pytest.approx(sum(row["p_positive"] for row in rows), rel=1e-5)
    assert six["images"] == sum(value > 0.5 for value in surest.values())
    fits = Counter(row["caption_key"] for row in rows if row["p_positive"] > 0.5)
    eight = _answer(database, 8)
    assert [row["images"] for row in eight] == sorted(fits.values(), reverse=True)[:20]
    assert all(fits[row["caption_key"]] == row["images"] for row in eight)


@pytest.mark.parametrize(("number", "column", "kept"), [(4, "score", "share_true"), (5, "p_positive", "kept")])
def test_questions_4_and_5__shares_of_true_ones(
    database: query.Database, rows: list[dict[str, Any]], matches: set[Any], number: int, column: str, kept: str
) -> None:
    bins: dict[int, list[bool]] = defaultdict(list)
    for row in rows:
        bins[int(row[column] * 10)].append((row["image_key"], row["caption_key"]) in matches)
    by_step = {round(next(iter(row.values())) * 10): row for row in _answer(database, number)}
    assert set(by_step) == set(bins)
    for step, row in by_step.items():
        assert row["candidates"] == len(bins[step])
        assert row[kept] == pytest.approx(sum(bins[step]) / len(bins[step]))


def test_questions_10_and_14__equal_bytes_and_words(database: query.Database, work: Path) -> None:
    (copy,) = _answer(database, 10)
    assert {copy["key"], copy["other_key"]} == {Split(work, "test").image_keys[0], Split(work, "train").image_keys[3]}
    images: dict[str, set[str]] = defaultdict(set)
    for name in ("train", "val", "test"):
        split = Split(work, name)
        for key, text in zip(split.captions["key"].to_pylist(), split.texts, strict=True):
            images[text.lower()].add(key)
    shared = sorted(
        ((len(keys), words) for words, keys in images.items() if len(keys) > 1), key=lambda x: (-x[0], x[1])
    )
    assert [(row["images"], row["words"]) for row in _answer(database, 14)] == shared[:20]


def test_verdicts__are_those_that_stand_and_the_journal_has_all(database: query.Database) -> None:
    assert {row[0] for row in database.run("SELECT reviewer FROM verdicts").rows} == {"Ada", "Cleo"}
    journal = database.run("SELECT verdict FROM verdict_journal WHERE reviewer = 'Ben' ORDER BY verdict").rows
    assert [row[0] for row in journal] == ["no match", "skip", "undo"]


def test_questions_15_to_20__neighbours_verdicts_and_runs(database: query.Database) -> None:
    assert len(_answer(database, 15)) == 20
    probable = pytest.approx(0.9, abs=0.15)
    assert _answer(database, 17) == [
        {"verdict": "match", "reviewer": "Ada", "verdicts": 2, "p_positive": probable},
        {"verdict": "no match", "reviewer": "Cleo", "verdicts": 1, "p_positive": probable},
    ]
    assert _answer(database, 18) == [
        {"run": run, "recipe": "tiny", "seed": 3, "name": "loss", "last": 1.5} for run in ("tiny", "twin")
    ]
    assert [(row["run"], row["rank"]) for row in _answer(database, 19)] == [("tiny", 4)]
    assert {row["stage"] for row in _answer(database, 20)} >= {"shard", "extract-teachers", "index", "audit"}


@pytest.fixture(scope="module")
def pairs(work: Path) -> list[dict[str, Any]]:
    return pq.read_table(work / "test" / own_pairs.FOLDER / own_pairs.TABLE).to_pylist()


def test_questions_21_to_23__doubted_pairs(database: query.Database, work: Path, pairs: list[dict[str, Any]]) -> None:
    words = dict(zip(Split(work, "test").captions["caption_key"].to_pylist(), Split(work, "test").texts, strict=True))
    best = sorted(pairs, key=lambda row: (-row["p_wrong"], row["caption_key"]))[:20]
    assert [(row["caption"], row["better"]) for row in _answer(database, 21)] == [
        (words[row["caption_key"]], words.get(next(iter(row["better_caption_keys"]), ""))) for row in best
    ]
    of_image: dict[str, list[float]] = defaultdict(list)
    for row in pairs:
        of_image[row["image_key"]].append(row["p_wrong"])
    least = sorted((-min(doubts), key) for key, doubts in of_image.items() if len(doubts) > 1)[:20]
    assert [(row["image_key"], row["least_doubted"]) for row in _answer(database, 22)] == [
        (key, -doubt) for doubt, key in least
    ]
    reasons = Counter(reason for row in pairs for reason in row["reasons"])
    assert {row["reason"]: row["pairs"] for row in _answer(database, 23)} == reasons


def test_questions_24_to_26__faults_blind_spots_and_hubs(
    database: query.Database, work: Path, rows: list[dict[str, Any]]
) -> None:
    faults = pq.read_table(work / "test" / own_pairs.FOLDER / issues.TABLE).to_pylist()
    assert {row["issue"]: row["number"] for row in _answer(database, 24)} == Counter(row["issue"] for row in faults)
    blind = Counter(row["text_blind"] or "nothing" for row in rows)
    assert {row["differs_in"]: row["candidates"] for row in _answer(database, 25)} == blind
    near: Counter[str] = Counter()
    for name in ("val", "test"):
        table = pq.read_table(next((work / name / "index").glob("neighbours-*-text.parquet"))).to_pylist()
        near.update(key for row in table for key in row["neighbour_keys"][:10])
    assert [row["near_to"] for row in _answer(database, 26)] == sorted(near.values(), reverse=True)[:20]


def test_questions_27_to_30__runs_and_reviewers(
    database: query.Database, rows: list[dict[str, Any]], pairs: list[dict[str, Any]]
) -> None:
    first = rows[0]["image_key"], rows[0]["caption_key"]
    here = {"direction": "image-to-text"}
    assert _answer(database, 27) == [
        {"run": "tiny", **here, "recall_at_1": 0, "with_probable_answers": pytest.approx(rows[0]["p_positive"])},
        {"run": "twin", **here, "recall_at_1": 1, "with_probable_answers": 1},
    ]
    assert _answer(database, 28) == [{"run": "tiny", "other_run": "twin", **here, "only_this": 0, "only_the_other": 1}]
    (disputed,) = _answer(database, 29)
    assert (disputed["image_key"], disputed["caption_key"]) == first
    assert disputed["said"] == ["Ada: match", "Cleo: no match"]
    doubt = max(row["p_wrong"] for row in pairs)
    assert _answer(database, 30) == [{"verdict": "match", "verdicts": 1, "p_wrong": pytest.approx(doubt)}]
