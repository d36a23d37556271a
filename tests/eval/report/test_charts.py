"""Charts: where points stand, from the numbers on the axes; what is no number or no plain word stays out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.eval.report import charts
from cusa.eval.report.charts import Chart, Point, line_chart, nice_ticks, scatter_chart, share_chart
from cusa.manifests.pages import environment
from tests.eval.report.test_stage import Tags


def _drawn(chart: Chart | None) -> str:
    template = '{% import "eval/report/charts.html.j2" as drawn %}{{ drawn.charts([chart]) }}'
    return environment().from_string(template).render(chart=chart)


def _scale(chart: Chart, anchor: str, axis: str) -> np.ndarray:
    """Read an axis as a person does: from its numbers and where they stand; value = slope * place + offset."""
    ticks = [tick for tick in chart.ticks if tick.anchor == anchor]
    return np.polyfit([getattr(tick, axis) for tick in ticks], [float(tick.words) for tick in ticks], 1)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_nice_ticks__enclose_the_interval_evenly(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    assert 2 <= len(ticks) <= 12
    step = ticks[1] - ticks[0]
    slack = 1e-6 * max(step, abs(low), 1)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + width - slack
    assert np.allclose(np.diff(ticks), step, rtol=1e-6, atol=1e-9)


def test_line_chart__leaves_out_what_is_no_number_and_escapes_names() -> None:
    html = _drawn(line_chart("a < b", {"<run>": [(0, 1.0), (1, float("nan")), (2, 3.0)], "empty": []}))
    assert "&lt;run&gt;" in html
    assert "<run>" not in html
    assert "nan" not in html
    assert "empty" not in html
    assert html.count("<polyline") == 1
    assert line_chart("nothing", {"x": [(0, float("inf"))]}) is None
    assert "figure" not in _drawn(None)


def test_line_chart__points_stand_where_the_axes_say_and_keep_their_colours() -> None:
    series = {"gone": [], "kept": [(10.0, 2.0), (20.0, 8.0), (40.0, 4.0)]}
    chart = line_chart("loss", series)
    assert chart is not None
    (line,) = chart.lines
    assert line.colour == 1
    assert chart.legend == [(1, "kept")]
    assert chart.label == "loss: kept ends at 4"
    places = np.array([[float(value) for value in pair.split(",")] for pair in line.points.split()])
    x = np.polyval(_scale(chart, "middle", "x"), places[:, 0])
    y = np.polyval(_scale(chart, "end", "y"), places[:, 1] + 3.5)  # numbers stand a little below their line
    assert np.column_stack([x, y]) == pytest.approx(np.array(series["kept"]), abs=0.1)


def test_scatter_chart__joins_the_frontier_and_names_every_point() -> None:
    points = [Point(1.0, 9.0, "<a>"), Point(5.0, 5.0, "b"), Point(2.0, 2.0, "c")]
    chart = scatter_chart("both", points, x_label="x", y_label="y", front=[0, 1])
    places = {dot.words: f"{dot.x},{dot.y}" for dot in chart.dots}
    assert list(places) == ["<a>: 1, 9", "b: 5, 5", "c: 2, 2"]
    assert chart.lines == [charts.Line(1, f"{places['<a>: 1, 9']} {places['b: 5, 5']}")]
    page = Tags(_drawn(chart))
    assert [attributes["class"] for tag, attributes in page.tags if tag == "circle"] == ["dot c1", "dot c1", "dot c0"]
    assert "<a>: 1, 9" in page.words
    numbered = scatter_chart(
        "both", [point._replace(label="7") for point in points], x_label="x", y_label="y", front=[0]
    )
    assert [(dot.words.partition(".")[0], dot.label) for dot in numbered.dots] == [("7", "7"), ("7", ""), ("7", "")]
    assert _drawn(numbered).count(">7</text>") == 1
    near = [Point(1.0, 9.0, "a", "1"), Point(1.001, 9.0, "b", "2"), Point(5.0, 5.0, "c", "3")]
    assert [dot.label for dot in scatter_chart("", near, x_label="", y_label="", front=[0, 1, 2]).dots] == [
        "1, 2",
        "",
        "3",
    ]


@pytest.mark.parametrize("front", [[0, 1], [0, 1, 2]])
def test_scatter_chart__the_chosen_point_is_marked_on_the_frontier_and_off_it(front: list[int]) -> None:
    points = [Point(1.0, 9.0, "a", "0"), Point(5.0, 5.0, "b", "1"), Point(2.0, 2.0, "c", "2")]
    chart = scatter_chart("both", points, x_label="x", y_label="y", front=front, chosen=2)
    assert [dot.css_class for dot in chart.dots] == ["dot c1", "dot c1", "dot c2"]
    assert chart.dots[2].radius > chart.dots[0].radius
    assert [dot.label for dot in chart.dots] == ["0", "1", "2"]
    assert chart.dots[2].words == "2. c: 2, 2 (chosen)"
    assert (2, "chosen") in chart.legend


def test_share_chart__corners_of_the_unit_square_stand_on_its_grid() -> None:
    chart = share_chart("shares", [(0, 0), (1, 1)], diagonal=True)
    (dashed,) = [line for line in chart.grid if line.dashed]
    assert [(dot.x, dot.y) for dot in chart.dots] == [(dashed.x1, dashed.y1), (dashed.x2, dashed.y2)]
    assert not [line for line in share_chart("shares", [(0, 0)]).grid if line.dashed]
