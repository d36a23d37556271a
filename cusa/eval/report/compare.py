"""The difference between two runs, query by query, with an interval over resampled images.

Legend: N images, S resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


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
    key = pc.replace_substring_regex(first["query_key"], pattern="#.*$", replacement="").combine_chunks()
    images = pc.unique(key)
    weights_SN = _weights(len(images), samples, seed)
    found: dict[str, Difference] = {}
    recalls: list[tuple[float, np.ndarray]] = []
    for task, direction in _pairs_of(first):
        one, two = (_rows(table, task, direction) for table in (first, second))
        if one["query_key"] != two["query_key"] or not one["query_key"].length():
            continue
        place = pc.index_in(
            pc.replace_substring_regex(one["query_key"], pattern="#.*$", replacement=""), value_set=images
        ).to_numpy()
        for name, a, b in _values(one, two, ks):
            known = ~(np.isnan(a) | np.isnan(b))
            if not known.any():
                continue
            difference = 100 * (b - a)[known]
            sums = np.bincount(place[known], difference, minlength=len(images))
            counts = np.bincount(place[known], minlength=len(images))
            drawn_S = (weights_SN @ sums) / np.maximum(weights_SN @ counts, 1)
            found[f"{task}/{direction}/{name}"] = _difference(float(difference.mean()), drawn_S)
            if task == "cross-modal" and name.startswith("r@"):
                recalls.append((float(difference.mean()), drawn_S))
    if recalls:
        total_S = np.sum([drawn for _, drawn in recalls], axis=0)
        found["cross-modal/rsum"] = _difference(sum(value for value, _ in recalls), total_S)
    return found


def _weights(num_images: int, samples: int, seed: int) -> np.ndarray:
    """Return how often each resample draws each image: (S, N)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=samples).astype(np.float64)


def _pairs_of(table: pa.Table) -> list[tuple[str, str]]:
    rows = zip(table["task"].to_pylist(), table["direction"].to_pylist(), strict=True)
    return list(dict.fromkeys(rows))


def _rows(table: pa.Table, task: str, direction: str) -> Mapping[str, pa.ChunkedArray]:
    mask = pc.and_(pc.equal(table["task"], task), pc.equal(table["direction"], direction))
    kept = table.filter(mask)
    return {name: kept[name] for name in kept.column_names}


def _values(
    one: Mapping[str, pa.ChunkedArray], two: Mapping[str, pa.ChunkedArray], ks: tuple[int, ...]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return each metric's value for every query of both runs, NaN where a query has no right item."""
    found = [(f"r@{k}", _hits(one, k), _hits(two, k)) for k in ks]
    for name, column in (("r_precision", "r_precision"), ("map_at_r", "average_precision")):
        found.append((name, one[column].to_numpy().astype(float), two[column].to_numpy().astype(float)))
    return found


def _hits(table: Mapping[str, pa.ChunkedArray], k: int) -> np.ndarray:
    rank, positives = table["rank"].to_numpy(), table["positives"].to_numpy()
    return np.where(positives > 0, ((rank >= 1) & (rank <= k)).astype(float), np.nan)


def _difference(value: float, drawn_S: np.ndarray) -> Difference:
    low, high = np.quantile(drawn_S, [0.025, 0.975])
    return Difference(value, float(low), float(high))
