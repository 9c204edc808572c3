"""What charts and sentences need of an incident's points: rates, shares and quantiles over time."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from seawall.incidents.store import Row, merge
from seawall.telemetry.metrics import DURATION_BUCKETS_S
from seawall.telemetry.points import GROUPS, Point, total

BOUNDS_S: Final = (*DURATION_BUCKETS_S, math.inf)
BARS: Final = "▁▂▃▄▅▆▇█"


def binned(rows: Sequence[Row], most: int) -> list[Row]:
    """Return the rows merged, several that follow each other into one, so that there are at most so many."""
    each = max(1, math.ceil(len(rows) / most))
    return [merge(rows[number : number + each]) for number in range(0, len(rows), each)]


def quantile_s(points: Iterable[Point], part: float, groups: Sequence[str] = GROUPS) -> float | None:
    """Return in how many seconds so great a part was served, as far as the buckets tell; None where nothing was.

    Within a bucket it is taken as evenly spread, as Prometheus does; beyond the last one it is the last bound.
    """
    points = [*points]
    counts = [
        sum(point.get(f"{group}.le.{bound:g}", 0.0) for point in points for group in groups) for bound in BOUNDS_S
    ]
    served = sum(counts)
    if served <= 0:
        return None
    wanted, below = part * served, 0.0
    for place, count in enumerate(counts):
        if count and below + count >= wanted:
            low = BOUNDS_S[place - 1] if place else 0.0
            high = BOUNDS_S[place]
            return low if math.isinf(high) else low + (high - low) * (wanted - below) / count
        below += count
    return BOUNDS_S[-2]


def rate(row: Row, what: str) -> float:
    """Return how many a second: `requests`, `failed`, `refused`, `slow`, or what was `served` in time."""
    if what == "served":
        bad = total(row.point, "failed") + total(row.point, "refused") + total(row.point, "slow")
        return max(0.0, total(row.point, "requests") - bad) / row.seconds
    return total(row.point, what) / row.seconds


def share(row: Row, what: str) -> float | None:
    """Return which part of the requests `failed`, was `refused` or `slow`; None where nothing was asked."""
    requests = total(row.point, "requests")
    return total(row.point, what) / requests if requests else None


def sparkline(values: Sequence[float | None], top: float | None = None) -> str:
    """Return a line of bars as high as the values, for where there is only text; a space where nothing was measured.

    >>> sparkline([0, 1, None, 8])
    '▁▂ █'
    """
    known = [value for value in values if value is not None]
    most = top if top is not None else max(known, default=0.0)
    return "".join(
        " " if value is None else BARS[min(len(BARS) - 1, int(value / most * len(BARS)))] if most > 0 else BARS[0]
        for value in values
    )
