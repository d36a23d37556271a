"""Which candidates are asked about, and in which order."""

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests import tables
from cusa.manifests.judgements import own_pairs
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline.sql.database import connect
from cusa.pipeline.sql.views import literal

Pair = tuple[str, str]
"""Keys of an image and of a caption."""


@dataclass(frozen=True)
class Source:
    """A table of pairs that people are asked about.

    Attributes:
        file: in the split's folder.
        view: its name in SQL, which filters speak of.
        columns: what is shown, as SQL; those of `Candidate` in their order.
        needs: columns that the table must have.
        order: as SQL.
        option: of `cusa audit`, which makes it.
    """

    file: Path
    view: str
    columns: str
    needs: tuple[str, ...]
    order: str
    option: str = ""


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
    text_blind: str | None = None
    """The one edit that separates the caption from one of the image's own."""

    @property
    def pair(self) -> Pair:
        """What it is a candidate of."""
        return self.image_key, self.caption_key

    def numbers(self) -> dict[str, float | int | None]:
        """Return what was measured, by the names that a verdict has for it."""
        return {name: getattr(self, name) for name in NUMBERS}


NUMBERS = tuple(field.name for field in fields(Candidate))[2:-1]

CANDIDATES = Source(
    Path("audit") / "candidates.parquet",
    "candidates",
    ", ".join(("image_key", "caption_key", *NUMBERS, "text_blind")),
    ("image_key", "caption_key", "score", "worth", "text_blind"),
    "worth DESC NULLS LAST, score DESC, image_key, caption_key",
)
"""Pairs that the data set does not make; the largest review value first, see `audit.stage.review_value`."""

OWN_PAIRS = Source(
    own_pairs.FOLDER / own_pairs.TABLE,
    "pairs",
    f"image_key, caption_key, {', '.join(['NULL'] * (len(NUMBERS) - 1))}, 1 - p_wrong",
    ("image_key", "caption_key", "p_wrong", "reasons", "better_caption_keys"),
    "p_wrong DESC NULLS LAST, image_key, caption_key",
    " --pairs",
)
"""The data set's own pairs; the most probably wrong first."""


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
        source: which pairs.

    Attributes:
        sha256: of the table.

    Raises:
        DataError: if the split was not audited or its table is broken.
        StaleError: if the table belongs to another state of the split.
    """

    def __init__(self, split: Split, *, limit: int, source: Source = CANDIDATES) -> None:
        self._split, self._limit, self._source = split, limit, source
        self.path = split.folder / source.file
        made_by = f"cusa audit {split.work} --split {split.name}{source.option}"
        if not self.path.is_file():
            raise DataError(
                f"{self.path} does not exist: there is nothing to ask about. Run `{made_by}`.", path=self.path
            )
        store.check_table(self.path, columns=list(source.needs), made_by=made_by)
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
            where: what may stand behind WHERE, over the columns of the source's view; empty = all.

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
        source = self._source
        query = f"SELECT {source.columns} FROM {self._filtered(where)} ORDER BY {source.order} LIMIT {limit}"
        return [Candidate(*map(_plain, row)) for row in self._database.run(query, limit=_SECONDS).rows]

    def _filtered(self, where: str) -> str:
        # The split is chosen inside, where no bracket of the filter reaches; the line break ends a comment of it.
        view = self._source.view
        of_split = f"(SELECT * FROM {view} WHERE split = {literal(self._split.name)}) AS {view}"
        return f"{of_split} WHERE (\n{where or 'true'}\n)"


def audited(work: Path, names: Iterable[str], source: Source = CANDIDATES) -> list[str]:
    """Return the splits that have pairs to ask about."""
    return [name for name in names if (work / name / source.file).is_file()]


@dataclass(frozen=True)
class Doubt:
    """What the audit holds against an own pair."""

    reasons: tuple[str, ...]
    """In words."""
    better: tuple[str, ...]
    """Keys of captions that fit its image better."""


def read_doubts(split: Split) -> dict[Pair, Doubt]:
    """Read what the audit holds against each own pair."""
    table = store.read_table(split.folder / OWN_PAIRS.file, columns=list(OWN_PAIRS.needs))
    return {
        (row["image_key"], row["caption_key"]): Doubt(
            tuple(own_pairs.IN_WORDS.get(name, name) for name in row["reasons"] or ()),
            tuple(row["better_caption_keys"] or ()),
        )
        for row in table.to_pylist()
    }


def _plain(value: Any) -> Any:
    """Return a value that JSON knows: nothing for what is no number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
