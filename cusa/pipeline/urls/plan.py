"""Which URL is fetched into which tar: each URL of a table once, in the table's order, those of before where they were.

The table is put into a small temporary database (SQLite: it finds equal URLs without holding them), so memory does not
grow with the table.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from cusa.errors import DataError, nearest
from cusa.manifests import schemas
from cusa.manifests.events import OnEvent
from cusa.manifests.records import Drop, utf8
from cusa.manifests.storage import store
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers import separated
from cusa.pipeline.readers.captions import as_text, caption_records, listed_texts
from cusa.pipeline.readers.reading import BAD_ROW, text
from cusa.pipeline.readers.sources import SourceRules, filled, with_sources
from cusa.pipeline.readers.splits import RowSplits
from cusa.pipeline.readers.table import KINDS, Unreadable, column_names, read_rows

PLAN = "urls.parquet"
GONE = "gone.parquet"
DROPS = "drops.parquet"
FETCHED = "fetched"
"""Folder of the tars and of what came of each URL."""

_TABLES = """
CREATE TABLE urls (
  key TEXT PRIMARY KEY, number INTEGER, url TEXT, sha256 TEXT, md5 TEXT, split TEXT, label TEXT, item TEXT,
  captions TEXT, unit INTEGER, place INTEGER
) WITHOUT ROWID;
CREATE TABLE gone (key TEXT, url TEXT, sha256 TEXT, md5 TEXT, unit INTEGER, place INTEGER);
"""
_USUAL = {
    "url": ("url", "urls", "image_url", "imageurl", "link", "href", "coco_url", "flickr_url"),
    "caption": ("caption", "captions", "text", "alt", "alt_text", "title", "description", "sentence"),
}
"""Names that a column may have where none was given, in lower case."""


@dataclass(frozen=True)
class Planned:
    """One unit of the plan."""

    number: int
    group: int
    """Its row group in the plan."""
    rows: int
    digest: str
    """Of its URLs, in their order, and of the digests that are asked of them."""


def key_of(url: str, sha256: str = "", md5: str = "") -> str:
    """Return what a URL is called in every table: 20 digits of a SHA-256.

    Args:
        url: without fragment.
        sha256: asked of its bytes; the same URL with another digest is another row.
        md5: likewise.
    """
    more = f"\n{sha256}\n{md5}" if sha256 or md5 else ""
    return hashlib.sha256(f"{url}{more}".encode("utf-8", "surrogateescape")).hexdigest()[:20]


def without_fragment(url: str) -> str:
    """Return a URL as it is asked for."""
    return url.strip().partition("#")[0]


def columns_of(table: Path, config: ReadConfig) -> tuple[ReadConfig, separated.Form | None]:
    """Find the columns of a table of URLs.

    Returns:
        The configuration with the table's own names, and how it is written where it is a CSV or TSV.

    Raises:
        DataError: if the kind is unknown, the table cannot be read, or a column is missing or could be several.
    """
    if table.suffix.lower() not in KINDS:
        raise DataError(
            f"{table} is of no known kind of table. {nearest(table.suffix, KINDS)}. Rename it, or convert it.",
            path=table,
        )
    given = {what: getattr(config, f"{what}_column") for what in ("url", "caption", "split", "label", "id")}
    given |= {name: getattr(config, f"{name}_column") for name in ("sha256", "md5", "source")}
    form = None
    if table.suffix.lower() in (".csv", ".tsv"):
        form = separated.form_of(table, (given["url"], given["caption"], *_USUAL["url"], *_USUAL["caption"]))
    names = list(form.columns) if form else column_names(table)
    guessed: dict[str, str] = {}
    for what, name in given.items():
        if name in names:
            if names.count(name) > 1:
                raise DataError(f"{table} has several columns {name!r}. Rename all but one of them.", path=table)
            continue
        alike = [column for column in names if column.strip().lower() in _USUAL.get(what, (name,))]
        by_default = name == ReadConfig.model_fields[f"{what}_column"].default
        if by_default and len(alike) == 1:
            guessed[f"{what}_column"] = alike[0]
        elif not by_default or what in ("url", "caption"):
            raise DataError(
                f"{table} has no column {name!r}; name the one it has with --column {what}=NAME. "
                f"{nearest(name, names)}.",
                path=table,
            )
    return config.model_copy(update=guessed), form


@contextlib.contextmanager
def make(table: Path, out: Path, config: ReadConfig, *, rows_a_unit: int, on_event: OnEvent) -> Iterator["Plan"]:
    """Read a table into a plan, which is gone when the block ends.

    Args:
        table: CSV, TSV, JSONL or Parquet.
        out: the folder of what was fetched; URLs that its plan has stay where they are.
        config: the columns' names, and the split of rows that name none.
        rows_a_unit: URLs of a new unit.
        on_event: called with every thousandth row.

    Raises:
        DataError: if the table cannot be read, or names splits that are not known.
    """
    database = sqlite3.connect("", isolation_level=None)
    try:
        database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLES}")
        database.execute("BEGIN")
        plan = Plan(database, table, config, rows_a_unit)
        plan.read(out, on_event)
        yield plan
    finally:
        database.close()


class Plan:
    """Every URL of a table, once, with its unit and its place there."""

    def __init__(self, database: sqlite3.Connection, table: Path, config: ReadConfig, rows_a_unit: int) -> None:
        self._database = database
        self._table = table
        self._config = config
        self._rows_a_unit = rows_a_unit
        self._rules = SourceRules(config.caption_sources)
        self.rows = 0
        """Rows of the table."""

    def read(self, out: Path, on_event: OnEvent) -> None:
        """Read the table and write down which of its rows are refused."""
        config, form = columns_of(self._table, self._config)
        columns = [getattr(config, f"{name}_column") for name in ("url", "caption", "split", "label", "id")]
        columns += [config.sha256_column, config.md5_column, config.source_column]
        self._rules.refuse_others((config.caption_column,), "columns of captions")
        splits = RowSplits(self._table, config, self._table.stem)
        with store.table_writer(out / DROPS, schemas.DROPS.append(pa.field("split", pa.string()))) as writer:
            drops: list[dict[str, str]] = []
            for where, row in read_rows(self._table, columns, form):
                self.rows += 1
                split = splits.of(row.get(config.split_column) if isinstance(row, Mapping) else None)
                if split:
                    drops += [drop.row() for drop in self._add(where, split, row, config)]
                if len(drops) >= 1000:
                    writer.write_table(pa.Table.from_pylist(drops, schema=writer.schema))
                    drops = []
                if self.rows % 1000 == 0:
                    on_event("read", self.rows, 0)
            splits.check()
            if drops:
                writer.write_table(pa.Table.from_pylist(drops, schema=writer.schema))

    def _add(self, where: str, split: str, row: Any, config: ReadConfig) -> Iterator[Drop]:
        try:
            if isinstance(row, Unreadable):
                raise ValueError(row.why)
            url = without_fragment(text(row[config.url_column], config.url_column))
            if not url:
                raise ValueError(f"{config.url_column} is empty")
            url.encode()  # half a surrogate pair is no text
            values = [as_text(row.get(name)) for name in (config.label_column, config.id_column)]
            sha256, md5 = (as_text(row.get(name)).lower() for name in (config.sha256_column, config.md5_column))
            value = row[config.caption_column]
            captions, refused = caption_records(listed_texts(value) if isinstance(value, str) else value)
            captions = with_sources(captions, row.get(config.source_column))
            captions = filled(captions, self._rules.of(config.caption_column))
        except BAD_ROW as error:
            what = f"no field {error}" if isinstance(error, KeyError) else str(error)
            yield Drop(split, "", where, "image", "bad-row", f"{what}: {row!r:.200}")
            return
        for why in refused:
            yield Drop(split, "", where, "caption", "bad-row", f"{why}: {row!r:.200}")
        label, item = values
        texts = [(utf8(caption.text), utf8(caption.source)) for caption in captions]
        key = key_of(url, sha256, md5)
        about = (split, label, item)
        try:
            self._database.execute(
                "INSERT INTO urls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (key, self.rows, url, sha256, md5, *about, json.dumps(texts)),
            )
        except sqlite3.IntegrityError:
            query = "SELECT split, label, item, captions FROM urls WHERE key = ?"
            ((*first, before),) = self._database.execute(query, (key,))
            if tuple(first) != about:
                for caption, _ in texts:
                    detail = f"{url} had another split, label or id in an earlier row; {caption[:200]!r}"
                    yield Drop(split, "", where, "caption", "bad-row", detail)
                return
            self._database.execute(
                "UPDATE urls SET captions = ? WHERE key = ?", (json.dumps([*json.loads(before), *texts]), key)
            )

    def keep(self, rows: Iterator[Mapping[str, Any]], finished: Sequence[bool]) -> None:
        """Leave URLs of an earlier plan where they are.

        Args:
            rows: of that plan.
            finished: whether each of its units is.
        """
        for row in rows:
            done = row["unit"] < len(finished) and finished[row["unit"]]
            values = (row["unit"], row["place"], row["key"])
            changed = self._database.execute("UPDATE urls SET unit = ?, place = ? WHERE key = ?", values)
            if not changed.rowcount and done:
                self._database.execute(
                    "INSERT INTO gone VALUES (?, ?, ?, ?, ?, ?)",
                    (row["key"], row["url"], row["sha256"], row["md5"], row["unit"], row["place"]),
                )

    def find(self, url: str) -> str | None:
        """Return the key of a URL that is in no unit yet, the table's first row of it; None if there is none."""
        key = key_of(without_fragment(url))
        row = self._database.execute("SELECT unit FROM urls WHERE key = ?", (key,)).fetchone()
        return key if row is not None and row[0] is None else None

    def put(self, key: str, unit: int, place: int) -> None:
        """Put a URL into a unit."""
        self._database.execute("UPDATE urls SET unit = ?, place = ? WHERE key = ?", (unit, place, key))

    def write(self, out: Path, first_new: int) -> list[Planned]:
        """Put what is in no unit into new ones, and write the plan down; return its units.

        Args:
            out: the folder.
            first_new: the first number that no unit had before.
        """
        self._database.execute(
            "UPDATE urls SET unit = ? + place_among_new / ?, place = place_among_new % ? FROM "
            "(SELECT key AS new_key, row_number() OVER (ORDER BY number) - 1 AS place_among_new FROM urls "
            "WHERE unit IS NULL) WHERE key = new_key",
            (first_new, self._rows_a_unit, self._rows_a_unit),
        )
        gone = self._database.execute("SELECT key, url, unit FROM gone ORDER BY unit, place")
        with store.table_writer(out / GONE, schemas.GONE_URLS) as writer:
            while some := gone.fetchmany(10_000):
                columns = dict(zip(schemas.GONE_URLS.names, zip(*some, strict=True), strict=True))
                writer.write_table(pa.table(columns, schema=schemas.GONE_URLS))
        query = (
            "SELECT unit, place, key, url, sha256, md5, 1, split, label, item, captions FROM urls UNION ALL "
            "SELECT unit, place, key, url, sha256, md5, 0, '', '', '', '[]' FROM gone ORDER BY 1, 2"
        )
        planned = []
        with store.table_writer(out / PLAN, schemas.URLS) as writer:
            for group, (unit, rows) in enumerate(groupby(self._database.execute(query), key=lambda row: row[0])):
                values = [self._row(row) for row in rows]
                writer.write_table(pa.Table.from_pylist(values, schema=schemas.URLS), row_group_size=len(values))
                planned.append(Planned(unit, group, len(values), digest_of(values)))
        return planned

    @staticmethod
    def _row(row: Sequence[Any]) -> dict[str, Any]:
        values = dict(zip(schemas.URLS.names[:-1], row, strict=True))  # captions stand there with their sources
        captions = json.loads(values["captions"])
        texts, made_by = ([each[part] for each in captions] for part in (0, 1))
        return {**values, "live": bool(values["live"]), "captions": texts, "caption_sources": made_by}


def digest_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the digest over what decides the bytes of a unit."""
    return store.digest([[row[name] for name in ("key", "url", "sha256", "md5")] for row in rows])


def read(out: Path) -> Iterator[dict[str, Any]]:
    """Give the rows of the plan that lies in a folder; nothing if there is none."""
    if (out / PLAN).is_file():
        for table in store.table_batches(out / PLAN):
            yield from table.to_pylist()
