"""Timelines of drills, drawn as SVG: what was asked, what was answered, and what the rest was told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from seawall.drills.outcomes import Series
from seawall.drills.rehearsal import Rehearsal
from seawall.drills.surge import Act
from seawall.telemetry.charts import ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP = 920, 230, 56, 190, 44, 58
"""Pixels: of the drawing, of one act's panel, and of what is around the panels."""

KINDS: Final = (
    ("served", "answered", "#0b6e4f", 2.5),
    ("due", "asked for the first time", "#444444", 1.4),
    ("refused", "told to come back later", "#d98e04", 1.4),
    ("failed", "failed", "#b3261e", 1.4),
    ("timed_out", "gone without an answer", "#8a4fbf", 1.4),
)
"""Series of an act by name, what they are called, and how they are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What is drawn of one act: a stretch of it is shaded and has a name."""

    name: str
    series: Series
    shaded_from_s: float
    shaded_until_s: float
    shaded_as: str
    capacity_per_s: float | None = None


def timelines(acts: Mapping[str, Act]) -> str:
    """Return a drawing of a surge, with a panel for each act."""
    panels = [
        Panel(
            name=name,
            series=act.summary.everybody.series,
            shaded_from_s=act.summary.surge_from_s,
            shaded_until_s=act.summary.surge_until_s,
            shaded_as="surge",
            capacity_per_s=act.capacity_per_s,
        )
        for name, act in acts.items()
    ]
    return draw(panels, seconds=max(int(act.summary.end_s) for act in acts.values()))


def fault_timeline(rehearsal: Rehearsal) -> str:
    """Return a drawing of small reads while something was broken, and before and after."""
    panel = Panel(
        name=f"{rehearsal.fault.name}: small reads",
        series=rehearsal.series,
        shaded_from_s=rehearsal.broken_s,
        shaded_until_s=rehearsal.mended_s,
        shaded_as="broken",
    )
    return draw([panel], seconds=len(rehearsal.reads))


def draw(panels: Sequence[Panel], *, seconds: int) -> str:
    """Return a drawing with a panel for each act, on one scale of time and one of requests a second.

    What is far more than the capacity is cut off, with a word: else nothing else could be seen.
    """
    top_per_s = 1.25 * max(max(panel.capacity_per_s or 0.0, *panel.series.due[:seconds]) for panel in panels)
    height = TOP + len(panels) * (HEIGHT + GAP)
    title = "What was asked and what was answered, requests a second"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" fill="#222222">{escape(title)}</text>',
    ]
    for row, (_, called, colour, wide) in enumerate(KINDS):
        y = TOP + 18 + row * 20
        x = WIDTH - RIGHT + 14
        parts.append(
            f'<line x1="{x}" y1="{y}" x2="{x + 18}" y2="{y}" stroke="{colour}" stroke-width="{wide}"/>'
            f'<text x="{x + 24}" y="{y + 4}" fill="#222222">{escape(called)}</text>'
        )
    for number, panel in enumerate(panels):
        parts += _panel(panel, top=TOP + number * (HEIGHT + GAP), seconds=seconds, top_per_s=top_per_s)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, *, top: float, seconds: int, top_per_s: float) -> list[str]:
    right, bottom = WIDTH - RIGHT, top + HEIGHT - 24
    across, up = (right - LEFT) / seconds, (bottom - top - 18) / top_per_s
    series = panel.series

    def x(second: float) -> float:
        return LEFT + second * across

    def y(per_s: float) -> float:
        return bottom - min(per_s, top_per_s) * up

    shaded_x, shaded_wide = x(panel.shaded_from_s), (panel.shaded_until_s - panel.shaded_from_s) * across
    parts = [
        f'<text x="{LEFT}" y="{top + 10:.1f}" font-size="14" font-weight="bold" fill="#222222">'
        f"{escape(panel.name)}</text>",
        f'<rect x="{shaded_x:.1f}" y="{top + 18:.1f}" width="{shaded_wide:.1f}" height="{bottom - top - 18:.1f}" '
        'fill="#f4e9e4"/>',
        f'<text x="{shaded_x + 6:.1f}" y="{top + 32:.1f}" fill="#7a4a3a">{escape(panel.shaded_as)}</text>',
    ]
    for per_s in ticks(top_per_s):
        parts.append(
            f'<line x1="{LEFT}" y1="{y(per_s):.1f}" x2="{right}" y2="{y(per_s):.1f}" stroke="#e4e4e4"/>'
            f'<text x="{LEFT - 8}" y="{y(per_s) + 4:.1f}" text-anchor="end" fill="#555555">{per_s:,.0f}</text>'
        )
    for second in range(0, seconds + 1, 5):
        parts.append(
            f'<text x="{x(second):.1f}" y="{bottom + 16:.1f}" text-anchor="middle" fill="#555555">{second} s</text>'
        )
    if panel.capacity_per_s is not None:
        at = y(panel.capacity_per_s)
        parts.append(
            f'<line x1="{LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}" stroke="#0b6e4f" stroke-dasharray="4 4"/>'
            f'<text x="{right + 6}" y="{at + 4:.1f}" fill="#0b6e4f">capacity</text>'
        )
    cut_off = False
    for attribute, _, colour, wide in reversed(KINDS):
        counts: Sequence[int] = getattr(series, attribute)[:seconds]
        if not any(counts):
            continue
        cut_off = cut_off or max(counts) > top_per_s
        line = " ".join(f"{x(second + 0.5):.1f},{y(count):.1f}" for second, count in enumerate(counts))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="{wide}"/>')
    if cut_off:
        most = max(max(getattr(series, attribute)[:seconds], default=0) for attribute, *_ in KINDS)
        parts.append(
            f'<text x="{right - 6}" y="{top + 32:.1f}" text-anchor="end" fill="#555555">'
            f"cut off at the top: up to {most:,}</text>"
        )
    return parts
