"""How sure the numbers of an evaluation are: intervals over resampled images."""

from collections.abc import Mapping, Sequence

import numpy as np

from cusa.eval import metrics
from cusa.eval.config import EvalConfig
from cusa.eval.ranking import Ranking
from cusa.eval.tasks import metrics as table

MEANING = "95 % percentile bootstrap over resampled images; captions move with their image, they are not independent"


def of_rankings(
    config: EvalConfig,
    directions: Mapping[str, Ranking],
    image_of: Mapping[str, np.ndarray],
    ks: Sequence[int],
    *,
    prefix: bool = False,
    rsum: bool = False,
    kind: table.Kind = "pairs",
) -> dict[str, list[float] | None]:
    """Return the interval of each mean over queries, by the metric's name; see `MEANING`.

    Args:
        config: resamples and their seed.
        directions: the rankings.
        image_of: for each direction, the image row that each query is or belongs to.
        ks: the K of R@K.
        prefix: whether a metric's name begins with its direction.
        rsum: whether the sum of all R@K is wanted.
        kind: of the task, which says what metrics there are; except for `pairs`, queries without a right item do not
            count.
    """
    spans: dict[str, list[float] | None] = {}
    recalls = []
    for direction, ranking in directions.items():
        start = f"{direction}/" if prefix else ""
        for name, metric, value in table.values_of_queries(ranking, kind, ks):
            if not metric.is_mean:
                continue
            counted = by_image(value, image_of[direction])
            spans[start + name] = of_sum(config, [counted])
            if name.startswith("r@"):
                recalls.append(counted)
    if rsum:
        spans["rsum"] = of_sum(config, recalls)
    return spans


def by_image(value_Q: np.ndarray, image_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's sum of its queries' values and their number, NaN left out."""
    known = ~np.isnan(value_Q)
    num = int(image_Q.max()) + 1
    return np.bincount(image_Q[known], value_Q[known], minlength=num), np.bincount(image_Q[known], minlength=num)


def of_sum(config: EvalConfig, terms: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float] | None:
    """Return the interval of a sum of means in percent, or None where nothing was counted."""
    if not all(counts.any() for _, counts in terms):
        return None

    def statistic(images: np.ndarray) -> float:
        shares = [(sums[images].sum(), counts[images].sum()) for sums, counts in terms]
        return sum(100 * total / count if count else float("nan") for total, count in shares)

    span = metrics.bootstrap_interval(statistic, len(terms[0][0]), samples=config.bootstrap, seed=config.seed)
    return None if span is None else [round(span[0], 4), round(span[1], 4)]
