"""Units: the URLs of one tar fetched, the tar written in the plan's order, and the table of what came of each.

Several units are fetched at once by one process, so that a few slow hosts of one do not hold up the others.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import DataError
from cusa.manifests import schemas
from cusa.manifests.storage import store
from cusa.manifests.storage.os_errors import named_os_errors
from cusa.pipeline.config import UrlsConfig
from cusa.pipeline.shard.ustar import Archive
from cusa.pipeline.urls.client import Client, Result
from cusa.pipeline.urls.plan import FETCHED, PLAN

_OPEN = 4  # units at once, whose pictures wait for the last of them
_IN_MEMORY = 64 << 20  # bytes of pictures of a unit that wait in memory; more wait on disk
_FIELDS = ("reason", "detail", "http_status", "received", "ext", "width", "height", "sha256", "host")


@dataclass(frozen=True)
class Unit:
    """The URLs of one tar."""

    out: Path
    number: int
    group: int
    """Row group of the plan."""
    digest: str
    """Of its URLs and all settings that decide its bytes; its table repeats it."""
    retry: bool
    """Whether what failed is tried again."""

    @property
    def table(self) -> Path:
        """What came of each URL; where it is, the unit is finished."""
        return self.out / FETCHED / f"{self.number:05d}.parquet"

    @property
    def log(self) -> Path:
        """How long each URL took."""
        return self.out / FETCHED / f"{self.number:05d}.log.parquet"

    def tar(self, generation: int) -> Path:
        """The tar's name, the first time and after each repair."""
        again = f".{generation}" if generation else ""
        return self.out / FETCHED / f"{self.number:05d}{again}.tar"

    def rows(self) -> list[dict[str, Any]]:
        """Return its URLs, in their order."""
        with pq.ParquetFile(self.out / PLAN) as file:
            rows: list[dict[str, Any]] = file.read_row_group(self.group).to_pylist()
        return rows


@dataclass(frozen=True)
class Batch:
    """Units that one process fetches, one after the other and some at once."""

    units: Sequence[Unit]
    config: UrlsConfig
    per_host: int
    """Requests at once to one host, this process alone."""


@dataclass(frozen=True)
class Done:
    """What lies there of a unit."""

    kept: int
    dropped: int
    tar: str
    """The tar's name; empty where no picture came."""
    sha256: str


def fetch(batch: Batch) -> list[Done]:
    """Fetch what is not fetched yet of some units, and return what lies there then."""
    due = [unit for unit in batch.units if is_due(unit)]
    if due:
        try:
            asyncio.run(_fetch(due, batch))
        except ExceptionGroup as group:  # of several units that failed together, say why the first did
            raise _first(group) from group
    return [done for unit in batch.units if (done := read_done(unit)) is not None]


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def is_due(unit: Unit) -> bool:
    """Tell whether a unit has to be fetched, or what failed in it is to be tried again."""
    done = read_done(unit)
    return done is None or (unit.retry and done.dropped > 0)


def read_done(unit: Unit) -> Done | None:
    """Return what lies there of a unit, its tar read to the end; None if it is not finished."""
    try:
        metadata = {key.decode(): value.decode() for key, value in (pq.read_schema(unit.table).metadata or {}).items()}
        done = Done(int(metadata["kept"]), int(metadata["dropped"]), metadata["tar"], metadata["sha256"])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    if metadata.get("plan") != unit.digest:
        return None
    if done.tar:
        tar = unit.out / done.tar
        if not tar.is_file() or store.sha256_file(tar) != done.sha256:
            return None
    return done


class _Open:
    """A unit that is being fetched: its pictures wait, in the order in which they came, for the last."""

    def __init__(self, unit: Unit, waiting: IO[bytes]) -> None:
        self.unit = unit
        self.rows = unit.rows()
        self.results: list[Result | None] = [None] * len(self.rows)
        self.missing = len(self.rows)
        self._waiting = waiting
        self._ranges: dict[int, tuple[int, int]] = {}
        self.before: Done | None = None
        """What lay there of it, where what failed is tried again."""
        self.old: list[dict[str, Any]] = []
        self.generation = 0
        self.log: dict[str, dict[str, Any]] = {}
        if unit.retry:
            self._take_what_was_kept()

    def _take_what_was_kept(self) -> None:
        """Take the pictures of the unit's tar, so that only what failed is asked for."""
        self.before = done = read_done(self.unit)
        if done is None:
            return
        parts = Path(done.tar).name.split(".")
        self.generation = int(parts[1]) + 1 if len(parts) == 3 else int(bool(done.tar))
        with contextlib.suppress(DataError):
            self.log = {row["key"]: row for row in store.read_table(self.unit.log).to_pylist()}
        self.old = store.read_table(self.unit.table, columns=schemas.FETCHED.names).to_pylist()
        for place, row in enumerate(self.old):
            if row["status"] == "kept":
                with (self.unit.out / row["file"]).open("rb") as tar:
                    tar.seek(row["offset"])
                    data = tar.read(row["bytes"])
                self.add(place, Result(**{name: row[name] for name in _FIELDS}, data=data))

    def add(self, place: int, result: Result) -> None:
        """Take what came of a URL."""
        if result.data:
            offset = self._waiting.seek(0, 2)
            self._waiting.write(result.data)
            self._ranges[place] = (offset, len(result.data))
            result.data = b""
        self.results[place] = result
        self.missing -= 1

    def pictures(self) -> Iterator[tuple[int, bytes]]:
        """Give the pictures in the plan's order."""
        for place in sorted(self._ranges):
            offset, size = self._ranges[place]
            self._waiting.seek(offset)
            yield place, self._waiting.read(size)


async def _fetch(units: Sequence[Unit], batch: Batch) -> None:
    loop = asyncio.get_running_loop()
    places = asyncio.Semaphore(_OPEN)
    window = asyncio.Semaphore(4 * batch.config.connections)
    async with Client(batch.config, per_host=batch.per_host) as client, asyncio.TaskGroup() as group:

        async def one(opened: _Open, place: int, closing: contextlib.ExitStack) -> None:
            row = opened.rows[place]
            try:
                result = await client.fetch(row["url"], sha256=row["sha256"], md5=row["md5"])
                with named_os_errors(opened.unit.table):
                    opened.add(place, result)
            finally:
                window.release()
            if not opened.missing:
                await finish(opened, closing)

        async def finish(opened: _Open, closing: contextlib.ExitStack) -> None:
            with closing:
                await loop.run_in_executor(None, _write, opened)
            places.release()

        for unit in units:
            await places.acquire()
            with named_os_errors(unit.table), contextlib.ExitStack() as stack:
                waiting = stack.enter_context(
                    tempfile.SpooledTemporaryFile(
                        max_size=_IN_MEMORY, dir=str(unit.table.parent), prefix=store.TEMPORARY
                    )
                )
                opened = _Open(unit, waiting)
                closing = stack.pop_all()
            wanted = [place for place, result in enumerate(opened.results) if result is None]
            if not wanted:
                await finish(opened, closing)
            for place in wanted:
                await window.acquire()
                group.create_task(one(opened, place, closing))


def _write(opened: _Open) -> None:
    """Write a finished unit: the tar, the log, and last the table, which makes it one."""
    unit = opened.unit
    rows: list[dict[str, Any]] = []
    for row, result in zip(opened.rows, opened.results, strict=True):
        assert result is not None
        rows.append(
            {
                **{name: row[name] for name in ("key", "url")},
                **{name: getattr(result, name) for name in _FIELDS},
                "status": "dropped" if result.reason else "kept",
                "file": "",
                "offset": 0,
                "bytes": 0,
            }
        )
    kept = sum(row["status"] == "kept" for row in rows)
    before = opened.before
    sound = before is not None and before.kept == kept
    tar, sha256 = unit.tar(opened.generation), ""
    if sound:  # nothing new came: the tar stays as it is
        assert before is not None
        tar, sha256 = unit.out / before.tar, before.sha256
        for row, old in zip(rows, opened.old, strict=True):
            row |= {name: old[name] for name in ("file", "offset", "bytes")}
    elif kept:
        with store.whole_file(tar) as temporary, temporary.open("wb", 0) as file:
            archive = Archive(file)
            for place, data in opened.pictures():
                row = rows[place]
                offset = archive.add(f"{row['key']}.{row['ext']}", data)
                row |= {"file": tar.relative_to(unit.out).as_posix(), "offset": offset, "bytes": len(data)}
            archive.end()
            sha256 = archive.sha256
    metadata = {
        "plan": unit.digest,
        "tar": tar.relative_to(unit.out).as_posix() if kept else "",
        "sha256": sha256,
        "kept": str(kept),
        "dropped": str(len(rows) - kept),
    }
    for row, result in zip(opened.rows, opened.results, strict=True):
        if result is not None and result.tries:
            facts = {"seconds": result.seconds, "tries": result.tries, "received": result.taken}
            opened.log[row["key"]] = {"key": row["key"], **facts}
    log = [opened.log[row["key"]] for row in opened.rows if row["key"] in opened.log]
    store.write_table(unit.log, pa.Table.from_pylist(log, schema=schemas.FETCH_LOG))
    write_table(unit.table, rows, metadata)
    if before is not None and not sound and before.tar.startswith(f"{FETCHED}/"):
        (unit.out / before.tar).unlink(missing_ok=True)


def write_table(path: Path, rows: list[dict[str, Any]], metadata: dict[str, str]) -> None:
    """Write what came of each URL of a unit, with the facts that make it a finished one."""
    store.write_table(path, pa.Table.from_pylist(rows, schema=schemas.FETCHED.with_metadata(metadata)))
