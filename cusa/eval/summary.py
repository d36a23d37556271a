"""One evaluation on several data sets: all numbers in one file, all queries in one table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cusa.manifests import schemas
from cusa.manifests.storage import store

FILE = "all.json"
QUERIES = "all_per_query.parquet"


def write(folder: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write `all.json` (a list, each entry one `metrics.json`) and `all_per_query.parquet` (`data` and a row a query).

    Args:
        folder: of the results.
        results: of each data folder, as `cusa.workflow.evaluate.evaluate` returns them.
    """
    schema = pa.schema([("data", pa.string()), *schemas.PER_QUERY])
    with store.table_writer(folder / QUERIES, schema) as writer:
        for result in results:
            path = Path(result["out"]) / "per_query.parquet" if result.get("out") else None
            if path is not None and path.is_file():
                for table in store.table_batches(path, columns=schemas.PER_QUERY.names):
                    name = pa.array([str(result["data"])] * len(table), pa.string())
                    writer.write_table(table.add_column(0, "data", name).cast(schema))
    store.write_json(folder / FILE, list(results))
