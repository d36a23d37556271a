"""What the metrics mean, for pages that show them: a name that links to its definition, and the list of these."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from cusa.eval.tasks import metrics
from cusa.manifests.pages import Term


class Definition(NamedTuple):
    """One entry of the list."""

    anchor: str
    title: str
    unit: str
    definition: str


_ALSO = (
    Definition(
        "chance",
        "chance",
        "",
        "What a random order of the same gallery gets on average, for the same queries and the same right items.",
    ),
    Definition(
        "interval",
        "95 % interval",
        "",
        "Percentile bootstrap over resampled test images; captions move with their image. It says how a number would "
        "vary with other test images. Another training seed can move it further.",
    ),
    Definition(
        "own-pairs",
        "own pairs, known matches",
        "",
        "The pairs that the data set lists; and all pairs of which it is known that the caption is true of the image, "
        "the own ones among them.",
    ),
)
"""What numbers of all metrics have in common."""


def term(name: str, words: str) -> Term:
    """Return a metric's name as a link to its definition; plain words where the table does not have it.

    Args:
        name: as in `metrics.json`, or TASK/METRIC.
        words: what stands in the page.
    """
    metric = metrics.named(name).metric
    return Term(words, _anchor(metric), _sentence(metric)) if metric.definition else Term(words)


def of(names: Iterable[str]) -> list[Definition]:
    """Return the definitions of metrics, each once and in the table's order, then those of what all have in common.

    Args:
        names: as in `metrics.json`, or TASK/METRIC.
    """
    wanted = {metrics.named(name).metric.name for name in names}
    shown = [metric for metric in metrics.METRICS if metric.name in wanted]
    return [
        *(Definition(_anchor(one), one.title.replace("{k}", "K"), one.unit, _sentence(one)) for one in shown),
        *_ALSO,
    ]


def _sentence(metric: metrics.Metric) -> str:
    return metric.definition + (" Lower is better." if metric.better == "lower" else "")


def _anchor(metric: metrics.Metric) -> str:
    return "metric-" + re.sub(r"[^a-z0-9]+", "-", metric.name.lower()).strip("-")
