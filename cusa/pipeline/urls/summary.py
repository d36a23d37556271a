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

    tables = [str(file) for file in sorted((out / FETCHED).glob("*.parquet")) if not file.name.endswith(".log.parquet")]
    logs = [str(file) for file in sorted((out / FETCHED).glob("*.log.parquet"))]
    with duckdb.connect() as database:
        database.execute("SET threads = 1")
        if tables:
            database.read_parquet(tables).create_view("every")
            database.read_parquet(str(out / GONE)).create_view("gone")
            database.execute("CREATE VIEW fetched AS SELECT * FROM every ANTI JOIN gone USING (key)")
            by_host = database.sql(
                "SELECT host, status, reason, http_status, count(*) AS rows, sum(received)::BIGINT AS received "
                "FROM fetched GROUP BY ALL ORDER BY rows DESC, host, status, reason, http_status"
            ).to_arrow_table()
        else:
            by_host = schemas.URL_SUMMARY.empty_table()
        assert by_host is not None
        summary = by_host.cast(schemas.URL_SUMMARY)
        store.write_table(out / SUMMARY, summary)
        seconds = _histogram(database, f"SELECT seconds FROM read_parquet({logs!r})", _SECONDS, "s") if logs else []
        sizes = _histogram(database, "SELECT bytes FROM fetched WHERE status = 'kept'", _BYTES, "B") if tables else []
    totals = {"kept": 0, "dropped": 0, "bytes": 0}
    for row in summary.select(["status", "rows", "received"]).to_pylist():
        totals[row["status"]] += row["rows"]
        totals["bytes"] += row["received"]
    page = render(
        "pipeline/urls/page.html.j2",
        title=f"Fetched: {name}",
        figures=_figures(totals, summary),
        histograms=[
            ("Why URLs gave no picture", _reasons(summary)),
            ("Seconds a URL", seconds),
            ("Bytes a picture", sizes),
        ],
        hosts=_hosts(summary),
    )
    store.write_text(out / PAGE, page)
    return totals


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


def _figures(totals: dict[str, int], summary: pa.Table) -> list[Figure]:
    every = totals["kept"] + totals["dropped"]
    return [
        Figure("pictures", f"{totals['kept']:,}", f"{totals['kept'] / max(every, 1):.1%} of {every:,} URLs"),
        Figure("dropped", f"{totals['dropped']:,}", "each with its reason, below"),
        Figure("received", f"{totals['bytes'] / 2**20:,.1f} MiB", ""),
        Figure("hosts", f"{len(set(summary['host'].to_pylist())):,}", ""),
    ]


def _reasons(summary: pa.Table) -> list[_Bar]:
    counts: dict[str, int] = {}
    for row in summary.to_pylist():
        if row["status"] == "dropped":
            name = f"HTTP {row['http_status']}" if row["reason"] == "http-status" else row["reason"]
            counts[name] = counts.get(name, 0) + row["rows"]
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return _bars([(name, count, REASONS.get(name, "")) for name, count in ordered])


def _hosts(summary: pa.Table) -> Table:
    hosts: dict[str, dict[str, int]] = {}
    for row in summary.to_pylist():
        counts = hosts.setdefault(row["host"], {"kept": 0, "dropped": 0, "bytes": 0})
        counts[row["status"]] += row["rows"]
        counts["bytes"] += row["received"]
    first = sorted(hosts.items(), key=lambda one: (-one[1]["kept"] - one[1]["dropped"], one[0]))[:_HOSTS]
    return Table(
        ("host", "kept", "dropped", "MiB"),
        [
            (host or "none", f"{one['kept']:,}", f"{one['dropped']:,}", f"{one['bytes'] / 2**20:,.1f}")
            for host, one in first
        ],
    )
