"""Which reports of which nodes make up a second of the fleet. Plain decisions: the time comes in as a number.

Nodes report once a second, each at its own moment and not quite on time. A second is over when it is over and every
node that is heard of has reported since the last one, or when that has been waited for long enough. What comes later
counts into the second that is open then, so nothing is lost and nothing counts twice.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import floor
from typing import Final

from seawall.telemetry.points import Point, rolled

SILENT_S: Final = 3.0
"""A node not heard of for so long is silent: it hangs, or is gone. Nobody waits for it any more."""

STRAGGLERS_S: Final = 0.4
"""How long a second that is over waits for reports that are late."""

AHEAD_S: Final = 0.5
"""A second report that came so shortly before the second's end is the next one's, a little early."""

WAITING_MAX: Final = 60
"""So many reports of a node, and seconds of the fleet, are told apart after the keeper itself was stopped."""

FORGOTTEN_S: Final = 60.0
"""Where nobody says which nodes there should be, it is those heard of this lately."""

STARTING_S: Final = 30.0
"""How long a node may take until it reports for the first time."""


@dataclass(slots=True)
class _Heard:
    """What is known of a node. State: when it was heard of, and its reports that have not been counted."""

    at_s: float
    waiting: deque[tuple[float, Point]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """One second of the fleet: the time it began at, in whole seconds, and what each node reported."""

    number: int
    nodes: Mapping[str, Point]


class Seconds:
    """Puts reports together. State: what nodes reported and has not been counted, and the next second.

    Args:
        now_s: the present, on a clock that only goes forward; whole numbers are where seconds begin.
    """

    def __init__(self, now_s: float) -> None:
        self.next = floor(now_s)
        self.skipped = 0
        """Seconds nothing is known of: the keeper was stopped for longer than it can catch up with."""
        self._heard: dict[str, _Heard] = {}
        self._looked_s = now_s
        self._was_late = False
        self._patient_until_s = now_s

    def __repr__(self) -> str:
        return f"<Seconds {self.next}, {len(self._heard)} nodes>"

    def note(self, node: str, point: Point, now_s: float) -> None:
        """Take what a node reports."""
        heard = self._heard.get(node)
        if heard is None:
            heard = self._heard[node] = _Heard(now_s)
        heard.at_s = now_s
        if len(heard.waiting) >= WAITING_MAX:
            _, first = heard.waiting.popleft()
            at_s, second = heard.waiting.popleft()
            heard.waiting.appendleft((at_s, rolled((first, second))))
        heard.waiting.append((now_s, point))

    def look(self, now_s: float) -> list[Second]:
        """Return the seconds that are complete, or have been waited for."""
        is_late = now_s - self._looked_s > 1.0
        if is_late and not self._was_late:
            # Once: who is late each time has read what was said since the last time.
            self._patient_until_s = now_s + STRAGGLERS_S
        self._was_late = is_late
        self._looked_s = now_s
        missed = floor(now_s) - self.next - WAITING_MAX
        if missed > 0:
            self.next += missed
            self.skipped += missed
        found = []
        while self._is_over(now_s):
            behind = floor(now_s) - self.next - 1
            end_s = self.next + 1.0
            taken = {node: _take(heard, end_s, behind) for node, heard in self._heard.items()}
            nodes = {node: rolled(points) for node, points in taken.items() if points}
            found.append(Second(number=self.next, nodes=nodes))
            self.next += 1
        return found

    def is_catching_up(self, now_s: float) -> bool:
        """Return whether it was ourselves who were late, and what nodes said meanwhile is still to be read."""
        return now_s < self._patient_until_s

    def ages_s(self, now_s: float) -> dict[str, float]:
        """Return how long ago each node was heard of."""
        return {node: now_s - heard.at_s for node, heard in self._heard.items()}

    def forget(self, nodes: Iterable[str]) -> None:
        """Speak no more of nodes that are gone, unless there is something left to count."""
        for node in nodes:
            heard = self._heard.get(node)
            if heard is not None and not heard.waiting:
                del self._heard[node]

    def _is_over(self, now_s: float) -> bool:
        end_s = self.next + 1.0
        if now_s < end_s or self.is_catching_up(now_s):
            return False
        if now_s >= end_s + STRAGGLERS_S:
            return True
        return all(heard.waiting or now_s - heard.at_s > SILENT_S for heard in self._heard.values())


def _take(heard: _Heard, end_s: float, behind: int) -> list[Point]:
    """Return the reports that count into a second, in order; `behind` are the seconds that can be told of after it."""
    taken: list[Point] = []
    while heard.waiting:
        is_needed_later = len(heard.waiting) <= behind + 1 and heard.waiting[0][0] > end_s - AHEAD_S
        if taken and is_needed_later:
            break
        taken.append(heard.waiting.popleft()[1])
    return taken


def silent(ages_s: Mapping[str, float], expected: Mapping[str, float] | None, now_s: float) -> dict[str, float]:
    """Return the nodes that should report and do not, and for how long they have not.

    Args:
        ages_s: how long ago each node was heard of.
        expected: the nodes there should be, and since when; None: those heard of lately.
        now_s: the present, on the clock `expected` is on.
    """
    if expected is None:
        return {node: age_s for node, age_s in ages_s.items() if SILENT_S < age_s <= FORGOTTEN_S}
    found = {}
    for node, since_s in expected.items():
        age_s = ages_s.get(node)
        if age_s is None and now_s - since_s > STARTING_S:
            found[node] = now_s - since_s
        elif age_s is not None and age_s > SILENT_S:
            found[node] = age_s
    return found
