"""What came of a table of URLs, summed up: against plain counts, on the page as well."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.manifests import schemas
from cusa.manifests.storage import store
from cusa.pipeline.urls import summary

HOSTS = ("a.org", "b.org", "", "<b>.org")
REASONS = (("", 200), ("http-status", 404), ("http-status", 500), ("timeout", 0))


def _write(out: Path) -> list[dict[str, Any]]:
    """Write what was fetched of forty URLs, and return those that are not gone."""
    rows = []
    for number in range(40):
        reason, status = REASONS[(0, 0, 0, 1, 2, 2, 3, 3, 3)[number % 9]]
        rows.append(
            {
                **dict.fromkeys(schemas.FETCHED.names),
                **{"key": f"k{number}", "url": f"u{number}", "host": HOSTS[number % 5 % 4], "reason": reason},
                **{"status": "dropped" if reason else "kept", "http_status": status, "received": 1000 * number},
                "bytes": 0 if reason else 10_000 * number,
            }
        )
    for unit, part in enumerate((rows[:30], rows[30:])):
        table = pa.Table.from_pylist(part, schema=schemas.FETCHED)
        store.write_table(out / f"fetched/{unit:05d}.parquet", table)
        log = [{"key": row["key"], "seconds": number / 4, "tries": 1, "received": 0} for number, row in enumerate(part)]
        store.write_table(out / f"fetched/{unit:05d}.log.parquet", pa.Table.from_pylist(log, schema=schemas.FETCH_LOG))
    gone = [{"key": row["key"], "url": row["url"], "unit": 0} for row in rows[:3]]
    store.write_table(out / "gone.parquet", pa.Table.from_pylist(gone, schema=schemas.GONE_URLS))
    return rows[3:]


def _bars(page: str, title: str) -> dict[str, str]:
    part = page.partition(f"<h2>{title}</h2>")[2].partition("</table>")[0]
    rows = re.findall(r'<tr><td class="words">(.*?)(?:<br>.*?)?</td>\s*<td>(.*?)</td>', part, re.DOTALL)
    return dict(rows)


def test_write__a_row_a_host_reason_and_status_and_the_totals(tmp_path: Path) -> None:
    rows = _write(tmp_path)
    kept = [row for row in rows if row["status"] == "kept"]
    totals = summary.write(tmp_path, name="mine")
    received = sum(row["received"] for row in rows)
    assert totals == {"kept": len(kept), "dropped": len(rows) - len(kept), "bytes": received}
    table = pq.read_table(tmp_path / "summary.parquet")
    assert table.schema.equals(schemas.URL_SUMMARY)
    names = ("host", "status", "reason", "http_status")
    counts = Counter(tuple(row[name] for name in names) for row in rows)
    bytes_ = Counter[Any]()
    for row in rows:
        bytes_[tuple(row[name] for name in names)] += row["received"]
    found = {tuple(row[name] for name in names): (row["rows"], row["received"]) for row in table.to_pylist()}
    assert found == {place: (number, bytes_[place]) for place, number in counts.items()}
    order = [(-row["rows"], *(row[name] for name in names)) for row in table.to_pylist()]
    assert order == sorted(order)


def test_write__the_page_has_the_same_numbers(tmp_path: Path) -> None:
    rows = _write(tmp_path)
    summary.write(tmp_path, name="m<i>ne")
    page = (tmp_path / "index.html").read_text()
    assert "<h1>Fetched: m&lt;i&gt;ne</h1>" in page
    dropped = Counter(
        f"HTTP {row['http_status']}" if row["http_status"] else row["reason"] for row in rows if row["reason"]
    )
    reasons = _bars(page, "Why URLs gave no picture")
    assert reasons == {name: str(number) for name, number in dropped.items()}
    assert [int(number) for number in reasons.values()] == sorted(dropped.values(), reverse=True)
    seconds = [number / 4 for size in (30, 10) for number in range(size)]
    edges = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
    shown = [int(number) for number in _bars(page, "Seconds a URL").values()]
    bounds = [0.0, *edges, float("inf")]
    assert shown == [sum(low <= one < high for one in seconds) for low, high in zip(bounds, bounds[1:], strict=False)]
    names = [f"below {edge:g} s" for edge in edges]
    assert list(_bars(page, "Seconds a URL")) == [*names, "60 s and more"]
    sizes = [row["bytes"] for row in rows if row["status"] == "kept"]
    edges = (10**4, 3 * 10**4, 10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7)
    bounds = [0, *edges, float("inf")]
    assert [int(number) for number in _bars(page, "Bytes a picture").values()] == [
        sum(low <= one < high for one in sizes) for low, high in zip(bounds, bounds[1:], strict=False)
    ]
    names = [f"below {edge} k B" for edge in ("10", "30", "100", "300", "1,000", "3,000", "10,000")]
    assert list(_bars(page, "Bytes a picture")) == [*names, "10,000 k B and more"]
    bars = page.partition("Why URLs gave no picture")[2].partition("Seconds a URL")[0]
    widths = [int(width) for width in re.findall(r'class="bar" style="width:(\d+)px"', bars)]
    most = max(dropped.values())
    assert widths == [round(320 * number / most) for number in sorted(dropped.values(), reverse=True)]
    hosts = page.partition("Hosts with the most URLs")[2]
    assert re.findall(r"<th[^>]*>(.*?)</th>", hosts) == ["host", "kept", "dropped", "MiB"]
    for host in HOSTS:
        of_host = [row for row in rows if row["host"] == host]
        kept = sum(row["status"] == "kept" for row in of_host)
        mib = f"{sum(row['received'] for row in of_host) / 2**20:,.1f}"
        shown_host = host.replace("<", "&lt;").replace(">", "&gt;") or "none"
        cells = re.search(rf"{re.escape(shown_host)}</td>(.*?)</tr>", hosts, re.DOTALL)
        assert cells is not None
        assert re.findall(r">([\d.,]+)<", cells[1]) == [str(kept), str(len(of_host) - kept), mib]


def test_write__of_nothing_is_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "fetched").mkdir()
    assert summary.write(tmp_path, name="x") == {"kept": 0, "dropped": 0, "bytes": 0}
    assert pq.read_table(tmp_path / "summary.parquet").num_rows == 0
