"""The table of metrics: what each number is called, what it measures, and what a random ranking would get.

Whatever shows a number reads its name, place and meaning here; a new metric of rankings is one row of `METRICS`.

Legend: Q queries, G gallery items, R right items of a query.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from cusa.eval import metrics
from cusa.eval.tasks import chance as chance_levels
from cusa.eval.tasks import sts
from cusa.eval.tasks.chance import Pool
from cusa.manifests.judgements import altered_captions
from cusa.models.edits.rules import TITLES


class Judged(Protocol):
    """What is known of each query, as in `Ranking` and in `per_query.parquet`."""

    @property
    def rank(self) -> np.ndarray:
        """(Q,) of the best right item, 1 = first; 0 where there is none."""
        ...

    @property
    def positives(self) -> np.ndarray:
        """(Q,) right items."""
        ...

    @property
    def r_precision(self) -> np.ndarray:
        """(Q,) share; NaN where there is no right item."""
        ...

    @property
    def average_precision(self) -> np.ndarray:
        """(Q,) share; NaN where there is no right item."""
        ...


Kind = Literal["pairs", "matches", "plausible"]
"""Of a ranking's task: by the data set's own pairs, where the best right item counts and a query without one is a miss;
or by every known match, where all right items count and a query without one is left out; or by what a rule calls
plausible, likewise."""

DIRECTIONS: dict[str, tuple[str, str]] = {
    "image-to-text": ("image to text", "i2t"),
    "text-to-image": ("text to image", "t2i"),
    "image-to-image": ("image to image", "i2i"),
    "text-to-text": ("text to text", "t2t"),
}
"""What is asked and what is ranked -> title, short title; in the order in which they are shown."""


WAYS: dict[str, tuple[str, str]] = {
    **DIRECTIONS,
    "experts-foreign": ("experts, foreign pairs", "experts"),
    "experts-all": ("experts, all pairs", "experts, all"),
    "crowd-foreign": ("crowd, foreign pairs", "crowd"),
    "crowd-all": ("crowd, all pairs", "crowd, all"),
    **{kind: (words, kind) for kind, words in (*TITLES.items(), *altered_captions.TITLES.items())},
    "among-edits": ("image to text among edited captions", "i2t, edits"),
}
"""What may stand before a metric's name -> title, short title: directions, who judged which pairs, what was edited."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as in `metrics.json`, behind the direction; `{k}` stands for K.
        title: for people.
        unit: of its values.
        better: which values are.
        definition: in one sentence.
        chance: what a random ranking gets; a value, or a function of the pool of each direction and of the K that the
            metric sums over; None where it depends on more.
        short: for narrow columns; the title if empty.
        kinds: of the tasks that have it; none for what is not computed from one ranking.
        of_queries: each query's value (Q,) at K, NaN where it does not count.
        over_queries: of these values.
        main: whether it sums a task up in one number.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    definition: str
    chance: float | Callable[[Sequence[Pool], Sequence[int]], float] | None = None
    short: str = ""
    kinds: tuple[Kind, ...] = ()
    of_queries: Callable[[Judged, int], np.ndarray] | None = None
    over_queries: Callable[[np.ndarray], float] = metrics.mean_percent
    main: bool = False

    @property
    def is_mean(self) -> bool:
        """Whether its value is a mean over queries, so that queries can be resampled and runs compared by query."""
        return self.of_queries is not None and self.over_queries is metrics.mean_percent


METRICS: tuple[Metric, ...] = (
    Metric(
        "rsum",
        "RSUM",
        "points",
        "higher",
        "The sum of R@K over both directions and all K: 0 to 600 for three K.",
        chance_levels.recall,
        main=True,
    ),
    Metric(
        "mean",
        "mean of the three",
        "x 100",
        "higher",
        "The mean of the three rank correlations with CxC's ratings.",
        0.0,
    ),
    Metric(
        "r@{k}",
        "R@{k}",
        "%",
        "higher",
        "The share of queries that have a right item among the first K.",
        chance_levels.recall,
        kinds=("pairs", "matches"),
        of_queries=lambda judged, k: metrics.hits_at_k(judged.rank, k),
    ),
    Metric(
        "r_precision",
        "R-Precision",
        "%",
        "higher",
        "The share of right items among a query's first R places, R being the number of its right items.",
        chance_levels.precision,
        short="R-P",
        kinds=("matches",),
        of_queries=lambda judged, k: judged.r_precision,
    ),
    Metric(
        "pmrp",
        "PMRP",
        "%",
        "higher",
        "R-Precision by plausible matches: items that a rule calls right because the same things are shown.",
        chance_levels.precision,
        kinds=("plausible",),
        of_queries=lambda judged, k: judged.r_precision,
    ),
    Metric(
        "map_at_r",
        "mAP@R",
        "%",
        "higher",
        "The precision at each hit among a query's first R places, summed and divided by R.",
        chance_levels.average_precision,
        kinds=("matches",),
        of_queries=lambda judged, k: judged.average_precision,
    ),
    Metric(
        "median_rank",
        "median rank",
        "rank",
        "lower",
        "The median rank of the best right item; queries without one are left out.",
        chance_levels.median,
        kinds=("pairs",),
        of_queries=lambda judged, k: np.where(judged.rank >= 1, judged.rank, np.nan),
        over_queries=metrics.median_rank,
    ),
    Metric(
        "spearman",
        "Spearman's correlation with the ratings",
        "x 100",
        "higher",
        "Spearman's rank correlation of the model's scores with people's ratings, as CxC estimates it.",
        0.0,
    ),
    Metric(
        "tau_c",
        "Kendall's tau-c",
        "x 100",
        "higher",
        "Stuart's tau-c of the model's scores with the experts' scores of the judged pairs.",
        0.0,
        short="tau-c",
    ),
    Metric(
        "tau_b",
        "Kendall's tau-b",
        "x 100",
        "higher",
        "Kendall's tau-b of the model's scores with the crowd's shares of yes to the judged pairs.",
        0.0,
        short="tau-b",
    ),
    *(
        metric
        for end, words in (("", "it describes the image"), ("_without_error", "it describes the image without error"))
        for metric in (
            Metric(
                f"average_precision{end}",
                "average precision" + end.replace("_", " "),
                "%",
                "higher",
                f"The area under precision and recall of ranking judged pairs, right where {words}.",
                chance_levels.precision,
                short=f"AP{end.replace('_', ' ')}",
            ),
            Metric(
                f"auc{end}",
                "AUC" + end.replace("_", " "),
                "%",
                "higher",
                f"How often a judged pair of which people say that {words} has a higher score than another one.",
                50.0,
                short=f"AUC{end.replace('_', ' ')}",
            ),
        )
    ),
    Metric(
        "release_r@{k}",
        "R@{k} by the release's rule",
        "%",
        "higher",
        "The share of queries whose second nearest image has their label: the nearest is dropped whatever it is.",
    ),
    Metric(
        "top@{k}",
        "top-{k} accuracy",
        "%",
        "higher",
        "The share of images whose class is among the K that the model ranks first.",
        chance_levels.recall,
        short="top-{k}",
    ),
    Metric(
        "class_mean",
        "mean accuracy over classes",
        "%",
        "higher",
        "The mean over classes of the share of a class's images that the model takes for it.",
        short="class mean",
    ),
    Metric(
        "preferred",
        "true caption preferred",
        "%",
        "higher",
        "How often a picture's caption has a higher score than the same caption with one thing changed.",
        50.0,
        short="true",
    ),
    Metric(
        "false_first",
        "an edited caption first",
        "%",
        "lower",
        "The share of pictures for which a caption of which something was changed stands before all true ones.",
    ),
    Metric(
        "average",
        "STS average",
        "x 100",
        "higher",
        "The mean of the seven STS sets' figures.",
        0.0,
        short="STS",
        main=True,
    ),
    *(
        Metric(
            name,
            name,
            "x 100",
            "higher",
            f"Spearman's rank correlation of the cosines with people's scores of {name}'s sentence pairs.",
            0.0,
        )
        for name in sts.SETS
    ),
)
"""Every metric, in the order in which numbers are shown: within each direction by row, then by K."""


class Named(NamedTuple):
    """A metric's name in `metrics.json`, such as `image-to-text/r@5`, taken apart."""

    direction: str
    metric: Metric
    k: int | None

    @property
    def title(self) -> str:
        """For people, without the direction."""
        return self.metric.title.replace("{k}", str(self.k))

    @property
    def short(self) -> str:
        """For narrow columns, without the direction."""
        return (self.metric.short or self.metric.title).replace("{k}", str(self.k))

    @property
    def place(self) -> tuple[int, int, int, str]:
        """Where it is shown among others: as papers do, what nobody knows at the end."""
        ways = ["", *WAYS]
        way = ways.index(self.direction) if self.direction in ways else len(ways)
        kind = METRICS.index(self.metric) if self.metric in METRICS else len(METRICS)
        return (way if kind < len(METRICS) else len(ways), kind, self.k or 0, self.metric.name)


def named(name: str) -> Named:
    """Look a metric's name up; one that the table does not have gets a row of its own, by its name."""
    direction, _, short = name.rpartition("/")
    for metric in METRICS:
        match = re.fullmatch(re.escape(metric.name).replace(r"\{k\}", r"([0-9]+)"), short)
        if match:
            return Named(direction, metric, int(match[1]) if match.groups() else None)
    return Named(direction, Metric(short, short, "", "higher", ""), None)


def title(name: str) -> str:
    """Return a metric's name for people, such as `image to text: R@5`."""
    one = named(name)
    return f"{_way(one.direction)}: {one.title}" if one.direction else one.title


def short_title(path: str) -> str:
    """Return a name for a narrow column, such as `R-P i2t` or `i2i R@1`.

    Args:
        path: task and metric, such as `cross-modal-truth/image-to-text/r_precision` or `image-to-image/r@1`.
    """
    task, _, name = path.partition("/")
    one = named(name)
    if one.direction in WAYS:
        return f"{one.short} {WAYS[one.direction][1]}"
    return f"{DIRECTIONS[task][1]} {one.short}" if task in DIRECTIONS else one.short


def is_main(path: str) -> bool:
    """Tell whether a number sums a task up."""
    return named(path).metric.main


def of_ranking(ranking: Judged, kind: Kind, ks: Sequence[int]) -> dict[str, float]:
    """Return every metric of one ranking by its name without the direction, in the table's order.

    Args:
        ranking: of Q queries.
        kind: of the task.
        ks: the K of R@K.
    """
    return {name: metric.over_queries(values) for name, metric, values in values_of_queries(ranking, kind, ks)}


def values_of_queries(ranking: Judged, kind: Kind, ks: Sequence[int]) -> list[tuple[str, Metric, np.ndarray]]:
    """Return name, metric and each query's value (Q,), NaN where a query does not count, of one ranking's metrics."""
    rows = []
    for name, metric, k in _of_kind(kind, ks):
        assert metric.of_queries is not None
        values = metric.of_queries(ranking, k)
        if kind != "pairs":
            values = np.where(ranking.positives > 0, values, np.nan)
        rows.append((name, metric, values))
    return rows


def names_of_ranking(kind: Kind, ks: Sequence[int]) -> list[str]:
    """Return the names that `of_ranking` gives."""
    return [name for name, _, _ in _of_kind(kind, ks)]


def _of_kind(kind: Kind, ks: Sequence[int]) -> list[tuple[str, Metric, int]]:
    """Return name, metric and K of all that is computed from one ranking; K is 0 where the metric has none."""
    return [
        (metric.name.replace("{k}", str(k)), metric, k)
        for metric in METRICS
        if kind in metric.kinds and metric.of_queries is not None
        for k in (ks if "{k}" in metric.name else (0,))
    ]


def chance(name: str, pools: Sequence[Pool], ks: Sequence[int] = (1, 5, 10)) -> float | None:
    """Return what a random ranking gets on average; None where it depends on more than the sizes.

    Args:
        name: of the metric, such as `image-to-text/r@5`.
        pools: what a query is ranked against, in each direction that the metric covers.
        ks: the K that it sums over, where it has none of its own.
    """
    one = named(name)
    level = one.metric.chance
    if level is None or isinstance(level, float):
        return level
    return level(pools, ks if one.k is None else (one.k,))


def chances_of_rankings(
    directions: Mapping[str, tuple[Judged, int]],
    kind: Kind,
    ks: Sequence[int],
    *,
    prefix: bool = False,
    rsum: bool = False,
) -> dict[str, float | None]:
    """Return what a random ranking of the same queries gets on average, by the metric's name.

    Args:
        directions: each direction's ranking, and how many items a query is ranked against, itself left out.
        kind: of the task.
        ks: the K of R@K.
        prefix: whether a metric's name begins with its direction.
        rsum: whether the sum of all R@K is wanted.
    """
    levels: dict[str, float | None] = {}
    total = 0.0
    for direction, (ranking, gallery) in directions.items():
        counted = ranking.positives if kind == "pairs" else ranking.positives[ranking.positives > 0]
        sizes = list(zip(*(column.tolist() for column in np.unique(counted, return_counts=True)), strict=True))
        for name, metric, k in _of_kind(kind, ks):
            level = _mean_chance(metric, sizes, gallery, k)
            levels[f"{direction}/{name}" if prefix else name] = level
            if name.startswith("r@"):
                total += level or 0.0
    return {**levels, "rsum": round(total, 4)} if rsum else levels


def _mean_chance(metric: Metric, sizes: Sequence[tuple[int, int]], gallery: int, k: int) -> float | None:
    """Return the mean over queries; of a median only where all have as many right items.

    Args:
        metric: one that is computed from a ranking.
        sizes: (R, queries that have R right items).
        gallery: G.
        k: K, if it has one.
    """
    if not callable(metric.chance) or not sizes or sizes[-1][0] > gallery or (not metric.is_mean and len(sizes) > 1):
        return None
    if not metric.is_mean and not sizes[0][0]:
        return None
    level = metric.chance
    total = sum(queries * level([Pool(gallery, right)], (k,)) for right, queries in sizes if right)
    return round(total / sum(queries for _, queries in sizes), 4)


def chance_in(summary: Mapping[str, Any], name: str) -> float | None:
    """Return what a random ranking gets, as a task's summary has it or the table of metrics; None if neither does.

    Args:
        summary: of a task, as in `metrics.json`.
        name: of the metric.
    """
    level = named(name).metric.chance
    known: float | None = summary.get("chance", {}).get(name)
    return level if known is None and isinstance(level, float) else known


def _way(direction: str) -> str:
    return WAYS[direction][0] if direction in WAYS else direction.replace("-", " ")
