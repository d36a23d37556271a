"""Verdicts of reviewers on candidates: a journal that grows by a line a verdict, and the table made from it.

`<split>/audit/verdicts.jsonl` is written first: a verdict is on the disk before the reviewer sees it confirmed.
`<split>/audit/verdicts.parquet` holds the same for SQL and is always whole. Both are read together, each verdict once,
by its id; so journals of several machines may be concatenated with `cat`.
"""

import contextlib
import fcntl
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests import schemas
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import is_remote

JOURNAL = "verdicts.jsonl"
TABLE = "verdicts.parquet"
FOLDER = "audit"

POSITIVE = ("match", "duplicate")
"""Verdicts that make a pair of image and caption."""

WORDS = ("match", "related", "no match", "duplicate", "skip")
"""What a reviewer may say: the caption is true of the image; only in part; not; both pictures are one and the same (so
the caption is true as well); no answer."""

UNDO = "undo"
"""The row that takes another one back."""

_ID = re.compile(r"[A-Za-z0-9-]{8,64}")
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Verdict:
    """One verdict of one person on one pair."""

    id: str
    """Made by whoever asks for the verdict, so that asking twice is one verdict: 8 to 64 letters, digits or dashes."""
    image_key: str
    caption_key: str
    verdict: str
    """One of `WORDS`, or `UNDO`."""
    reviewer: str
    judged_at: datetime
    """In UTC, to the millisecond."""
    undoes: str | None = None
    """The id of the verdict that an undo takes back."""

    # What was shown; None where there was no such number.
    score: float | None = None
    image_similarity: float | None = None
    text_similarity: float | None = None
    image_rank: int | None = None
    text_rank: int | None = None
    p_positive: float | None = None
    candidates_sha256: str | None = None
    """Of the table that the candidate came from."""

    def check(self) -> None:
        """Refuse what is no verdict.

        Raises:
            ConfigError: naming the field.
        """
        if not _ID.fullmatch(self.id):
            raise ConfigError(f"id is {self.id[:80]!r}; allowed: 8 to 64 letters, digits or dashes.", key="id")
        if self.verdict not in (*WORDS, UNDO):
            raise ConfigError(
                f"verdict is {self.verdict[:80]!r}. {nearest(self.verdict, (*WORDS, UNDO))}", key="verdict"
            )
        name = self.reviewer
        if not (name.strip() and name == name.strip() and name.isprintable() and len(name) <= _LONGEST_NAME):
            raise ConfigError(
                f"reviewer is {name[:80]!r}; allowed: a name of 1 to {_LONGEST_NAME} printable letters.", key="reviewer"
            )
        if not (self.image_key and self.caption_key):
            raise ConfigError("A verdict needs image_key and caption_key.", key="image_key")
        if (self.verdict == UNDO) != (self.undoes is not None):
            raise ConfigError("undoes names the verdict that an undo takes back, and stands in no other.", key="undoes")


_COLUMNS = tuple(field.name for field in fields(Verdict))


def now() -> datetime:
    """Return the time in UTC, to the millisecond: what the table holds."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


class Journal:
    """The journal of one split, open for appending; several processes may hold it, each append waits for the others.

    Args:
        folder: the split's `audit` folder.

    Attributes:
        repaired: what a kill in the middle of a write had left behind and was cut off: never a confirmed verdict.

    Raises:
        DataError: if it cannot be opened for writing, or a line of it is broken.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self.repaired = ""
        self._rows: dict[str, Verdict] = {}
        self._undone: set[str] = set()
        self._read_to = 0
        self._lock = threading.Lock()
        if is_remote(folder):
            raise DataError(f"Verdicts are written on this machine; copy {folder} here first.", path=folder)
        with _named(self.path):
            new = not self.path.exists()
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            if new:
                parent = os.open(folder, os.O_RDONLY)
                os.fsync(parent)  # else the file's name could be lost with the power
                os.close(parent)
        try:
            self.add(read_table(folder))
            with self._alone():
                self._catch_up()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def rows(self) -> list[Verdict]:
        """Return every verdict there is, other processes' included, in the order in which they came."""
        with self._alone():
            self._catch_up()
            return list(self._rows.values())

    def add(self, rows: Iterable[Verdict]) -> None:
        """Take verdicts that are on the disk already as known."""
        for row in rows:
            self._take(row)

    def append(self, verdict: Verdict) -> bool:
        """Write a verdict; when this returns, it is on the disk.

        Args:
            verdict: with an id of its own.

        Returns:
            False if this very verdict was there already: nothing was written.

        Raises:
            ConfigError: if it is no verdict, its id is another verdict's, or it takes back what cannot be taken back.
            DataError: if it cannot be written; then nothing of it was.
        """
        verdict.check()
        with self._alone():
            self._catch_up()
            if (known := self._rows.get(verdict.id)) is not None:
                if _same(known, verdict):
                    return False
                raise ConfigError(f"The id {verdict.id} is that of another verdict. Make a new id.", key="id")
            if verdict.verdict == UNDO:
                self._check_undo(verdict)
            line = _line(verdict)
            end = os.fstat(self._file).st_size
            with _named(self.path):
                try:
                    _write_all(self._file, line)
                    os.fsync(self._file)
                except OSError:
                    os.ftruncate(self._file, end)
                    raise
            self._take(verdict)
            self._read_to = end + len(line)
        return True

    def _check_undo(self, verdict: Verdict) -> None:
        undone = self._rows.get(verdict.undoes or "")
        if undone is None or undone.verdict == UNDO:
            raise ConfigError(f"There is no verdict {verdict.undoes} to take back.", key="undoes")
        if undone.reviewer != verdict.reviewer:
            raise ConfigError(f"{undone.id} is {undone.reviewer}'s verdict: only they can take it back.", key="undoes")
        if undone.id in self._undone:
            raise ConfigError(f"{undone.id} was taken back already.", key="undoes")
        if (undone.image_key, undone.caption_key) != (verdict.image_key, verdict.caption_key):
            raise ConfigError(f"{undone.id} is the verdict on another pair.", key="undoes")

    def _take(self, row: Verdict) -> None:
        if row.id not in self._rows:
            self._rows[row.id] = row
            if row.undoes is not None:
                self._undone.add(row.undoes)

    def _catch_up(self) -> None:
        """Read what others appended, and mend what a killed one left torn; nobody else writes meanwhile."""
        size = os.fstat(self._file).st_size
        if size < self._read_to:
            raise DataError(f"{self.path} became shorter while it was open. Start again.", path=self.path)
        data = os.pread(self._file, size - self._read_to, self._read_to)
        whole, torn = _lines(data)
        rows = _parse(whole, self.path)
        if torn:
            with _named(self.path):
                last = _from_torn(torn)
                if last:  # only the line's end was lost
                    rows += last
                    _write_all(self._file, b"\n")
                else:
                    self.repaired += torn.decode(errors="replace")
                    os.ftruncate(self._file, size - len(torn))
                os.fsync(self._file)
        self.add(rows)
        self._read_to = os.fstat(self._file).st_size

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads and other processes out."""
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)


def read(folder: Path) -> list[Verdict]:
    """Return every verdict of a split in the order in which they came, taken-back ones and undos included.

    Args:
        folder: the split's `audit` folder.

    Returns:
        The table's rows, then those that only the journal has. A torn last line is no verdict: it was never confirmed.

    Raises:
        DataError: if either file is broken.
    """
    rows = {row.id: row for row in read_table(folder)}
    path = folder / JOURNAL
    if path.is_file():
        whole, torn = _lines(path.read_bytes())
        for row in _parse(whole, path) + _from_torn(torn):
            rows.setdefault(row.id, row)
    return list(rows.values())


def read_table(folder: Path) -> list[Verdict]:
    """Return the rows of a split's `verdicts.parquet`; none where there is no such file."""
    path = folder / TABLE
    if not path.is_file():
        return []
    table = store.read_table(path, columns=list(_COLUMNS), made_by="cusa review WORK")
    moments = table["judged_at"].cast(pa.timestamp("ms", tz="UTC")).to_pylist()
    rows = table.drop_columns("judged_at").to_pylist()
    return [Verdict(**row, judged_at=moment) for row, moment in zip(rows, moments, strict=True)]


def publish(folder: Path) -> Path | None:
    """Write `verdicts.parquet` anew where the journal has what it lacks.

    Args:
        folder: the split's `audit` folder.

    Returns:
        The table, or None where nobody has judged.

    Raises:
        DataError: if either file is broken, or the folder cannot be written.
    """
    path = folder / TABLE
    rows = read(folder)
    if rows and len(rows) != (store.num_rows(path) if path.is_file() else 0):
        columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in _COLUMNS}
        columns["judged_at"] = [row.judged_at.replace(tzinfo=None) for row in rows]
        store.write_table(path, pa.table(columns, schema=schemas.VERDICTS))
    return path if path.is_file() else None


def _line(verdict: Verdict) -> bytes:
    content = {name: value for name, value in asdict(verdict).items() if value is not None}
    content["judged_at"] = verdict.judged_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps(content, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def _lines(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the finished lines, and what follows the last of them."""
    *whole, torn = data.split(b"\n")
    return [line for line in whole if line.strip()], torn


def _parse(lines: Iterable[bytes], path: Path) -> list[Verdict]:
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_from_line(line))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path} has a line that is no verdict, number {number} of those read ({error}). Restore the file, or "
                "take that line out.",
                path=path,
            ) from error
    return rows


def _from_torn(line: bytes) -> list[Verdict]:
    """Return the verdict of a last line whose end was lost, if only the line break was."""
    try:
        return [_from_line(line)]
    except (ValueError, TypeError, KeyError):
        return []


def _from_line(line: bytes) -> Verdict:
    content = store.parse_json(line)
    content["judged_at"] = datetime.fromisoformat(content["judged_at"])
    row = Verdict(**content)
    row.check()
    return row


def _same(one: Verdict, other: Verdict) -> bool:
    """Tell whether a verdict was only asked for again: the moment may differ."""
    names = ("image_key", "caption_key", "verdict", "reviewer", "undoes")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}). Mend the folder's permissions or free some space: verdicts "
            "are kept beside the candidates.",
            path=path,
        ) from error
