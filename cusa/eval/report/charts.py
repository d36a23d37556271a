"""Small line charts as inline SVG: no script, no network, readable in light and dark."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Series = Sequence[tuple[float, float]]
"""Points (x, y), x rising."""

_WIDTH, _HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 22, 12, 30


def line_chart(title: str, series: Mapping[str, Series], *, x_label: str = "step") -> str:
    """Draw named series over a common axis.

    Args:
        title: stands above the chart.
        series: name -> points; points that are not finite are left out, and so is a name without any, but it keeps
            its colour. The first four names have colours of their own.
        x_label: unit of x.

    Returns:
        A `<figure>` with an SVG, a legend, and the last values in words for those who cannot see it.
    """
    kept = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in series.items()
    }
    place = {name: number % 4 for number, name in enumerate(series)}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    xs = [x for points in kept.values() for x, _ in points]
    ys = [y for points in kept.values() for _, y in points]
    ticks = nice_ticks(min(ys), max(ys))
    x_ticks = nice_ticks(min(xs), max(xs))
    low, high = ticks[0], ticks[-1]
    left, right = min(xs), max(max(xs), min(xs) + 1e-9)

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    parts = []
    for tick in ticks:
        _, y = at(left, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{_WIDTH - _RIGHT}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 3.5}" text-anchor="end">{_short(tick)}</text>')
    for tick in x_ticks:
        if left <= tick <= right:
            x, _ = at(tick, low)
            parts.append(f'<text class="tick" x="{x}" y="{_HEIGHT - 12}" text-anchor="middle">{_short(tick)}</text>')
    for name, points in kept.items():
        path = " ".join(f"{x},{y}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline class="line c{place[name]}" points="{path}"/>')
    legend = "".join(f'<span class="key c{place[name]}">{escape(name)}</span>' for name in kept)
    words = "; ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in kept.items())
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}: {escape(words)}">'
        f"{''.join(parts)}</svg>"
        f'<div class="legend">{legend}<span class="unit">{escape(x_label)}</span></div></figure>'
    )


def scatter_chart(
    title: str,
    points: Sequence[tuple[float, float, str]],
    *,
    x_label: str,
    y_label: str,
    front: Sequence[int] = (),
) -> str:
    """Draw named points, and a line through those of a frontier.

    Args:
        title: stands above the chart.
        points: x, y, name; the name shows where the pointer rests, and stands in the list of the frontier.
        x_label: unit of x.
        y_label: unit of y.
        front: which points the frontier joins, x rising.
    """
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs)), nice_ticks(min(ys), max(ys))

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (y_ticks[-1] - y) / (y_ticks[-1] - y_ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    parts = []
    for tick in y_ticks:
        _, y = at(x_ticks[0], tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{_WIDTH - _RIGHT}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 3.5}" text-anchor="end">{_short(tick)}</text>')
    for tick in x_ticks:
        x, _ = at(tick, y_ticks[0])
        parts.append(f'<text class="tick" x="{x}" y="{_HEIGHT - 12}" text-anchor="middle">{_short(tick)}</text>')
    if len(front) > 1:
        path = " ".join(f"{x},{y}" for x, y in (at(*points[number][:2]) for number in front))
        parts.append(f'<polyline class="line c1" points="{path}"/>')
    for number, (x, y, name) in enumerate(points):
        across, down = at(x, y)
        kind = "dot c1" if number in front else "dot c0"
        parts.append(
            f'<circle class="{kind}" cx="{across}" cy="{down}" r="5"><title>{escape(name)}: {x:.4g}, {y:.4g}</title>'
            "</circle>"
        )
    words = "; ".join(f"{points[number][2]}: {points[number][0]:.4g}, {points[number][1]:.4g}" for number in front)
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}: {escape(words)}">'
        f"{''.join(parts)}</svg>"
        f'<div class="legend"><span class="key c1">frontier</span><span class="key c0">others</span>'
        f'<span class="unit">{escape(x_label)} →, {escape(y_label)} ↑</span></div></figure>'
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
