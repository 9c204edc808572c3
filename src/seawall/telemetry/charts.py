"""Charts of what was measured, drawn as SVG: lines or stacked areas over time, with what happened marked on them.

They are drawn for the eye at 3 AM and for paper: no script, nothing from elsewhere, light and dark by the reader's
choice. A chart is drawn for one width; where it may be read on a phone, it is drawn twice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Final

LETTER: Final = 0.56
"""How wide a letter is on average, in parts of the font's size: what is laid out cannot be measured here."""
FONT: Final = 12.0
LEAST: Final = 1e-6
DECADES_MAX: Final = 6
"""A logarithmic axis goes no lower than this, and so far down from its top: what is less lies on the floor."""
STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
"""Stretches of time that people count in."""

PALETTE: Final = {
    "ink": ("#1f2328", "#e6edf3"),
    "quiet": ("#59636e", "#9aa4af"),
    "grid": ("#d8dee4", "#30363d"),
    "shade": ("#fbeee2", "#2b2119"),
    "paper": ("#ffffff", "#0f1319"),
    "good": ("#0b7a55", "#3fbf8f"),
    "warn": ("#c77700", "#e3a13a"),
    "bad": ("#c62828", "#ff7b72"),
    "blue": ("#1f5fbf", "#6ea8fe"),
    "violet": ("#7b43b5", "#bc8cff"),
    "teal": ("#0f7f8f", "#4cc3d3"),
    "grey": ("#7d8590", "#8b949e"),
    "brown": ("#8a5a2b", "#c99a66"),
}
"""Colours by what they stand for, in light and in dark. As classes: not all that shows SVG knows variables."""


def style(*, dark: bool | None = None) -> str:
    """Return what a page with charts needs once. `dark` None: as the reader's screen is."""
    light_rules, dark_rules = (
        "".join(
            f".chart .f-{name} {{ fill: {colours[which]}; }} .chart .s-{name} {{ stroke: {colours[which]}; }}\n"
            for name, colours in PALETTE.items()
        )
        for which in (0, 1)
    )
    if dark is not None:
        return LAYOUT + (dark_rules if dark else light_rules)
    return f"{LAYOUT}{light_rules}@media (prefers-color-scheme: dark) {{\n{dark_rules}}}\n"


LAYOUT: Final = """
.chart { font-family: system-ui, sans-serif; font-size: 12px; }
.chart .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.chart .area { stroke: none; fill-opacity: .85; }
.chart .title { font-weight: 600; font-size: 13.5px; }
.chart .mark { stroke-dasharray: 3 3; }
.chart .number { font-weight: 700; font-size: 11px; text-anchor: middle; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One thing over time: a value for each moment of the chart, None where nothing was measured."""

    name: str
    colour: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A moment worth a line: `number` stands on it, and in the page's list of what happened."""

    at_s: float
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn: series over `moments` (wall clock, seconds).

    `unit` names the values (`/s`, `s`, `%`, or nothing); `is_stacked` draws areas on top of each other, in order;
    `is_logarithmic` is for what spans powers of ten; `shaded` is a stretch of time to see at a glance.
    """

    title: str
    moments: Sequence[float]
    series: Sequence[Series]
    unit: str = ""
    marks: Sequence[Mark] = ()
    shaded: tuple[float, float] | None = None
    is_stacked: bool = False
    is_logarithmic: bool = False


def draw(chart: Chart, *, width: int = 860, height: int = 230, own_style: str = "") -> str:
    """Return the chart as SVG; with its own style it stands alone, else it is for a page that has it."""
    return _Drawing(chart, width=width, height=height).svg(own_style=own_style)


def ticks(top: float, most: int = 6) -> list[float]:
    """Return round numbers from 0 up to `top`, at most `most` steps.

    >>> ticks(95.0)
    [0, 20, 40, 60, 80]
    >>> ticks(0.05, 3)
    [0.0, 0.02, 0.04]
    """
    steps = (digit * 10**power for power in range(-6, 13) for digit in (1, 2, 5))
    step = next((step for step in steps if top / step <= most), 10**13)
    return [round(number * step, 9) for number in range(int(top / step + 1e-9) + 1)]


def moments_between(first_s: float, last_s: float, most: int) -> list[float]:
    """Return round moments in a stretch of time, at most about `most`.

    >>> moments_between(3.0, 62.0, 4)
    [15, 30, 45, 60]
    """
    span = last_s - first_s
    step = next((step for step in STEPS_S if span / step <= most), STEPS_S[-1] * math.ceil(span / STEPS_S[-1] / most))
    return [number * step for number in range(math.ceil(first_s / step), int(last_s // step) + 1)]


def human(value: float, unit: str) -> str:
    """Return a number as people write it on an axis.

    >>> human(0.25, "s"), human(1500.0, "/s"), human(40.0, "%"), human(0.0005, "s")
    ('250 ms', '1,500/s', '40 %', '0.5 ms')
    """
    if unit == "s":
        return f"{value * 1000:g} ms" if 0 < value < 1 else f"{value:g} s"
    text = f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"
    return text + (unit if unit.startswith("/") else f" {unit}" if unit else "")


class _Drawing:
    """One chart at one size. State: where things are; it is made for one call."""

    def __init__(self, chart: Chart, *, width: int, height: int) -> None:
        self.chart = chart
        self.width, self.height = width, height
        self.layers = _stacked(chart.series) if chart.is_stacked else [list(one.values) for one in chart.series]
        known = [value for layer in self.layers for value in layer if value is not None]
        self.top = max(known, default=0.0)
        self.bottom = 0.0
        if chart.is_logarithmic:
            self.top = 10.0 ** math.ceil(math.log10(max(self.top, LEAST)) - 1e-9)
            least = min((value for value in known if value > 0), default=self.top)
            decades = min(DECADES_MAX, max(1, math.ceil(math.log10(self.top) - math.log10(least) - 1e-9)))
            self.bottom = self.top / 10.0**decades
            steps = [self.bottom * 10**power for power in range(decades + 1)]
        else:
            self.top = self.top * 1.08 or 1.0
            steps = ticks(self.top, 5)
        self.labels = [(value, human(round(value, 9), chart.unit)) for value in steps]
        self.left = 14 + max(len(label) for _, label in self.labels) * FONT * LETTER
        self.right = width - 10.0
        legend_rows = self._legend()
        self.pins = self._pins()
        self.over = 24 + legend_rows * 17 + (6 + 17 * (1 + max((row for *_, row in self.pins), default=-1)))
        self.under = height - 24.0

    def x(self, at_s: float) -> float:
        first_s, last_s = self.chart.moments[0], self.chart.moments[-1]
        part = (at_s - first_s) / (last_s - first_s) if last_s > first_s else 0.5
        return self.left + min(1.0, max(0.0, part)) * (self.right - self.left)

    def y(self, value: float) -> float:
        if self.chart.is_logarithmic:
            value = max(value, self.bottom)
            part = math.log10(value / self.bottom) / math.log10(self.top / self.bottom)
        else:
            part = value / self.top
        return self.under - min(1.0, max(0.0, part)) * (self.under - self.over)

    def svg(self, *, own_style: str) -> str:
        chart = self.chart
        names = ", ".join(series.name for series in chart.series)
        parts = [
            f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'role="img" aria-label="{escape(f"{chart.title}: {names}", quote=True)}">'
        ]
        if own_style:
            parts.append(f'<style>{own_style}</style><rect class="f-paper" width="100%" height="100%"/>')
        parts.append(f'<text class="title f-ink" x="4" y="16">{escape(chart.title)}</text>')
        parts += self.legend
        if not chart.moments or not any(value is not None for layer in self.layers for value in layer):
            parts.append(_text("nothing was measured", self.left, self.height / 2))
            return "".join([*parts, "</svg>"])
        parts += self._shade()
        for value, label in self.labels:
            y = self.y(value)
            parts.append(
                f'<line class="s-grid" x1="{self.left:.1f}" y1="{y:.1f}" x2="{self.right:.1f}" y2="{y:.1f}"/>'
                + _text(label, self.left - 6, y + 4, anchor="end")
            )
        parts += self._times()
        if chart.is_stacked:
            below: list[float | None] = [0.0] * len(chart.moments)
            for series, layer in zip(chart.series, self.layers, strict=True):
                parts.append(self._area(layer, below, series.colour))
                below = layer
        else:
            parts += [self._line(layer, series.colour) for series, layer in zip(chart.series, self.layers, strict=True)]
        return "".join([*parts, *self._marks(), "</svg>"])

    def _legend(self) -> int:
        """Lay out the names of the series under the title; return how many rows they take."""
        self.legend: list[str] = []
        x, row = 4.0, 0
        for series in self.chart.series:
            wide = 20 + len(series.name) * FONT * LETTER + 14
            if x + wide > self.width and x > 4:
                x, row = 4.0, row + 1
            y = 34 + row * 17
            self.legend.append(
                f'<rect x="{x:.0f}" y="{y - 7}" width="13" height="5" rx="2" class="f-{series.colour}"/>'
                f'<text class="f-quiet" x="{x + 18:.0f}" y="{y}">{escape(series.name)}</text>'
            )
            x += wide
        return row + 1

    def _pins(self) -> list[tuple[float, int, int]]:
        """Return where the marks' numbers stand: x, number, row; those too near to another go a row down."""
        placed: list[tuple[float, int, int]] = []
        if not self.chart.moments:
            return placed
        for mark in sorted(self.chart.marks, key=lambda mark: mark.at_s):
            x = self.x(mark.at_s)
            taken = {row for other, _, row in placed if abs(other - x) < 18}
            placed.append((x, mark.number, next(row for row in range(len(taken) + 1) if row not in taken)))
        return placed

    def _shade(self) -> list[str]:
        if self.chart.shaded is None:
            return []
        first, last = (self.x(at_s) for at_s in self.chart.shaded)
        return [
            f'<rect x="{first:.1f}" y="{self.over:.1f}" width="{max(1.0, last - first):.1f}" '
            f'height="{self.under - self.over:.1f}" class="f-shade"/>'
        ]

    def _times(self) -> list[str]:
        first_s, last_s = self.chart.moments[0], self.chart.moments[-1]
        most = max(2, int((self.right - self.left) / 90))
        found = []
        for at_s in moments_between(first_s, last_s, most):
            x = self.x(at_s)
            text = datetime.fromtimestamp(at_s, UTC).strftime("%H:%M" if last_s - first_s > 1200 else "%H:%M:%S")
            if self.left <= x <= self.right - len(text) * FONT * LETTER / 2:
                found.append(_text(text, x, self.under + 16, anchor="middle"))
        return found

    def _marks(self) -> list[str]:
        return [
            f'<line class="mark s-ink" x1="{x:.1f}" y1="{self.over - 2:.1f}" x2="{x:.1f}" y2="{self.under:.1f}"/>'
            f'<circle class="f-ink" cx="{x:.1f}" cy="{self.over - 12 - 17 * row:.1f}" r="8"/>'
            f'<text class="number f-paper" x="{x:.1f}" y="{self.over - 8 - 17 * row:.1f}">{number}</text>'
            for x, number, row in self.pins
        ]

    def _line(self, values: Sequence[float | None], colour: str) -> str:
        drawn = [
            f'<polyline class="line s-{colour}" points="{self._points(stretch)}"/>'
            if len(stretch) > 1
            else f'<circle cx="{self.x(stretch[0][0]):.1f}" cy="{self.y(stretch[0][1]):.1f}" r="1.6" '
            f'class="f-{colour}"/>'
            for stretch in _stretches(self.chart.moments, values)
        ]
        return "".join(drawn)

    def _area(self, upper: Sequence[float | None], lower: Sequence[float | None], colour: str) -> str:
        over = [(at_s, value or 0.0) for at_s, value in zip(self.chart.moments, upper, strict=True)]
        under = [(at_s, value or 0.0) for at_s, value in zip(self.chart.moments, lower, strict=True)]
        if over == under:
            return ""
        points = f"{self._points(over)} {self._points(under[::-1])}"
        return f'<polygon class="area f-{colour}" points="{points}"/>'

    def _points(self, values: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(at_s):.1f},{self.y(value):.1f}" for at_s, value in values)


def _text(text: str, x: float, y: float, *, anchor: str = "start") -> str:
    return f'<text class="f-quiet" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _stacked(series: Sequence[Series]) -> list[list[float | None]]:
    """Return each series on top of those before it; what was not measured adds nothing."""
    layers: list[list[float | None]] = []
    for one in series:
        below = layers[-1] if layers else [0.0] * len(one.values)
        layers.append([(value or 0.0) + (under or 0.0) for value, under in zip(one.values, below, strict=True)])
    return layers


def _stretches(moments: Sequence[float], values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """Return the runs of moments at which something was measured."""
    found: list[list[tuple[float, float]]] = [[]]
    for at_s, value in zip(moments, values, strict=True):
        if value is None:
            if found[-1]:
                found.append([])
        else:
            found[-1].append((at_s, value))
    return [stretch for stretch in found if stretch]
