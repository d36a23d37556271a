"""The difference between two runs, query by query, with an interval over resampled images.

Legend: N images, S resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cusa.eval.tasks import coco, metrics


@dataclass(frozen=True)
class Difference:
    """How much higher the second run is, in percent points (or RSUM points).

    Attributes:
        value: second minus first.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def trend(self) -> str:
        """Return `up` or `down` where the interval excludes zero, else an empty text."""
        return "up" if self.low > 0 else "down" if self.high < 0 else ""

    def __str__(self) -> str:
        return f"{self.value:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def paired(
    first: pa.Table, second: pa.Table, *, ks: tuple[int, ...] = (1, 5, 10), samples: int = 2000, seed: int = 0
) -> dict[str, Difference]:
    """Compare two `per_query` tables of the same split.

    Images are resampled, and each takes its captions along, since captions of one image are not independent. The
    interval answers how the difference would vary with other test images; not with other training seeds.

    Args:
        first: the baseline's `per_query.parquet`.
        second: the other run's.
        ks: the K of R@K.
        samples: S.
        seed: of the resamples.

    Returns:
        `task/direction/metric` -> difference, and `cross-modal/rsum`; only what both tables hold for the same queries.
    """
    images = pc.unique(_image_keys(first["query_key"]))
    weights_SN = _weights(len(images), samples, seed)
    differences: dict[str, Difference] = {}
    recalls: list[tuple[float, np.ndarray]] = []
    for task, direction in _parts(first):
        rows, other_rows = (_rows(table, task, direction) for table in (first, second))
        if not rows.num_rows or rows["query_key"] != other_rows["query_key"]:
            continue
        place = pc.index_in(_image_keys(rows["query_key"]), value_set=images).to_numpy()
        for name, values, other_values in _values(_queries(rows), _queries(other_rows), ks, task):
            known = ~(np.isnan(values) | np.isnan(other_values))
            if not known.any():
                continue
            difference = 100 * (other_values - values)[known]
            sums = np.bincount(place[known], difference, minlength=len(images))
            counts = np.bincount(place[known], minlength=len(images))
            drawn_S = (weights_SN @ sums) / np.maximum(weights_SN @ counts, 1)
            differences[f"{task}/{direction}/{name}"] = _difference(float(difference.mean()), drawn_S)
            if task == "cross-modal" and name.startswith("r@"):
                recalls.append((float(difference.mean()), drawn_S))
    if recalls:
        total_S = np.sum([drawn for _, drawn in recalls], axis=0)
        differences["cross-modal/rsum"] = _difference(sum(value for value, _ in recalls), total_S)
    return differences


class _Queries(NamedTuple):
    """One direction of a task: (Q,) each, as `metrics.Judged` asks for."""

    rank: np.ndarray
    positives: np.ndarray
    r_precision: np.ndarray
    average_precision: np.ndarray


def _weights(num_images: int, samples: int, seed: int) -> np.ndarray:
    """Return how often each resample draws each image: (S, N)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=samples).astype(np.float64)


def _image_keys(query_keys: pa.ChunkedArray) -> pa.Array:
    """Return the key of the image that each query is or belongs to."""
    return pc.replace_substring_regex(query_keys, pattern="#.*$", replacement="").combine_chunks()


def _parts(table: pa.Table) -> list[tuple[str, str]]:
    """Return each task and direction of a table, in its order."""
    rows = zip(table["task"].to_pylist(), table["direction"].to_pylist(), strict=True)
    return list(dict.fromkeys(rows))


def _rows(table: pa.Table, task: str, direction: str) -> pa.Table:
    return table.filter(pc.and_(pc.equal(table["task"], task), pc.equal(table["direction"], direction)))


def _queries(rows: pa.Table) -> _Queries:
    return _Queries(*(rows[name].to_numpy().astype(np.float64) for name in _Queries._fields))


def _values(
    first: _Queries, second: _Queries, ks: tuple[int, ...], task: str
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Give each metric's value for every query of both runs, NaN where a query does not count."""
    if not (first.positives > 0).any():
        return
    # Only a task that judges by every known match has these shares; the other kind counts a query without a right item.
    kind: metrics.Kind = "pairs" if np.isnan(first.r_precision).all() else coco.KINDS.get(task, "matches")
    both = (metrics.values_of_queries(queries, kind, ks) for queries in (first, second))
    for (name, metric, values), (_, _, other_values) in zip(*both, strict=True):
        if metric.is_mean:
            yield name, values, other_values


def _difference(value: float, drawn_S: np.ndarray) -> Difference:
    low, high = np.quantile(drawn_S, [0.025, 0.975])
    return Difference(value, float(low), float(high))
