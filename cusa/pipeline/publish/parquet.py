"""Parquet as the hub's data sets have it: pictures inside (`image: {bytes, path}`), captions as a list."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.manifests.storage import store
from cusa.pipeline.publish.rows import Part, Sample

_TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # null for texts alone
        ("captions", _TEXTS),
        ("key", pa.string()),
        ("caption_keys", _TEXTS),  # one a caption
        ("caption_ids", _TEXTS),  # likewise: the data set's own
        ("caption_sources", _TEXTS),  # likewise: what made it; empty texts where nobody says
        ("label", pa.string()),
        ("role", pa.string()),
        ("source", pa.string()),
        ("sha256", pa.string()),  # of the picture's bytes
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
"""A row an image; `datasets.load_dataset` and the hub's viewer decode the picture."""

MADE_OF = b"cusa.made_of"
_ROWS = 100  # a row group: viewers load one at a time


def write(part: Part) -> int:
    """Write one tar's samples as one Parquet file, unless it is there already; return how many."""
    if is_finished(part):
        return len(part.images)
    schema = SCHEMA.with_metadata(
        {"huggingface": json.dumps({"info": {"features": _features()}}), MADE_OF: part.made_of}
    )
    count = 0
    with store.table_writer(part.file, schema) as writer:
        rows: list[dict[str, Any]] = []
        for sample in part.samples():
            rows.append(_row(sample))
            count += 1
            if len(rows) == _ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return count


def is_finished(part: Part) -> bool:
    """Tell whether a part's file is there, made of what the part is made of now."""
    try:
        metadata: dict[bytes, bytes] = pq.read_schema(part.file).metadata or {}
    except (pa.ArrowException, OSError):
        return False
    return metadata.get(MADE_OF, b"").decode() == part.made_of


def _features() -> dict[str, Any]:
    """Return the columns' types in the words of the `datasets` library."""
    kinds = {pa.string(): "string", pa.int32(): "int32"}
    features: dict[str, Any] = {}
    for field in SCHEMA:
        if pa.types.is_struct(field.type):
            features[field.name] = {"_type": "Image"}
        elif pa.types.is_list(field.type):
            features[field.name] = {"_type": "List", "feature": {"_type": "Value", "dtype": "string"}}
        else:
            features[field.name] = {"_type": "Value", "dtype": kinds[field.type]}
    return features


def _row(sample: Sample) -> dict[str, Any]:
    row = sample.row
    name = row["key"].rpartition("/")[2]
    return {
        "image": {"bytes": sample.image, "path": f"{name}.{row['ext']}"} if row["ext"] else None,
        "captions": [caption["text"] for caption in sample.captions],
        "caption_keys": [caption["caption_key"] for caption in sample.captions],
        "caption_ids": [caption["caption_id"] for caption in sample.captions],
        "caption_sources": [caption["source"] for caption in sample.captions],
        **{name: row[name] for name in ("key", "label", "role", "source", "sha256", "width", "height")},
    }
