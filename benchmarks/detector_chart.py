"""Draws a series, what the detector said of it, and what is labelled in it."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.detector_series import Series
from seawall.monitoring.detector import Verdict

WIDTH, LEFT, RIGHT = 960, 64, 16
VALUE_TOP, VALUE_HEIGHT = 64, 220
SCORE_TOP, SCORE_HEIGHT = 320, 80
HEIGHT = 470

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #57606a; }
  .title { font-size: 16px; font-weight: 600; fill: #24292f; }
  .value { fill: none; stroke: #0969da; stroke-width: 1; stroke-linejoin: round; }
  .score { stroke: #8250df; stroke-width: 1; }
  .window { fill: #d4a72c; fill-opacity: 0.22; }
  .alert { fill: #cf222e; }
  .alert-line { stroke: #cf222e; stroke-width: 1; stroke-dasharray: 3 3; }
  .grid { stroke: #d0d7de; stroke-width: 1; }
  .paper { fill: #ffffff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1; } .title { fill: #f0f6fc; } .paper { fill: #0d1117; } .grid { stroke: #3d444d; }
    .value { stroke: #4493f8; } .score { stroke: #ab7df8; } .alert { fill: #f85149; } .alert-line { stroke: #f85149; }
  }
"""


def chart(series: Series, verdicts: Sequence[Verdict]) -> str:
    """Return an SVG: the values over the scores, windows shaded, alerts marked."""
    rows, most = len(series.values), _round_up(max(series.values))

    def x(row: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * row / rows

    def y(value: float) -> float:
        return VALUE_TOP + VALUE_HEIGHT * (1 - value / most)

    def score_y(score: float) -> float:
        return SCORE_TOP + SCORE_HEIGHT * (1 - score)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="{LEFT}" y="24">Requests each five minutes, and what the detector says of them</text>',
    ]
    parts.append(_legend())
    for window in series.windows:
        height = SCORE_TOP + SCORE_HEIGHT - VALUE_TOP
        parts.append(
            f'<rect class="window" x="{x(window.first):.1f}" y="{VALUE_TOP}" '
            f'width="{x(window.rows) - LEFT:.1f}" height="{height}"/>'
        )
    for step in range(5):
        parts.append(_grid(y(most * step / 4), f"{most * step / 4:,.0f}"))
    for score in (0.0, 0.5, 1.0):
        parts.append(_grid(score_y(score), f"{score:g}"))
    for row, moment in enumerate(series.times):
        if moment.hour == 0 and moment.minute < 5 and moment.day % 2 == 0:
            label = escape(f"{moment.day} {moment:%b}")
            parts.append(
                f'<text x="{x(row):.1f}" y="{SCORE_TOP + SCORE_HEIGHT + 22}" text-anchor="middle">{label}</text>'
            )
    points = " ".join(f"{x(row):.1f},{y(value):.1f}" for row, value in enumerate(series.values))
    parts.append(f'<polyline class="value" points="{points}"/>')
    for row, verdict in enumerate(verdicts):
        if verdict.score >= 0.02:
            parts.append(
                f'<line class="score" x1="{x(row):.1f}" x2="{x(row):.1f}" '
                f'y1="{score_y(0):.1f}" y2="{score_y(verdict.score):.1f}"/>'
            )
    for row, verdict in enumerate(verdicts):
        if verdict.is_alert:
            at = x(row)
            parts.append(
                f'<line class="alert-line" x1="{at:.1f}" x2="{at:.1f}" y1="{VALUE_TOP}" y2="{score_y(0)}"/>'
                f'<path class="alert" d="M{at - 6:.1f} {VALUE_TOP - 10}h12l-6 10z"/>'
            )
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 14}">Score: 0 to 1; from 0.5 on it is an alert, once an episode.</text>'
    )
    return "\n".join([*parts, "</svg>\n"])


def _legend() -> str:
    return (
        f'<path class="alert" d="M{LEFT} 34h12l-6 10z"/><text x="{LEFT + 18}" y="44">alert</text>'
        f'<rect class="window" x="{LEFT + 70}" y="33" width="14" height="12"/>'
        f'<text x="{LEFT + 90}" y="44">labelled: found when an alert is inside</text>'
    )


def _grid(height: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        f'<text x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _round_up(value: float) -> float:
    """Return the next number that divides well by four."""
    size = 10.0 ** (len(str(int(value))) - 1)
    return next(size * step for step in (1, 2, 4, 6, 8, 10) if size * step >= value)
