"""The report's section on training with verdicts: what it gained, by how many candidates were judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cusa.errors import DataError
from cusa.eval.report.charts import Chart, line_chart
from cusa.manifests.pages import Table
from cusa.manifests.storage import store

FILE = "verdict_loop.json"
"""In a split's `audit` folder; `benchmarks/verdict_loop.py` writes one."""

_METRICS = {"rsum_true": "RSUM under true positives", "r_precision_true": "R-Precision under true positives"}


_HEADER = ("reviewers", "judged", "false negatives found", "wrong matches", "RSUM, true", "R-P, true", "RSUM, own")


@dataclass(frozen=True)
class VerdictLoop:
    """The values of one split's section.

    Attributes:
        split: whose candidates were judged.
        images: of the split.
        captions: of the split.
        false_negatives: of the split.
        steps: of each training.
        seeds: trainings a point.
        charts: each metric by the number of judged candidates.
        table: the points.
    """

    split: str
    images: int
    captions: int
    false_negatives: int
    steps: int
    seeds: int
    charts: Sequence[Chart | None]
    table: Table


def gather(work: Path) -> list[VerdictLoop]:
    """Return the values of each such file in a work folder.

    Args:
        work: the work folder.

    Raises:
        DataError: if a file is broken.
    """
    loops = []
    for path in sorted(work.glob(f"*/audit/{FILE}")):
        result = store.read_json(path)
        try:
            loops.append(_loop(result, path.parent.parent.name))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is not what benchmarks/verdict_loop.py writes ({error!r}).", path=path) from error
    return loops


def _loop(result: Mapping[str, Any], split: str) -> VerdictLoop:
    points = result["points"]
    base, *others = [one for one in points if not one["judged"]]
    judged: dict[str, list[Mapping[str, Any]]] = {}
    for one in points:
        if one["judged"]:
            judged.setdefault(str(one["reviewers"]), []).append(one)
    furthest = max((one["judged"] for one in points), default=0)
    charts = []
    for metric, title in _METRICS.items():
        series = {
            reviewers: [(0.0, float(base[metric])), *((one["judged"] / 1000, float(one[metric])) for one in theirs)]
            for reviewers, theirs in judged.items()
        }
        for one in others:  # a level to compare with
            series[str(one["reviewers"])] = [(0.0, float(one[metric])), (furthest / 1000, float(one[metric]))]
        charts.append(line_chart(title, series, x_label="thousand candidates judged"))
    rows = [
        [
            str(one["reviewers"]),
            f"{one['judged']:,}",
            f"{one['share_found']:.0%}" if one["judged"] else "",
            f"{one['wrong_matches']:,}" if one["judged"] else "",
            *(f"{one[metric]:.1f}" for metric in (*_METRICS, "rsum_own")),
        ]
        for one in points
    ]
    counts = {name: int(result[name]) for name in ("images", "captions", "false_negatives", "steps", "seeds")}
    return VerdictLoop(split, **counts, charts=charts, table=Table(_HEADER, rows))
