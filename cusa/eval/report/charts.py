"""Small charts as inline SVG: where lines, dots and words stand; `charts.html.j2` draws them, without a script."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Points = Sequence[tuple[float, float]]
"""Points (x, y), x rising."""

_WIDTH, _HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 22, 12, 30
_CLOSE = 14  # SVG units between points whose labels would cover each other


@dataclass(frozen=True)
class Tick:
    """A number beside an axis, in SVG units."""

    x: float
    y: float
    words: str
    anchor: str
    """`start`, `middle` or `end` of the words stands at x."""


@dataclass(frozen=True)
class GridLine:
    """A straight line behind the chart, in SVG units."""

    x1: float
    y1: float
    x2: float
    y2: float
    dashed: bool = False


@dataclass(frozen=True)
class Line:
    """A line through points."""

    colour: int
    """Number of the colour, 0 to 3."""
    points: str
    """As SVG writes them: `x,y x,y`."""


@dataclass(frozen=True)
class Dot:
    """A dot, in SVG units; the words show where the pointer rests."""

    css_class: str
    x: float
    y: float
    radius: float
    words: str = ""
    label: str = ""
    """Stands beside it."""


@dataclass(frozen=True)
class Chart:
    """A chart ready to be drawn.

    Attributes:
        title: stands above it.
        label: the chart in words, for those who cannot see it.
        width: in SVG units.
        height: in SVG units.
        grid: behind everything.
        ticks: beside the axes.
        lines: over the grid.
        dots: over the lines.
        legend: colour number and name.
        unit: of the axes; empty for none.
    """

    title: str
    label: str
    width: int
    height: int
    grid: Sequence[GridLine]
    ticks: Sequence[Tick]
    lines: Sequence[Line] = ()
    dots: Sequence[Dot] = ()
    legend: Sequence[tuple[int, str]] = ()
    unit: str = ""


@dataclass(frozen=True)
class _Axes:
    """The area of a chart and what its edges stand for."""

    x: tuple[float, float]
    """Values at the left and right edge."""
    y: tuple[float, float]
    """Values at the lower and upper edge."""

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point stands, in SVG units."""
        across = _LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (self.y[1] - y) / (self.y[1] - self.y[0]) * (_HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    def grid(self, y_ticks: Sequence[float]) -> list[GridLine]:
        """Return a horizontal line at each tick."""
        heights = [self.at(self.x[0], tick)[1] for tick in y_ticks]
        return [GridLine(_LEFT, y, _WIDTH - _RIGHT, y) for y in heights]

    def ticks(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[Tick]:
        """Return the numbers of both axes; those of x only where the axis reaches them."""
        left = [Tick(_LEFT - 7, self.at(self.x[0], y)[1] + 3.5, _short(y), "end") for y in y_ticks]
        below = [
            Tick(self.at(x, self.y[0])[0], _HEIGHT - 12, _short(x), "middle")
            for x in x_ticks
            if self.x[0] <= x <= self.x[1]
        ]
        return left + below

    def line(self, colour: int, points: Points) -> Line:
        """Return a line through points."""
        return Line(colour, " ".join(f"{x},{y}" for x, y in (self.at(*point) for point in points)))


def line_chart(title: str, series: Mapping[str, Points], *, x_label: str = "step") -> Chart | None:
    """Draw named series over a common axis.

    Args:
        title: stands above the chart.
        series: name -> points; points that are not finite are left out, and so is a name without any, but it keeps
            its colour. The first four names have colours of their own.
        x_label: unit of x.

    Returns:
        The chart, its label with the last values; None if no point is left.
    """
    colour = {name: number % 4 for number, name in enumerate(series)}
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in series.items()
    }
    drawn = {name: points for name, points in finite.items() if points}
    if not drawn:
        return None
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    y_ticks = nice_ticks(min(ys), max(ys))
    axes = _Axes(x=(min(xs), max(max(xs), min(xs) + 1e-9)), y=(y_ticks[0], y_ticks[-1]))
    words = "; ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in drawn.items())
    return Chart(
        title,
        f"{title}: {words}",
        _WIDTH,
        _HEIGHT,
        grid=axes.grid(y_ticks),
        ticks=axes.ticks(nice_ticks(min(xs), max(xs)), y_ticks),
        lines=[axes.line(colour[name], points) for name, points in drawn.items()],
        legend=[(colour[name], name) for name in drawn],
        unit=x_label,
    )


class Point(NamedTuple):
    """A named point; the name shows where the pointer rests, the label stands beside a frontier's points."""

    x: float
    y: float
    name: str
    label: str = ""


def scatter_chart(
    title: str,
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    front: Sequence[int] = (),
    chosen: int | None = None,
) -> Chart:
    """Draw named points, and a line through those of a frontier.

    Args:
        title: stands above the chart.
        points: in any order.
        x_label: unit of x.
        y_label: unit of y.
        front: which points the frontier joins, x rising.
        chosen: the point that was chosen; it is larger, and labelled wherever it lies.
    """
    xs, ys = [point.x for point in points], [point.y for point in points]
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs)), nice_ticks(min(ys), max(ys))
    axes = _Axes(x=(x_ticks[0], x_ticks[-1]), y=(y_ticks[0], y_ticks[-1]))
    words = "; ".join(map(_in_words, (points[number] for number in front)))
    labelled = front if chosen is None or chosen in front else [*front, chosen]
    labels = _labels(points, labelled, axes)

    def colour(number: int) -> int:
        return 2 if number == chosen else int(number in front)

    return Chart(
        title,
        f"{title}: {words}",
        _WIDTH,
        _HEIGHT,
        grid=axes.grid(y_ticks),
        ticks=axes.ticks(x_ticks, y_ticks),
        lines=[axes.line(1, [points[number][:2] for number in front])] if len(front) > 1 else [],
        dots=[
            Dot(
                f"dot c{colour(number)}",
                *axes.at(point.x, point.y),
                8 if number == chosen else 5,
                _in_words(point) + (" (chosen)" if number == chosen else ""),
                labels.get(number, ""),
            )
            for number, point in enumerate(points)
        ],
        legend=[(1, "frontier"), (0, "others"), *([(2, "chosen")] if chosen is not None else [])],
        unit=f"{x_label} →, {y_label} ↑",
    )


def _labels(points: Sequence[Point], front: Sequence[int], axes: _Axes) -> dict[int, str]:
    """Return what stands beside the frontier's points; where they would cover each other, one has all their labels."""
    labels: dict[int, list[str]] = {}
    for number in front:
        x, y = axes.at(points[number].x, points[number].y)
        close = (other for other in labels if math.dist((x, y), axes.at(points[other].x, points[other].y)) < _CLOSE)
        labels.setdefault(next(close, number), []).append(points[number].label)
    return {number: ", ".join(filter(None, own)) for number, own in labels.items()}


def _in_words(point: Point) -> str:
    number = f"{point.label}. " if point.label else ""
    return f"{number}{point.name}: {point.x:.4g}, {point.y:.4g}"


def share_chart(title: str, points: Points, *, diagonal: bool = False) -> Chart:
    """Draw points between 0 and 1 as a line with dots.

    Args:
        title: stands above the chart, and is its label.
        points: shares by shares.
        diagonal: whether to draw where both are equal.
    """

    def at(x: float, y: float) -> tuple[float, float]:
        return round(30 + 260 * x, 1), round(170 - 155 * y, 1)

    marks = (0, 0.5, 1)
    places = [at(*point) for point in points]
    return Chart(
        title,
        title,
        300,
        194,
        grid=[GridLine(*at(0, y), *at(1, y)) for y in marks]
        + ([GridLine(*at(0, 0), *at(1, 1), dashed=True)] if diagonal else []),
        ticks=[Tick(2, round(174 - 155 * y), f"{y:g}", "start") for y in marks]
        + [Tick(round(30 + 260 * x), 188, f"{x:g}", "middle") for x in marks],
        lines=[Line(0, " ".join(f"{x:.1f},{y:.1f}" for x, y in places))],
        dots=[Dot("point", x, y, 2.5) for x, y in places],
    )


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers that enclose an interval, about `wanted` of them, at least two."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(wanted - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * number, 12) for number in range(first, max(last, first + 1) + 1)]


def _short(value: float) -> str:
    if value and (abs(value) >= 10_000 or abs(value) < 0.001):
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.5g}"
