"""One tar: its images and captions written in the plan's order, and the mark that says it is finished."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cusa.errors import DataError
from cusa.manifests import keys, samples, schemas
from cusa.manifests.records import Drop, ImageRecord, utf8
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import named_remote_errors
from cusa.manifests.words import counted
from cusa.models.captions import clean_caption
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.shard.images import Refused, read_image
from cusa.pipeline.shard.ustar import Archive

UNITS = ".units"
"""Folder of a split that holds plans and marks while it is being written."""

_WORD = re.compile("[0-9A-Za-z]")


@dataclass(frozen=True)
class Unit:
    """One tar to be written; its rows lie in `rows`, so that a worker anywhere can read them."""

    folder: Path
    number: int
    config: ShardConfig
    plan: str
    """Digest of everything the tar depends on; the unit's mark repeats it."""

    @property
    def tar(self) -> Path:
        """The tar's name once it is whole."""
        return self.folder / f"{self.number:05d}.tar"

    @property
    def rows(self) -> Path:
        """The images to be written, one JSON a line."""
        return self.folder / UNITS / f"{self.number:05d}.jsonl"

    @property
    def mark(self) -> Path:
        """What came of it: rows of samples, captions and drops."""
        return self.folder / UNITS / f"{self.number:05d}.arrow"


def write(unit: Unit) -> int:
    """Write one tar and its mark, unless both are there already.

    Args:
        unit: what to write.

    Returns:
        The images in the tar; there is no tar if that is 0.
    """
    if (done := _finished(unit)) is not None:
        return done
    rows = _Rows()
    with (
        store.whole_file(unit.tar) as temporary,
        temporary.open("wb", 0) as file,
        named_remote_errors(unit.rows),
        unit.rows.open(encoding="utf-8") as lines,
    ):
        archive = Archive(file)
        for line in lines:
            _add(archive, unit.tar.name, ImageRecord.from_json(json.loads(line)), unit.config, rows)
        archive.end()
    if not rows.samples:
        unit.tar.unlink()
    metadata = {"plan": unit.plan, "shard": unit.tar.name, "bytes": str(archive.bytes), "sha256": archive.sha256}
    with store.whole_file(unit.mark) as temporary, temporary.open("wb") as mark:
        for name, schema in _MARK.items():
            table = pa.Table.from_pylist(getattr(rows, name), schema=schema.with_metadata(metadata))
            with pa.ipc.new_stream(mark, table.schema) as writer:
                writer.write_table(table)
    return len(rows.samples)


@dataclass(frozen=True)
class Mark:
    """What came of a unit."""

    plan: str
    shard: str
    bytes: int
    sha256: str
    samples: pa.Table
    captions: pa.Table
    drops: pa.Table


_MARK = {
    "samples": schemas.SAMPLES,
    "captions": schemas.CAPTIONS.append(schemas.CAPTION_SOURCE),
    "drops": schemas.DROPS,
}


def read_mark(unit: Unit) -> Mark:
    """Read what came of a unit.

    Raises:
        DataError: if its mark is missing or broken.
    """
    try:
        with named_remote_errors(unit.mark), unit.mark.open("rb") as file:
            streams = {}
            for name in _MARK:
                with pa.ipc.open_stream(file) as reader:
                    streams[name] = reader.read_all()
        metadata = {key.decode(): value.decode() for key, value in streams["samples"].schema.metadata.items()}
        tables = {name: table.replace_schema_metadata(None) for name, table in streams.items()}
        return Mark(metadata["plan"], metadata["shard"], int(metadata["bytes"]), metadata["sha256"], **tables)
    except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{unit.mark} cannot be read ({error}). Shard again.", path=unit.mark) from error


def _finished(unit: Unit) -> int | None:
    """Return the images of a tar that an earlier run finished, or None."""
    if not unit.mark.is_file():
        return None
    try:
        done = read_mark(unit)
    except DataError:
        return None
    if done.plan != unit.plan:
        return None
    images: int = done.samples.num_rows
    if images and not (unit.tar.is_file() and unit.tar.stat().st_size == done.bytes):
        return None
    if images and store.sha256_file(unit.tar) != done.sha256:
        return None
    return images


class _Rows:
    """What comes of a unit, as rows of the split's tables."""

    def __init__(self) -> None:
        self.samples: list[dict[str, Any]] = []
        self.captions: list[dict[str, Any]] = []
        self.drops: list[dict[str, str]] = []


def _add(archive: Archive, shard: str, record: ImageRecord, config: ShardConfig, rows: _Rows) -> None:
    """Add one image and its captions to the tar, or say why not."""
    captions, drops = usable_captions(record)
    try:
        data, ext, width, height = read_image(record, config) if record.path is not None else (b"", "", 0, 0)
        if not captions and not record.label:
            raise Refused("no-captions", f"{counted(len(record.captions), 'caption')}, none usable")
    except Refused as refused:
        # The image's loss takes its remaining captions along: each is a row of its own.
        image = Drop(record.split, record.key, record.source, "image", refused.reason, refused.detail)
        why = (refused.reason, "its image was dropped")
        lost = [Drop(record.split, c["caption_key"], record.source, "caption", *why) for c in captions]
        rows.drops += [drop.row() for drop in (image, *drops, *lost)]
        return
    sha256 = hashlib.sha256(data).hexdigest()
    described = samples.sample_json(
        key=record.key,
        captions=[samples.caption_json(caption) for caption in captions],
        height=height,
        label=record.label,
        sha256=sha256,
        width=width,
    )
    offset = archive.add(f"{record.key}.{ext}", data) if ext else 0
    archive.add(f"{record.key}.json", described)
    rows.drops += [drop.row() for drop in drops]
    rows.captions += captions
    rows.samples.append(
        {
            "key": record.key,
            "shard": shard,
            "image_offset": offset,
            "image_bytes": len(data),
            "ext": ext,
            "width": width,
            "height": height,
            "sha256": sha256,
            "source": utf8(record.source),
            "label": utf8(record.label),
            "role": record.role,
        }
    )


def usable_captions(record: ImageRecord) -> tuple[list[dict[str, Any]], list[Drop]]:
    """Return an image's captions as rows of the table, and the reasons of those of which nothing is left."""
    kept, drops = [], []
    for place, caption in enumerate(record.captions):
        position = place if caption.position is None else caption.position
        key = keys.caption_key(record.key, position)
        text = caption.text.strip()
        try:
            if not _WORD.search(text):  # a letter or figure is left of whatever has one
                clean_caption(text)
        except DataError:
            detail = f"{caption.text[:80]!r}, id {caption.caption_id or 'none'}"
            drops.append(Drop(record.split, key, record.source, "caption", "empty-caption", detail))
            continue
        kept.append(
            {
                "caption_key": key,
                "key": record.key,
                "position": position,
                "caption_id": utf8(caption.caption_id),
                "text": utf8(text),
                "source": utf8(caption.source),
            }
        )
    return kept, drops
