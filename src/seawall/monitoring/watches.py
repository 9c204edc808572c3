"""What is looked at each second, and when it is trouble. Each watch takes one point and says what it thinks of it.

Time is monotonic, and an argument. A watch does not know whether anybody was told: `alerts` does.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from seawall.monitoring.objectives import EVENTS_MIN, BurnRule, Objective
from seawall.monitoring.things import Severity
from seawall.monitoring.windows import Windows
from seawall.telemetry.points import GROUPS, Point, total

IN_A_ROW: Final = 3
"""So many seconds in a row something is so before it is believed."""

SILENT_S: Final = 3
"""A node that was not heard of for so long is not among `nodes.up`: one that is busy may be late by one or two."""

RESTART_S: Final = 15
"""So long the keeper may take to bring back nodes while others serve, before somebody is woken for half of them."""

START_S: Final = 60
"""So long nodes may take to serve for the first time; and to come where more of them are wanted."""

LEVEL_SLOT_S: Final = 10
STEADY_SLOTS: Final = 3
"""Traffic is a steady level when for so many slots none had less than half of what they have on average."""

PAGE_SLOTS: Final = 30
USERS_MIN: Final = 3
PAGE_USERS_MIN: Final = 10
"""One who stops is no news, and two may have agreed to. From so many on, who all asked for something for five minutes
and stop within seconds, it is the way to us that has ended, and somebody must get up."""

LEVEL_MIN_PER_S: Final = 1.0
SILENCE: Final = 0.02
"""Below this part of the level nearly nobody comes."""

MISSED_MIN: Final = 30
"""So many requests must be missing. That none of 30 came by chance happens once in 10^13."""

FORGOTTEN_S: Final = 3600
"""After so long, that nobody comes is how it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What would be said of it. `began_age_s` says how long before this second it began."""

    severity: Severity
    began_age_s: float
    observed: float
    threshold: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a watch thinks of a second: whether to tell, and, of what was told, whether it is over for now."""

    trouble: Trouble | None = None
    is_clean: bool = True


CLEAN: Final = Look()


class Watch(Protocol):
    """Looks at one thing each second."""

    @property
    def name(self) -> str:
        """The alert's name."""
        ...

    @property
    def rule(self) -> str:
        """The alert's rule."""
        ...

    @property
    def key(self) -> str:
        """What is looked at: of several that look at the same, the first that tells is enough."""
        ...

    def look(self, point: Point, now_s: float, *, counted: bool) -> Look:
        """Say what this second was like. `counted` is False while a faster watch of the same thing has told of it."""
        ...

    def ended_age_s(self) -> float:
        """Return how many seconds before this one it was last so."""
        ...

    def recall(self, point: Point, step_s: float, at_s: float) -> None:
        """Learn what was before the start; `at_s` is on the clock of `look`."""
        ...

    def as_json(self) -> Any:
        """Return what has to survive a restart beside the points."""
        ...

    def resume(self, found: Any) -> None:
        """Take what another left."""
        ...


class BurnWatch:
    """Looks at one objective by one rule. State: the counts of its windows."""

    def __init__(self, objective: Objective, rule: BurnRule) -> None:
        self.objective = objective
        self._rule = rule
        self._windows = Windows(step_s=rule.step_s, long_s=rule.long_s, short_s=rule.short_s)
        self._long_share = rule.long_share(objective)
        self._short_share = rule.short_share(objective)
        self.name = objective.name
        self.rule = f"{objective.of} {rule.name}"
        self.key = objective.key

    def __repr__(self) -> str:
        return f"<BurnWatch {self.name} {self.rule}: {self._windows}>"

    def look(self, point: Point, now_s: float, *, counted: bool) -> Look:
        """Count this second. Where it is not counted, somebody knows of it already."""
        windows = self._windows
        windows.advance(now_s)
        if not counted:
            return CLEAN
        windows.add(self.objective.counts(point), now_s)
        long, short = windows.long, windows.short
        # While nobody asks, nobody can say that it is better.
        is_bad = short.share >= self._short_share if short.total > 0 else long.share >= self._long_share
        is_much = long.share * windows.long_known >= self._long_share
        is_still = short.share * windows.short_known >= self._short_share
        if is_much and is_still and long.bad >= EVENTS_MIN:
            return Look(trouble=self._trouble(), is_clean=False)
        return Look(is_clean=not is_bad)

    def ended_age_s(self) -> float:
        """Return how many seconds before this one it was last so."""
        return self._windows.ended_age_s(self._short_share)

    def recall(self, point: Point, step_s: float, at_s: float) -> None:
        """Count what was before the start, if it is as fine as what is counted here."""
        if step_s == self._rule.step_s:
            self._windows.add(self.objective.counts(point), at_s)

    def as_json(self) -> None:
        """Return nothing: all it knows is in the points."""

    def resume(self, found: Any) -> None:
        """Take nothing."""

    def advance(self, now_s: float) -> None:
        """Begin to count at this time."""
        self._windows.advance(now_s)

    def _trouble(self) -> Trouble:
        long, short, rule = self._windows.long, self._windows.short, self._rule
        return Trouble(
            severity=rule.severity,
            # Seconds of an outage are told from what is usual by what the short window calls too much.
            began_age_s=self._windows.began_age_s(min(self._short_share, self._long_share)),
            observed=short.share,
            threshold=self._short_share,
            reason=f"{percent(short.share)} of {self.objective.of} {self.objective.wrong} in the last "
            f"{while_of(rule.short_s)}, and {percent(long.share)} in the last {while_of(rule.long_s)} "
            f"({long.bad:,.0f} of {long.total:,.0f}); promised are at most {percent(self.objective.budget)}.",
        )


class NodesWatch:
    """Looks at whether there are nodes that serve. State: how many there were lately, for how long some are missing.

    It tells when none serves, or when some are silent that were there a moment ago: for `SILENT_S`, since those heard
    of in that time are what `nodes.up` counts. Nodes that are wanted and have not been there yet may take their time.
    """

    name = key = "nodes"
    rule = f"{SILENT_S}s"

    def __init__(self) -> None:
        self._ups: deque[float] = deque(maxlen=START_S)
        self._has_served = False
        self._looks = 0
        self._none = self._unready = self._missing = 0
        self._since_clean = 0

    def __repr__(self) -> str:
        return f"<NodesWatch none for {self._none} s, some missing for {self._missing} s>"

    def look(self, point: Point, now_s: float, *, counted: bool) -> Look:
        """Say whether this second had the nodes it should have."""
        up, expected = point.get("nodes.up"), point.get("nodes.expected")
        if up is None or expected is None:
            return Look(is_clean=False)
        ready = point.get("nodes.ready", up)
        self._looks += 1
        self._has_served = self._has_served or min(up, ready) > 0
        if expected <= 0 or (not self._has_served and self._looks <= START_S):
            return CLEAN
        before = min(expected, max(self._ups, default=expected))
        self._ups.append(up)
        self._none = self._none + 1 if up <= 0 else 0
        self._unready = self._unready + 1 if ready <= 0 else 0
        self._missing = self._missing + 1 if up < expected else 0
        is_clean = not (self._unready or self._missing)
        self._since_clean = self._since_clean + 1 if is_clean else 0
        if self._none:
            since_s = self._none - 1 + SILENT_S
            reason = f"No node has reported for {since_s} s, of {expected:g}."
            return _nodes_look(Severity.PAGE, since_s, observed=0, threshold=1, reason=reason)
        if self._unready >= IN_A_ROW:
            since_s = self._unready - 1
            reason = f"No node has been ready for {self._unready} s; {up:g} of {expected:g} report, and say so."
            return _nodes_look(Severity.PAGE, since_s, observed=0, threshold=1, reason=reason)
        if up < before or self._missing > START_S:
            since_s = self._missing - 1 + SILENT_S
            is_half = up < before and 2 * up <= before and since_s >= RESTART_S
            reason = f"{expected - up:g} of {expected:g} nodes hang, or are gone: silent for {since_s} s."
            severity = Severity.PAGE if is_half else Severity.WARNING
            return _nodes_look(severity, since_s, observed=up, threshold=expected, reason=reason)
        return Look(is_clean=is_clean)

    def ended_age_s(self) -> float:
        """Return how many seconds before this one it was last so."""
        return self._since_clean

    def recall(self, point: Point, step_s: float, at_s: float) -> None:
        """Learn nothing: how many nodes there were before tells nothing of those that are expected now."""

    def as_json(self) -> Any:
        """Return whether nodes have served."""
        return {"has_served": self._has_served}

    def resume(self, found: Any) -> None:
        """Take whether nodes have served: those of before serve on while the keeper is away."""
        self._has_served = bool(found["has_served"])


def _nodes_look(severity: Severity, since_s: float, *, observed: float, threshold: float, reason: str) -> Look:
    trouble = Trouble(severity=severity, began_age_s=since_s, observed=observed, threshold=threshold, reason=reason)
    return Look(trouble=trouble, is_clean=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How much is asked, steadily: requests a second, how many users had a part in it, and for how many slots."""

    per_s: float
    users: float
    slots: int


@dataclass(slots=True)
class _Slot:
    number: int
    requests: float = 0.0
    users: float = 0.0


def level_of(slots: Iterable[tuple[float, float]]) -> Level | None:
    """Return the level that slots of requests and users keep, the newest first; None where they keep none.

    >>> level_of([(100, 5), (120, 5), (110, 4), (8, 1)])
    Level(per_s=11.0, users=5, slots=3)
    """
    found = list(slots)
    if len(found) < STEADY_SLOTS:
        return None
    mean = sum(requests for requests, _ in found[:STEADY_SLOTS]) / STEADY_SLOTS
    steady = 0
    for requests, _ in found:
        if requests < mean / 2:
            break
        steady += 1
    if steady < STEADY_SLOTS or mean < LEVEL_MIN_PER_S * LEVEL_SLOT_S:
        return None
    return Level(per_s=mean / LEVEL_SLOT_S, users=max(users for _, users in found[:steady]), slots=steady)


class TrafficWatch:
    """Looks at whether those who came steadily still come. State: what came lately, and for how long nobody has.

    That nobody asks is no trouble by itself. That many who asked all the time stop within seconds is: the network was
    cut, a balancer sends them elsewhere, or all hang in something that does not end. What ends is counted, not what
    comes; the reason says how many are under way.
    """

    name = key = "traffic"
    rule = "level"

    def __init__(self) -> None:
        self._slots: deque[_Slot] = deque(maxlen=PAGE_SLOTS + 1)
        self._level: Level | None = None
        self._quiet = 0
        self._since_quiet = 0

    def __repr__(self) -> str:
        return f"<TrafficWatch {self._level}, quiet for {self._quiet} s>"

    def look(self, point: Point, now_s: float, *, counted: bool) -> Look:
        """Say whether this second had the requests it should have had."""
        if point.get("nodes.up", 1.0) <= 0 or not any(f"{group}.requests" in point for group in GROUPS):
            # Nobody says how many there were.
            return Look(is_clean=False)
        requests = total(point, "requests")
        if self._quiet == 0:
            self._begin_slot(int(now_s // LEVEL_SLOT_S))
        if self._level is None or requests > SILENCE * self._level.per_s:
            self._quiet = 0
            self._since_quiet += 1
            self._begin_slot(int(now_s // LEVEL_SLOT_S))
            slot = self._slots[-1]
            slot.requests += requests
            slot.users = max(slot.users, point.get("users.seen", 0.0))
            return CLEAN
        self._quiet += 1
        self._since_quiet = 0
        if self._quiet > FORGOTTEN_S:
            self._slots.clear()
            self._level = None
            self._quiet = 0
            return CLEAN
        return Look(trouble=self._trouble(self._level, point), is_clean=False)

    def _begin_slot(self, number: int) -> None:
        if self._slots and self._slots[-1].number >= number:
            return
        if self._slots and number > self._slots[-1].number + 1:
            # Of the time between nothing is known, or that nobody came.
            self._slots.clear()
        self._slots.append(_Slot(number))
        self._level = level_of((slot.requests, slot.users) for slot in reversed([*self._slots][:-1]))

    def _trouble(self, level: Level, point: Point) -> Trouble | None:
        if self._quiet < IN_A_ROW or self._quiet * level.per_s < MISSED_MIN or level.users < USERS_MIN:
            return None
        is_page = level.users >= PAGE_USERS_MIN and level.slots >= PAGE_SLOTS
        in_flight = point.get("gate.in_flight", 0.0)
        where = f"{in_flight:g} are under way." if in_flight else "None is under way: nobody reaches us."
        return Trouble(
            severity=Severity.PAGE if is_page else Severity.WARNING,
            began_age_s=self._quiet - 1,
            observed=total(point, "requests"),
            threshold=SILENCE * level.per_s,
            reason=f"Hardly a request has ended for {self._quiet} s, where {level.users:g} users made "
            f"{level.per_s:.3g} a second. {where}",
        )

    def ended_age_s(self) -> float:
        """Return how many seconds before this one it was last so."""
        return self._since_quiet

    def recall(self, point: Point, step_s: float, at_s: float) -> None:
        """Learn what came before the start, in the order of time."""
        number = int(at_s // LEVEL_SLOT_S)
        if step_s != LEVEL_SLOT_S or (self._slots and number <= self._slots[-1].number):
            return
        self._begin_slot(number)
        self._slots[-1].requests = total(point, "requests")
        self._slots[-1].users = point.get("users.seen", 0.0)

    def as_json(self) -> Any:
        """Return the level that is missed, while it is."""
        if self._level is None or not self._quiet:
            return None
        return {
            "per_s": self._level.per_s,
            "users": self._level.users,
            "slots": self._level.slots,
            "quiet": self._quiet,
        }

    def resume(self, found: Any) -> None:
        """Take the level that is missed."""
        if found is not None:
            self._level = Level(per_s=found["per_s"], users=found["users"], slots=found["slots"])
            self._quiet = found["quiet"]


def percent(share: float) -> str:
    """Return a share as people read it.

    >>> percent(0.314), percent(0.001), percent(1.0)
    ('31 %', '0.1 %', '100 %')
    """
    return f"{float(f'{share * 100:.2g}'):g} %"


def while_of(seconds: float) -> str:
    """Return a length of time as people say it.

    >>> while_of(10), while_of(300), while_of(3600), while_of(259200)
    ('10 s', '5 min', '60 min', '3 days')
    """
    if seconds <= 60:
        return f"{seconds:g} s"
    if seconds <= 3600:
        return f"{seconds / 60:g} min"
    if seconds < 86400:
        return f"{seconds / 3600:g} h"
    return f"{seconds / 86400:g} days"
