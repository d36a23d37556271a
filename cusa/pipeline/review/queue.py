"""Which candidates are asked about, and in which order."""

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline.sql.database import connect
from cusa.pipeline.sql.views import literal

Pair = tuple[str, str]
"""Keys of an image and of a caption."""

_ORDER = "worth DESC NULLS LAST, score DESC, image_key, caption_key"
"""The largest review value first; see `cusa.pipeline.audit.stage.review_value`."""

_LONGEST_FILTER = 2000
_SECONDS = 60.0  # for a filter
_MOST_QUEUES = 8  # queues of other filters that stay in memory


@dataclass(frozen=True)
class Candidate:
    """One candidate as it is shown."""

    image_key: str
    caption_key: str
    score: float | None
    image_similarity: float | None
    text_similarity: float | None
    image_rank: int | None
    text_rank: int | None
    p_positive: float | None

    @property
    def pair(self) -> Pair:
        """What it is a candidate of."""
        return self.image_key, self.caption_key

    def numbers(self) -> dict[str, float | int | None]:
        """Return what was measured, by the names that a verdict has for it."""
        return {name: getattr(self, name) for name in NUMBERS}


NUMBERS = tuple(field.name for field in fields(Candidate))[2:]
_COLUMNS = ", ".join(("image_key", "caption_key", *NUMBERS))


@dataclass(frozen=True)
class Queue:
    """The candidates that a filter lets through, those with the largest review value first."""

    candidates: tuple[Candidate, ...]
    total: int
    """How many it lets through; the queue holds the first of them."""
    places: dict[Pair, int]
    """Where each stands."""


class Candidates:
    """The audited candidates of a split, read by SQL and never written.

    Args:
        split: audited; the table must be of this state of it.
        limit: candidates a queue holds at most.

    Attributes:
        sha256: of the table.

    Raises:
        DataError: if the split was not audited or its table is broken.
        StaleError: if the table belongs to another state of the split.
    """

    def __init__(self, split: Split, *, limit: int) -> None:
        self._split, self._limit = split, limit
        self.path = split.folder / "audit" / "candidates.parquet"
        made_by = f"cusa audit {split.work} --split {split.name}"
        if not self.path.is_file():
            raise DataError(
                f"{self.path} does not exist: there is nothing to ask about. Run `{made_by}`.", path=self.path
            )
        store.check_table(self.path, columns=["image_key", "caption_key", "score", "worth"], made_by=made_by)
        belongs_to = tables.read_part_metadata(self.path).get("split")
        if belongs_to != split.digest:
            raise StaleError(
                f"{self.path} is of another state of the split {split.name!r}. Run `{made_by}` again.", path=self.path
            )
        self.sha256 = store.sha256_file(self.path)
        self._database = connect(split.work, runs=())
        self._lock = threading.Lock()
        self._queues: dict[str, Queue] = {}

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def queue(self, where: str) -> Queue:
        """Return the queue of a filter.

        Args:
            where: what may stand behind WHERE, over the columns of the view `candidates`; empty = all.

        Raises:
            ConfigError: if it is no condition; the message points at the place.
        """
        where = where.strip()
        if len(where) > _LONGEST_FILTER:
            raise ConfigError(f"The filter has {len(where)} letters; allowed: {_LONGEST_FILTER}.", key="where")
        with self._lock:
            if where not in self._queues:
                self._queues[where] = self._read(where)
                while len(self._queues) > _MOST_QUEUES:
                    del self._queues[next(iter(self._queues))]
            return self._queues[where]

    def find(self, pair: Pair) -> Candidate | None:
        """Return the candidate of a pair, in any queue or none."""
        image, caption = map(literal, pair)
        with self._lock:
            for queue in self._queues.values():
                if pair in queue.places:
                    return queue.candidates[queue.places[pair]]
            rows = self._select(f"image_key = {image} AND caption_key = {caption}", limit=1)
        return rows[0] if rows else None

    def _read(self, where: str) -> Queue:
        counted = self._database.run(f"SELECT count(*) FROM {self._filtered(where)}", limit=_SECONDS)
        total = counted.rows[0][0]
        chosen = tuple(self._select(where, limit=self._limit))
        return Queue(chosen, int(total), {one.pair: place for place, one in enumerate(chosen)})

    def _select(self, where: str, *, limit: int) -> list[Candidate]:
        query = f"SELECT {_COLUMNS} FROM {self._filtered(where)} ORDER BY {_ORDER} LIMIT {limit}"
        return [Candidate(*map(_plain, row)) for row in self._database.run(query, limit=_SECONDS).rows]

    def _filtered(self, where: str) -> str:
        # The split is chosen inside, where no bracket of the filter reaches; the line break ends a comment of it.
        of_split = f"(SELECT * FROM candidates WHERE split = {literal(self._split.name)}) AS candidates"
        return f"{of_split} WHERE (\n{where or 'true'}\n)"


def audited(work: Path, names: Iterable[str]) -> list[str]:
    """Return the splits that have candidates."""
    return [name for name in names if (work / name / "audit" / "candidates.parquet").is_file()]


def _plain(value: Any) -> Any:
    """Return a value that JSON knows: nothing for what is no number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
