"""Line charts as SVG, written by hand: a picture that opens everywhere and needs no library."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from quire.commands import console

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 40, 46
COLOR = "#2563a8"

Points = Sequence[tuple[float, float]]


@dataclass
class Panel:
    """One chart."""

    title: str
    x_label: str
    y_label: str
    points: Points
    """In order of x."""


def shares(title: str, label: str, values: Sequence[float]) -> Panel:
    """How many percent of the values are at most x: a step at each of them."""
    ordered = sorted(values)
    points = []
    for index, value in enumerate(ordered):
        points += [(value, 100 * index / len(ordered)), (value, 100 * (index + 1) / len(ordered))]
    return Panel(title, label, "% of all, at most", points)


def rate_over_time(title: str, label: str, times: Sequence[float], num_bins: int = 30) -> Panel:
    """How many events there were per second, from 0 to the last of the times."""
    if not times or max(times) <= 0:
        return Panel(title, "seconds", label, [])
    width = max(times) / num_bins
    counts = [0] * num_bins
    for time in times:
        counts[min(num_bins - 1, int(time / width))] += 1
    return Panel(
        title, "seconds", label, [((index + 0.5) * width, count / width) for index, count in enumerate(counts)]
    )


def write_plot(path: str | None, title: str, panels: Sequence[Panel]) -> None:
    """Draw panels, two in a row, if a file was named."""
    if path is None:
        return
    with open(os.path.expanduser(path), "w", encoding="utf-8") as file:
        file.write(draw(title, panels))
    console.note(f"plot is in {path}")


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The text of the SVG file."""
    columns = min(2, len(panels))
    width, height = columns * WIDTH, 36 + math.ceil(len(panels) / columns) * HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for index, panel in enumerate(panels):
        parts.append(f'<g transform="translate({index % columns * WIDTH},{36 + index // columns * HEIGHT})">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> list[str]:
    parts = [f'<text x="{LEFT}" y="{TOP - 12}" font-size="12">{escape(panel.title)}</text>']
    if not panel.points:
        return [*parts, f'<text x="{LEFT}" y="{HEIGHT / 2}">nothing was measured</text>']
    x_ticks = ticks(min(0.0, min(x for x, _ in panel.points)), max(x for x, _ in panel.points))
    y_ticks = ticks(0.0, max(y for _, y in panel.points))

    def x_place(x: float) -> float:
        return LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH - LEFT - RIGHT)

    def y_place(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)

    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for x in x_ticks:
        parts.append(f'<path d="M{x_place(x):.1f} {TOP}V{bottom}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{x_place(x):.1f}" y="{bottom + 15}" text-anchor="middle">{x:g}</text>')
    for y in y_ticks:
        parts.append(f'<path d="M{LEFT} {y_place(y):.1f}H{right}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y_place(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    line = " ".join(f"{x_place(x):.1f},{y_place(y):.1f}" for x, y in panel.points)
    middle = (TOP + bottom) / 2
    return [
        *parts,
        f'<polyline points="{line}" fill="none" stroke="{COLOR}" stroke-width="1.6" stroke-linejoin="round"/>',
        f'<text x="{(LEFT + right) / 2}" y="{bottom + 32}" text-anchor="middle">{escape(panel.x_label)}</text>',
        f'<text transform="translate(14,{middle})rotate(-90)" text-anchor="middle">{escape(panel.y_label)}</text>',
    ]


def ticks(least: float, most: float, wanted: int = 5) -> list[float]:
    """Round numbers at equal distances that enclose a range."""
    span = (most - least) or abs(most) or 1.0
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]
