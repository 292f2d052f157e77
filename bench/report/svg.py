"""Plots as SVG text: lines over a logarithmic axis, and bars with segments. Pure; no dependency.

Colours of text and lines come from the page (`currentColor`), so that a dark page shows them too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import msgspec

WIDTH = 720
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 26, 44
BAR_HEIGHT, BAR_GAP, GROUP_GAP = 15, 3, 16
LABELS = 190
GRID = 'stroke="currentColor" stroke-opacity="0.15"'


class Line(msgspec.Struct, frozen=True):
    """Points (x, y) of one contender, ascending in x."""

    title: str
    colour: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False


class Bar(msgspec.Struct, frozen=True):
    """One bar of segments (value, opacity); `note` stands behind it."""

    title: str
    colour: str
    segments: tuple[tuple[float, float], ...]
    note: str


class Group(msgspec.Struct, frozen=True):
    """Bars that belong together."""

    title: str
    bars: tuple[Bar, ...]


def line_plot(lines: Sequence[Line], x_title: str, y_title: str, log_y: bool = False, height: int = 300) -> str:
    """Lines over a logarithmic x; "" where there is nothing to draw."""
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    xs = sorted({x for x, _ in points})
    low_y, high_y = (min(y for _, y in points), max(y for _, y in points)) if log_y else (0, max(y for _, y in points))
    ticks = log_ticks(low_y, high_y) if log_y else linear_ticks(high_y)
    x_at = _log_scale(xs[0], xs[-1], LEFT, WIDTH - RIGHT)
    bottom = height - BOTTOM
    y_at = _log_scale(ticks[0], ticks[-1], bottom, TOP) if log_y else _linear_scale(ticks[-1], bottom, TOP)
    parts = [_horizontal(y_at(tick), number(tick)) for tick in ticks]
    parts += [_text(x_at(x), bottom + 16, number(x), "middle") for x in _spread(xs)]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, height - 6, x_title, "middle", faint=True))
    parts.append(_text(4, TOP - 14, y_title, "start", faint=True))
    for line in lines:
        drawn = [(x_at(x), y_at(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>')
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{line.colour}">'
            f"<title>{escape(line.title)}: {number(y)} at {number(x)}</title></circle>"
            for (px, py), (x, y) in zip(drawn, line.points, strict=True)
        ]
    return _svg(height, parts) + legend([(line.title, line.colour, line.dashed) for line in lines])


def bar_plot(groups: Sequence[Group], unit: str) -> str:
    """Horizontal bars in groups, each group by its own largest bar; "" where there is nothing to draw."""
    parts, y = [], 4.0
    for group in groups:
        largest = max((sum(value for value, _ in bar.segments) for bar in group.bars), default=0)
        if not largest:
            continue
        parts.append(_text(0, y + 11, f"{group.title}, {unit}", "start", bold=True))
        y += 20
        for bar in group.bars:
            parts += _bar(bar, y, (WIDTH - LABELS - 150) / largest)
            y += BAR_HEIGHT + BAR_GAP
        y += GROUP_GAP
    return _svg(round(y), parts) if parts else ""


def _bar(bar: Bar, y: float, scale: float) -> list[str]:
    parts, x = [_text(LABELS - 8, y + 12, bar.title, "end")], float(LABELS)
    for value, opacity in bar.segments:
        width = max(value * scale, 0)
        place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR_HEIGHT}"'
        parts.append(f'<rect {place} fill="{bar.colour}" fill-opacity="{opacity:g}"/>')
        x += width
    return [*parts, _text(x + 6, y + 12, bar.note, "start")]


def legend(entries: Sequence[tuple[str, str, bool]]) -> str:
    """Titles with their colours, as HTML."""
    items = "".join(
        f'<span><i style="border-top:3px {"dashed" if dashed else "solid"} {colour}"></i>{escape(title)}</span>'
        for title, colour, dashed in entries
    )
    return f'<p class="legend">{items}</p>'


def linear_ticks(high: float) -> list[float]:
    """From 0 in steps of 1, 2 or 5 times a power of ten, the last at or above `high`."""
    if high <= 0:
        return [0, 1]
    power = 10 ** math.floor(math.log10(high / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if high / (power * factor) <= 5)
    return [round(step * count, 10) for count in range(math.ceil(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from at or below `low` to at or above `high`."""
    low = max(low, 1e-3)
    candidates = [factor * 10.0**power for power in range(-3, 9) for factor in (1, 2, 5)]
    start = max((index for index, tick in enumerate(candidates) if tick <= low * 1.0001), default=0)
    end = next((index for index, tick in enumerate(candidates) if tick >= high * 0.9999), len(candidates) - 1)
    return candidates[start : max(end, start + 1) + 1]


def number(value: float) -> str:
    """A figure in few letters: 12.3k, 4.5M."""
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def _spread(xs: Sequence[float]) -> list[float]:
    """Those that have room for a label each."""
    if len(xs) <= 8:
        return list(xs)
    step = math.ceil(len(xs) / 8)
    return list(xs[::step])


class _Scale(msgspec.Struct, frozen=True):
    """Values to pixels."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool

    def __call__(self, value: float) -> float:
        if self.is_log:
            span = math.log(self.high / self.low) or 1
            share = math.log(max(value, self.low) / self.low) / span if self.high > self.low else 0.5
        else:
            share = value / self.high if self.high else 0
        return self.start + share * (self.end - self.start)


def _log_scale(low: float, high: float, start: float, end: float) -> _Scale:
    return _Scale(max(low, 1e-9), max(high, 1e-9), start, end, True)


def _linear_scale(high: float, start: float, end: float) -> _Scale:
    return _Scale(0, high, start, end, False)


def _horizontal(y: float, label: str) -> str:
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" {GRID}/>'
    return line + _text(LEFT - 6, y + 4, label, "end")


def _text(x: float, y: float, text: str, anchor: str, bold: bool = False, faint: bool = False) -> str:
    style = (' font-weight="600"' if bold else "") + (' fill-opacity="0.65"' if faint else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _svg(height: int, parts: Sequence[str]) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" font-size="12" fill="currentColor">{body}</svg>'
