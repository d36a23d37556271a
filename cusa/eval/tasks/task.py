"""One evaluation task's shape: what it needs, how it is computed, and its result."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from cusa.eval.config import EvalConfig
from cusa.eval.evidence import Evidence, Need
from cusa.eval.ranking import Ranking
from cusa.eval.scores import Scores, of_pairs
from cusa.manifests import schemas
from cusa.manifests.samples import Split

TEXTS_ALONE = "the model embeds texts alone"
"""Why a model of texts has no numbers in tasks that need images."""

T = TypeVar("T")


@dataclass(frozen=True)
class Embedded:
    """A split as a student sees it, and what is known of it.

    Attributes:
        config: K, block, resamples.
        evidence: the split, and what answers are judged by.
        image: space -> (images, D) unit rows.
        text: space -> (captions, D) unit rows.
        scores: of all images with all captions: cosines, or whatever else the student ranks by; None for a model of
            texts alone.
        score: the same for people.
        uni: the space of uni-modal tasks.
        uni_words: the same for people.
        match: scores pairs of rows, (P,) images with (P,) captions, by what both modalities together say; None for a
            student whose `scores` say it all.
        match_words: what `match` gives, for people.
        cache_name: of the model's folder of kept embeddings; None where none are kept.
        notes: what a person should read of the kept embeddings.
        texts: of each task that asks texts of its own (`Task.texts`): their (T, D) unit rows in the cross-modal space.
        no_texts: why the student embeds no new texts; empty where it does.
    """

    config: EvalConfig
    evidence: Evidence
    image: Mapping[str, np.ndarray]
    text: Mapping[str, np.ndarray]
    scores: Scores | None
    score: str
    uni: str
    uni_words: str
    match: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    match_words: str = ""
    cache_name: str | None = None
    notes: tuple[str, ...] = ()
    texts: Mapping[str, np.ndarray] = field(default_factory=dict)
    no_texts: str = ""
    _shared: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """Return what several tasks share; the first that asks computes it."""
        if name not in self._shared:
            self._shared[name] = compute()
        shared: T = self._shared[name]
        return shared

    def pair_scores(self, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
        """Return the score of each pair of rows (P,), comparable over all pairs.

        Args:
            images: (P,) image rows.
            captions: (P,) caption rows.
        """
        if self.match is not None:
            return self.match(images, captions)
        assert self.scores is not None, "a model of texts alone scores no pair"
        return of_pairs(self.scores, images, captions, self.config.block)

    @property
    def split(self) -> Split:
        """The split."""
        return self.evidence.split

    @property
    def image_of(self) -> dict[str, np.ndarray]:
        """The image row that each query is or belongs to, by direction, where the whole split is asked."""
        images, owner = np.arange(self.split.num_images), self.split.caption_owner
        return {"image-to-text": images, "text-to-image": owner, "image-to-image": images, "text-to-text": owner}


@dataclass(frozen=True)
class TaskResult:
    """One task's outcome.

    Attributes:
        summary: metrics, intervals, protocol, space, queries; or only `unavailable`: why there are none.
        table: a row a query, `schemas.PER_QUERY`.
    """

    task: str
    summary: Mapping[str, Any]
    table: pa.Table


@dataclass(frozen=True)
class Task:
    """One evaluation task.

    Attributes:
        name: in `metrics.json` and for `--tasks`.
        title: for people.
        about: what is computed, in a line.
        compute: does it; a task that cannot be done returns why.
        needs: what a split must bring for it to be done without being asked for by name.
        judged_by: what counts as right, behind a number's name; empty where it is the data set's own word.
        table: its name in `per_query.parquet`; its own if empty.
        texts: gives the texts that it asks besides the split's captions; raises a CusaError where a file that the user
            named for them is broken, before a model is loaded.
    """

    name: str
    title: str
    about: str
    compute: Callable[[Embedded], TaskResult]
    needs: tuple[Need, ...] = ()
    judged_by: str = ""
    table: str = ""
    texts: Callable[[Evidence, EvalConfig], Sequence[str]] | None = None


def unavailable(task: str, why: str) -> TaskResult:
    """Say why there are no numbers."""
    return TaskResult(task, {"unavailable": why}, schemas.PER_QUERY.empty_table())


def summarise(
    numbers: Mapping[str, float],
    intervals: Mapping[str, list[float] | None],
    space: str,
    protocol: str,
    queries: int,
) -> dict[str, Any]:
    """Return a task's numbers with what makes them comparable.

    Args:
        numbers: metric -> value.
        intervals: metric -> interval.
        space: what was compared, for people.
        protocol: in a sentence.
        queries: how many.
    """
    return {
        "space": space,
        "protocol": protocol,
        "queries": queries,
        # JSON has no NaN: a number that no query defines is null.
        "metrics": {key: None if math.isnan(value) else round(value, 4) for key, value in numbers.items()},
        "intervals": dict(intervals),
    }


def per_query(
    task: str,
    split: Split,
    directions: Mapping[str, Ranking],
    *,
    rows: Mapping[str, np.ndarray] | None = None,
    galleries: Mapping[str, np.ndarray] | None = None,
    keys: Mapping[str, Sequence[str]] | None = None,
) -> pa.Table:
    """Return the rankings as rows of `schemas.PER_QUERY`.

    Args:
        task: its name in the table.
        split: for the keys.
        directions: name -> ranking.
        rows: the split's rows that were asked, by direction; all where None.
        galleries: the split's rows that were ranked, by direction; all where None.
        keys: of what is neither an image nor a caption of the split, by its end of the direction.
    """
    tables = []
    every = {"image": split.image_keys, "text": split.caption_keys, **(keys or {})}
    for direction, ranking in directions.items():
        source, target = direction.split("-to-")
        asked = range(len(every[source])) if rows is None else rows[direction]
        ranked = np.arange(len(every[target])) if galleries is None else galleries[direction]
        best = [[every[target][ranked[at]] for at in top if at >= 0] for top in ranking.top]
        columns = [
            pa.array([task] * len(ranking.rank), pa.string()),
            pa.array([direction] * len(ranking.rank), pa.string()),
            pa.array([every[source][row] for row in asked], pa.string()),
            pa.array(ranking.rank),
            pa.array(ranking.positives),
            pa.array(ranking.r_precision, from_pandas=True),
            pa.array(ranking.average_precision, from_pandas=True),
            pa.array(best, pa.list_(pa.string())),
            pa.array(
                [scores[top >= 0] for scores, top in zip(ranking.top_scores, ranking.top, strict=True)],
                pa.list_(pa.float32()),
            ),
        ]
        tables.append(pa.Table.from_arrays(columns, schema=schemas.PER_QUERY))
    return pa.concat_tables(tables)
