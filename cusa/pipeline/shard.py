"""Sharding: images with their captions into deterministic WebDataset tars, and the tables that describe them."""

import hashlib
import io
import tarfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, UnidentifiedImageError

from cusa.errors import DataError
from cusa.manifests import keys, ledger, samples, schemas, store
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.records import Drop, ImageRecord
from cusa.models.captions import clean_caption
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.engine import LOCAL, Engine, run_units
from cusa.pipeline.readers import Reading
from cusa.pipeline.stage import Outcome, outcome

_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_BLOCK = 512  # a tar's


@dataclass(frozen=True)
class _Unit:
    """One tar to be written."""

    folder: Path
    number: int
    records: tuple[ImageRecord, ...]
    config: ShardConfig
    plan: str
    """Digest of everything the tar depends on; the unit's mark repeats it."""


def run(
    config: ShardConfig,
    *,
    reading: Reading,
    out: Path,
    force: bool = False,
    engine: Engine = LOCAL,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Write every split of a data set as tars with tables.

    Rows in = rows kept + rows dropped; every dropped row stands in `<split>/drops.parquet` with its reason. The same
    inputs give the same bytes, whatever the number of processes. A killed run goes on where it was.

    Args:
        config: sizes and bounds.
        reading: what a reader found.
        out: the work folder.
        force: write again even if nothing changed.
        engine: where the tars are made; on a cluster, `out` and the images must be reachable from every machine.
        on_event: hears of every finished tar.

    Returns:
        The outcome; counts has images and captions read, kept and dropped.

    Raises:
        DataError: if nothing at all could be kept, or `out` cannot be written.
    """
    clock = ledger.Clock()
    book = out / "shard.ledger.json"
    parameters = {"dataset": reading.dataset, **config.model_dump(exclude={"workers"})}
    inputs = {**reading.files, "images": store.digest([_fingerprint(record) for record in reading.images])}
    why = "--force" if force else ledger.why_not_current(book, inputs=inputs, parameters=parameters)
    old = ledger.read(book)
    if why is None and old is not None:
        return outcome(out, old)

    # From here until the new ledger the work folder counts as unfinished: without its tables no later stage reads it.
    book.unlink(missing_ok=True)
    names = sorted({record.split for record in reading.images} | {drop.split for drop in reading.drops})
    units = [unit for name in names for unit in _units(config, reading.images, out / name, name)]
    for name in names:
        store.sweep(out / name)
        store.sweep(out / name / ".units")
        for file in samples.SPLIT_FILES:
            (out / name / file).unlink(missing_ok=True)
        if force:
            for mark in (out / name / ".units").glob("*.json"):
                mark.unlink()
    results = run_units(_write_unit, units, what="shard", workers=config.workers, engine=engine, on_event=on_event)

    written: list[Path] = []
    counts: dict[str, int] = dict.fromkeys(
        ("images_read", "images_kept", "images_dropped", "captions_read", "captions_kept", "captions_dropped"), 0
    )
    counts["images_read"] = len(reading.images) + sum(drop.kind == "image" for drop in reading.drops)
    counts["captions_read"] = sum(len(record.captions) for record in reading.images)
    counts["captions_read"] += sum(drop.kind == "caption" for drop in reading.drops)
    for name in names:
        folder = out / name
        mine = [result for unit, result in zip(units, results, strict=True) if unit.folder == folder]
        drops = [vars(drop) for drop in reading.drops if drop.split == name]
        written += _write_tables(folder, mine, drops, counts)
        if name in reading.truth:
            written.append(_write_truth(reading.truth[name], folder))
    assert counts["images_read"] == counts["images_kept"] + counts["images_dropped"], counts
    assert counts["captions_read"] == counts["captions_kept"] + counts["captions_dropped"], counts
    if not counts["images_kept"]:
        first = next((d for r in results for d in r["drops"]), None)
        because = f" The first: {first['source']}: {first['reason']} ({first['detail']})." if first else ""
        raise DataError(
            f"None of the {counts['images_read']} images could be kept.{because} Check --images; "
            f"{out / names[0] / 'drops.parquet' if names else out} has every reason.",
            path=out,
        )
    if old is not None:
        for stale in old.outputs.keys() - {file.relative_to(out).as_posix() for file in written}:
            (out / stale).unlink(missing_ok=True)
    counts["shards"] = sum(bool(result["samples"]) for result in results)
    done = clock.finish(book, stage="shard", inputs=inputs, parameters=parameters, outputs=written, counts=counts)
    for name in names:
        store.remove_folder(out / name / ".units")
    return outcome(out, done, why=str(why), notes=_notes(out, names, counts))


def _units(config: ShardConfig, records: Iterable[ImageRecord], folder: Path, split: str) -> list[_Unit]:
    """Cut a split into tars: sorted by key, at most `max_images` and about `max_bytes` each."""
    groups: list[list[ImageRecord]] = [[]]
    size = 0
    for record in sorted((r for r in records if r.split == split), key=lambda r: r.key):
        bytes_ = record.path.stat().st_size if record.path.is_file() else 0
        if groups[-1] and (len(groups[-1]) >= config.max_images or size + bytes_ > config.max_bytes):
            groups.append([])
            size = 0
        groups[-1].append(record)
        size += bytes_
    told = config.model_dump(exclude={"workers"})
    return [
        _Unit(folder, number, tuple(group), config, store.digest([told, [_fingerprint(record) for record in group]]))
        for number, group in enumerate(groups)
        if group
    ]


def _fingerprint(record: ImageRecord) -> list[Any]:
    """Return what tells whether a record changed, without reading its image."""
    try:
        stat = record.path.stat()
        file = [stat.st_size, stat.st_mtime_ns]
    except OSError:
        file = [-1, 0]
    texts = [[caption.caption_id, caption.text] for caption in record.captions]
    return [record.key, record.split, str(record.path), record.label, record.role, *file, texts]


def _write_unit(unit: _Unit) -> dict[str, Any]:
    """Write one tar and its mark; return the mark: rows of samples, captions and drops."""
    tar = unit.folder / f"{unit.number:05d}.tar"
    mark = unit.folder / ".units" / f"{unit.number:05d}.json"
    if mark.is_file():
        try:
            done = store.read_json(mark)
        except DataError:
            done = {}
        if done.get("plan") == unit.plan and (
            not done["samples"] or (tar.is_file() and tar.stat().st_size == done["bytes"])
        ):
            return done
    result: dict[str, Any] = {"plan": unit.plan, "shard": tar.name, "samples": [], "captions": [], "drops": []}
    with store.whole_file(tar) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            for record in unit.records:
                _add(archive, tar.name, record, unit.config, result)
        result["bytes"] = temporary.stat().st_size
        result["sha256"] = store.sha256_file(temporary)
    if not result["samples"]:
        tar.unlink()
    store.write_json(mark, result)
    return result


def _add(
    archive: tarfile.TarFile, shard: str, record: ImageRecord, config: ShardConfig, result: dict[str, Any]
) -> None:
    """Add one image and its captions to the tar, or say why not."""
    captions, drops = _usable_captions(record)
    try:
        data, ext, width, height = read_image(record, config)
        if not captions and not record.label:
            raise _Refused("no-captions", f"{len(record.captions)} captions, none usable")
    except _Refused as refused:
        # The image's loss takes its remaining captions along: each is a row of its own.
        lost = [
            Drop(
                record.split,
                keys.caption_key(record.key, c["position"]),
                record.source,
                "caption",
                refused.reason,
                "its image was dropped",
            )
            for c in captions
        ]
        image = Drop(record.split, record.key, record.source, "image", refused.reason, refused.detail)
        result["drops"] += [vars(drop) for drop in (image, *drops, *lost)]
        return
    sha256 = hashlib.sha256(data).hexdigest()
    offset = _add_member(archive, f"{record.key}.{ext}", data)
    described = samples.sample_json(
        key=record.key,
        captions=[{k: c[k] for k in ("caption_key", "caption_id", "text")} for c in captions],
        height=height,
        label=record.label,
        sha256=sha256,
        width=width,
    )
    _add_member(archive, f"{record.key}.json", described)
    result["drops"] += [vars(drop) for drop in drops]
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
            "sha256": sha256,
            "source": record.source.encode("utf-8", "replace").decode(),
            "label": record.label,
            "role": record.role,
        }
    )


def _usable_captions(record: ImageRecord) -> tuple[list[dict[str, Any]], list[Drop]]:
    kept, drops = [], []
    for position, caption in enumerate(record.captions):
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
                "caption_id": caption.caption_id,
                "text": text.encode("utf-8", "replace").decode(),
            }
        )
    return kept, drops


class _Refused(Exception):
    """An image that cannot be kept."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def read_image(record: ImageRecord, config: ShardConfig) -> tuple[bytes, str, int, int]:
    """Read an image's bytes and prove that they decode, within bounds known before decoding.

    Returns:
        The file's bytes, its extension by content, width and height as stored.
    """
    try:
        data = record.path.read_bytes()
    except OSError as error:
        raise _Refused("missing", error.strerror or str(error)) from error
    with warnings.catch_warnings():
        # Pillow warns of large pictures and odd metadata; the bound below is ours, and the rest is no defect.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=tuple(_FORMATS))
        except Image.DecompressionBombError as error:
            raise _Refused("too-large", str(error)) from error
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise _Refused(*_what_else(data)) from error
        width, height = image.size
        if width * height > config.max_pixels:
            raise _Refused("too-large", f"{width} x {height} pixels, {config.max_pixels} allowed")
        if min(width, height) < config.min_side:
            raise _Refused("too-small", f"{width} x {height} pixels, a side of {config.min_side} needed")
        try:
            image.load()
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError) as error:
            raise _Refused("truncated", str(error).splitlines()[0] if str(error) else "the data ends early") from error
    # A JPEG with further pictures behind it (MPO) opens as its first one.
    return data, _FORMATS.get(str(image.format), "jpg"), width, height


def _what_else(data: bytes) -> tuple[str, str]:
    """Say what bytes are that are no JPEG, PNG or WebP, without decoding them."""
    if not data:
        return "not-an-image", "the file is empty"
    try:
        return "unsupported-format", f"{Image.open(io.BytesIO(data)).format}; JPEG, PNG and WebP are kept"
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "not-an-image", f"begins with {data[:16]!r}"


def _add_member(archive: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a file with fixed owner, mode and time; return the offset of its first byte in the tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    archive.addfile(info, io.BytesIO(data))
    return archive.offset - -(-len(data) // _BLOCK) * _BLOCK


def _write_tables(
    folder: Path, results: Sequence[dict[str, Any]], drops: list[dict[str, Any]], counts: dict[str, int]
) -> list[Path]:
    kept = [result for result in results if result["samples"]]
    drops = [*drops, *(drop for result in results for drop in result["drops"])]
    shards = [
        {
            "shard": result["shard"],
            "bytes": result["bytes"],
            "sha256": result["sha256"],
            "images": len(result["samples"]),
            "captions": len(result["captions"]),
        }
        for result in kept
    ]
    rows = {
        "drops.parquet": (drops, schemas.DROPS),
        "captions.parquet": ([row for result in kept for row in result["captions"]], schemas.CAPTIONS),
        "shards.parquet": (shards, schemas.SHARDS),
        "samples.parquet": ([row for result in kept for row in result["samples"]], schemas.SAMPLES),
    }
    for name, (table, schema) in rows.items():
        store.write_table(folder / name, pa.Table.from_pylist(table, schema=schema))
    counts["images_kept"] += len(rows["samples.parquet"][0])
    counts["captions_kept"] += len(rows["captions.parquet"][0])
    counts["images_dropped"] += sum(drop["kind"] == "image" for drop in drops)
    counts["captions_dropped"] += sum(drop["kind"] == "caption" for drop in drops)
    return [folder / name for name in rows] + [folder / result["shard"] for result in kept]


def _write_truth(source: Path, folder: Path) -> Path:
    """Copy the known matches of the images and captions that were kept."""
    truth = store.read_table(source, columns=schemas.TRUTH.names)
    for column, file, key in (
        ("image_key", "samples.parquet", "key"),
        ("caption_key", "captions.parquet", "caption_key"),
    ):
        kept = store.read_table(folder / file, columns=[key])[key].combine_chunks()
        truth = truth.filter(pc.is_in(truth[column], value_set=kept))
    store.write_table(folder / "truth.parquet", truth.cast(schemas.TRUTH))
    return folder / "truth.parquet"


def _notes(out: Path, names: list[str], counts: dict[str, int]) -> tuple[str, ...]:
    notes = [
        f"Images: {counts['images_read']} read = {counts['images_kept']} kept + {counts['images_dropped']} dropped. "
        f"Captions: {counts['captions_read']} read = {counts['captions_kept']} kept + "
        f"{counts['captions_dropped']} dropped."
    ]
    if counts["images_dropped"] or counts["captions_dropped"]:
        notes.append(f"The reasons stand in {out}/<split>/drops.parquet.")
    owners: dict[str, str] = {}
    shared = 0
    for name in names:
        for sha256 in store.read_table(out / name / "samples.parquet", columns=["sha256"])["sha256"].to_pylist():
            shared += owners.setdefault(sha256, name) != name
    if shared:
        notes.append(f"{shared} images stand in more than one split (same bytes): test figures on them are not honest.")
    return tuple(notes)
