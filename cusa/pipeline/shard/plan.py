"""The plan of a sharding: every row of a reader, sorted by key on disk, cut into tars.

What a reader gives is put into a small temporary database (SQLite: it sorts and finds equal keys without holding the
rows), so memory does not grow with the data set.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.records import Drop, ImageRecord
from cusa.manifests.storage.paths import is_remote, named_remote_errors

Item = TypeVar("Item")

_TABLES = """
CREATE TABLE records (key TEXT PRIMARY KEY, split TEXT, bytes INTEGER, state TEXT, row TEXT);
CREATE TABLE drops (number INTEGER PRIMARY KEY, split TEXT, row TEXT);
CREATE TABLE contents (sha256 TEXT, split TEXT, key TEXT);
"""

_MISSING = "-1 0"
"""State of an image whose file cannot be looked at."""


class Plan:
    """Rows sorted by key, the reasons of the refused, and one digest over all of them."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._total = hashlib.sha256()
        self._stats: tuple[Path | None, list[int]] = (None, [])
        self._sourced: set[str] = set()
        self.read = Counter[str]()
        """Images and captions that the reader gave, refused ones included."""

    @property
    def digest(self) -> str:
        """SHA-256 over the rows in the reader's order: what they say, and size and time of the files they name."""
        return self._total.hexdigest()

    def add(self, row: ImageRecord | Drop) -> None:
        """Take one row of a reader; a second image of a key gets its other key, or is refused with its captions."""
        if isinstance(row, Drop):
            self.read[row.kind] += 1
            self.drop(row)
            return
        self.read["image"] += 1
        self.read["caption"] += len(row.captions)
        if any(caption.source for caption in row.captions):
            self._sourced.add(row.split)
        size, state = self._state(row)
        self._total.update(f"{json.dumps(row.to_json())}{state}\n".encode())
        if (first := self._insert(row, size, state)) is None:
            return
        other = row._replace(key=row.other_key)
        elsewhere = (first.path, first.offset) != (row.path, row.offset)
        if row.other_key and elsewhere and self._insert(other, size, state) is None:
            return
        self.refuse(row, "duplicate-key", f"{first.source} has it already")

    def _insert(self, row: ImageRecord, size: int, state: str) -> ImageRecord | None:
        """Put an image into the database; return the one that has its key already, if there is one."""
        try:
            values = (row.key, row.split, size, state, json.dumps(row.to_json()))
            self._database.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?)", values)
        except sqlite3.IntegrityError:
            ((first,),) = self._database.execute("SELECT row FROM records WHERE key = ?", (row.key,))
            return ImageRecord.from_json(json.loads(first))
        return None

    def refuse(self, row: ImageRecord, reason: str, detail: str) -> None:
        """Drop an image and, a row each, its captions."""
        self.drop(Drop(row.split, row.key, row.source, "image", reason, detail))
        for caption in row.captions:
            self.drop(Drop(row.split, row.key, row.source, "caption", reason, f"{caption.text[:200]!r}"))

    def drop(self, drop: Drop) -> None:
        """Keep the reason of one refused row."""
        row = json.dumps(drop.row())
        self._total.update(row.encode())
        self._database.execute("INSERT INTO drops (split, row) VALUES (?, ?)", (drop.split, row))

    def find(self, key: str) -> ImageRecord | None:
        """Return the image of a key, if there is one."""
        row = self._database.execute("SELECT row FROM records WHERE key = ?", (key,)).fetchone()
        return None if row is None else ImageRecord.from_json(json.loads(row[0]))

    def remove(self, key: str) -> None:
        """Take an image out again: it is not to be written."""
        self._database.execute("DELETE FROM records WHERE key = ?", (key,))

    def splits(self) -> list[str]:
        """Return the splits that any row names."""
        rows = self._database.execute("SELECT split FROM records UNION SELECT split FROM drops ORDER BY 1")
        return [split for (split,) in rows]

    def files(self) -> tuple[int, int, ImageRecord | None]:
        """Count the rows whose image (or text) is there, and those whose file is missing; give the first of these."""
        ((every, missing),) = self._database.execute("SELECT count(*), total(state = ?) FROM records", (_MISSING,))
        first = self._database.execute(
            "SELECT row FROM records WHERE state = ? ORDER BY split, key LIMIT 1", (_MISSING,)
        ).fetchone()
        return every - int(missing), int(missing), ImageRecord.from_json(json.loads(first[0])) if first else None

    def has_sources(self, split: str) -> bool:
        """Tell whether any caption of a split says what made it."""
        return split in self._sourced

    def drops(self, split: str) -> Iterator[dict[str, Any]]:
        """Give the refused rows of a split, in the reader's order."""
        for (row,) in self._database.execute("SELECT row FROM drops WHERE split = ? ORDER BY number", (split,)):
            yield json.loads(row)

    def tars(self, split: str, *, max_images: int, max_bytes: int) -> Iterator[tuple[str, list[str]]]:
        """Cut a split into tars: sorted by key, at most `max_images` and about `max_bytes` each.

        Yields:
            A digest over the rows and the state of their images, and the rows as JSON.
        """
        rows: list[str] = []
        total, size = hashlib.sha256(), 0
        records = self._database.execute("SELECT bytes, state, row FROM records WHERE split = ? ORDER BY key", (split,))
        for bytes_, state, row in records:
            if rows and (len(rows) >= max_images or size + bytes_ > max_bytes):
                yield total.hexdigest(), rows
                rows, total, size = [], hashlib.sha256(), 0
            rows.append(row)
            total.update(f"{row}{state}\n".encode())
            size += bytes_
        if rows:
            yield total.hexdigest(), rows

    def contents(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Note digest, split and key of images that were kept, to find equal ones."""
        self._database.executemany("INSERT INTO contents VALUES (?, ?, ?)", rows)

    def equal_contents(self) -> Iterator[tuple[str, str, str]]:
        """Give digest, split and key of every image whose bytes another one has too."""
        yield from self._database.execute(
            "SELECT sha256, split, key FROM contents WHERE sha256 IN "
            "(SELECT sha256 FROM contents GROUP BY sha256 HAVING count(*) > 1) ORDER BY 1, 2, 3"
        )

    def _state(self, record: ImageRecord) -> tuple[int, str]:
        """Return an image's size, and what shows that its file changed, without reading it."""
        if record.path is None:
            stat = [0, 0]
        elif record.path == self._stats[0]:  # images in a tar or an array: one file after another
            stat = self._stats[1]
        else:
            try:
                with named_remote_errors(record.path) if is_remote(record.path) else contextlib.nullcontext():
                    file = record.path.stat()
                stat = [file.st_size, file.st_mtime_ns]
            except (OSError, ValueError):  # ValueError: a name that no file can have
                stat = [-1, 0]
            self._stats = (record.path, stat)
        return max(0, stat[0]) if record.length is None else record.length, f"{stat[0]} {stat[1]}"


def chunks(rows: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Give rows in lists of at most `size`."""
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


@contextlib.contextmanager
def make(rows: Iterable[ImageRecord | Drop], *, on_event: OnEvent = ignore) -> Iterator[Plan]:
    """Read every row of a reader into a plan, which is gone when the block ends.

    Args:
        rows: what a reader gives.
        on_event: called with every thousandth row; the total is not known and given as 0.
    """
    # SQLite keeps a nameless database in a nameless file, which is gone with the process, even a killed one.
    database = sqlite3.connect("", isolation_level=None)
    try:
        database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLES}")
        database.execute("BEGIN")
        plan = Plan(database)
        for number, row in enumerate(rows, 1):
            plan.add(row)
            if number % 1000 == 0:
                on_event("read", number, 0)
        yield plan
    finally:
        database.close()
