"""The page of a blend: the new task against each guard, and every point in a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cusa.eval.report import charts
from cusa.eval.report.sweep import frontier
from cusa.eval.tasks import definitions
from cusa.manifests.pages import Figure, Table


@dataclass(frozen=True)
class Page:
    """What the page shows."""

    base: str
    run: str
    parents: Table
    figures: Sequence[Figure]
    charts: Sequence[charts.Chart]
    table: Table
    notes: Sequence[str]
    definitions: Sequence[definitions.Definition]


def gather(result: Mapping[str, Any]) -> Page:
    """Return the page's values.

    Args:
        result: what `blend.json` holds.
    """
    measures, points = result["measures"], result["points"]
    parents = [
        ("base (alpha 0)", result["base"], result["base_digest"]),
        ("run (alpha 1)", result["run"], result["run_digest"]),
    ]
    return Page(
        base=result["base"],
        run=result["run"],
        parents=Table(("model", "name", "SHA-256"), parents, words=(0, 1, 2)),
        figures=_figures(result),
        charts=_charts(measures, points, (result["chosen"] or {}).get("point")),
        table=table(result),
        notes=result["notes"],
        definitions=definitions.of(one["metric"] for one in measures),
    )


def table(result: Mapping[str, Any]) -> Table:
    """Return every point with its numbers and intervals; `*` marks the frontier of all of them."""
    chosen = (result["chosen"] or {}).get("point")
    rows = []
    for number, point in enumerate(result["points"]):
        cells = [
            f"{value:.1f}" + (f" ({span[0]:.1f} to {span[1]:.1f})" if span else "")
            for value, span in zip(point["values"], point["intervals"], strict=True)
        ]
        marks = ["frontier" if point["frontier"] else "", "chosen" if number == chosen else ""]
        rows.append([f"{point['alpha']:g}", *cells, ", ".join(filter(None, marks))])
    titles = [one["title"] for one in result["measures"]]
    terms = {at: definitions.term(one["metric"], one["title"]) for at, one in enumerate(result["measures"], 1)}
    return Table(["alpha", *titles, ""], rows, words=(len(titles) + 1,), terms=terms)


def _figures(result: Mapping[str, Any]) -> list[Figure]:
    """Return the chosen point's numbers, each beside the base's and the run's."""
    if result["chosen"] is None:
        return []
    points = result["points"]
    chosen = points[result["chosen"]["point"]]
    ends = [(words, one) for at, words in ((0.0, "base"), (1.0, "run")) for one in points if one["alpha"] == at]
    figures = [Figure("alpha", f"{chosen['alpha']:g}", f"chosen: {result['chosen']['rule']}")]
    for place, measure in enumerate(result["measures"]):
        note = ", ".join(f"{words} {one['values'][place]:.1f}" for words, one in ends)
        figures.append(Figure(measure["title"], f"{chosen['values'][place]:.1f}", note))
    return figures


def _charts(
    measures: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]], chosen: int | None
) -> list[charts.Chart]:
    """Return a chart a guard; without one, the new task over alpha."""
    new = measures[0]["title"]
    if len(measures) == 1:
        drawn = charts.line_chart(
            f"{new} over alpha", {new: [(one["alpha"], one["values"][0]) for one in points]}, x_label="alpha"
        )
        return [drawn] if drawn is not None else []
    made = []
    for place, guard in enumerate(measures[1:], 1):
        dots = [charts.Point(one["values"][place], one["values"][0], "alpha", f"{one['alpha']:g}") for one in points]
        front = frontier([(dot.x, dot.y) for dot in dots])
        made.append(
            charts.scatter_chart(
                f"New task and guard: {guard['title']}",
                dots,
                x_label=guard["title"],
                y_label=new,
                front=front,
                chosen=chosen,
            )
        )
    return made
