"""Every view against the file that it reads: the same rows, the same types, its place in front; and nothing else."""

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cusa.manifests import ledger, schemas
from cusa.manifests.judgements import pair_judgements, verdicts
from cusa.manifests.samples import Split
from cusa.manifests.storage import seal, store
from cusa.pipeline.sql import database as sql
from cusa.pipeline.sql.views import identifier, literal, work_views
from tests.manifests.judgements.test_verdicts import make
from tests.worlds import make_work

OF_SPLITS = {
    "drops": ("drops.parquet", schemas.DROPS),
    "truth": ("truth.parquet", schemas.TRUTH),
    "verdict_journal": ("audit/verdicts.parquet", schemas.VERDICTS),
    "pair_verdict_journal": ("audit/pairs/verdicts.parquet", schemas.VERDICTS),
    "pairs": ("audit/pairs/pairs.parquet", schemas.PAIRS),
    "issues": ("audit/pairs/issues.parquet", schemas.ISSUES),
    "duplicates": ("audit/duplicates.parquet", schemas.DUPLICATE_GROUPS),
    "leaks": ("audit/leaks.parquet", schemas.LEAKS),
}
OF_RUNS = {
    "metrics": ("metrics.parquet", schemas.METRICS),
    "per_query": ("eval/per_query.parquet", schemas.PER_QUERY),
}
TYPES = {
    pa.string(): "VARCHAR",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("ms"): "TIMESTAMP",
    pa.list_(pa.string()): "VARCHAR[]",
    pa.list_(pa.float32()): "FLOAT[]",
}


def _value(kind: pa.DataType, number: int) -> Any:
    """Return a value of a type, another one for each number."""
    if pa.types.is_list(kind):
        return [_value(kind.value_type, number + place) for place in range(number % 3)]
    if pa.types.is_boolean(kind):
        return number % 2 == 0
    if pa.types.is_timestamp(kind):
        return datetime(2026, 11, 30, 12) + timedelta(milliseconds=number)
    if pa.types.is_floating(kind):
        return number / 8
    return number if pa.types.is_integer(kind) else f"it's {number}"


def _table(schema: pa.Schema, *, first: int, rows: int = 3) -> pa.Table:
    """Return a table in which no two cells of a kind are equal; its last row has nothing but its first cell."""
    wide = len(schema)
    cells = [
        {field.name: _value(field.type, first + row * wide + place) for place, field in enumerate(schema)}
        for row in range(rows)
    ]
    cells[-1] = {name: value if name == schema.names[0] else None for name, value in cells[-1].items()}
    return pa.Table.from_pylist(cells, schema=schema)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("views"), images=2, captions=2, splits=("train", "test"))


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "work"))


def _rows(database: sql.Database, view: str) -> list[tuple[Any, ...]]:
    return database.run(f"SELECT * FROM {view}").rows


def _expected(files: Mapping[str, pa.Table]) -> list[tuple[Any, ...]]:
    return [(place, *row.values()) for place, table in files.items() for row in table.to_pylist()]


def _by_text(rows: list[tuple[Any, ...]]) -> list[str]:
    return sorted(map(repr, rows))


@pytest.mark.parametrize("view", [*OF_SPLITS, *OF_RUNS])
def test_views__the_rows_of_their_files_behind_their_place(work: Path, view: str) -> None:
    file, schema = {**OF_SPLITS, **OF_RUNS}[view]
    folders = (
        {name: work / name for name in ("train", "test")}
        if view in OF_SPLITS
        else {name: work.parent / "runs" / name for name in ("one", "two")}
    )
    for folder in folders.values():
        store.write_json(folder / "recipe.json", {})
    files = {place: _table(schema, first=1000 * number) for number, place in enumerate(folders)}
    place = "split" if view in OF_SPLITS else "run"
    joined = ["caption_source"] if view == "pairs" else []  # null here: the table's keys are no captions
    with sql.connect(work, raw=()) as database:
        empty = database.run(f"SELECT * FROM {view}")
        if view != "drops":
            assert (empty.rows, len(empty.notes)) == ([], 1)
        assert empty.columns == [place, *schema.names, *joined]
    for name, table in files.items():
        store.write_table(folders[name] / file, table)
    with sql.connect(work, raw=()) as database:
        answer = database.run(f"SELECT * FROM {view}")
        assert (answer.columns, answer.notes) == ([place, *schema.names, *joined], ())
        none = (None,) * len(joined)
        assert _by_text(answer.rows) == _by_text([(*row, *none) for row in _expected(files)])
        described = {name: kind for name, kind, *_ in _rows(database, f"(DESCRIBE {view})")}
        kinds = {field.name: TYPES[field.type] for field in schema}
        assert described == {place: "VARCHAR", **kinds, **dict.fromkeys(joined, "VARCHAR")}
    (folders["one" if view in OF_RUNS else "test"] / file).unlink()
    left = {name: table for name, table in files.items() if name not in ("one", "test")}
    with sql.connect(work, raw=()) as database:
        answer = database.run(f"SELECT * FROM {view}")
        assert _by_text(answer.rows) == _by_text([(*row, *none) for row in _expected(left)])
        assert answer.notes == (), "one of its files is there"


def test_views__truth_that_the_audit_was_given_stands_before_the_split_s_own(work: Path) -> None:
    own, given = _table(schemas.TRUTH, first=0), _table(schemas.TRUTH, first=50)
    for name in ("train", "test"):
        store.write_table(work / name / "truth.parquet", own)
    store.write_table(work / "test/audit/truth.parquet", given)
    with sql.connect(work, runs=(), raw=()) as database:
        assert _by_text(_rows(database, "truth")) == _by_text(_expected({"train": own, "test": given}))


def test_views__sources_by_the_folder_of_the_download(made: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(made, tmp_path / "project/data"))
    folders = {"in": tmp_path / "project/in", "raw": tmp_path / "project/raw/raw", "above": tmp_path / "raw/above"}
    tables = {name: _table(schemas.SOURCES, first=100 * place) for place, name in enumerate(folders)}
    for name, folder in folders.items():
        store.write_table(folder / "sources.parquet", tables[name])
    store.write_table(tmp_path / "project/raw/deep/er/sources.parquet", tables["in"])
    assert sql.find_raw(tmp_path / "project") == sorted(folders.values())
    with sql.connect(work, runs=()) as database:
        assert _by_text(_rows(database, "sources")) == _by_text(_expected(tables))
    with sql.connect(work, runs=(), raw=[folders["raw"]]) as database:
        assert _by_text(_rows(database, "sources")) == _by_text(_expected({"raw": tables["raw"]}))


def test_views__candidates_with_the_words_of_both_captions(work: Path) -> None:
    split = Split(work, "train")
    table = _table(schemas.CANDIDATES, first=0, rows=4)
    keys = [(1, 0), (0, 3), (0, 2), (1, 1)]
    columns = {
        "image_key": [split.image_keys[image] for image, _ in keys],
        "caption_key": [split.caption_keys[caption] for _, caption in keys],
    }
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    store.write_table(work / "train/audit/candidates.parquet", table)
    words = dict(zip(split.caption_keys, split.texts, strict=True))
    with sql.connect(work, runs=(), raw=()) as database:
        answer = database.run("SELECT * FROM candidates")
    found = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    expected = [
        {
            **{"split": "train", **row, "caption": words[row["caption_key"]], "caption_source": ""},
            "image_caption": words[f"{row['image_key']}#0"],
        }
        for row in table.to_pylist()
    ]
    order: Callable[[dict[str, Any]], Any] = lambda row: (row["image_key"], row["caption_key"])  # noqa: E731
    assert sorted(found, key=order) == sorted(expected, key=order)


@pytest.mark.parametrize(("folder", "view"), [("audit", "verdicts"), ("audit/pairs", "pair_verdicts")])
def test_views__verdicts_that_stand_are_those_that_the_audit_reads(work: Path, folder: str, view: str) -> None:
    split = Split(work, "train")
    said = [
        *(("ada", 0, "match"), ("ada", 1, "no match"), ("bob", 0, "skip"), ("bob", 0, "related"), ("ada", 0, "skip")),
        *(("ada", 1, "match"), ("bob", 1, "duplicate"), ("cleo", 2, "skip"), ("cleo", 3, "match"), ("bob", 3, "match")),
    ]
    start = datetime(2026, 11, 30, tzinfo=verdicts.UTC)
    (work / "train" / folder).mkdir(parents=True)
    with verdicts.Journal(work / "train" / folder) as journal:
        for number, (who, place, word) in enumerate(said):
            at = start + timedelta(seconds=number)
            keys = {"image_key": split.image_keys[0], "caption_key": split.caption_keys[place]}
            journal.append(make(number, word, who, judged_at=at, **keys))
        for number, undone in ((20, 5), (21, 8)):  # ada's second word on 1, cleo's on 3
            who, place, _ = said[undone]
            keys = {"image_key": split.image_keys[0], "caption_key": split.caption_keys[place]}
            undo = {"judged_at": start + timedelta(seconds=number), "undoes": f"verdict-{undone:04d}"}
            journal.append(make(number, "undo", who, **keys, **undo))
    verdicts.publish(work / "train" / folder)
    rows = verdicts.read(work / "train" / folder)
    standing = {row.id for row in pair_judgements.standing(rows) if row.verdict != "skip"}
    assert standing == {f"verdict-{number:04d}" for number in (0, 1, 3, 6, 9)}
    with sql.connect(work, runs=(), raw=()) as database:
        assert {row[0] for row in database.run(f"SELECT id FROM {view} WHERE split = 'train'").rows} == standing
        journal_view = {"verdicts": "verdict_journal", "pair_verdicts": "pair_verdict_journal"}[view]
        assert len(_rows(database, journal_view)) == len(rows) == 12
        other = "pair_verdicts" if view == "verdicts" else "verdicts"
        assert _rows(database, other) == []


def test_views__a_run_with_all_that_is_known_of_it(work: Path) -> None:
    runs = work.parent / "runs"
    recipe = {"name": "it's one", "student": {"kind": "clip"}, "train": {"seed": 7}}
    store.write_json(runs / "full/recipe.json", recipe)
    store.write_json(runs / "full/run.json", {"data": "here"})
    store.write_table(runs / "full/eval/per_query.parquet", _table(schemas.PER_QUERY, first=0))
    clock = ledger.Clock()
    written = clock.finish(
        runs / "full/ledger.json",
        stage="train",
        inputs={},
        parameters={},
        outputs=[],
        counts={"best_step": 40, "x": 0.5},
    )
    store.write_text(runs / "broken/recipe.json", "{")
    store.write_json(runs / "bare/recipe.json", [])
    store.write_table(runs / "numbers/metrics.parquet", _table(schemas.METRICS, first=0))
    (runs / "none").mkdir()
    (runs / "file").touch()
    assert [run.name for run in sql.find_runs(runs)] == ["bare", "broken", "full", "numbers"]
    assert sql.find_runs(work.parent / "nowhere") == []
    finished = datetime.strptime(written.finished, "%Y-%m-%dT%H:%M:%SZ")
    with sql.connect(work, raw=()) as database:
        rows = {row[0]: row[1:] for row in _rows(database, "runs")}
        ledgers = {row[:2]: row[2:] for row in _rows(database, "ledgers")}
    assert rows.pop("full") == (
        *("it's one", "clip", "here", 7, 40, finished, written.seconds, True),
        json.dumps(recipe, sort_keys=True),
    )
    assert rows == {name: (*(None,) * 5, None, None, False, "{}") for name in ("bare", "broken", "numbers")}
    assert ledgers.pop(("full", "train")) == (
        *(finished, written.seconds, written.peak_memory_bytes, {"best_step": 40.0, "x": 0.5}),
    )
    (path,) = work.rglob("*ledger.json")
    sharded = ledger.read(path)
    assert sharded is not None
    place = path.parent.relative_to(work.parent).as_posix()
    assert ledgers.keys() == {(place, "shard")}
    assert ledgers[place, "shard"][3] == {name: float(value) for name, value in sharded.counts.items()}


def test_views__an_edited_ledger_is_none(work: Path) -> None:
    (path,) = work.rglob("*ledger.json")
    store.write_json(path, {**store.read_json(path), "stage": "other"})
    with sql.connect(work, runs=(), raw=()) as database:
        assert _rows(database, "ledgers") == []
    content = store.read_json(path)
    store.write_json(path, seal.sealed(content))
    with sql.connect(work, runs=(), raw=()) as database:
        assert [row[1] for row in _rows(database, "ledgers")] == ["other"]


def test_literal_and_identifier__come_back_as_they_were(work: Path) -> None:
    odd = """it's "odd" '' \\ -- ; """
    with sql.connect(work, runs=(), raw=()) as database:
        answer = database.run(f"SELECT {literal(odd)} AS {identifier(odd)}")
    assert (answer.columns, answer.rows) == ([odd], [(odd,)])


def test_work_views__each_names_the_command_that_fills_it(work: Path) -> None:
    missing = {view.name: view.missing for view in work_views(work)}
    assert {name: command for name, command in missing.items() if not command} == dict.fromkeys(
        ("samples", "captions", "drops", "shards", "ledgers"), ""
    )
    for name, words in {
        **{"truth": "cusa audit", "image_neighbours": "cusa index", "text_neighbours": "cusa index"},
        **{"candidates": "cusa audit", "verdicts": "cusa review", "pairs": "cusa audit", "issues": "cusa audit"},
        **{"duplicates": "cusa audit", "leaks": "cusa audit", "runs": "cusa train", "metrics": "cusa train"},
        **{"per_query": "cusa eval", "sources": "cusa download", "pair_verdicts": "cusa review"},
    }.items():
        assert missing[name].startswith(words), name
    for name in ("pairs", "issues", "pair_verdicts"):
        assert missing[name].endswith(" --pairs"), name
