"""The views that SQL sees: one for each table of a work folder and its runs, typed, also where a table is missing."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import DataError
from cusa.manifests import ledger, schemas, tables
from cusa.manifests.samples import splits
from cusa.manifests.storage import store

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
"""What SQL calls the types of our tables."""

MACROS = ("CREATE MACRO cosine(a, b) AS array_cosine_similarity(a, b)",)
"""Functions that need no view: `cosine(a, b)` of two embeddings of the same width."""

VIEW_MACROS = (
    # The tar and the byte range of an image: what anyone needs to cut the picture out.
    "CREATE MACRO picture(wanted) AS (SELECT struct_pack(split := split, shard := shard, image_offset := image_offset, "
    "image_bytes := image_bytes, ext := ext, width := width, height := height) "
    "FROM samples WHERE key = wanted LIMIT 1)",
    # Everything that is known of one pair, in one row.
    "CREATE MACRO pair(wanted_image, wanted_caption) AS TABLE SELECT s.split, s.key AS image_key, w.caption_key, "
    "w.key AS owner_image_key, w.text AS caption, w.source AS caption_source, "
    "(SELECT list(o.text ORDER BY o.position) FROM captions o WHERE o.split = s.split AND o.key = s.key) "
    "AS image_captions, c.image_similarity, c.text_similarity, c.cross_similarity, c.image_rank, c.text_rank, c.score, "
    "c.p_positive, c.known_match, "
    "(SELECT list(v.reviewer || ': ' || v.verdict ORDER BY v.judged_at) FROM verdicts v WHERE v.split = s.split "
    "AND v.image_key = s.key AND v.caption_key = w.caption_key) AS verdicts, picture(s.key) AS picture "
    "FROM samples s JOIN captions w ON w.split = s.split LEFT JOIN candidates c ON c.split = s.split "
    "AND c.image_key = s.key AND c.caption_key = w.caption_key "
    "WHERE s.key = wanted_image AND w.caption_key = wanted_caption",
)
"""Functions over the views: `picture(key)`, and the table `pair(image_key, caption_key)`."""

BROKEN = "Broken table: "
"""What the message of a query begins with that would read an unreadable file."""

_LEDGERS = {
    "place": "VARCHAR",
    "stage": "VARCHAR",
    "finished": "TIMESTAMP",
    "seconds": "DOUBLE",
    "peak_memory_bytes": "BIGINT",
    "counts": "MAP(VARCHAR, DOUBLE)",
}

_RUNS = {
    "run": "VARCHAR",
    "recipe": "VARCHAR",
    "student": "VARCHAR",
    "data": "VARCHAR",
    "seed": "BIGINT",
    "best_step": "BIGINT",
    "finished": "TIMESTAMP",
    "seconds": "DOUBLE",
    "evaluated": "BOOLEAN",
    "settings": "VARCHAR",  # the recipe as resolved, JSON
}


@dataclass(frozen=True)
class View:
    """One view, as SQL and in words."""

    name: str
    sql: str
    """The whole `SELECT`."""
    what: str
    """What a row is."""
    files: tuple[Path, ...]
    """Every file it reads."""
    missing: str
    """The command that would fill it, if there is no file."""


@dataclass(frozen=True)
class Source:
    """Files of one table, and where they lie: the columns and values that tell them from others."""

    place: Mapping[str, str]
    files: tuple[Path, ...]


def literal(value: str | Path) -> str:
    """Quote a text or a path for SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def work_views(work: Path, runs: Iterable[Path] = (), raw: Iterable[Path] = ()) -> list[View]:
    """Return the views of a work folder, of runs, and of the raw files that it was made from.

    Args:
        work: the work folder.
        runs: run folders.
        raw: folders of `cusa download`.

    Raises:
        DataError: if the folder holds no split.
    """
    work = work.resolve()
    folders = {name: work / name for name in splits(work)}
    run_folders = {run.name: run.resolve() for run in runs}
    shard, index, audit = f"cusa shard ... --out {work}", f"cusa index {work}", f"cusa audit {work}"

    def one_each(
        place: str, folders: Mapping[str, Path], name: str, file: str, schema: pa.Schema, *, what: str, made_by: str
    ) -> View:
        sources = [Source({place: value}, (folder / file,)) for value, folder in folders.items()]
        return _view(name, (place,), sources, _columns(schema), what=what, made_by=made_by)

    of_splits = partial(one_each, "split", folders)
    of_runs = partial(one_each, "run", run_folders)
    truth = {name: _truth_file(folder) for name, folder in folders.items()}
    known = [Source({"split": name}, (path,)) for name, path in truth.items()]
    candidates = of_splits("candidates", "audit/candidates.parquet", schemas.CANDIDATES, what="", made_by=audit)
    journal = of_splits(
        "verdict_journal",
        "audit/verdicts.parquet",
        schemas.VERDICTS,
        what="anything a reviewer did: verdicts, those taken back and skipped pairs among them",
        made_by=f"cusa review {work}",
    )
    pair_journal = of_splits(
        "pair_verdict_journal",
        "audit/pairs/verdicts.parquet",
        schemas.VERDICTS,
        what="anything a reviewer of the data set's own pairs did",
        made_by=f"cusa review {work} --pairs",
    )
    return [
        of_splits("samples", "samples.parquet", schemas.SAMPLES, what="an image", made_by=shard),
        _view(
            "captions",
            ("split",),
            [Source({"split": name}, (folder / "captions.parquet",)) for name, folder in folders.items()],
            _columns(schemas.CAPTIONS.append(schemas.CAPTION_SOURCE)),
            optional={schemas.CAPTION_SOURCE.name: "''"},
            what="a caption, and what made it where that is known",
            made_by=shard,
        ),
        of_splits(
            "languages",
            "languages.parquet",
            schemas.LANGUAGES,
            what="a caption's language, and how sure that is",
            made_by=f"cusa languages {work}",
        ),
        of_splits(
            "drops",
            "drops.parquet",
            schemas.DROPS,
            what="an image or caption that was refused, and why",
            made_by=shard,
        ),
        of_splits("shards", "shards.parquet", schemas.SHARDS, what="a tar", made_by=shard),
        one_each(
            "dataset",
            {folder.name: folder.resolve() for folder in raw},
            "sources",
            "sources.parquet",
            schemas.SOURCES,
            what="a file of the raw data: where it came from, and whether it is there",
            made_by="cusa download ...",
        ),
        _view(
            "truth",
            ("split",),
            known,
            _columns(schemas.TRUTH),
            what="a pair known to match",
            made_by=f"{audit} --truth FILE",
        ),
        *_teacher_views(folders, f"cusa extract-teachers {work} --image TEACHER --text TEACHER"),
        _neighbour_view("image_neighbours", "image", folders, index),
        _neighbour_view("text_neighbours", "text", folders, index),
        _candidate_view(candidates),
        _standing_verdicts("verdicts", journal),
        journal,
        _pair_view(
            of_splits(
                "pairs",
                "audit/pairs/pairs.parquet",
                schemas.PAIRS,
                what="a pair of the data set, and how probably it is wrong",
                made_by=f"{audit} --pairs",
            )
        ),
        _standing_verdicts("pair_verdicts", pair_journal),
        pair_journal,
        of_splits(
            "issues",
            "audit/pairs/issues.parquet",
            schemas.ISSUES,
            what="a fault of an image or caption",
            made_by=f"{audit} --pairs",
        ),
        of_splits(
            "duplicates",
            "audit/duplicates.parquet",
            schemas.DUPLICATE_GROUPS,
            what="an image or caption that has duplicates",
            made_by=audit,
        ),
        of_splits(
            "leaks",
            "audit/leaks.parquet",
            schemas.LEAKS,
            what="something that stands in two splits",
            made_by=audit,
        ),
        _run_view(run_folders),
        of_runs(
            "metrics",
            "metrics.parquet",
            schemas.METRICS,
            what="a number of a run at a step",
            made_by="cusa train ...",
        ),
        of_runs(
            "per_query",
            "eval/per_query.parquet",
            schemas.PER_QUERY,
            what="a query's ranking",
            made_by="cusa eval ...",
        ),
        _ledger_view([work, *run_folders.values()]),
    ]


def _columns(schema: pa.Schema) -> dict[str, str]:
    return {column.name: TYPES[column.type] for column in schema}


def _view(
    name: str,
    places: Sequence[str],
    sources: Iterable[Source],
    columns: Mapping[str, str],
    *,
    what: str,
    made_by: str,
    optional: Mapping[str, str] = MappingProxyType({}),
) -> View:
    """Return a view over files, the names of their places (split, teacher, run) as its first columns.

    A missing file adds no row. A broken one fails the query that would read it, by name, and no other query. A file
    may lack the optional columns: column -> the SQL of its value then.
    """
    whole = {**dict.fromkeys(places, "VARCHAR"), **columns}
    parts = [f"SELECT {_nulls(whole)} WHERE false"]
    files: list[Path] = []
    for source in sources:
        there = [path for path in source.files if path.is_file()]
        files += there
        at = ", ".join(f"{literal(value)} AS {identifier(place)}" for place, value in source.place.items())
        needed = [column for column in columns if column not in optional]
        reasons = {path: reason for path in there if (reason := _why_unreadable(path, needed))}
        for path, reason in reasons.items():
            message = f"{BROKEN}{path} {reason} Make it again: `{made_by} --force`."
            parts.append(f"SELECT {at}, {_nulls(columns)} FROM (SELECT 1) WHERE error({literal(message)}) IS NULL")
        if whole_files := [literal(path) for path in there if path not in reasons]:
            lacking = _lacking([path for path in there if path not in reasons], optional)
            picked = ", ".join(
                f"CAST({optional[c] if c in lacking else identifier(c)} AS {kind}) AS {identifier(c)}"
                for c, kind in columns.items()
            )
            parts.append(f"SELECT {at}, {picked} FROM read_parquet([{', '.join(whole_files)}])")
    return View(name, " UNION ALL ".join(parts), what, tuple(files), "" if files else made_by)


def _lacking(files: Sequence[Path], columns: Iterable[str]) -> list[str]:
    """Return the columns that none of some files of one table has."""
    names = {name for path in files for name in pq.read_schema(path).names} if columns else set()
    return [column for column in columns if column not in names]


def _nulls(columns: Mapping[str, str]) -> str:
    return ", ".join(f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in columns.items())


def _why_unreadable(path: Path, columns: list[str]) -> str:
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        return f"is no readable Parquet table ({str(error).splitlines()[0].rstrip('.')})."
    lacking = [name for name in columns if name not in schema.names]
    return f"lacks the columns {', '.join(lacking)}." if lacking else ""


def _teacher_views(folders: Mapping[str, Path], made_by: str) -> list[View]:
    """Return a view for each teacher, its embeddings as arrays of a fixed size."""
    of_teachers: dict[str, list[Source]] = {}
    for split, folder in folders.items():
        for tables_of in sorted((folder / "teachers").glob("*/")):
            if parts := tuple(sorted(tables_of.glob("[0-9]*.parquet"))):
                of_teachers.setdefault(tables_of.name, []).append(Source({"split": split}, parts))
    views: dict[str, View] = {}
    for teacher, sources in sorted(of_teachers.items()):
        name = "teacher_" + re.sub(r"[^a-z0-9]+", "_", teacher.lower()).strip("_")
        while name in views:
            name += "_"
        kinds = {kind for source in sources for path in source.files if (kind := _kind(path))}
        widths = {width for _, width in kinds}
        key = next((key for key, _ in kinds), "key")
        columns = {key: "VARCHAR", "embedding": f"FLOAT[{widths.pop()}]" if len(widths) == 1 else "FLOAT[]"}
        views[name] = _view(name, ("split",), sources, columns, what=f"an embedding by {teacher}", made_by=made_by)
    return list(views.values())


def _kind(path: Path) -> tuple[str, int] | None:
    """Return the key column and the width of a teacher's part, or None if it cannot be read."""
    try:
        schema = pq.read_schema(path)
        return schema.names[0], schema.field("embedding").type.list_size
    except (pa.ArrowException, OSError, KeyError, AttributeError):
        return None


def _neighbour_view(name: str, modality: str, folders: Mapping[str, Path], made_by: str) -> View:
    """Return a view with a row for each neighbour; rank 1 is the nearest."""
    key = tables.KEY_OF[modality]
    sources = [
        Source({"split": split, "teacher": path.stem.removeprefix("neighbours-")}, (path,))
        for split, folder in folders.items()
        for path in sorted((folder / "index").glob("neighbours-*.parquet"))
        if tables.read_part_metadata(path).get("modality", modality) == modality
    ]
    columns = {key: "VARCHAR", "neighbour_keys": "VARCHAR[]", "similarities": "FLOAT[]"}
    what = "a neighbour of an image" if modality == "image" else "a neighbour of a caption"
    raw = _view(name, ("split", "teacher"), sources, columns, what=what, made_by=made_by)
    sql = (
        f"SELECT split, teacher, {key}, unnest(range(1, len(similarities) + 1))::INTEGER AS rank, "
        f"unnest(neighbour_keys) AS neighbour_{key}, unnest(similarities) AS similarity FROM ({raw.sql})"
    )
    return replace(raw, sql=sql)


def _truth_file(folder: Path) -> Path:
    """Return the known matches the audit was given, else the split's own."""
    given = folder / "audit" / "truth.parquet"
    return given if given.is_file() else folder / "truth.parquet"


def _standing_verdicts(name: str, journal: View) -> View:
    """Return the verdicts that stand: each reviewer's last on a pair, without those taken back and skipped pairs."""
    sql = (
        f"WITH everything AS ({journal.sql}) SELECT * FROM everything WHERE verdict NOT IN ('undo', 'skip') "
        "AND id NOT IN (SELECT undoes FROM everything WHERE undoes IS NOT NULL) "
        "QUALIFY row_number() OVER (PARTITION BY split, image_key, caption_key, reviewer ORDER BY judged_at DESC) = 1"
    )
    own = "of the data set's own pairs or a better caption" if name != "verdicts" else "of a pair"
    return replace(journal, name=name, sql=sql, what=f"what a reviewer said {own}, as it stands")


def _candidate_view(raw: View) -> View:
    """Return the candidates with the words of both captions.

    Each joined table is grouped by its join keys: then DuckDB leaves out a join whose columns are not selected.
    """
    sql = (
        "SELECT c.split, c.image_key, c.caption_key, c.owner_image_key, w.text AS caption, "
        "w.source AS caption_source, o.text AS image_caption, "
        "c.image_similarity, c.text_similarity, c.cross_similarity, c.image_rank, c.text_rank, c.score, "
        "c.p_positive, c.worth, c.duplicate_image, c.duplicate_caption, c.known_match, c.text_blind "
        f"FROM ({raw.sql}) c "
        "LEFT JOIN (SELECT split, caption_key, any_value(text) AS text, any_value(source) AS source FROM captions "
        "GROUP BY split, caption_key) w "
        "ON w.split = c.split AND w.caption_key = c.caption_key "
        "LEFT JOIN (SELECT split, key, arg_min(text, position) AS text FROM captions GROUP BY split, key) o "
        "ON o.split = c.split AND o.key = c.image_key"
    )
    return replace(raw, sql=sql, what="a caption that may be true of another image")


def _pair_view(raw: View) -> View:
    """Return the data set's own pairs with what made their captions; the join is left out where it is not selected."""
    sql = (
        f"SELECT p.*, w.source AS caption_source FROM ({raw.sql}) p "
        "LEFT JOIN (SELECT split, caption_key, any_value(source) AS source FROM captions "
        "GROUP BY split, caption_key) w ON w.split = p.split AND w.caption_key = p.caption_key"
    )
    return replace(raw, sql=sql)


def _run_view(folders: Mapping[str, Path]) -> View:
    """Return what each run is: few rows, so they stand in the view itself."""
    rows = []
    for name, folder in folders.items():
        recipe, run = (_json(folder / file) for file in ("recipe.json", "run.json"))
        entry = ledger.read(folder / "ledger.json")
        student, train = recipe.get("student") or {}, recipe.get("train") or {}
        best = entry.counts.get("best_step") if entry else None
        values = [
            *(_text(value) for value in (name, recipe.get("name"), student.get("kind"), run.get("data"))),
            *(
                f"{int(value)}::BIGINT" if isinstance(value, int) else "NULL::BIGINT"
                for value in (train.get("seed"), best)
            ),
            f"TRY_CAST({_text(entry.finished if entry else None)} AS TIMESTAMP)",
            f"{float(entry.seconds)!r}::DOUBLE" if entry else "NULL::DOUBLE",
            str((folder / "eval/per_query.parquet").is_file()).lower(),
            f"{_text(json.dumps(recipe, sort_keys=True))}",
        ]
        rows.append(f"SELECT {', '.join(values)}")
    sql = " UNION ALL ".join([f"SELECT {_nulls(_RUNS)} WHERE false", *rows])
    return View("runs", sql, "a training run", (), "" if rows else "cusa train ...")


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object, or an empty one where there is none that can be read."""
    try:
        content = store.read_json(path)
    except DataError:
        return {}
    return content if isinstance(content, dict) else {}


def _text(value: Any) -> str:
    return "NULL::VARCHAR" if value is None else f"{literal(str(value))}::VARCHAR"


def _ledger_view(roots: Iterable[Path]) -> View:
    """Return what stages did: few rows, so they stand in the view itself."""
    rows = []
    for root in roots:
        for path in sorted({*root.rglob("ledger.json"), *root.rglob("*.ledger.json")}):
            entry = ledger.read(path)
            if entry is None:
                continue
            keys = ", ".join(literal(name) for name in entry.counts)
            values = ", ".join(f"{float(value)!r}::DOUBLE" for value in entry.counts.values())
            rows.append(
                f"SELECT {literal(path.parent.relative_to(root.parent).as_posix())}, {literal(entry.stage)}, "
                f"TRY_CAST({literal(entry.finished)} AS TIMESTAMP), {float(entry.seconds)!r}::DOUBLE, "
                f"{int(entry.peak_memory_bytes)}::BIGINT, MAP([{keys}]::VARCHAR[], [{values}]::DOUBLE[])"
            )
    sql = " UNION ALL ".join([f"SELECT {_nulls(_LEDGERS)} WHERE false", *rows])
    return View("ledgers", sql, "a stage that finished, its time and memory", (), "" if rows else "any stage")
