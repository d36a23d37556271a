"""One tar: its images and captions written in the plan's order, and the mark that says it is finished."""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cusa.errors import DataError
from cusa.manifests import keys, samples, store
from cusa.manifests.paths import named_remote_errors
from cusa.manifests.records import Drop, ImageRecord, utf8
from cusa.models.captions import clean_caption
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.images import Refused, read_image

UNITS = ".units"
"""Folder of a split that holds plans and marks while it is being written."""

_BLOCK = 512  # a tar's


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
        return self.folder / UNITS / f"{self.number:05d}.json"


def write(unit: Unit) -> int:
    """Write one tar and its mark, unless both are there already.

    Args:
        unit: what to write.

    Returns:
        The images in the tar; there is no tar if that is 0.
    """
    if (done := _finished(unit)) is not None:
        return done
    result: dict[str, Any] = {"plan": unit.plan, "shard": unit.tar.name, "samples": [], "captions": [], "drops": []}
    with store.whole_file(unit.tar) as temporary:
        with named_remote_errors(unit.rows), unit.rows.open(encoding="utf-8") as rows, temporary.open("wb") as file:
            hashed: Any = _Hashed(file)
            with tarfile.open(fileobj=hashed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for row in rows:
                    _add(archive, unit.tar.name, ImageRecord.from_json(json.loads(row)), unit.config, result)
        result["bytes"], result["sha256"] = hashed.tell(), hashed.total.hexdigest()
    if not result["samples"]:
        unit.tar.unlink()
    store.write_text(unit.mark, json.dumps(result))
    return len(result["samples"])


def _finished(unit: Unit) -> int | None:
    """Return the images of a tar that an earlier run finished, or None."""
    if not unit.mark.is_file():
        return None
    try:
        done = store.read_json(unit.mark)
    except DataError:
        return None
    if done.get("plan") != unit.plan:
        return None
    whole = not done["samples"] or (unit.tar.is_file() and unit.tar.stat().st_size == done["bytes"])
    return len(done["samples"]) if whole else None


class _Hashed:
    """A file being written from its start that knows its SHA-256."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0
        self.total = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write on."""
        self.total.update(data)
        self._at += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._at


def _add(
    archive: tarfile.TarFile, shard: str, record: ImageRecord, config: ShardConfig, result: dict[str, Any]
) -> None:
    """Add one image and its captions to the tar, or say why not."""
    captions, drops = usable_captions(record)
    try:
        data, ext, width, height = read_image(record, config) if record.path is not None else (b"", "", 0, 0)
        if not captions and not record.label:
            raise Refused("no-captions", f"{len(record.captions)} captions, none usable")
    except Refused as refused:
        # The image's loss takes its remaining captions along: each is a row of its own.
        image = Drop(record.split, record.key, record.source, "image", refused.reason, refused.detail)
        why = (refused.reason, "its image was dropped")
        lost = [Drop(record.split, c["caption_key"], record.source, "caption", *why) for c in captions]
        result["drops"] += [drop.row() for drop in (image, *drops, *lost)]
        return
    described = samples.sample_json(
        key=record.key,
        captions=[{k: c[k] for k in ("caption_key", "caption_id", "text")} for c in captions],
        height=height,
        label=record.label,
        sha256=hashlib.sha256(data).hexdigest(),
        width=width,
    )
    offset = _add_member(archive, f"{record.key}.{ext}", data) if ext else 0
    _add_member(archive, f"{record.key}.json", described)
    result["drops"] += [drop.row() for drop in drops]
    result["captions"] += captions
    result["samples"].append(
        {
            "key": record.key,
            "shard": shard,
            "image_offset": offset,
            "image_bytes": len(data),
            "ext": ext,
            "width": width,
            "height": height,
            "sha256": hashlib.sha256(data).hexdigest(),
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
            }
        )
    return kept, drops


def _add_member(archive: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a file with fixed owner, mode and time; return the offset of its first byte in the tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    archive.addfile(info, io.BytesIO(data))
    return archive.offset - -(-len(data) // _BLOCK) * _BLOCK
