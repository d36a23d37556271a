"""The tables that img2dataset leaves beside its shards: the status of every row, of those it could not fetch too."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import DataError
from cusa.manifests.records import Drop

_COLUMNS = ("url", "caption", "key", "status", "error_message")


def is_status_table(table: Path) -> bool:
    """Tell whether a Parquet file is a table of img2dataset's: it has a row's status and its URL."""
    try:
        with table.open("rb") as file:
            return {"status", "url"} <= set(pq.read_schema(file).names)
    except (pa.ArrowException, OSError):
        return False


def missing_rows(table: Path, split: str, keys: Collection[str]) -> Iterator[Drop]:
    """Give the rows of a status table of which no picture is there.

    Args:
        table: for example `00000.parquet` beside `00000.tar`.
        split: of the shard.
        keys: of the pictures in the shard; a row that was fetched and is not among them was lost since.

    Raises:
        DataError: if the table is broken.
    """
    if not table.is_file() or not is_status_table(table):
        return
    number = 0
    try:
        with table.open("rb") as file:
            parquet = pq.ParquetFile(file)
            columns = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=4096, columns=columns):
                for row in batch.to_pylist():
                    yield from _missing_row(row, f"{table.name} row {number}", split, keys)
                    number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{table} cannot be read after row {number} ({error}). Restore it, or remove it: then the rows that "
            "img2dataset could not fetch are not counted.",
            path=table,
        ) from error


def _missing_row(row: dict[str, Any], where: str, split: str, keys: Collection[str]) -> Iterator[Drop]:
    if row["status"] == "success":
        if row.get("key") is None or row["key"] in keys:
            return
        detail = f"{row['url']}: fetched as {row['key']}, and the shard does not hold it"
    else:
        detail = f"{row['url']}: {row['status']}: {row.get('error_message')}"
    yield Drop(split, "", where, "image", "missing", detail)
    if row.get("caption") is not None:
        yield Drop(split, "", where, "caption", "missing", f"its image was dropped: {row['caption']!r:.200}")
