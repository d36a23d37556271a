"""The report's section on the way back: what training on verdicts was worth, by how many candidates were judged."""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from cusa.errors import DataError
from cusa.eval.report.charts import line_chart
from cusa.manifests import page
from cusa.manifests.storage import store

FILE = "verdict_loop.json"
"""In a split's `audit` folder; `benchmarks/verdict_loop.py` writes one."""

_METRICS = {"rsum_true": "RSUM under true positives", "r_precision_true": "R-Precision under true positives"}


def section(work: Path) -> Iterable[str]:
    """Give the section of each such file in a work folder, everything escaped.

    Args:
        work: the work folder.

    Raises:
        DataError: if a file is broken.
    """
    for path in sorted(work.glob(f"*/audit/{FILE}")):
        result = store.read_json(path)
        try:
            yield from _section(result, path.parent.parent.name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is not what benchmarks/verdict_loop.py writes ({error!r}).", path=path) from error


def _section(result: Mapping[str, Any], split: str) -> Iterable[str]:
    points = result["points"]
    nobody = [one for one in points if not one["judged"]]
    asked: dict[str, list[Mapping[str, Any]]] = {}
    for one in points:
        if one["judged"]:
            asked.setdefault(str(one["reviewers"]), []).append(one)
    base, *others = nobody
    furthest = max((one["judged"] for one in points), default=0)
    yield f"<h2>Trained on verdicts</h2><p>Simulated reviewers judged the candidates of {escape(split)} "
    yield f"({result['images']:,} images, {result['captions']:,} captions, "
    yield f"{result['false_negatives']:,} false negatives) in the audit's order; "
    yield f"their matches became positives of InfoNCE. Same recipe, seed and {result['steps']:,} steps; "
    yield f"{result['seeds']} training{'s' if result['seeds'] > 1 else ''} a point.</p>"
    charts = []
    for metric, title in _METRICS.items():
        series = {
            kind: [(0.0, float(base[metric])), *((one["judged"] / 1000, float(one[metric])) for one in found)]
            for kind, found in asked.items()
        }
        for one in others:  # a level to compare with
            series[str(one["reviewers"])] = [(0.0, float(one[metric])), (furthest / 1000, float(one[metric]))]
        charts.append(line_chart(title, series, x_label="thousand candidates judged"))
    yield f'<div class="charts">{"".join(charts)}</div>'
    rows = [
        [
            escape(str(one["reviewers"])),
            f"{one['judged']:,}",
            f"{one['share_found']:.0%}" if one["judged"] else "",
            f"{one['wrong_matches']:,}" if one["judged"] else "",
            *(f"{one[metric]:.1f}" for metric in (*_METRICS, "rsum_own")),
        ]
        for one in points
    ]
    header = ["reviewers", "judged", "false negatives found", "wrong matches", "RSUM, true", "R-P, true", "RSUM, own"]
    yield f'<div style="margin-top:14px">{page.table(header, rows)}</div>'
