"""Downloading a data set's files: in parallel, checked as they arrive, unpacked safely, with a row for each."""

import hashlib
import shutil
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import ConfigError, DataError
from cusa.manifests import schemas
from cusa.manifests.datasets import Dataset, SourceFile
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.pipeline.config import DownloadConfig
from cusa.pipeline.download import fetch
from cusa.pipeline.download.fetch import Expected, FetchError
from cusa.pipeline.download.unpack import unpack

LOCK = "lock.json"
"""What each file was when it first came: later downloads, here or elsewhere, must bring the same."""
SOURCES = "sources.parquet"
CONTENTS = "contents"
"""Folder of tables that name every file of an unpacked archive, with its digest."""


@dataclass
class _Row:
    """One file's row in `sources.parquet`."""

    path: str
    url: str = ""
    bytes: int = 0
    sha256: str = ""
    status: str = "failed"
    error: str = ""


def run(
    config: DownloadConfig,
    *,
    dataset: Dataset,
    out: Path,
    lock: Path | None = None,
    only_failed: bool = False,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Download every file of a manifest into a folder.

    A file that is there and is the right one is not fetched again; one that is half there is fetched from its middle.

    Args:
        config: how many at once, retries, patience.
        dataset: the manifest.
        out: the data set's folder.
        lock: a `lock.json` of another machine: its digests are expected here too.
        only_failed: leave alone what came the last time and is still the right file, with `force` too.
        force: fetch again what is there.
        on_event: called with the bytes of each file as they arrive.

    Returns:
        The outcome; counts has files, bytes and unpacked files.

    Raises:
        ConfigError: if the lock and the manifest contradict each other.
        DataError: if a file could not be fetched, is another one than expected, or a person has to bring it; what came
            is kept.
    """
    known = _read_lock(out / LOCK) | (_read_lock(lock) if lock else {})
    _agree(dataset, known)
    inputs = {"manifest": store.digest(dataset.model_dump()), "lock": store.digest(known) if known else ""}
    parameters = {"dataset": dataset.name}
    stage = StageRun("download", out / "ledger.json", inputs=inputs, parameters=parameters, force=force)
    if stage.up_to_date:
        return stage.reuse()
    half = {path for file in dataset.files for path in fetch.leftovers(out / file.path)}
    with stage.begin(keep=half):
        for folder in {
            out / CONTENTS,
            *(path.parent for path in half),
            *(out / (f.unpack or "") for f in dataset.files),
        }:
            store.sweep(folder, keep=half)
        before = _rows_before(out)
        _enough_space(dataset, out)

        guard = threading.Lock()

        def bring(file: SourceFile) -> _Row:
            came = only_failed and file.path in before and before[file.path].status == "there"

            def on_bytes(done: int, total: int | None) -> None:
                with guard:
                    on_event(f"{file.path} (bytes)", done, total or 0)

            locked = known.get(file.path, {})
            row = _bring(file, out, locked, config, force=force and not came, on_bytes=on_bytes)
            if row.status == "there":
                with guard:
                    known[file.path] = {"bytes": row.bytes, "sha256": row.sha256, "url": row.url}
                    store.write_json(out / LOCK, known)  # at once: a kill must not forget what came
                fetch.forget(out / file.path)
            return row

        with ThreadPoolExecutor(config.workers) as pool:
            rows = list(pool.map(bring, dataset.files))
        written = [out / LOCK, out / SOURCES]
        ours = (LOCK, SOURCES, CONTENTS, stage.ledger_path.name)
        reserved = [out / name for name in (*ours, *(file.path for file in dataset.files))]
        unpacked = 0
        for file, row in zip(dataset.files, rows, strict=True):
            if row.status == "there":
                written.append(out / file.path)
                if file.unpack is not None:
                    try:
                        table, files = _unpack(file, row, out, reserved=reserved, force=force, on_event=on_event)
                    except DataError as error:
                        row.status, row.error = "failed", str(error)
                        continue
                    written.append(table)
                    unpacked += files
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schemas.SOURCES)
        store.write_table(out / SOURCES, table)
        _complain(dataset, rows, out)
        inputs["lock"] = store.digest(known)
        counts = {"files": len(rows), "bytes": sum(row.bytes for row in rows), "unpacked": unpacked}
        return stage.finish(
            outputs=sorted(set(written)),
            counts=counts,
            digests={row.path: row.sha256 for row in rows},
            notes=_notes(dataset, out),
        )


def _bring(
    file: SourceFile, out: Path, locked: Mapping[str, Any], config: DownloadConfig, *, force: bool, on_bytes: Any
) -> _Row:
    """Fetch one file, or look at the one that is there."""
    path = out / file.path
    row = _Row(file.path, url=str(locked.get("url", "") or fetch.came_from(path)))
    size = file.bytes if file.bytes is not None else locked.get("bytes")
    expected = Expected(size, file.sha256 or str(locked.get("sha256", "")), file.md5)
    if path.is_file() and not (force and file.urls):
        row.bytes, row.sha256 = path.stat().st_size, store.sha256_file(path)
        differs = [
            f"{what} {is_}, expected {wanted}"
            for what, is_, wanted in (
                ("bytes", row.bytes, expected.bytes),
                ("sha256", row.sha256, expected.sha256 or None),
                ("md5", _md5(path) if expected.md5 else "", expected.md5 or None),
            )
            if wanted is not None and is_ != wanted
        ]
        if not differs:
            row.status = "there"
            return row
        row.error = f"another file: {'; '.join(differs)}"
    if not file.urls:
        row.status = "failed" if row.error else "by-hand"
        row.error = row.error or file.by_hand
        return row
    try:
        got = fetch.fetch(path, file.urls, expected=expected, config=config, on_bytes=on_bytes)
    except (FetchError, DataError) as error:
        row.error = str(error)
        return row
    return _Row(file.path, got.url, got.bytes, got.sha256, "there")


def _unpack(
    file: SourceFile, row: _Row, out: Path, *, reserved: Collection[Path], force: bool, on_event: OnEvent
) -> tuple[Path, int]:
    """Unpack an archive unless that was done; return the table of its files and how many there are."""
    assert file.unpack is not None
    path = out / CONTENTS / f"{file.path.replace('/', '_')}.parquet"
    if not force and path.is_file() and _made_of(path) == row.sha256:
        members = store.read_table(path).to_pylist()
        if all(_is_whole(out / member["path"], member) for member in members):
            return path, len(members)
    on_event(f"unpack {file.path}", 0, 1)
    files = unpack(out / file.path, out / file.unpack, reserved=reserved)
    rows = [
        {"path": one.relative_to(out).as_posix(), "bytes": one.stat().st_size, "sha256": store.sha256_file(one)}
        for one in files
    ]
    schema = schemas.CONTENTS.with_metadata({"archive_sha256": row.sha256})
    store.write_table(path, pa.Table.from_pylist(rows, schema=schema))
    on_event(f"unpack {file.path}", 1, 1)
    return path, len(rows)


def _is_whole(path: Path, member: Mapping[str, Any]) -> bool:
    """Tell whether an unpacked file has the bytes that its row records."""
    same_size = path.is_file() and path.stat().st_size == member["bytes"]
    return same_size and store.sha256_file(path) == member["sha256"]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _made_of(path: Path) -> str:
    try:
        metadata: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
        return metadata.get(b"archive_sha256", b"").decode()
    except (pa.ArrowException, OSError):
        return ""


def _read_lock(path: Path | None) -> dict[str, dict[str, Any]]:
    if path is None or not path.is_file():
        return {}
    rows = store.read_json(path)
    if not isinstance(rows, dict) or not all(isinstance(row, dict) and "sha256" in row for row in rows.values()):
        raise DataError(
            f"{path} is no lock: it needs bytes and sha256 for each file. Delete it to record anew.", path=path
        )
    return rows


def _agree(dataset: Dataset, known: Mapping[str, Mapping[str, Any]]) -> None:
    for file in dataset.files:
        locked = known.get(file.path)
        if locked and file.sha256 and locked["sha256"] != file.sha256:
            raise ConfigError(
                f"The lock has sha256 {locked['sha256'][:12]} for {file.path}, the manifest of {dataset.name} "
                f"{file.sha256[:12]}. Find out which file is the right one and mend the other.",
                file=file.path,
            )


def _rows_before(out: Path) -> dict[str, _Row]:
    try:
        return {row["path"]: _Row(**row) for row in store.read_table(out / SOURCES).to_pylist()}
    except DataError:
        return {}


def _enough_space(dataset: Dataset, out: Path) -> None:
    """Refuse a download that the disk has no room for; each file is checked again when its server sends its size."""
    packed = (dataset.gigabytes or 0) * 1e9
    there = sum((out / file.path).stat().st_size for file in dataset.files if (out / file.path).is_file())
    unpacks = any(file.unpack is not None for file in dataset.files) and not (out / CONTENTS).is_dir()
    needed = max(0, packed - there) + (packed if unpacks else 0)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise DataError(
            f"{dataset.name} needs about {needed / 1e9:.0f} GB more in {out} and {free / 1e9:.0f} GB are free. Choose "
            "another --out, or free some space.",
            path=out,
        )


def _complain(dataset: Dataset, rows: list[_Row], out: Path) -> None:
    bad = [row for row in rows if row.status != "there"]
    if bad:
        failures = "".join(f"\n  {row.path} ({row.status}): {row.error}" for row in bad)
        raise DataError(
            f"{len(bad)} of {len(rows)} files of {dataset.name} are not in {out}:{failures}\nWhat came is kept. "
            "Put files there by hand where it says so, then run the same command again; "
            f"{out / SOURCES} has a row for each file.",
            path=out,
        )


def _notes(dataset: Dataset, out: Path) -> tuple[str, ...]:
    notes = [f"Terms: {dataset.licence}."]
    if dataset.reader:
        images = f" --images {out / dataset.images}" if dataset.images not in ("", dataset.source) else ""
        notes.append(f"Next: cusa shard {dataset.reader} {out / dataset.source}{images} --out WORK")
    return (*notes, dataset.note) if dataset.note else tuple(notes)
