"""Who is next: the order in which those who wait are served, and who is told to come back later.

One set of rules for all who wait, be it for a connection or for the next batch. Decisions only: nothing
here awaits, and the time is an argument.

- Nobody is served after their deadline, and nobody is let in who would not be served well before it.
- Classes are served in order of urgency, but one turn in 16 goes to the least urgent first, so that
  background work is slow and not dead.
- Within a class tenants take turns by deficit round robin: who sends a thousand requests waits behind
  themselves. Source: Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round Robin",
  SIGCOMM 1995; per-flow queues as in RFC 8290.
- A queue that never empties gives nobody anything but delay. When the shortest wait of an interval was
  above the target, those who waited twice the target are turned away until it is below again. Source:
  Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 2012 (RFC 8289: target and interval), in the
  form for requests by Maurer, "Fail at Scale", ACM Queue 2015: requests do not slow down by losing one.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from seawall.errors import DeadlineExceeded, Overloaded
from seawall.telemetry.purpose import INTERNAL, Purpose, Urgency
from seawall.telemetry.segments import Stopwatch

TARGET_S = 0.020
INTERVAL_S = 0.200
# Who has to wait for longer than this part of the time they have left is told so at once: they can try elsewhere.
WAIT_SHARE_MAX = 0.1
LEAST_URGENT_FIRST_EVERY = 16
LIMIT = 4096
CLASSES = len(Urgency)


@dataclass(slots=True, eq=False)
class Waiter:
    """One who waits, and for what.

    `row` is what a batch is to take along, `identity` which row that writes. `cost` is how much of what is shared
    the work takes, the usual being 1.
    """

    answer: "asyncio.Future[Any]"
    deadline_s: float
    purpose: Purpose = INTERNAL
    row: Sequence[object] = ()
    identity: tuple[object, ...] = ()
    cost: float = 1.0
    arrived_s: float = 0.0
    was_lost: bool = False
    """Whether it was sent once, and the connection was lost."""
    watch: Stopwatch | None = None
    """Of the request it is for, while that waits for the answer."""


@dataclass(slots=True)
class WaitCounts:
    """What became of those who came."""

    served: int = 0
    waited_s: float = 0.0
    expired: int = 0
    refused: int = 0
    """Not let in: they would have waited for too long, or too many waited already."""
    shed: int = 0
    """Let in, and turned away when the queue did not empty."""


@dataclass(slots=True, eq=False)
class _Flow:
    """Those of one tenant, in one class. State: who waits, what it may still take, how it was served lately."""

    number: int
    urgency: int
    waiters: deque[Waiter] = field(default_factory=deque)
    deficit: float = 0.0
    is_first: bool = False
    shortest_s: float = 0.0
    interval_ends_s: float = 0.0
    stands: bool = False

    def is_stale(self, waited_s: float, now_s: float, target_s: float) -> bool:
        """Return whether who waited so long should be turned away; called once for each who is next."""
        if now_s >= self.interval_ends_s:
            self.stands = self.interval_ends_s > 0 and self.shortest_s > target_s
            self.interval_ends_s = now_s + INTERVAL_S
            self.shortest_s = waited_s
        elif waited_s < self.shortest_s:
            self.shortest_s = waited_s
            self.stands = self.stands and waited_s > target_s
        # Never the last: turning them away as well would leave nothing to do.
        return self.stands and waited_s > 2 * target_s and bool(self.waiters)


class WaitingRoom:
    """Those who wait, in the order they will be served. State: one queue for each class and tenant.

    `turn_s` is how long one waiter's turn takes of late, and `round_s` what everybody waits besides; whoever
    serves keeps them up to date. `target_s` is the wait that is no reason for concern.
    """

    def __init__(self, *, limit: int = LIMIT) -> None:
        self.counts = WaitCounts()
        self.turn_s = 0.0
        self.round_s = 0.0
        self.target_s = TARGET_S
        self._limit = limit
        self._length = 0
        # What they cost together: more than their number where those who wait ask for more than most.
        self._work = 0.0
        self._gone = 0
        self._turns = 0
        self._flows: dict[int, _Flow] = {}
        # For each class, the flows that have somebody waiting, the one whose turn it is first.
        self._rounds: tuple[deque[_Flow], ...] = tuple(deque() for _ in Urgency)
        self._least_urgent_first = self._rounds[::-1]
        # For each class, whether who was served last had gone first.
        self._was_first = [False] * CLASSES

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"<WaitingRoom {self._length} waiting, {len(self._flows)} flows>"

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for flows in self._rounds for flow in flows for waiter in flow.waiters)

    @property
    def most_urgent(self) -> Urgency:
        """The class of the most urgent of those who wait; when nobody does, the least urgent one."""
        for urgency in Urgency:
            if self._rounds[urgency]:
                return urgency
        return Urgency.BACKGROUND

    @property
    def standing_s(self) -> float:
        """How long it takes, at the present pace, to serve everybody who waits; 0 when nobody does."""
        return self.round_s + self._work * self.turn_s if self._length else 0.0

    def predicted_wait_s(self, purpose: Purpose) -> float:
        """Return how long who comes now will wait, if those before take as long as others did of late."""
        if not self._length:
            return self.round_s
        before = 0
        for urgency in range(purpose.urgency + 1):
            for flow in self._rounds[urgency]:
                before += len(flow.waiters)
        own = self._flows.get(_number(purpose))
        # Tenants take turns: a newcomer passes the queues of the others but for one turn each per turn of its own.
        fair = (1 + (len(own.waiters) if own is not None else 0)) * len(self._flows)
        return self.round_s + min(before, fair) * self.turn_s * self._work / self._length

    def enter(self, waiter: Waiter, *, now_s: float) -> Waiter | None:
        """Let one more wait; return who was turned away for that, if the room is full.

        Raises:
            DeadlineExceeded: it is too late already.
            Overloaded: it would wait for too long, or too many wait. Nothing was done.
        """
        left_s = waiter.deadline_s - now_s
        if left_s <= 0:
            self.counts.expired += 1
            raise DeadlineExceeded
        # Most of the time even the longest possible wait is fine, and need not be known better.
        if self.standing_s > 2 * self.target_s:
            wait_s = self.predicted_wait_s(waiter.purpose)
            if wait_s > left_s * WAIT_SHARE_MAX and wait_s > 2 * self.target_s:
                self.counts.refused += 1
                raise Overloaded(retry_after_s=max(1.0, round(wait_s, 1)))
        turned_away = None
        if self._length >= self._limit and self._gone:
            self.dismiss(now_s=now_s)
        if self._length >= self._limit:
            turned_away = self._turn_one_away(waiter.purpose)
        self.put_back(waiter, now_s=now_s)
        return turned_away

    def put_back(self, waiter: Waiter, *, now_s: float, is_first: bool = False) -> None:
        """Let one wait who was let in before, and may be served from now on.

        Who is first does not wait for a round of their class: they are next, or the next but one where somebody went
        first just now. Else two who come in turns would leave nothing to the others.
        """
        waiter.arrived_s = now_s
        number = _number(waiter.purpose)
        flow = self._flows.get(number)
        if flow is None:
            urgency = waiter.purpose.urgency
            flow = self._flows[number] = _Flow(number, urgency)
            if is_first:
                flow.is_first, flow.deficit = True, 1.0
                self._rounds[urgency].insert(int(self._was_first[urgency]), flow)
            else:
                self._rounds[urgency].append(flow)
        flow.waiters.append(waiter)
        self._length += 1
        self._work += waiter.cost

    def one_has_gone(self, *, now_s: float) -> None:
        """Note that one of those who wait does not any more; when half of them do not, they are taken out."""
        self._gone += 1
        if 2 * self._gone > self._length:
            self.dismiss(now_s=now_s)

    def next(self, now_s: float, left: list[Waiter]) -> Waiter | None:
        """Take out who is served now; None when nobody waits any more.

        Those who leave the queue otherwise are added to `left`: they are gone, or have just been told that it is
        too late, or that the queue stands.
        """
        counts = self.counts
        while self._length:
            waiter, flow = self._head()
            waited_s = now_s - waiter.arrived_s
            if waiter.answer.done():
                self._gone = max(0, self._gone - 1)
                left.append(waiter)
            elif waiter.deadline_s <= now_s:
                counts.expired += 1
                waiter.answer.set_exception(DeadlineExceeded())
                left.append(waiter)
            elif flow.is_stale(waited_s, now_s, self.target_s):
                counts.shed += 1
                waiter.answer.set_exception(Overloaded())
                left.append(waiter)
            else:
                counts.served += 1
                counts.waited_s += waited_s
                return waiter
        return None

    def dismiss(self, error: BaseException | None = None, *, now_s: float) -> list[Waiter]:
        """Send away everybody with an error; without one, those who are gone or too late. Return who left.

        The rest keep their places.
        """
        left: list[Waiter] = []
        self._gone = 0
        for flow in [*self._flows.values()]:
            stay: deque[Waiter] = deque()
            for waiter in flow.waiters:
                if waiter.answer.done():
                    left.append(waiter)
                elif error is not None or waiter.deadline_s <= now_s:
                    self.counts.expired += 1
                    waiter.answer.set_exception(error or DeadlineExceeded())
                    left.append(waiter)
                else:
                    stay.append(waiter)
            self._length -= len(flow.waiters) - len(stay)
            self._work += sum(waiter.cost for waiter in stay) - sum(waiter.cost for waiter in flow.waiters)
            flow.waiters = stay
            if not stay:
                self._close(flow)
        return left

    def _head(self) -> tuple[Waiter, _Flow]:
        """Take out whoever's turn it is. Somebody waits."""
        self._turns += 1
        rounds = self._rounds if self._turns % LEAST_URGENT_FIRST_EVERY else self._least_urgent_first
        for flows in rounds:
            if flows:
                break
        flow = flows[0]
        if len(flows) > 1:
            while flow.deficit <= 0:
                flow.deficit += 1.0
                flows.rotate(-1)
                flow = flows[0]
        waiter = flow.waiters.popleft()
        flow.deficit -= waiter.cost
        self._was_first[flow.urgency] = flow.is_first
        self._length -= 1
        # Nothing is left of rounding when nobody is.
        self._work = self._work - waiter.cost if self._length else 0.0
        if not flow.waiters:
            self._close(flow)
        return waiter, flow

    def _close(self, flow: _Flow) -> None:
        self._rounds[flow.urgency].remove(flow)
        del self._flows[flow.number]

    def _turn_one_away(self, purpose: Purpose) -> Waiter:
        """Make room in a full one: the first of the longest queue has to go, or the newcomer if that is its own.

        Source: RFC 8290, 4.1: whoever fills the room pays for it.
        """
        self.counts.refused += 1
        longest = max(self._flows.values(), key=lambda flow: len(flow.waiters))
        if longest.number == _number(purpose):
            raise Overloaded
        waiter = longest.waiters.popleft()
        self._length -= 1
        self._work -= waiter.cost
        if not longest.waiters:
            self._close(longest)
        if not waiter.answer.done():
            waiter.answer.set_exception(Overloaded())
        return waiter


def _number(purpose: Purpose) -> int:
    """Return the number of a class and tenant. A pair would be hashed by the name of the class, which takes longer."""
    return purpose.tenant * CLASSES + purpose.urgency
