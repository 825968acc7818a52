"""Line charts as SVG, for Duotone's HTML pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from duotone.evaluate.page import safe

WIDTH, HEIGHT, MARGIN = 560, 220, 44
TOP, BOTTOM, RIGHT = 12, 24, 8
COLOURS = ("#a8315f", "#3b6fb6", "#3f8f5b", "#c9822b")
STYLE = """
figure.chart { display: inline-block; margin: 0 1rem 1.5rem 0; max-width: 100%; }
figure.chart svg { max-width: 100%; height: auto; } figure.chart figcaption { font-weight: 600; }
figure.chart .key { font-size: 13px; margin-right: 1rem; }
"""

Point = tuple[float, float]


def chart(title: str, lines: Mapping[str, Sequence[Point]], log_axis: bool = False) -> str:
    """A figure with a line for each name (at most four); empty if there are no points.

    With `log_axis` the points' second numbers are decimal logarithms, and the axis shows the values.
    """
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    xs, ys = zip(*points, strict=True)
    span = _span(xs), _span(ys)
    shown = list(zip(lines.items(), COLOURS, strict=False))
    drawn = "".join(_line([_place(point, span) for point in line], colour) for (_, line), colour in shown)
    legend = "".join(f"<span class=key style='color:{colour}'>{safe(name)}</span>" for (name, _), colour in shown)
    return (
        f"<figure class=chart><figcaption>{safe(title)}</figcaption>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width={WIDTH} height={HEIGHT}>{_axes(span, log_axis)}{drawn}</svg>"
        f"<div>{legend}</div></figure>\n"
    )


def thin(points: Sequence[Point], count: int) -> list[Point]:
    """At most `count` points, each the mean of neighbours."""
    size = max(1, -(-len(points) // count))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _span(values: Sequence[float]) -> Point:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _place(point: Point, span: tuple[Point, Point]) -> Point:
    """Pixel coordinates of a point."""
    (left, right), (low, high) = span
    x = MARGIN + (point[0] - left) / (right - left) * (WIDTH - MARGIN - RIGHT)
    y = HEIGHT - BOTTOM - (point[1] - low) / (high - low) * (HEIGHT - BOTTOM - TOP)
    return x, y


def _line(places: Sequence[Point], colour: str) -> str:
    """A line through the points; a dot if there is only one."""
    if len(places) == 1:
        return f"<circle r=3 fill='{colour}' cx={places[0][0]:.1f} cy={places[0][1]:.1f} />"
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f"<polyline fill=none stroke='{colour}' stroke-width=1.6 points='{text}'/>"


def _axes(span: tuple[Point, Point], log_axis: bool) -> str:
    (left, right), (low, high) = span
    parts = []
    for value in (low, (low + high) / 2, high):
        _, y = _place((left, value), span)
        parts.append(f"<line x1={MARGIN} x2={WIDTH - RIGHT} y1={y} y2={y} stroke='var(--line)'/>")
        parts.append(_label(MARGIN - 6, y + 4, "end", f"{10**value if log_axis else value:.3g}"))
    parts.append(_label(MARGIN, HEIGHT - 6, "start", f"step {left:,.0f}"))
    parts.append(_label(WIDTH - RIGHT, HEIGHT - 6, "end", f"{right:,.0f}"))
    return "".join(parts)


def _label(x: float, y: float, anchor: str, text: str) -> str:
    return f"<text x={x} y={y} text-anchor={anchor} font-size=11 fill='var(--soft)'>{text}</text>"
