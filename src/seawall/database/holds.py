"""Who holds the connections: now, lately, and for how long.

When a pool runs out, one question counts: what are the connections doing? Each hold is written on the
account of a query, a route, a tenant and a call site, so that the answer is a table and not a guess. A
batch is held in the name of all whose rows it carries, each for their part of the time.
"""

import asyncio
import random
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import CodeType, FrameType
from typing import Final, NamedTuple

from seawall.telemetry.metrics import DURATION_BUCKETS_S, Histogram
from seawall.telemetry.purpose import Purpose

WINDOW_S: Final = 10.0
"""How far back the table looks, at the least; twice that at the most."""

ACCOUNTS_MAX: Final = 1000
"""How many are told apart in a window; what comes beyond is summed up as others."""

ROWS_CHARGED: Final = 8
"""How many rows of a batch are charged with the time it took."""

STACK_DEPTH_MAX: Final = 50


class Account(NamedTuple):
    """In whose name connections are held."""

    query: str
    route: str
    tenant: int
    site: str


OTHERS: Final = Account("(others)", "(others)", 0, "")


class Blame(NamedTuple):
    """One line of the table: who, for how many connection-seconds, and which part of them all."""

    account: Account
    held_s: float
    share: float


@dataclass(slots=True, eq=False)
class Hold:
    """One connection that is lent, and what for. `purposes` are those of a batch's rows, or just one."""

    since_s: float
    site: str
    purposes: Sequence[Purpose]
    task: "asyncio.Task[object] | None"
    query: str = ""
    told: bool = False
    end: "Callable[[], None] | None" = None
    """Breaks the connection, whoever holds it."""


class Holds:
    """Keeps the accounts of one pool. State: what is lent now, and the time held in this window and the last."""

    def __init__(self) -> None:
        self.lent: set[Hold] = set()
        self.durations: dict[tuple[str, str], Histogram] = {}
        self.ended = 0
        """How many have come back."""
        self.ended_s = 0.0
        """How long these were lent in all."""
        self.mean_s = 0.0
        self._means_s: dict[str, float] = {}
        self._window: dict[Account, float] = {}
        self._last_window: dict[Account, float] = {}
        self._window_ends_s = 0.0
        # What each function is called; empty for those within the package. There are no more than functions.
        self._sites: dict[CodeType, str] = {}

    def __repr__(self) -> str:
        return f"<Holds {len(self.lent)} lent, {self.mean_s * 1000:.1f} ms on average>"

    def begin(self, hold: Hold) -> None:
        """Note that a connection is lent."""
        self.lent.add(hold)

    def end(self, hold: Hold, *, now_s: float) -> None:
        """Note that it came back."""
        self.lent.discard(hold)
        held_s = now_s - hold.since_s
        self.ended += 1
        self.ended_s += held_s
        query = hold.query or hold.site
        # New values count a tenth: the mean follows a change within some dozens of statements.
        self.mean_s += (held_s - self.mean_s) * 0.1
        known_s = self._means_s.get(query)
        self._means_s[query] = held_s if known_s is None else known_s + (held_s - known_s) * 0.1
        name = (query, hold.purposes[0].route)
        durations = self.durations.get(name)
        if durations is None:
            durations = self.durations[name] = Histogram(DURATION_BUCKETS_S)
        durations.observe(held_s)
        self._turn_window(now_s)
        self._charge(self._window, hold, held_s)

    def held_s(self, now_s: float) -> float:
        """Return how long connections were lent in all, those that are out now included."""
        return self.ended_s + sum(now_s - hold.since_s for hold in self.lent)

    def relative_cost(self, query: str) -> float:
        """Return how long this query holds a connection, the average of all being 1; between 0.1 and 100."""
        mean_s = self._means_s.get(query)
        if mean_s is None or self.mean_s <= 0:
            return 1.0
        return min(100.0, max(0.1, mean_s / self.mean_s))

    def call_site(self, package: str) -> str:
        """Return where outside of `package` the running call comes from: module and function."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            site = self._sites.get(frame.f_code)
            if site is None:
                module = frame.f_globals.get("__name__", "")
                is_outside = not module.startswith((package, "contextlib", "asyncio"))
                site = f"{module.removeprefix('seawall.')}.{frame.f_code.co_qualname}" if is_outside else ""
                self._sites[frame.f_code] = site
            if site:
                return site
            frame = frame.f_back
        return "unknown"

    def blame(self, *, now_s: float, lines_max: int = 20) -> list[Blame]:
        """Return who held connections lately, the longest first, what is held now included."""
        self._turn_window(now_s)
        found = dict(self._last_window)
        for account, held_s in self._window.items():
            found[account] = found.get(account, 0.0) + held_s
        for hold in self.lent:
            self._charge(found, hold, min(now_s - hold.since_s, 2 * WINDOW_S))
        total_s = sum(found.values()) or 1.0
        longest = sorted(found.items(), key=itemgetter(1), reverse=True)[:lines_max]
        return [Blame(account, held_s, held_s / total_s) for account, held_s in longest]

    def held_too_long(self, limit_s: float, *, now_s: float) -> list[Hold]:
        """Return what is held for longer than that and was not told before."""
        found = [hold for hold in self.lent if not hold.told and now_s - hold.since_s > limit_s]
        for hold in found:
            hold.told = True
        return found

    def _turn_window(self, now_s: float) -> None:
        if now_s >= self._window_ends_s:
            is_next = now_s < self._window_ends_s + WINDOW_S
            self._last_window = self._window if is_next else {}
            self._window = {}
            self._window_ends_s = now_s + WINDOW_S

    def _charge(self, accounts: dict[Account, float], hold: Hold, held_s: float) -> None:
        query = hold.query or hold.site
        if len(hold.purposes) == 1:
            self._add(accounts, query, hold.purposes[0], hold.site, held_s)
            return
        # Of a wide batch some rows stand for all: chosen by lot, they are right on average.
        stride = -(-len(hold.purposes) // ROWS_CHARGED)
        charged = hold.purposes[random.randrange(stride) :: stride] if stride > 1 else hold.purposes  # noqa: S311 - no secret
        for purpose in charged:
            self._add(accounts, query, purpose, hold.site, held_s / len(charged))

    @staticmethod
    def _add(accounts: dict[Account, float], query: str, purpose: Purpose, site: str, held_s: float) -> None:
        account = Account(query, purpose.route, purpose.tenant, site)
        known_s = accounts.get(account)
        if known_s is not None:
            accounts[account] = known_s + held_s
        elif len(accounts) < ACCOUNTS_MAX:
            accounts[account] = held_s
        else:
            accounts[OTHERS] = accounts.get(OTHERS, 0.0) + held_s


def stack_of(task: "asyncio.Task[object] | None") -> str:
    """Return where a task is waiting, from the outside in, as a traceback is printed.

    A task that waits tells only its first frame; the others are found along what awaits what.
    """
    lines: list[str] = []
    awaited: object = task.get_coro() if task is not None else None
    while awaited is not None and len(lines) < STACK_DEPTH_MAX:
        frame = (
            getattr(awaited, "cr_frame", None)
            or getattr(awaited, "gi_frame", None)
            or getattr(awaited, "ag_frame", None)
        )
        if frame is None:
            break
        lines += traceback.format_list(traceback.StackSummary.extract([(frame, frame.f_lineno)]))
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return "".join(lines)
