"""What came of a table of URLs, by host and reason: a table, and a page with the histograms."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cusa.manifests import schemas
from cusa.manifests.pages import Figure, Table, render
from cusa.manifests.records import REASONS
from cusa.manifests.storage import store
from cusa.pipeline.urls.plan import FETCHED, GONE

SUMMARY = "summary.parquet"
PAGE = "index.html"
_KEPT = "fetched WHERE status = 'kept'"
_HOSTS = 50  # shown on the page, those with the most rows
_WIDEST = 320  # pixels of a bar
_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, math.inf)
_BYTES = (10**4, 3 * 10**4, 10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7, math.inf)


@dataclass(frozen=True)
class _Bar:
    name: str
    rows: str
    width: int
    """Pixels."""
    note: str = ""


def write(out: Path, *, name: str) -> dict[str, int]:
    """Write `summary.parquet`, a row a host, reason and HTTP status, and `index.html`; URLs that are gone do not count.

    Args:
        out: the folder with what was fetched.
        name: of the data.

    Returns:
        URLs kept and dropped, and the bytes that came.
    """
    import duckdb

    every = sorted((out / FETCHED).glob("*.parquet"))
    logs = [str(file) for file in every if file.name.endswith(".log.parquet")]
    tables = [str(file) for file in every if not file.name.endswith(".log.parquet")]
    if not tables:
        store.write_table(out / SUMMARY, schemas.URL_SUMMARY.empty_table())
        return {"kept": 0, "dropped": 0, "bytes": 0}
    with duckdb.connect() as database:
        database.execute("SET threads = 1")  # the same order of rows, and the cores are others' too
        database.read_parquet(tables).create_view("every")
        database.read_parquet(str(out / GONE)).create_view("gone")
        database.execute("CREATE VIEW fetched AS SELECT * FROM every ANTI JOIN gone USING (key)")
        _write_summary(out, database)
        database.read_parquet(str(out / SUMMARY)).create_view("summary")
        query = "SELECT status, sum(rows)::BIGINT, sum(received)::BIGINT FROM summary GROUP BY status"
        by_status = {status: (rows, received) for status, rows, received in database.execute(query).fetchall()}
        kept, dropped = (by_status.get(status, (0, 0)) for status in ("kept", "dropped"))
        totals = {"kept": kept[0], "dropped": dropped[0], "bytes": kept[1] + dropped[1]}
        seconds = _histogram(database, f"SELECT seconds FROM read_parquet({logs!r})", _SECONDS, "s") if logs else []
        page = render(
            "pipeline/urls/page.html.j2",
            title=f"Fetched: {name}",
            figures=_figures(totals, database),
            histograms=[
                ("Why URLs gave no picture", _reasons(database)),
                ("Seconds a URL", seconds),
                ("Bytes a picture", _histogram(database, f"SELECT bytes FROM {_KEPT}", _BYTES, "B")),
            ],
            hosts=_hosts(database),
        )
    store.write_text(out / PAGE, page)
    return totals


def _write_summary(out: Path, database: Any) -> None:
    names = ", ".join(schemas.URL_SUMMARY.names[:4])
    rows = database.execute(
        f"SELECT {names}, count(*), sum(received)::BIGINT FROM fetched GROUP BY ALL ORDER BY count(*) DESC, {names}"
    )
    with store.table_writer(out / SUMMARY, schemas.URL_SUMMARY) as writer:
        while some := rows.fetchmany(10_000):
            columns = dict(zip(schemas.URL_SUMMARY.names, zip(*some, strict=True), strict=True))
            writer.write_table(pa.table(columns, schema=schemas.URL_SUMMARY))


def _histogram(database: Any, query: str, edges: tuple[float, ...], unit: str) -> list[_Bar]:
    """Count the numbers of a query between edges."""
    cases = " ".join(f"WHEN x < {edge} THEN {number}" for number, edge in enumerate(edges[:-1]))
    counted = dict(
        database.execute(
            f"SELECT CASE {cases} ELSE {len(edges) - 1} END AS bar, count(*) FROM ({query}) AS t(x) GROUP BY bar"
        ).fetchall()
    )
    names = [f"below {_short(edge)} {unit}" for edge in edges[:-1]] + [f"{_short(edges[-2])} {unit} and more"]
    return _bars([(name, counted.get(number, 0), "") for number, name in enumerate(names)])


def _short(number: float) -> str:
    return f"{number:,g}" if number < 1000 else f"{number / 1000:,g} k"


def _bars(rows: list[tuple[str, int, str]]) -> list[_Bar]:
    most = max((count for _, count, _ in rows), default=0) or 1
    return [_Bar(name, f"{count:,}", round(_WIDEST * count / most), note) for name, count, note in rows]


def _figures(totals: dict[str, int], database: Any) -> list[Figure]:
    every = totals["kept"] + totals["dropped"]
    ((hosts,),) = database.execute("SELECT count(DISTINCT host) FROM summary").fetchall()
    return [
        Figure("pictures", f"{totals['kept']:,}", f"{totals['kept'] / max(every, 1):.1%} of {every:,} URLs"),
        Figure("dropped", f"{totals['dropped']:,}", "each with its reason, below"),
        Figure("received", f"{totals['bytes'] / 2**20:,.1f} MiB", ""),
        Figure("hosts", f"{hosts:,}", ""),
    ]


def _reasons(database: Any) -> list[_Bar]:
    query = (
        "SELECT CASE reason WHEN 'http-status' THEN 'HTTP ' || http_status ELSE reason END AS name, sum(rows)::BIGINT "
        "FROM summary WHERE status = 'dropped' GROUP BY name ORDER BY 2 DESC, 1"
    )
    return _bars([(name, count, REASONS.get(name, "")) for name, count in database.execute(query).fetchall()])


def _hosts(database: Any) -> Table:
    query = (
        "SELECT host, sum(rows) FILTER (status = 'kept'), sum(rows) FILTER (status = 'dropped'), sum(received) "
        f"FROM summary GROUP BY host ORDER BY sum(rows) DESC, host LIMIT {_HOSTS}"
    )
    return Table(
        ("host", "kept", "dropped", "MiB"),
        [
            (host or "none", f"{kept or 0:,}", f"{dropped or 0:,}", f"{received / 2**20:,.1f}")
            for host, kept, dropped, received in database.execute(query).fetchall()
        ],
    )
