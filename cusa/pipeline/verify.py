"""Verification: every digest, every member of every tar, every row of every table, and by name what differs."""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from cusa.errors import DataError
from cusa.manifests import ledger, schemas, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import shard_path
from cusa.manifests.storage import checksums, seal, store
from cusa.manifests.storage.paths import named_remote_errors
from cusa.pipeline.download.stage import CONTENTS, LOCK
from cusa.pipeline.engine import Workers, run_units

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was written."""

    path: str
    """The file, relative to the folder that was verified."""
    what: str
    """Where in it: a tar's member, a table's row; empty for the whole file."""
    detail: str


@dataclass(frozen=True)
class Verified:
    """The extent of a verification, and what differs."""

    files: int
    bytes: int
    samples: int
    findings: tuple[Finding, ...]


def run(folder: Path, *, workers: int = 0, on_event: OnEvent = ignore) -> Verified:
    """Verify a folder that a stage wrote: raw files, a work folder, a run, or one that holds some of these.

    Args:
        folder: the folder.
        workers: processes; 0 = one a core.
        on_event: called with every file.

    Returns:
        What was looked at, and what differs. A finding is no error: the caller decides.

    Raises:
        DataError: if the folder does not exist or holds nothing that a stage finished.
    """
    with named_remote_errors(folder):
        if not folder.is_dir():
            raise DataError(f"{folder} does not exist.", path=folder)
        ledgers = sorted(folder.rglob("*ledger.json"), key=str)
        splits = sorted((path.parent for path in folder.rglob("samples.parquet")), key=str)
        locks = sorted((path.parent for path in folder.rglob(LOCK)), key=str)
    findings: list[Finding] = []
    if not ledgers and not splits and not locks:
        raise DataError(f"{folder} holds nothing to verify: no ledger, no lock, no samples.parquet.", path=folder)
    tars = []
    for split in splits:
        try:
            tars += [partial(_tar, folder, split, number) for number in range(_check_tables(folder, split, findings))]
        except Exception as error:  # as in `_call`
            findings.append(Finding(_name(folder, split), "", str(error)))
    seen = {(call.args[1], call.args[2]) for call in tars}
    jobs: dict[str, partial[_Part]] = {}
    for ledger_path in ledgers:
        written = ledger.read(ledger_path)
        if written is None or not _is_as_written(ledger_path):
            findings.append(Finding(_name(folder, ledger_path), "", "unreadable, or changed after it was written"))
        if written is None:
            continue
        for name, size in written.outputs.items():
            if not (name.endswith(".tar") and any(split == (ledger_path.parent / name).parent for split, _ in seen)):
                jobs[str(ledger_path.parent / name)] = partial(
                    _file, folder, ledger_path.parent / name, size, written.digests.get(name, "")
                )
    for raw in locks:
        for path, size, sha256 in _locked(folder, raw, findings):
            jobs[str(path)] = partial(_file, folder, path, size, sha256)
    for cache in checksums.caches_below(folder):
        jobs[str(cache)] = partial(_cache, folder, cache)
    for checkpoint in sorted(folder.rglob("checkpoints/step-*/"), key=str):
        jobs[str(checkpoint)] = partial(_checkpoint, folder, checkpoint)
    teachers = [partial(_teacher, folder, path) for path in _teacher_parts(splits)]
    parts = run_units(
        _call, [*tars, *jobs.values(), *teachers], what="verify", workers=Workers(workers), on_event=on_event
    )
    findings += [Finding(_name(folder, rest), "", "left by a stage that was killed") for rest in _leftovers(folder)]
    findings += [finding for part in parts for finding in part.findings]
    unique = tuple(sorted(set(findings), key=lambda one: (one.path, one.what, one.detail)))
    return Verified(
        len(tars) + len(jobs), sum(part.bytes for part in parts), sum(part.samples for part in parts), unique
    )


@dataclass(frozen=True)
class _Part:
    """The result for one file."""

    bytes: int = 0
    samples: int = 0
    findings: tuple[Finding, ...] = ()


def _call(job: "partial[_Part]") -> _Part:
    """Do one job; its first arguments are the folder that is verified and the file or folder it looks at."""
    try:
        return job()
    except Exception as error:  # a flipped bit breaks a file in more ways than a list of errors foresees
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        return _Part(findings=(Finding(_name(job.args[0], job.args[1]), "", f"cannot be read: {detail}"),))


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _file(folder: Path, path: Path, size: int, sha256: str) -> _Part:
    """Check a file against the size and digest in its ledger or lock, and a table page by page."""
    name = _name(folder, path)
    if detail := ledger.difference(path, size, sha256):
        where = _broken_row_group(path) if detail.startswith("sha256") else ""
        return _Part(findings=(Finding(name, where, detail),))
    if not sha256 and (where := _broken_row_group(path)):
        return _Part(size, findings=(Finding(name, where, "a page's sum is wrong"),))
    return _Part(size)


def _cache(folder: Path, path: Path) -> _Part:
    """Check a cache against the checksum file beside it."""
    if detail := checksums.problem(path):
        return _Part(findings=(Finding(_name(folder, path), "", detail),))
    return _Part(path.stat().st_size)


def _checkpoint(folder: Path, place: Path) -> _Part:
    """Check a checkpoint: its meta file's seal, and its state against the digest recorded there."""
    state, meta_path = place / "state.pt", place / "meta.json"
    try:
        meta = store.read_json(meta_path)
        sha256 = str(meta["sha256"])
        intact = seal.is_intact(meta) and meta["step"] == int(place.name.removeprefix("step-"))
    except (DataError, KeyError, TypeError, ValueError):
        return _Part(findings=(Finding(_name(folder, meta_path), "", "cannot be read"),))
    findings = []
    if not intact or not _is_as_written(meta_path):
        findings.append(Finding(_name(folder, meta_path), "", "changed after it was written"))
    size = state.stat().st_size if state.is_file() else 0
    if detail := ledger.difference(state, size, sha256):
        findings.append(Finding(_name(folder, state), "", detail))
    return _Part(size, findings=tuple(findings))


def _is_as_written(path: Path) -> bool:
    """Tell whether a JSON file is written as `store.write_json` writes its values."""
    try:
        return path.read_bytes() == store.json_text(store.read_json(path)).encode()
    except (DataError, OSError):
        return False


def _broken_row_group(path: Path) -> str:
    """Say which row group of a table cannot be read; empty if all can, or it is no table."""
    if path.suffix != ".parquet":
        return ""
    number = 0
    try:
        for number, _ in enumerate(store.table_batches(path), 1):  # noqa: B007
            pass
    except DataError:
        return f"row group {number}"
    return ""


def _check_tables(folder: Path, split: Path, findings: list[Finding]) -> int:
    """Check that a split's tables fit together; return how many tars it has."""
    shards = store.read_table(split / "shards.parquet", columns=schemas.SHARDS.names)
    for column, file in (("images", "samples.parquet"), ("captions", "captions.parquet")):
        rows, wanted = store.num_rows(split / file), sum(shards[column].to_pylist())
        if rows != wanted:
            findings.append(Finding(_name(folder, split / file), "", f"{rows} rows, the tars hold {wanted} {column}"))
    named = set(shards["shard"].to_pylist())
    for tar in sorted(split.glob("*.tar"), key=str):
        if tar.name not in named:
            findings.append(Finding(_name(folder, tar), "", "no table names this tar"))
    return int(shards.num_rows)


def _rows_of(split: Path, number: int) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a tar's row, and its samples and captions, holding little more than these."""
    shards = store.read_table(split / "shards.parquet", columns=schemas.SHARDS.names).to_pylist()
    row, tables_of_tar = shards[number], []
    for column, file, schema in (
        ("images", "samples.parquet", schemas.SAMPLES),
        ("captions", "captions.parquet", schemas.CAPTIONS),
    ):
        first = sum(shard[column] for shard in shards[:number])
        # Captions have a source where anybody says so.
        more = {schemas.CAPTION_SOURCE.name} & set(store.column_names(split / file)) - set(schema.names)
        rows = store.read_rows(split / file, range(first, first + row[column]), columns=[*schema.names, *more])
        tables_of_tar.append(rows.to_pylist())
    return row, tables_of_tar[0], tables_of_tar[1]


def _tar(folder: Path, split: Path, number: int) -> _Part:
    """Read a tar once: its own digest, each image against its row, each description against the captions."""
    try:
        row, samples, captions = _rows_of(split, number)
    except DataError as error:
        return _Part(findings=(Finding(_name(folder, split), "", str(error)),))
    try:
        path = shard_path(split, row["shard"])
    except DataError as error:
        return _Part(findings=(Finding(_name(folder, split), "", str(error)),))
    name = _name(folder, path)
    if not path.is_file():
        return _Part(findings=(Finding(name, "", "missing"),))
    findings = []
    size = path.stat().st_size
    if size != row["bytes"]:
        findings.append(Finding(name, "", f"{size} bytes instead of {row['bytes']}"))
    owned: dict[str, list[dict[str, Any]]] = {}
    for caption in captions:
        owned.setdefault(caption["key"], []).append(caption)
    with named_remote_errors(path), path.open("rb") as file:
        hashed = _Hashing(file)
        findings += [Finding(name, what, detail) for what, detail in _members(hashed, samples, owned)]
        if (sha256 := hashed.finish()) != row["sha256"]:
            where = "" if findings else "between the members"
            findings.append(Finding(name, where, f"sha256 {sha256[:12]} instead of {row['sha256'][:12]}"))
    return _Part(size, len(samples), tuple(findings))


class _Hashing:
    """A file read from its start, with the SHA-256 of all that was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._total = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        data = self._file.read(size)
        self._total.update(data)
        return data

    def finish(self) -> str:
        """Read the rest and return the digest."""
        while self.read(_CHUNK):
            pass
        return self._total.hexdigest()


def _members(
    file: Any, samples: list[dict[str, Any]], captions: dict[str, list[dict[str, Any]]]
) -> Iterator[tuple[str, str]]:
    """Compare a tar's members with the rows, both in their order."""
    wanted = iter([(row, ext) for row in samples for ext in (row["ext"], "json") if ext])
    try:
        with tarfile.open(fileobj=file, mode="r|", bufsize=_CHUNK) as archive:
            for info in archive:
                row, ext = next(wanted, (None, ""))
                if row is None or info.name != f"{row['key']}.{ext}":
                    expected = f"{row['key']}.{ext}" if row else "nothing more"
                    yield info.name, f"where the table expects {expected}"
                    return
                opened = archive.extractfile(info)
                data = opened.read() if opened is not None else b""
                yield from _member(info, data, row, ext, captions.get(row["key"], []))
    except (tarfile.TarError, EOFError, ValueError) as error:
        yield "", f"the tar cannot be read on ({error})"
    if (rest := next(wanted, None)) is not None:
        yield f"{rest[0]['key']}.{rest[1]}", "missing"


def _member(
    info: tarfile.TarInfo, data: bytes, row: dict[str, Any], ext: str, captions: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    if ext != "json":
        if (info.offset_data, len(data)) != (row["image_offset"], row["image_bytes"]):
            where = f"at {info.offset_data}, {len(data)} bytes"
            yield info.name, f"{where}; the table says {row['image_offset']}, {row['image_bytes']}"
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            yield info.name, f"sha256 {hashlib.sha256(data).hexdigest()[:12]} instead of {row['sha256'][:12]}"
        return
    try:
        fields = json.loads(data)
        same = _says(fields["captions"]) == _says(captions)
        same = same and all(fields[name] == row[name] for name in ("key", "sha256", "width", "height", "label"))
    except (ValueError, KeyError, TypeError) as error:
        yield info.name, f"no readable description ({type(error).__name__})"
        return
    if not same:
        yield info.name, "says something else than the tables"


def _says(captions: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(caption["caption_key"], caption["text"], caption.get("source", "")) for caption in captions]


def _teacher_parts(splits: list[Path]) -> list[Path]:
    return [path for split in splits for path in sorted(split.glob("teachers/*/[0-9]*.parquet"), key=str)]


def _teacher(folder: Path, path: Path) -> _Part:
    """Check a teacher's part: its shard, the order of its keys, and that every row is a unit vector."""
    name, split = _name(folder, path), path.parents[2]
    metadata = tables.read_part_metadata(path)
    try:
        shards = store.read_table(split / "shards.parquet", columns=schemas.SHARDS.names).to_pylist()
        number = next((i for i, row in enumerate(shards) if Path(row["shard"]).stem == path.stem), None)
        if number is None:
            return _Part(findings=(Finding(name, "", f"there is no {path.stem}.tar"),))
        row, samples, captions = _rows_of(split, number)
        if metadata.get("shard_sha256") != row["sha256"]:
            return _Part(findings=(Finding(name, "", f"made from another {row['shard']}: stale"),))
        image = metadata.get("modality") == "image"
        keys = [one["key"] for one in samples] if image else [one["caption_key"] for one in captions]
        column, at = tables.KEY_OF["image" if image else "text"], 0
        for table in store.table_batches(path):
            part_keys = table[column].to_pylist()
            if part_keys != keys[at : at + len(part_keys)]:
                return _Part(findings=(Finding(name, f"row {at}", "keys in another order than the shard's"),))
            norms = np.linalg.norm(tables.embedding_matrix(table).astype(np.float32), axis=1)
            bad = np.flatnonzero(~(np.abs(norms - 1) < 1e-2))
            if bad.size:
                return _Part(findings=(Finding(name, part_keys[bad[0]], f"a vector of length {norms[bad[0]]}, not 1"),))
            at += len(part_keys)
    except Exception as error:  # a flipped bit breaks a table in more ways than a list of errors foresees
        return _Part(findings=(Finding(name, "", f"cannot be read: {error}"),))
    missing = () if at == len(keys) else (Finding(name, "", f"{at} rows, the shard has {len(keys)}"),)
    return _Part(findings=missing)  # its bytes are counted with its digest


def _locked(folder: Path, raw: Path, findings: list[Finding]) -> Iterator[tuple[Path, int, str]]:
    """Give every raw file with its size and digest: archives by the lock, unpacked files by their tables."""
    try:
        for name, row in store.read_json(raw / LOCK).items():
            yield raw / name, row["bytes"], row["sha256"]
        for table in sorted((raw / CONTENTS).glob("*.parquet"), key=str):
            for row in store.read_table(table, columns=schemas.CONTENTS.names).to_pylist():
                yield raw / row["path"], row["bytes"], row["sha256"]
    except (DataError, KeyError, TypeError, AttributeError) as error:
        findings.append(Finding(_name(folder, raw / LOCK), "", f"cannot be read: {error}"))


def _leftovers(folder: Path) -> list[Path]:
    return sorted(folder.rglob(f"{store.TEMPORARY}*"), key=str)
