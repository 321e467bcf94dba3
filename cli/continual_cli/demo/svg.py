"""Line charts as inline SVG: no script, no font, no host; colours are CSS variables, so that light and dark both read.

A panel is a list of marks over one time axis. All texts are escaped here, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1080, 56, 16, 26, 24
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axes:
    """Where values fall on paper: seconds to x, values to y."""

    seconds: float
    low: float
    high: float
    height: int

    def x(self, second: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * second / max(self.seconds, 1e-9)

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.height - BOTTOM - (self.height - TOP - BOTTOM) * share


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(content)}</text>'


def line(axes: Axes, points: Points, css: str) -> str:
    path = " ".join(f"{axes.x(s):.1f},{axes.y(v):.1f}" for s, v in points if math.isfinite(v))
    return f'<polyline points="{path}" class="line {css}"/>'


def dots(axes: Axes, points: Points, css: str, title: Callable[[float, float], str]) -> str:
    """Points one can hover: the title is the tooltip."""
    return "".join(
        f'<circle cx="{axes.x(s):.1f}" cy="{axes.y(v):.1f}" r="3" class="dot {css}"><title>{escape(title(s, v))}</title></circle>'
        for s, v in points
        if math.isfinite(v)
    )


def area(axes: Axes, lower: Points, upper: Points, css: str) -> str:
    edge = [*upper, *reversed(lower)]
    path = " ".join(f"{axes.x(s):.1f},{axes.y(v):.1f}" for s, v in edge)
    return f'<polygon points="{path}" class="area {css}"/>'


def band(axes: Axes, start: float, end: float, names: tuple[str, str], css: str) -> str:
    """A shaded stretch of time with its two-line name on top, when there is room, and as a tooltip always."""
    left, width = axes.x(start), max(axes.x(end) - axes.x(start), 1.0)
    label, room = " ".join(names), width > 6.0 * max(map(len, names))
    name = "".join(text(left + 3, TOP + 11 + 12 * row, told, "small") for row, told in enumerate(names) if room)
    return (
        f'<rect x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="{axes.height - TOP - BOTTOM}" class="band {css}">'
        f"<title>{escape(label)}, {start:.0f} to {end:.0f} s</title></rect>{name}"
    )


def moment(axes: Axes, second: float, label: str, css: str) -> str:
    x = axes.x(second)
    return (
        f'<g class="moment {css}"><line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{axes.height - BOTTOM}"/>'
        f'<circle cx="{x:.1f}" cy="{TOP - 6}" r="4"/><title>{escape(f"{second:.0f} s: {label}")}</title></g>'
    )


def level(axes: Axes, value: float, label: str) -> str:
    """A horizontal line that means something: a threshold."""
    y = axes.y(value)
    return f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="level"/>' + text(
        WIDTH - RIGHT - 4, y - 5, label, "small", "end"
    )


def panel(axes: Axes, title: str, marks: Sequence[str], ticks: Sequence[float], spell: Callable[[float], str]) -> str:
    """One chart: grid, ticks, marks, title."""
    grid = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{axes.y(v):.1f}" y2="{axes.y(v):.1f}" class="grid"/>'
        + text(LEFT - 8, axes.y(v) + 4, spell(v), "tick", "end")
        for v in ticks
    )
    seconds = "".join(
        text(axes.x(s), axes.height - 8, f"{s} s", "tick", "middle")
        for s in range(0, int(axes.seconds) + 1, _second_step(axes.seconds))
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {axes.height}" role="img" aria-label="{escape(title)}">'
        f"{grid}{seconds}{''.join(marks)}</svg>"
    )


def _second_step(seconds: float) -> int:
    return next(step for step in (5, 10, 20, 30, 60, 120, 300, 600, 3600) if seconds / step <= 14 or step == 3600)
