"""One evaluation on several data sets: every result in one file, every query in one table under its data."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.eval import summary
from cusa.manifests import schemas
from cusa.manifests.storage import store


def _queries(folder: Path, *keys: str) -> list[dict[str, Any]]:
    rows = [
        {
            **{"task": "cross-modal", "direction": "image-to-text", "query_key": key, "rank": number},
            **{
                "positives": 1,
                "r_precision": 0.5,
                "average_precision": 0.25,
                "top_keys": [key],
                "top_similarities": [0.5],
            },
        }
        for number, key in enumerate(keys, 1)
    ]
    store.write_table(folder / "per_query.parquet", pa.Table.from_pylist(rows, schema=schemas.PER_QUERY))
    return rows


def test_write__results_in_their_order_and_queries_by_data(tmp_path: Path) -> None:
    one, two = _queries(tmp_path / "a", "x", "y"), _queries(tmp_path / "b", "z")
    results = [
        {"data": "first", "out": str(tmp_path / "a"), "rsum": 1},
        {"data": "failed one", "failed": "why"},
        {"data": "sts", "out": str(tmp_path)},
        {"data": "second", "out": str(tmp_path / "b")},
        {"data": "not kept", "out": None},
    ]
    summary.write(tmp_path / "all", results)
    assert json.loads((tmp_path / "all" / summary.FILE).read_text()) == results
    table = pq.read_table(tmp_path / "all" / summary.QUERIES)
    assert table.schema.names == ["data", *schemas.PER_QUERY.names]
    assert table.to_pylist() == [
        *({"data": "first", **row} for row in one),
        *({"data": "second", **row} for row in two),
    ]
