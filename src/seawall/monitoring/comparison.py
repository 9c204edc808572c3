"""What is, against what is usual: robust against a few odd seconds on either side, and against what was not measured.

The usual is a median, and its spread that of the middle half, so that an onset which is known wrongly does not matter:
up to half of the seconds before may be bad already. What is now is what it was for a good part of the time.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from seawall.telemetry.points import GROUPS, Point, total
from seawall.telemetry.segments import SEGMENTS, Segment

BASELINE_LEAST: Final = 3
"""From fewer seconds nothing is said about what is usual."""

NUMBER_MAX: Final = 1e15
"""More of anything is not measured, it is a mistake; nor is what is no number."""

GROUP_LEAST: Final = 10
"""Of fewer requests, one that is slow says nothing of the others."""

SPREADS: Final = 2.0
"""Further from the usual than so many times its spread is not usual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """What users notice. Shares are of requests; rates are a second; times are seconds a request, summed up by segment.

    `added_s` is the time that requests take longer than usual, by segment, of all requests that ended together.
    """

    usual_per_s: float | None
    per_s: float
    failed: float
    usual_failed: float
    refused: float
    usual_refused: float
    added_s: Mapping[Segment, float]
    added_per_request_s: float

    @property
    def more_failed(self) -> float:
        """By how much the share of failures has grown."""
        return max(0.0, self.failed - self.usual_failed)

    @property
    def more_refused(self) -> float:
        """By how much the share of refusals has grown."""
        return max(0.0, self.refused - self.usual_refused)

    def share(self, *segments: Segment) -> float:
        """Return the part of the added time that went to these segments."""
        whole = sum(self.added_s.values())
        return sum(self.added_s[segment] for segment in segments) / whole if whole > 0 else 0.0


class Comparison:
    """Two stretches of seconds. State: they, and nothing else."""

    def __init__(self, before: Sequence[Point], now: Sequence[Point]) -> None:
        self.before = [_measured(point) for point in before]
        self.now = [_measured(point) for point in now]

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.now)} s with {len(self.before)} s before>"

    @property
    def has_baseline(self) -> bool:
        """Whether there is enough to say what is usual."""
        return len(self.before) >= BASELINE_LEAST

    def usual(self, name: str) -> float | None:
        """Return what a column usually is; None where that is not known."""
        values = _values(self.before, name)
        return statistics.median(values) if len(values) >= BASELINE_LEAST else None

    def spread(self, name: str) -> float:
        """Return how far apart the middle half of the usual values is."""
        values = sorted(_values(self.before, name))
        if len(values) < BASELINE_LEAST:
            return 0.0
        return _quantile(values, 0.75) - _quantile(values, 0.25)

    def typical(self, name: str) -> float | None:
        """Return the median of now."""
        values = _values(self.now, name)
        return statistics.median(values) if values else None

    def high(self, name: str) -> float | None:
        """Return what it reaches now for a third of the time: of one odd second in ten nothing is seen."""
        values = sorted(_values(self.now, name))
        return _quantile(values, 2 / 3) if values else None

    def lately(self, name: str) -> float | None:
        """Return what it reaches for a third of the time, or at the end: of what has to last for that, as a wait."""
        high, last = self.high(name), self.last(name)
        return high if high is None or last is None else max(high, last)

    def least(self, name: str) -> float | None:
        """Return the smallest value now."""
        return min(_values(self.now, name), default=None)

    def last(self, name: str) -> float | None:
        """Return the latest value."""
        return next(reversed(_values(self.now, name)), None)

    def count(self, name: str) -> float:
        """Return the sum over now."""
        return sum(_values(self.now, name))

    def is_raised(self, name: str, *, by: float, times: float = 1.0, is_now: float | None = None) -> bool:
        """Return whether a column is well above what it usually is.

        Args:
            name: the column.
            by: so much more than usual is the least that matters, in the column's unit.
            times: and so many times the usual.
            is_now: what it is; None: what it reaches for a third of the time.
        """
        is_now, usual = self.high(name) if is_now is None else is_now, self.usual(name) or 0.0
        if is_now is None:
            return False
        return is_now >= usual + max(by, SPREADS * self.spread(name)) and is_now >= usual * times

    @cached_property
    def harm(self) -> Harm:
        """What users notice, against the usual."""
        asked = sum(total(point, "requests") for point in self.now)
        usual_rates = [total(point, "requests") for point in self.before]
        rates = [total(point, "requests") for point in self.now]
        added = {segment: self._added_s(segment) for segment in SEGMENTS}
        admitted = asked - sum(total(point, "refused") for point in self.now)
        return Harm(
            usual_per_s=statistics.median(usual_rates) if self.has_baseline else None,
            per_s=statistics.median(rates) if rates else 0.0,
            failed=_share(self.now, "failed"),
            usual_failed=_usual_share(self.before, "failed"),
            refused=_share(self.now, "refused"),
            usual_refused=_usual_share(self.before, "refused"),
            added_s=added,
            added_per_request_s=sum(added.values()) / admitted if admitted >= 1 else 0.0,
        )

    def added_to_each_s(self, segment: Segment) -> float:
        """Return what was added in a segment to each request of the group in which that is most: reads, writes, others.

        Few write where many read, and what makes only writes slow is little on the mean of all.
        """
        admitted = {group: sum(_admitted(point, group) for point in self.now) for group in GROUPS}
        return max(
            (self._added_in_s(segment, group) / count for group, count in admitted.items() if count >= GROUP_LEAST),
            default=0.0,
        )

    def _added_s(self, segment: Segment) -> float:
        """Return the seconds spent in a segment beyond what so many requests of each group usually spend there."""
        return sum(self._added_in_s(segment, group) for group in GROUPS)

    def _added_in_s(self, segment: Segment, group: str) -> float:
        name = f"segment.{segment.name.lower()}"
        spent_s = math.fsum(point.get(f"{group}.{name}", 0.0) for point in self.now)
        usually_s = sum(_admitted(point, group) for point in self.now) * self._usual_s(group, name)
        return max(0.0, spent_s - usually_s)

    def _usual_s(self, group: str, name: str) -> float:
        """Return the median of what a request of the group took, over the seconds that had any."""
        means = [
            point.get(f"{group}.{name}", 0.0) / admitted
            for point in self.before
            if (admitted := _admitted(point, group)) >= 1
        ]
        return statistics.median(means) if len(means) >= BASELINE_LEAST else 0.0


def _measured(point: Point) -> Point:
    """Return what of a point is a number that can be reckoned with."""
    return {name: value for name, value in point.items() if abs(value) < NUMBER_MAX}


def _admitted(point: Point, group: str) -> float:
    return point.get(f"{group}.requests", 0.0) - point.get(f"{group}.refused", 0.0)


def _values(points: Iterable[Point], name: str) -> list[float]:
    return [value for point in points if (value := point.get(name)) is not None]


def _share(points: Sequence[Point], what: str) -> float:
    asked = sum(total(point, "requests") for point in points)
    return sum(total(point, what) for point in points) / asked if asked >= 1 else 0.0


def _usual_share(points: Sequence[Point], what: str) -> float:
    shares = [total(point, what) / asked for point in points if (asked := total(point, "requests")) >= 1]
    return statistics.median(shares) if len(shares) >= BASELINE_LEAST else 0.0


def _quantile(ordered: Sequence[float], part: float) -> float:
    """Return the smallest value that at least this part does not exceed: one that was measured."""
    return ordered[max(0, math.ceil(part * len(ordered) - 1e-9) - 1)]
