"""The gate: whether a request may start, decided from its head alone, before anything is spent on it.

What is scarce says how long its queue is: connections to the database, the event loop. From that follows how many
requests a second may be let in, and from what arrives, who they are. Who is turned away is told so a little later, and
costs nothing but a socket until then: a client that comes again at once would otherwise be served refusals instead of
files.

A share is an account's where a signature by the same key held that came from the same address, else the address's own.
So what a request claims before its signature was checked takes from others only where they share an address; and
whatever it claims, it is one request, of no class that it could not have had without.
"""

import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import random
from typing import Final, NamedTuple

from seawall.admission.pace import next_capacity_per_s, pace_for, settled
from seawall.admission.ranks import (
    BEYOND_SHARE,
    EVERYBODY,
    LEVELS,
    RANKS,
    Threshold,
    rank_of,
    spared_below,
    threshold_for,
)
from seawall.admission.shares import Shares, Standing
from seawall.telemetry.purpose import Urgency

WINDOW_S: Final = 0.25
"""How often the gate looks at what is scarce."""

SEEN_ENOUGH: Final = 50
"""So many arrivals tell well enough which ranks come; of what came before, only as much counts as is missing."""

ARRIVAL_S: Final = 0.1
"""Over how long it is smoothed how many arrive: a surge has to be seen at once, and its end as well."""

FORGET_BEST_S: Final = 10.0
FORGET_WRONG_BEST_S: Final = 1.0
"""How fast the best rate is forgotten: it falls to a half in 7 s. Sooner where the queue is far too long: what was
served then may have been something else, that cost next to nothing."""

FORGET_S: Final = 5.0
"""When nobody had to be turned away for so long, there is no pace any more: the capacity may be another by now."""

ONSET: Final = 1.2
ONSET_LEAST: Final = 10
"""When so many times what may come in a window (or came, where there is no pace) has come in, and so many more, the
gate looks at once: a surge is ten times what it was within a moment."""

REMARKED_S: Final = 0.05
"""When it was found out who takes too much, ranks are other ones than those that arrived: the gate looks again soon."""

AIM_S: Final = 1.0
AIM_BOUNDS: Final = (0.5, 1.5)
"""Over how long it is learnt that more was let in than was meant, or less, and how much of that is believed: what
comes next is not quite what came last."""

TURN_S: Final = 300.0
"""How long users keep their levels: who is turned away is not the same one for ever."""

WAITING_MAX: Final = 2000
"""How many of those who are turned away may wait for their answer at a time; beyond, they are closed at once."""

Reading = Callable[[], float]
"""How long the queue of something scarce is, in parts of what is tolerated: above 1 is too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """What an operator chooses about admission. `refusal_delay_s`: how long who is turned away waits at the most."""

    refusal_delay_s: float = 0.5


class Refusal(NamedTuple):
    """A request may not start. The answer is given after `delay_s`; None: none is, the connection is closed."""

    delay_s: float | None
    retry_after_s: float


@dataclass(slots=True)
class GateCounts:
    """What became of those who came, by class."""

    admitted: list[int]
    refused: list[int]
    closed: int = 0


class Gate:
    """Lets requests in. State: the pace, the threshold, what arrived lately by rank, who had how much, what is out.

    Args:
        settings: see there.
        readings: what is scarce, by name.
        now_s: the present, on the monotonic clock.
    """

    def __init__(self, settings: GateSettings, readings: Mapping[str, Reading], *, now_s: float) -> None:
        self.shares = Shares()
        self.counts = GateCounts([0] * len(Urgency), [0] * len(Urgency))
        self.in_flight = 0
        self.waiting = 0
        """How many of those who were turned away wait for their answer."""
        self.pace_per_s = math.inf
        self.threshold = EVERYBODY
        self.levels: dict[str, float] = dict.fromkeys(readings, 0.0)
        self._settings = settings
        self._readings = readings
        self._arrived = array("l", bytes(RANKS * array("l").itemsize))
        self._arrivals = [0.0] * RANKS
        self._arrivals_per_s = 0.0
        self._served = 0
        self._failed = 0
        self._capacity_per_s = 0.0
        self._best_per_s = 0.0
        self._idle_looks = 0
        self._limited_s = -math.inf
        self._looked_s = now_s
        self._level = 0.0
        self._admitted = 0
        self._admitted_most = math.inf
        self._look_by_s = math.inf
        self._turned_away = 0
        self._aim = 1.0
        self._credit = 0.0
        self._turn = 0

    def __repr__(self) -> str:
        return f"<Gate {self.in_flight} in flight, {self.pace_per_s:.0f} a second, {self.waiting} refusals waiting>"

    @property
    def is_limiting(self) -> bool:
        """Whether somebody may be turned away."""
        return self.threshold is not EVERYBODY

    def enter(self, urgency: Urgency, user: int, tenant: int, *, now_s: float, cost: float = 1.0) -> Refusal | None:
        """Decide about one request: None when it may start, and then it must `leave`.

        Args:
            urgency: its class.
            user: a number that decides its level, the same for all requests of one user.
            tenant: whose share it takes from.
            now_s: the present, on the monotonic clock.
            cost: how much it takes, a small request being 1.
        """
        match self.shares.take(tenant, now_s=now_s, cost=cost):
            case Standing.LIGHT:
                rank = rank_of(urgency, user, turn=self._turn)
            case Standing.HEAVY:
                rank = max(urgency, Urgency.NORMAL) * LEVELS + LEVELS - 1
            case Standing.BEYOND:
                rank = BEYOND_SHARE
            case Standing.CAPPED:
                # What it would ask for says nothing of what can be served: the pace hears nothing of it.
                return self.turn_down(urgency)
        self._arrived[rank] += 1
        if self._admitted >= self._admitted_most or now_s >= self._look_by_s:
            self.look(now_s)
        threshold = self.threshold
        if rank >= threshold.rank and not (rank == threshold.rank and self._is_among(threshold.part)):
            self._turned_away += 1
            self.shares.turn_away(tenant)
            return self.turn_down(urgency)
        self._admitted += 1
        self.in_flight += 1
        self.counts.admitted[urgency] += 1
        return None

    def turn_down(self, urgency: Urgency) -> Refusal:
        """Turn a request away for which there is no room, whatever the pace."""
        self.counts.refused[urgency] += 1
        retry_after_s = 1.0 + 2.0 * random()  # noqa: S311 - jitter, not a secret
        if self.waiting >= WAITING_MAX:
            self.counts.closed += 1
            return Refusal(None, retry_after_s)
        return Refusal(self._settings.refusal_delay_s * (0.5 + 0.5 * random()), retry_after_s)  # noqa: S311 - jitter

    def leave(self, tenant: int, *, served: bool, cost: float = 1.0) -> None:
        """Note that a request that was let in has ended; `served` unless it was turned away further inside."""
        self.in_flight -= 1
        if served:
            self._served += 1
            self.shares.serve(tenant, cost)
        else:
            self._failed += 1
            self._turned_away += 1
            self.shares.turn_away(tenant)

    def look(self, now_s: float) -> None:
        """Look at what is scarce, and decide who may come in until the next look."""
        elapsed_s = now_s - self._looked_s
        if elapsed_s <= 0:
            return
        self._looked_s = now_s
        self.levels = {name: reading() for name, reading in self._readings.items()}
        level, before_level = max(self.levels.values(), default=0.0), self._level
        threshold, self._level = self.threshold, level
        self._learn_to_aim(elapsed_s)
        self._settle(elapsed_s, level)
        if level > 1:
            self._limited_s = now_s
        self.threshold, self.pace_per_s = EVERYBODY, math.inf
        if now_s - self._limited_s < FORGET_S:
            self._idle_looks = self._idle_looks + 1 if level <= 0 and self._turned_away else 0
            self.pace_per_s = pace_for(
                self._capacity_per_s, best_per_s=self._best_per_s, level=level, idle_looks=self._idle_looks
            )
            if self._arrivals_per_s > self.pace_per_s:
                self._limited_s = now_s
                part = self._aim * self.pace_per_s / self._arrivals_per_s
                total = sum(self._arrivals)
                self.threshold = threshold_for(self._arrivals, part * total)
                spared = spared_below(self._arrivals, threshold, is_shrinking=level < before_level)
                spared_per_s = self._arrivals_per_s * sum(self._arrivals[:spared]) / max(total, 1.0)
                # What is spared has to be what may well be served, and no surge by itself.
                if self.threshold.rank < spared and spared_per_s < ONSET * self._capacity_per_s:
                    self.threshold, self.pace_per_s = Threshold(spared, 0.0), spared_per_s
        was_open = self.shares.fair_per_s == math.inf
        self.shares.look(now_s)
        self._look_by_s = math.inf
        if was_open and self.shares.fair_per_s < math.inf:
            self._arrivals = [0.0] * RANKS
            self._look_by_s = now_s + REMARKED_S
        self._turn = int(now_s / TURN_S)
        self._admitted, self._turned_away = 0, 0
        self._admitted_most = ONSET * min(self.pace_per_s, self._best_per_s) * WINDOW_S + ONSET_LEAST

    def _is_among(self, part: float) -> bool:
        """Whether this one is among the part of its rank that may come in: evenly, not by lot."""
        self._credit += part
        if self._credit >= 1:
            self._credit -= 1
            return True
        return False

    def _learn_to_aim(self, elapsed_s: float) -> None:
        """Compare what was let in since the last look with what was meant."""
        meant = self.pace_per_s * elapsed_s
        if not self.is_limiting:
            self._aim = 1.0
        elif self._admitted and meant >= 1:
            least, most = AIM_BOUNDS
            right = min(most, max(least, self._aim * meant / self._admitted))
            self._aim = settled(self._aim, right, elapsed_s=elapsed_s, over_s=AIM_S)

    def _settle(self, elapsed_s: float, level: float) -> None:
        """Bring the rates up to date."""
        arrived = self._arrived
        came = sum(arrived)
        keep = SEEN_ENOUGH / (SEEN_ENOUGH + came)
        self._arrivals = [before * keep + count for before, count in zip(self._arrivals, arrived, strict=True)]
        self._arrivals_per_s = settled(self._arrivals_per_s, came / elapsed_s, elapsed_s=elapsed_s, over_s=ARRIVAL_S)
        self._arrived = array("l", bytes(len(arrived) * arrived.itemsize))
        served_per_s, failed_per_s = self._served / elapsed_s, self._failed / elapsed_s
        self._served, self._failed = 0, 0
        # While the queue is no longer than it may be, it is not for want of capacity that something was not served.
        done_per_s = served_per_s if level > 1 else served_per_s + failed_per_s
        self._capacity_per_s = next_capacity_per_s(
            self._capacity_per_s, served_per_s=done_per_s, level=level, elapsed_s=elapsed_s
        )
        over_s = FORGET_WRONG_BEST_S if level > 2 else FORGET_BEST_S
        faded_per_s = settled(self._best_per_s, 0.0, elapsed_s=elapsed_s, over_s=over_s)
        self._best_per_s = max(faded_per_s, min(served_per_s, self._capacity_per_s))
