"""SQL: typed views over real tables, empty ones for missing tables, and nothing that writes."""

import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, CusaError, DataError
from cusa.manifests import neighbours, schemas, tables
from cusa.manifests.judgements import own_pairs, verdicts
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import audit
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.sql import database as query
from cusa.pipeline.sql.views import BROKEN
from tests.manifests.judgements.test_verdicts import make
from tests.pipeline.audited import make_taught, teach
from tests.worlds import make_work

VIEWS = {
    "samples", "captions", "sources", "drops", "shards", "truth", "image_neighbours", "text_neighbours", "candidates",
    "verdicts", "verdict_journal", "pairs", "pair_verdicts", "pair_verdict_journal", "issues", "duplicates", "leaks",
    "runs", "metrics", "per_query", "ledgers", "languages",
}  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with everything, under a path that would break careless quoting."""
    folder = tmp_path_factory.mktemp("x") / 'it\'s [odd] * "here"'
    work = make_taught(folder)
    split = Split(work, "train")
    pairs = [(split.image_keys[0], split.caption_keys[20]), (split.image_keys[0], split.caption_keys[0])]
    table = pa.table([list(column) for column in zip(*pairs, strict=True)], schema=schemas.TRUTH)
    store.write_table(split.folder / "truth.parquet", table)
    audit.run(AuditConfig(neighbours=4), split=split)
    run = folder / "runs" / "tiny"
    metrics = pa.table([[0, 1], ["loss", "loss"], [2.0, 1.5]], schema=schemas.METRICS)
    store.write_table(run / "metrics.parquet", metrics)
    return work


@pytest.fixture(scope="module")
def database(work: Path) -> query.Database:
    return query.connect(work)


def test_connect__every_view_is_there_and_describes_itself(database: query.Database) -> None:
    overview = database.overview()
    names = {row[0] for row in overview.rows}
    assert names == VIEWS | {"teacher_colours", "teacher_words"}
    assert {row[0] for row in overview.rows if "empty" in row[1]} == {
        "per_query",
        "sources",
        "verdicts",
        "verdict_journal",
        "pairs",
        "pair_verdicts",
        "pair_verdict_journal",
        "issues",
        "languages",
    }


def test_run__views_hold_what_the_tables_hold(work: Path, database: query.Database) -> None:
    split = Split(work, "train")
    for view, table, file in (
        ("samples", split.samples, None),
        ("captions", split.captions, None),
        ("candidates", None, "audit/candidates.parquet"),
    ):
        there = table if table is not None else pq.read_table(split.folder / file)
        got = database.run(f"SELECT {', '.join(there.column_names)} FROM {view} WHERE split = 'train'").rows
        assert sorted(map(str, got)) == sorted(str(tuple(row.values())) for row in there.to_pylist())
    rows = database.run("SELECT caption_key, caption, image_key, image_caption, known_match FROM candidates").rows
    words = dict(zip(split.caption_keys, split.texts, strict=True))
    for caption_key, caption, image_key, image_caption, known in rows:
        assert caption == words[caption_key]
        assert image_caption == words[f"{image_key}#0"]
        assert known == ((image_key, caption_key) == (split.image_keys[0], split.caption_keys[20]))
    assert database.run("SELECT run, step, name, value FROM metrics ORDER BY step").rows == [
        ("tiny", 0, "loss", 2.0),
        ("tiny", 1, "loss", 1.5),
    ]
    stages = {row[0] for row in database.run("SELECT stage FROM ledgers WHERE seconds >= 0").rows}
    assert stages == {"shard", "extract-teachers", "index", "audit"}
    assert database.run("SELECT counts['images'] FROM ledgers WHERE stage = 'audit'").rows == [(12.0,)]


def test_run__float16_embeddings_come_as_typed_arrays(work: Path, database: query.Database) -> None:
    split = Split(work, "train")
    rows = tables.read_teacher(split, "words").embeddings
    assert rows.dtype == np.float16
    answer = database.run("SELECT caption_key, embedding, typeof(embedding) FROM teacher_words ORDER BY caption_key")
    assert [row[0] for row in answer.rows] == sorted(split.caption_keys)
    assert {row[2] for row in answer.rows} == {"FLOAT[5]"}
    order = np.argsort(split.caption_keys)
    np.testing.assert_array_equal(np.array([row[1] for row in answer.rows], dtype=np.float16), rows[order])
    pairs = database.run(
        "SELECT cosine(a.embedding, b.embedding) FROM teacher_words a JOIN teacher_words b ON true "
        "WHERE a.caption_key < b.caption_key ORDER BY a.caption_key, b.caption_key"
    )
    unit = rows[order].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    np.testing.assert_allclose([row[0] for row in pairs.rows], expected, atol=1e-6)


def test_run__neighbours_are_one_a_row(work: Path, database: query.Database) -> None:
    split = Split(work, "train")
    near = neighbours.read_neighbours(split, "words", depth=4)
    answer = database.run(
        "SELECT teacher, caption_key, rank, neighbour_caption_key FROM text_neighbours ORDER BY caption_key, rank"
    )
    expected = [
        ("words", split.caption_keys[row], place + 1, split.caption_keys[other])
        for row in np.argsort(split.caption_keys)
        for place, other in enumerate(near.ids[row])
    ]
    assert answer.rows == expected
    assert database.run("SELECT DISTINCT teacher FROM image_neighbours").rows == [("colours",)]


@pytest.mark.parametrize(
    "statement",
    [
        "COPY samples TO '{out}'",
        "COPY (SELECT 1 AS a) TO '{table}' (FORMAT parquet, USE_TMP_FILE false)",
        "EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO '{table}' (FORMAT parquet, USE_TMP_FILE false)",
        "/* SELECT */ EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO '{table}' (FORMAT parquet, USE_TMP_FILE false)",
        "COPY (PIVOT samples ON split USING count(*)) TO '{table}' (FORMAT parquet, USE_TMP_FILE false)",
        "EXPLAIN ANALYZE COPY (PIVOT samples ON split USING count(*)) TO '{out}'",
        "PREPARE p AS COPY (SELECT 1 AS a) TO '{out}'",
        "ATTACH '{out}'",
        "INSTALL httpfs",
        "LOAD json",
        "EXPORT DATABASE '{out}'",
        "CREATE TABLE t AS SELECT 1",
        "CREATE OR REPLACE VIEW samples AS SELECT 1",
        "DROP VIEW samples",
        "INSERT INTO samples VALUES (1)",
        "SET threads = 1",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "SELECT 1; DROP VIEW samples",
        "",
        "-- nothing",
    ],
)
def test_run__what_writes_is_refused(work: Path, database: query.Database, tmp_path: Path, statement: str) -> None:
    table = work / "train/samples.parquet"
    before = store.sha256_file(table)
    statement = statement.replace("{out}", str(tmp_path / "out")).replace("{table}", str(table).replace("'", "''"))
    with pytest.raises(ConfigError, match="would change something|One statement at a time"):
        database.run(statement)
    assert not list(tmp_path.iterdir())
    assert store.sha256_file(table) == before
    assert len(database.run("SELECT * FROM samples").rows) == 12


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT content FROM read_text('{file}')",
        "FROM glob('{file}*')",
    ],
)
def test_run__other_files_are_not_read(database: query.Database, tmp_path: Path, statement: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\nsecret\n")
    with pytest.raises(CusaError) as caught:
        database.run(statement.replace("{file}", str(secret)))
    assert "reads nothing but the tables" in str(caught.value) or "no view" in str(caught.value)


@pytest.mark.parametrize(
    ("statement", "column", "expected"),
    [
        ("describe captions", 0, ["split", *schemas.CAPTIONS.names, "source"]),
        ("SUMMARIZE samples", 0, ["split", *schemas.SAMPLES.names]),
        ("show tables", 0, sorted(VIEWS | {"teacher_colours", "teacher_words"})),
        ("PIVOT samples ON split USING count(*) GROUP BY ext", 1, [12]),
        ("-- why\nWITH a AS (SELECT 7 AS x) SELECT * FROM a", 0, [7]),
        ("SELECT count(*) FROM (FROM samples LIMIT 5)", 0, [5]),
        ("FROM captions ORDER BY caption_key LIMIT 1", 1, ["mini/picture_0000#0"]),
        ("VALUES (3), (2)", 0, [3, 2]),
        ("select 1;", 0, [1]),
    ],
)
def test_run__questions_of_every_kind_have_the_right_answer(
    database: query.Database, statement: str, column: int, expected: list[object]
) -> None:
    assert [row[column] for row in database.run(statement).rows] == expected


@pytest.mark.parametrize(
    ("statement", "plan"),
    [("EXPLAIN SELECT * FROM samples", "PARQUET"), ("explain analyze select count(*) from captions", "Total Time")],
)
def test_run__a_plan_is_shown(database: query.Database, statement: str, plan: str) -> None:
    ((_, text),) = database.run(statement).rows
    assert plan in text


def test_run__a_typo_is_pointed_at(database: query.Database) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no view 'candidats'. Did you mean 'candidates'.*LINE 1:.*\^"):
        database.run("SELECT * FROM candidats")
    with pytest.raises(ConfigError, match=r'(?s)"scor" not found.*"score".*\^'):
        database.run("SELECT scor FROM candidates")
    with pytest.raises(ConfigError, match=r'(?s)syntax error at or near "selct".*\^'):
        database.run("selct 1")
    with pytest.raises(ConfigError, match="same size"):
        database.run("SELECT cosine(a.embedding, b.embedding) FROM teacher_words a, teacher_colours b")


def test_run__missing_tables_are_empty_and_say_what_fills_them(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=2, splits=("train", "test"))
    with query.connect(work) as database:
        for view in ("candidates", "image_neighbours", "text_neighbours", "truth", "metrics", "per_query"):
            answer = database.run(f"SELECT * FROM {view}")
            assert answer.rows == []
            assert len(answer.columns) > 2
            assert len(answer.notes) == 1
            assert re.fullmatch(rf"{view} is empty: `cusa .*` fills it\.", answer.notes[0])
        assert database.run("SELECT split, count(*) FROM samples GROUP BY ALL ORDER BY split").rows == [
            ("test", 2),
            ("train", 2),
        ]
        typed = database.run("DESCRIBE SELECT score, caption, known_match FROM candidates").rows
        assert [row[1] for row in typed] == ["FLOAT", "VARCHAR", "BOOLEAN"]
    with pytest.raises(DataError, match="holds no split"):
        query.connect(tmp_path)


def test_run__a_broken_table_fails_its_own_queries_only(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=4, splits=("train", "test"))
    teach(work, image="colours")
    path = work / "train/captions.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    part = work / "train/teachers/colours/00000.parquet"
    part.write_bytes(part.read_bytes()[:50])
    foreign = work / "train/audit/candidates.parquet"
    store.write_table(foreign, pa.table({"some": [1]}))
    with query.connect(work) as database:
        assert len(database.run("SELECT * FROM samples").rows) == 8
        assert len(database.run("SELECT * FROM captions WHERE split = 'test'").rows) == 20
        with pytest.raises(
            DataError, match=r"train/captions\.parquet is no readable Parquet table .*Make it again: `cusa"
        ):
            database.run("SELECT count(*) FROM captions")
        with pytest.raises(DataError, match=r"colours/00000\.parquet is no readable Parquet table"):
            database.run("SELECT * FROM teacher_colours")
    path.write_bytes(whole)
    with (
        query.connect(work) as database,
        pytest.raises(DataError, match=r"candidates\.parquet lacks the columns image_key, "),
    ):
        database.run("SELECT * FROM candidates")


def test_connect__teachers_of_odd_names_and_widths(tmp_path: Path) -> None:
    work = make_taught(tmp_path, images=3)
    teachers = work / "train/teachers"
    shutil.copytree(teachers / "words", teachers / "Words")
    shutil.copytree(teachers / "words", teachers / "a.b-c")
    with query.connect(work) as database:
        names = {view.name for view in database.views if view.name.startswith("teacher_")}
        assert names == {"teacher_colours", "teacher_words", "teacher_words_", "teacher_a_b_c"}
        assert len(database.run("SELECT * FROM teacher_words_").rows) == 15


def test_macros__a_picture_and_a_pair(work: Path, database: query.Database) -> None:
    split = Split(work, "train")
    ((place,),) = database.run(f"SELECT picture('{split.image_keys[3]}')").rows
    with (split.folder / place["shard"]).open("rb") as tar:
        tar.seek(place["image_offset"])
        assert tar.read(place["image_bytes"]) == split.image_bytes(3)
    answer = database.run(f"FROM pair('{split.image_keys[0]}', '{split.caption_keys[20]}')")
    (row,) = (dict(zip(answer.columns, one, strict=True)) for one in answer.rows)
    assert (row["caption"], row["image_captions"]) == (split.texts[20], split.texts[:5])
    assert (row["owner_image_key"], row["known_match"]) == (split.image_keys[4], True)
    assert row["score"] == pytest.approx((row["image_similarity"] * row["text_similarity"]) ** 0.5, abs=1e-5)
    assert database.run("FROM pair('nobody', 'nothing')").rows == []


def test_run__a_query_past_its_time_is_stopped(database: query.Database) -> None:
    with pytest.raises(ConfigError, match=r"took longer than 0\.2 seconds.*--timeout"):
        database.run("SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range = 7", limit=0.2)
    assert database.run("SELECT 1", limit=60).rows == [(1,)]


@pytest.mark.parametrize("save", [False, True])
def test_run__a_function_that_outlives_its_time_is_left_behind(work: Path, tmp_path: Path, save: bool) -> None:
    slow = "SELECT length(repeat('a', 4000000000)) AS n"  # a single row: DuckDB never looks for an interruption
    with query.connect(work) as database:
        start = time.monotonic()
        with pytest.raises(ConfigError, match=r"took longer than 0\.2 seconds"):
            if save:
                database.save(slow, tmp_path / "a.parquet", limit=0.2)
            else:
                database.run(slow, limit=0.2)
        assert time.monotonic() - start < 3
        assert database.run("SELECT count(*) FROM samples", limit=60).rows == [(12,)], "others are answered meanwhile"
        rows = [1, 2]  # a local name that DuckDB must not find, on the new connection neither
        with pytest.raises(ConfigError, match="no view 'rows'"):
            database.run("SELECT * FROM rows", limit=60)
        with pytest.raises(CusaError, match="reads nothing but"):
            database.run("SELECT * FROM read_text('/etc/hostname')", limit=60)
        assert rows
    assert not list(tmp_path.glob("a.parquet"))


def test_sql__the_process_ends_with_its_time(work: Path) -> None:
    slow = "SELECT length(repeat('a', 4000000000)) AS n"
    command = [sys.executable, "-m", "cusa", "sql", str(work), slow, "--timeout", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "took longer than 0.2 seconds" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_save__parquet_keeps_every_type(work: Path, database: query.Database, tmp_path: Path) -> None:
    question = (
        "SELECT key, width, captions, embedding FROM teacher_colours JOIN samples USING (split, key) JOIN "
        "(SELECT key, list(text ORDER BY position) AS captions FROM captions GROUP BY key) USING (key) ORDER BY key"
    )
    assert database.save(question, tmp_path / "a.parquet") == 12
    table = pq.read_table(tmp_path / "a.parquet")
    assert [str(kind) for kind in table.schema.types] == [
        "string", "int32", "list<element: string>", "fixed_size_list<element: float>[3]",
    ]  # fmt: skip
    assert table["key"].to_pylist() == sorted(Split(work, "train").image_keys)
    with pytest.raises(ConfigError, match="not found"):
        database.save("SELECT nothing FROM samples", tmp_path / "b.parquet")
    assert not (tmp_path / "b.parquet").exists()


def test_export__a_file_that_needs_the_work_folder_no_more(
    work: Path, database: query.Database, tmp_path: Path
) -> None:
    import duckdb

    assert database.export(tmp_path / "work.duckdb") == len(database.views)
    with duckdb.connect(str(tmp_path / "work.duckdb"), read_only=True) as out:
        for view in database.views:
            question = f"SELECT count(*) FROM {view.name}"
            assert out.execute(question).fetchall() == database.run(question).rows
        kinds = out.execute("SELECT typeof(embedding), cosine(embedding, embedding) FROM teacher_words").fetchall()
        assert kinds[0] == ("FLOAT[5]", pytest.approx(1))
        key = Split(work, "train").image_keys[0]
        assert out.execute(f"SELECT picture('{key}').shard").fetchall() == [("00000.tar",)]
    assert database.export(tmp_path / "work.duckdb"), "an older file is replaced"


@pytest.mark.parametrize("before", [b"", b"an older export"])
def test_export__a_full_disk_is_named_and_leaves_nothing(work: Path, tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "work.duckdb"
    if before:
        path.write_bytes(before)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from cusa.cli import main; sys.argv = ['cusa', 'sql', sys.argv[1], '--export', sys.argv[2]]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(work), str(path)], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert re.search(r"error: .*work\.duckdb cannot be written: .*File too large", done.stderr), done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ([path.name] if before else [])
    assert not before or path.read_bytes() == before


def test_views__runs_sources_and_duplicates(work: Path, database: query.Database, tmp_path: Path) -> None:
    assert database.run("SELECT run, recipe, evaluated FROM runs").rows == [("tiny", None, False)]
    assert database.run("SELECT count(*) FROM duplicates WHERE modality = 'image' AND NOT exact").rows[0][0] > 0
    row = {"path": "a.zip", "url": "u", "bytes": 3, "sha256": "00", "status": "failed", "error": "404"}
    store.write_table(tmp_path / "raw/coco/sources.parquet", pa.Table.from_pylist([row], schema=schemas.SOURCES))
    with query.connect(work, raw=[tmp_path / "raw/coco"]) as opened:
        assert opened.run("SELECT dataset, path, status FROM sources").rows == [("coco", "a.zip", "failed")]


def test_connect__finds_runs_beside_the_work_folder_and_beside_its_parent(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", images=2, splits=("train",))
    near, far = work.parent / "runs", work.parent.parent / "runs"
    for run in (far / "mine", far / "both", near / "both"):
        value = 1.0 if run.parent == near else 2.0
        store.write_table(run / "metrics.parquet", pa.table([[0], ["loss"], [value]], schema=schemas.METRICS))
    with query.connect(work) as opened:
        assert sorted(opened.run("SELECT run, value FROM metrics").rows) == [("both", 1.0), ("mine", 2.0)]


def test_connect__for_writing_only_where_asked(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=2, splits=("train",))
    with query.connect(work, read_only=False) as database:
        database.run(f"COPY (SELECT key FROM samples) TO '{tmp_path / 'keys.csv'}'")
    assert len((tmp_path / "keys.csv").read_text().splitlines()) == 3


def test_connect__a_verdict_that_only_the_journal_has_is_seen(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=2, splits=("train", "test"))
    for name, word in (("train", "match"), ("test", "related")):
        (work / name / "audit").mkdir()
        with Journal(work / name / "audit") as journal:
            journal.append(make(1, word))
    own = work / "test" / own_pairs.FOLDER
    own.mkdir()
    with Journal(own) as journal:
        journal.append(make(2, "no match"))
    with query.connect(work) as database:
        rows = database.run("SELECT split, id, verdict FROM verdicts ORDER BY split").rows
        pairs = database.run("SELECT split, id, verdict FROM pair_verdicts").rows
    assert rows == [("test", "verdict-0001", "related"), ("train", "verdict-0001", "match")]
    assert pairs == [("test", "verdict-0002", "no match")]
    (own / verdicts.JOURNAL).write_text("no verdict\n")
    with query.connect(work) as database:  # a journal that is broken shows what it showed before
        assert database.run("SELECT id FROM pair_verdicts").rows == [("verdict-0002",)]


def test_run__a_table_that_breaks_while_it_is_read_is_named(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=2, splits=("train",))
    path = work / "train/captions.parquet"
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)  # pages; the footer is whole
    path.write_bytes(data)
    with query.connect(work) as database:
        assert len(database.run("SELECT * FROM samples").rows) == 2
        with pytest.raises((DataError, ConfigError)) as caught:
            database.run("SELECT * FROM captions")
    assert "captions" in str(caught.value) or "read to its end" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message", "error", "words"),
    [
        ("IOException", "Could not write all bytes", DataError, "needs more space than there is .*TMPDIR"),
        ("IOException", "Could not read enough bytes", DataError, "cannot be read to its end; make it again"),
        ("PermissionException", "Cannot access x", ConfigError, "reads nothing but the tables of the work folder"),
        ("BinderException", "Could not write this", ConfigError, r"DESCRIBE view.*views: samples, "),
        ("InvalidInputException", f"Oh: {BROKEN}a.parquet is gone.", DataError, r"^a\.parquet is gone\.$"),
    ],
)
def test_explained__each_error_of_duckdb_by_what_to_do(
    database: query.Database, kind: str, message: str, error: type[Exception], words: str
) -> None:
    import duckdb

    found = database._explained(getattr(duckdb, kind)(message), "SELECT 1")
    assert type(found) is error
    assert re.search(words, str(found), re.DOTALL), str(found)
    assert found.values["query"] == "SELECT 1"


def test_macros__a_pair_with_all_that_is_known_of_it_in_its_own_split(tmp_path: Path) -> None:
    """Two splits with the same keys, whose candidates, captions and verdicts differ."""
    work = make_work(tmp_path, images=2, captions=2, splits=("train",))
    shutil.copytree(work / "train", work / "val")
    for name, score in (("train", 0.25), ("val", 0.5)):
        split = Split(work, name)
        pair = {"image_key": split.image_keys[0], "caption_key": split.caption_keys[2]}
        row = {**pair, "score": score, "image_similarity": 0.125, "text_similarity": 0.75, "cross_similarity": 0.375}
        row |= {"image_rank": 3, "text_rank": 4, "p_positive": score / 2, "known_match": name == "val"}
        table = pa.Table.from_pylist([row], schema=schemas.CANDIDATES)
        store.write_table(split.folder / "audit/candidates.parquet", table)
        with Journal(split.folder / "audit") as journal:
            for number, who in enumerate(("zoe", "ada")):
                at = datetime(2026, 11, 30, 12, number, tzinfo=UTC)
                journal.append(make(number, "match" if name == "val" else "related", who, judged_at=at, **pair))
    captions = pq.read_table(work / "val/captions.parquet").to_pylist()
    for caption in captions:
        caption["text"] = f"val {caption['text']}"
    store.write_table(work / "val/captions.parquet", pa.Table.from_pylist(captions[::-1], schema=schemas.CAPTIONS))
    split = Split(work, "train")
    with query.connect(work, runs=(), raw=()) as database:
        answer = database.run(f"FROM pair('{split.image_keys[0]}', '{split.caption_keys[2]}') ORDER BY split")
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    for row, name, before, score in zip(rows, ("train", "val"), ("", "val "), (0.25, 0.5), strict=True):
        assert {key: row[key] for key in ("split", "image_key", "caption_key", "owner_image_key")} == {
            **{"split": name, "image_key": split.image_keys[0], "caption_key": split.caption_keys[2]},
            "owner_image_key": split.image_keys[1],
        }
        assert (row["caption"], row["caption_source"]) == (before + split.texts[2], "")
        assert row["image_captions"] == [before + text for text in split.texts[:2]]
        assert (row["image_similarity"], row["text_similarity"], row["cross_similarity"]) == (0.125, 0.75, 0.375)
        assert (row["image_rank"], row["text_rank"], row["score"]) == (3, 4, score)
        assert (row["p_positive"], row["known_match"]) == (score / 2, name == "val")
        word = "match" if name == "val" else "related"
        assert row["verdicts"] == [f"zoe: {word}", f"ada: {word}"], "in the order in which they were said"


def test_views__shards_languages_and_neighbours_of_each_split(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=3, captions=1, splits=("train", "val"))
    keys = Split(work, "train").image_keys
    schema = schemas.neighbour_table("key").with_metadata({"modality": "image"})
    rows = [
        {"key": keys[0], "neighbour_keys": [keys[2], keys[1]], "similarities": [0.75, 0.5], "neighbours": None},
        {"key": keys[1], "neighbour_keys": [], "similarities": [], "neighbours": None},
    ]
    store.write_table(work / "train/index/neighbours-a-b.parquet", pa.Table.from_pylist(rows, schema=schema))
    language = {"caption_key": "k", "language": "und", "guess": "en", "probability": 0.25}
    store.write_table(work / "val/languages.parquet", pa.Table.from_pylist([language], schema=schemas.LANGUAGES))
    with query.connect(work, runs=(), raw=()) as database:
        assert database.run("FROM image_neighbours").rows == [
            ("train", "a-b", keys[0], 1, keys[2], 0.75),
            ("train", "a-b", keys[0], 2, keys[1], 0.5),
        ]
        answer = database.run("SELECT * FROM image_neighbours LIMIT 0")
        assert answer.columns == ["split", "teacher", "key", "rank", "neighbour_key", "similarity"]
        assert database.run("FROM text_neighbours").rows == []
        assert database.run("FROM languages").rows == [("val", "k", "und", "en", 0.25)]
        shards = database.run("SELECT split, shard, bytes, sha256, images, captions FROM shards ORDER BY split").rows
        assert shards == [
            (name, *row.values()) for name in ("train", "val") for row in Split(work, name).shards.to_pylist()
        ]


def test_views__a_teacher_of_several_widths_has_lists(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=1, captions=1, splits=("train", "val"))
    for name, width in (("train", 2), ("val", 3)):
        table = pa.Table.from_pylist(
            [{"key": name, "embedding": [0.5] * width, "content": bytes(32)}],
            schema=schemas.teacher_table("key", width, "float32"),
        )
        store.write_table(work / name / "teachers/A b/00000.parquet", table)
    with query.connect(work, runs=(), raw=()) as database:
        answer = database.run("SELECT split, key, embedding, typeof(embedding) FROM teacher_a_b ORDER BY split")
    assert answer.rows == [("train", "train", [0.5] * 2, "FLOAT[]"), ("val", "val", [0.5] * 3, "FLOAT[]")]


def test_run__notes_name_the_empty_views_that_a_question_reads(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=1, captions=1, splits=("train",))
    with query.connect(work, runs=(), raw=()) as database:
        assert database.run("SELECT * FROM samples").notes == ()
        notes = database.run("SELECT count(*) FROM Candidates JOIN leaks USING (split)").notes
        assert [note.partition(" ")[0] for note in notes] == ["candidates", "leaks"]
        assert database.run("SELECT 'my_leaks' AS leaks_not").notes == ()
        assert database.save("SELECT * FROM samples WHERE false", tmp_path / "none.parquet") == 0
        assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
        heard: list[tuple[str, int, int]] = []
        number = database.export(tmp_path / "all.duckdb", on_event=lambda *event: heard.append(event))
        assert heard == [("export all.duckdb", at, number) for at in range(1, number + 1)]
