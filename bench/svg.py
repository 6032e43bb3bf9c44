"""Bar charts as SVG, made by hand: horizontal bars with their spread, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 760
LEFT: Final = 250
RIGHT: Final = 110
BAR: Final = 16
GAP: Final = 6
GROUP_GAP: Final = 18
TOP: Final = 52
BOTTOM: Final = 30
COLOURS: Final = ("#2f6fdb", "#d9822b", "#a8a29a", "#8a5cc2", "#3c9d6b")
STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#57606a}.title{font-weight:600;font-size:14px}.value{font-size:11px}"
    ".axis{stroke:#8c959f;stroke-opacity:.35}.spread{stroke:#57606a;stroke-width:1.2}"
    "@media(prefers-color-scheme:dark){text{fill:#9da7b3}.spread{stroke:#9da7b3}}"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One value with the lowest and highest of its rounds. `series` gives it its colour."""

    label: str
    series: int
    median: float
    low: float
    high: float
    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that stand together."""

    label: str
    bars: tuple[Bar, ...]


def bar_chart(title: str, unit: str, groups: Sequence[Group]) -> str:
    """The SVG document. Values start at zero; the thin line is the spread of the rounds."""
    rows = sum(len(group.bars) for group in groups)
    height = TOP + rows * (BAR + GAP) + (len(groups) - 1) * GROUP_GAP + BOTTOM
    step = _step(max(bar.high for group in groups for bar in group.bars))
    most = step * math.ceil(max(bar.high for group in groups for bar in group.bars) / step)
    scale = (WIDTH - LEFT - RIGHT) / most
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="12" y="20">{escape(title)}</text>',
        *_axis(step, most, scale, height, unit),
    ]
    y = TOP
    for group in groups:
        if group.label:
            parts.append(f'<text x="12" y="{y + 13}">{escape(group.label)}</text>')
        for bar in group.bars:
            parts += _bar(bar, y, scale)
            y += BAR + GAP
        y += GROUP_GAP
    return "\n".join([*parts, "</svg>", ""])


def _axis(step: float, most: float, scale: float, height: int, unit: str) -> list[str]:
    lines = []
    for number in range(round(most / step) + 1):
        x = LEFT + number * step * scale
        lines.append(f'<line class="axis" x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - BOTTOM}"/>')
        label = f"{number * step:,.10g}"
        lines.append(f'<text class="value" x="{x:.1f}" y="{height - 12}" text-anchor="middle">{label}</text>')
    lines.append(f'<text class="value" x="{WIDTH - 12}" y="{height - 12}" text-anchor="end">{escape(unit)}</text>')
    return lines


def _bar(bar: Bar, y: int, scale: float) -> list[str]:
    end, low, high = (LEFT + value * scale for value in (bar.median, bar.low, bar.high))
    middle = y + BAR / 2
    colour = COLOURS[bar.series % len(COLOURS)]
    return [
        f'<text class="value" x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect x="{LEFT}" y="{y}" width="{max(end - LEFT, 0.5):.1f}" height="{BAR}" rx="2" fill="{colour}"/>',
        f'<line class="spread" x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}"/>',
        f'<text class="value" x="{max(end, high) + 6:.1f}" y="{y + 13}">{escape(bar.text)}</text>',
    ]


def _step(most: float) -> float:
    """The distance of the axis's marks: 1, 2 or 5 times a power of ten, at most seven of them."""
    if most <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(most / 5))
    return next(power * factor for factor in (1.0, 2.0, 5.0, 10.0) if most / (power * factor) <= 7)
