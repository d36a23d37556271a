"""Folders of img2dataset: the pictures that it fetched are taken where they lie, and are not fetched again."""

import hashlib
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.manifests.storage import store
from cusa.pipeline.config import ShardConfig, UrlsConfig
from cusa.pipeline.readers.img2dataset import is_status_table
from cusa.pipeline.readers.pictures import EXTENSIONS
from cusa.pipeline.shard.images import Refused, prove
from cusa.pipeline.urls.client import parse
from cusa.pipeline.urls.failure import Failure
from cusa.pipeline.urls.plan import FETCHED, Plan, digest_of
from cusa.pipeline.urls.unit import write_table

_SHARD = re.compile(r"\d+")


def adopt(out: Path, plan: Plan, config: UrlsConfig, digest: Callable[[str], str]) -> int:
    """Take what img2dataset left in a folder as finished units: a unit a shard that it ended, its pictures alone.

    What it could not fetch, and shards that it did not end, are fetched as any other URL.

    Args:
        out: the folder, img2dataset's and ours.
        plan: of the table; its URLs that are there get their unit.
        config: bounds that its pictures have to keep.
        digest: makes a unit's digest of that of its URLs.

    Returns:
        The units that were made.
    """
    number = 0
    for stats in sorted(out.glob("*_stats.json")):
        tar = out / f"{stats.name.removesuffix('_stats.json')}.tar"
        table = tar.with_suffix(".parquet")
        if not _SHARD.fullmatch(tar.stem) or not tar.is_file() or not table.is_file() or not is_status_table(table):
            continue
        rows = _rows(tar, table, plan, config)
        if not rows:
            continue
        for place, row in enumerate(rows):
            plan.put(row["key"], number, place)
        asked = [{"key": row["key"], "url": row["url"], "sha256": "", "md5": ""} for row in rows]
        metadata = {
            "plan": digest(digest_of(asked)),
            "tar": tar.name,
            "sha256": store.sha256_file(tar),
            "kept": str(len(rows)),
            "dropped": "0",
        }
        write_table(out / FETCHED / f"{number:05d}.parquet", rows, metadata)
        number += 1
    return number


def _rows(tar: Path, table: Path, plan: Plan, config: UrlsConfig) -> list[dict[str, Any]]:
    """Return the pictures of a shard that the table of URLs asks for, as rows of what was fetched."""
    bounds = ShardConfig(max_pixels=config.max_pixels, min_side=config.min_side)
    rows: dict[str, dict[str, Any]] = {}
    try:
        fetched = pq.read_table(table, columns=["key", "url", "status"]).to_pylist()
        members = _members(tar)
    except (pa.ArrowException, OSError, KeyError, tarfile.TarError):
        return []
    with tar.open("rb") as file:
        for row in fetched:
            if row["status"] != "success" or str(row["key"]) not in members:
                continue
            key = plan.find(row["url"])
            if key is None or key in rows:
                continue
            offset, size = members[str(row["key"])]
            file.seek(offset)
            data = file.read(size)
            try:
                _, ext, width, height = prove(data, bounds)
                url = parse(row["url"])
            except (Refused, Failure):
                continue  # it is fetched again, and the reason stands in the table then
            rows[key] = {
                "key": key,
                "url": row["url"].strip().partition("#")[0],
                "host": url.host,
                "status": "kept",
                "reason": "",
                "detail": "",
                "http_status": 200,
                "received": size,
                "file": tar.name,
                "offset": offset,
                "bytes": size,
                "ext": ext,
                "width": width,
                "height": height,
                "sha256": hashlib.sha256(data).hexdigest(),
            }
    return list(rows.values())


def _members(tar: Path) -> dict[str, tuple[int, int]]:
    """Return the byte range of each picture of a tar, by its name without extension."""
    members = {}
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            stem, dot, ext = member.name.rpartition(".")
            if member.isfile() and f"{dot}{ext}".lower() in EXTENSIONS:
                members[stem] = (member.offset_data, member.size)
    return members
