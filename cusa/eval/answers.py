"""What a task comes to: its numbers with protocol and intervals, and a row a query."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.eval.ranking import Ranking
from cusa.manifests import schemas
from cusa.manifests.samples import Split


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


def unavailable(task: str, why: str) -> TaskResult:
    """Say why there are no numbers."""
    return TaskResult(task, {"unavailable": why}, schemas.PER_QUERY.empty_table())


def summarise(
    numbers: Mapping[str, float],
    found: Mapping[str, list[float] | None],
    space: str,
    protocol: str,
    queries: int,
) -> dict[str, Any]:
    """Return a task's numbers with what makes them comparable.

    Args:
        numbers: metric -> value.
        found: metric -> interval.
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
        "intervals": dict(found),
    }


def per_query(
    task: str,
    split: Split,
    directions: Mapping[str, Ranking],
    *,
    rows: Mapping[str, np.ndarray] | None = None,
    galleries: Mapping[str, np.ndarray] | None = None,
) -> pa.Table:
    """Return the rankings as rows of `schemas.PER_QUERY`.

    Args:
        task: its name in the table.
        split: for the keys.
        directions: name -> ranking.
        rows: the split's rows that were asked, by direction; all where None.
        galleries: the split's rows that were ranked, by direction; all where None.
    """
    tables = []
    for direction, ranking in directions.items():
        source, target = direction.split("-to-")
        keys = {"image": split.image_keys, "text": split.caption_keys}
        asked = range(len(keys[source])) if rows is None else rows[direction]
        ranked = np.arange(len(keys[target])) if galleries is None else galleries[direction]
        best = [[keys[target][ranked[at]] for at in top if at >= 0] for top in ranking.top]
        columns = [
            pa.array([task] * len(ranking.rank), pa.string()),
            pa.array([direction] * len(ranking.rank), pa.string()),
            pa.array([keys[source][row] for row in asked], pa.string()),
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
