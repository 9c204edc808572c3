"""What is counted of every request, and handed over once a second as columns of a point.

On the hot path it is plain numbers in a list, and they only grow: a second is what they grew by, so that metrics may
be made of them, too. What is good and what is bad is decided here, once: alerts count nothing by themselves.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Final

from seawall.telemetry.metrics import DURATION_BUCKETS_S, Sample, number
from seawall.telemetry.points import GROUPS, NAMES
from seawall.telemetry.segments import SEGMENTS, Segment


class Outcome(IntEnum):
    """What became of a request."""

    SERVED = 0
    """It had its answer; also where that was that the client is wrong (4xx)."""
    REFUSED = 1
    """More was asked than can be done, and it was told to come back later."""
    FAILED = 2
    """The fault is ours."""
    NO_ROOM = 3
    """Likewise, for the disk is full."""
    DISK_FAILED = 4
    """Likewise, for the disk did not do what it was asked."""
    GONE = 5
    """The client went away in the middle of its answer."""
    GAVE_UP = 6
    """The client went away before there was one: because it lost interest, or because it had to wait for too long."""


SLOW_S: Final[Mapping[str, float]] = {"reads": 0.5, "writes": 2.5, "others": 2.5}
"""Until when an answer is in time, by group: what objectives of latency promise."""

MOVED_BYTES_PER_S: Final = 16 * 1024 * 1024
"""Large bodies may take longer: a second for so many bytes."""

# Where each number stands in a group's list, which is in the order of the columns of a point.
REQUESTS, FAILED, REFUSED, SLOW, SECONDS, FIRST_BUCKET = range(6)
FIRST_SEGMENT: Final = FIRST_BUCKET + len(DURATION_BUCKETS_S) + 1
LENGTH: Final = FIRST_SEGMENT + len(SEGMENTS)

_ADMISSION: Final = int(Segment.ADMISSION)
_NETWORK: Final = int(Segment.NETWORK)
_GONE: Final = Outcome.GONE
_GAVE_UP: Final = Outcome.GAVE_UP
_REFUSED: Final = Outcome.REFUSED
_COLUMNS: Final = tuple(tuple(name for name in NAMES if name.startswith(f"{group}."))[:LENGTH] for group in GROUPS)


class SecondCounts:
    """State: the counts of each group since the process began, and as they were when a second was taken last.

    Args:
        slow_s: until when an answer is in time, in seconds, by group.
    """

    def __init__(self, slow_s: Mapping[str, float] = SLOW_S) -> None:
        self.gone = 0
        self.no_room = 0
        self.disk_failed = 0
        self._slow_s = [slow_s[group] for group in GROUPS]
        self._counts: list[list[float]] = [[0.0] * LENGTH for _ in GROUPS]
        self._taken = [[*counts] for counts in self._counts]

    def __repr__(self) -> str:
        told = (f"{int(counts[REQUESTS])} {group}" for group, counts in zip(GROUPS, self._counts, strict=True))
        return f"<SecondCounts {', '.join(told)}>"

    def observe(
        self, group: int, outcome: Outcome, duration_s: float, sums_s: Sequence[float], moved_bytes: int
    ) -> bool:
        """Count one request that has ended; return whether it counts against us.

        Who went away is not counted, unless that was for want of an answer that was late already: a service that
        does not answer has nothing but clients that give up. What the client took, by sending or reading slowly,
        makes nothing late.

        Args:
            group: its place in `GROUPS`.
            outcome: what became of it.
            duration_s: from its head to the end of its answer.
            sums_s: how long each segment was, as in a `Stopwatch`.
            moved_bytes: of the bodies of request and answer.
        """
        counts = self._counts[group]
        own_s, slow_s = duration_s - sums_s[_NETWORK], self._slow_s[group]
        is_late = own_s > slow_s and own_s > slow_s + moved_bytes / MOVED_BYTES_PER_S
        if not outcome:
            if is_late:
                counts[SLOW] += 1
            counts[FIRST_BUCKET + bisect_left(DURATION_BUCKETS_S, duration_s)] += 1
        elif outcome is _REFUSED:
            counts[REFUSED] += 1
            if sums_s[_ADMISSION]:  # It was not let in.
                counts[REQUESTS] += 1
                counts[FIRST_SEGMENT + _ADMISSION] += sums_s[_ADMISSION]
                return True
        elif outcome is _GONE or outcome is _GAVE_UP:
            self.gone += 1
            if outcome is _GONE or not is_late:
                return False
            counts[FAILED] += 1
        else:
            counts[FAILED] += 1
            self.no_room += outcome is Outcome.NO_ROOM
            self.disk_failed += outcome is Outcome.DISK_FAILED
        counts[REQUESTS] += 1
        counts[SECONDS] += duration_s
        for place, sum_s in enumerate(sums_s, FIRST_SEGMENT):
            if sum_s:
                counts[place] += sum_s
        return bool(outcome)

    def take(self) -> dict[str, float]:
        """Return by how much each count has grown since this was asked last, by the columns' names."""
        found: dict[str, float] = {}
        for columns, counts, taken in zip(_COLUMNS, self._counts, self._taken, strict=True):
            for column, now, before in zip(columns, counts, taken, strict=True):
                found[column] = now - before
            taken[:] = counts
        return found

    def outcome_samples(self) -> list[Sample]:
        """Return how many requests there were in all, by group and by what became of them, as objectives ask."""
        return [
            number(count, group, outcome)
            for group, counts in zip(GROUPS, self._counts, strict=True)
            for outcome, count in (
                ("in_time", counts[REQUESTS] - counts[FAILED] - counts[REFUSED] - counts[SLOW]),
                ("slow", counts[SLOW]),
                ("failed", counts[FAILED]),
                ("refused", counts[REFUSED]),
            )
        ]

    def segment_samples(self) -> list[Sample]:
        """Return how long each segment was in all, by group."""
        return [
            number(counts[FIRST_SEGMENT + segment], group, segment.name.lower())
            for group, counts in zip(GROUPS, self._counts, strict=True)
            for segment in SEGMENTS
        ]
