"""The last minutes, second by second: what a diagnosis compares, and where the usual ends and now begins."""

import math
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from seawall.monitoring.cases import Tenant
from seawall.telemetry.metrics import Snapshot
from seawall.telemetry.points import NAMES, Point

NOW_S: Final = 10.0
"""How much is looked at as now. Long enough to see what takes a request its five seconds to fail."""

SINCE_MAX_S: Final = 20.0
"""From an onset that is known, so much at the most: what comes later is what has become of it."""

USUAL_S: Final = 300.0
MARGIN_S: Final = 5.0
"""Before an onset nothing is taken for usual: an alert knows it only roughly."""

TENANTS_MAX: Final = 50
"""Accounts that are kept of a second, those that asked most; nodes tell of twenty each."""

KEPT_S: Final = 1200.0
"""So that there is a usual to compare with while an incident lasts a quarter of an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """What is to be compared."""

    before: tuple[Point, ...]
    now: tuple[Point, ...]
    tenants: tuple[Tenant, ...]


class Recent:
    """State: the seconds of the last twenty minutes, a KiB each, and the accounts of the last few."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, array[float]]] = deque()
        self._tenants: deque[tuple[float, list[Tenant]]] = deque()

    def __repr__(self) -> str:
        return f"<Recent {len(self._points)} s>"

    def add(self, at_s: float, point: Point, tenants: Iterable[Sequence[float]] = ()) -> None:
        """Note a second of the fleet: its point, and its largest tenants, of all nodes one after the other."""
        largest = sorted(tenants_of(tenants), key=lambda one: one.requests, reverse=True)[:TENANTS_MAX]
        _append(self._points, at_s, array("d", [point.get(name, math.nan) for name in NAMES]), kept_s=KEPT_S)
        _append(self._tenants, at_s, largest, kept_s=SINCE_MAX_S)

    def windows(self, at_s: float, *, began_s: float | None = None) -> Windows:
        """Return what to compare.

        Args:
            at_s: now, on the wall clock.
            began_s: when it began, where an alert knows; None: nobody has noticed anything yet.
        """
        now_from_s = at_s - NOW_S if began_s is None else max(began_s - 1, at_s - SINCE_MAX_S)
        usual_to_s = now_from_s if began_s is None else min(began_s, now_from_s) - MARGIN_S
        return Windows(
            before=tuple(self._between(usual_to_s - USUAL_S, usual_to_s)),
            now=tuple(self._between(now_from_s, at_s)),
            tenants=tuple(
                summed_up(one for second_s, some in self._tenants if now_from_s < second_s <= at_s for one in some)
            ),
        )

    def _between(self, after_s: float, until_s: float) -> Iterator[Point]:
        for at_s, values in self._points:
            if after_s < at_s <= until_s:
                yield {name: value for name, value in zip(NAMES, values, strict=True) if not math.isnan(value)}


T = TypeVar("T")


def _append(kept: deque[tuple[float, T]], at_s: float, what: T, *, kept_s: float) -> None:
    # A clock that was set back makes what was later unusable.
    while kept and kept[-1][0] >= at_s:
        kept.pop()
    kept.append((at_s, what))
    while kept[0][0] < at_s - kept_s:
        kept.popleft()


def replica_ages(snapshots: Iterable[Snapshot]) -> dict[str, float]:
    """Return how old what each replica shows is, by its name, as the node that knows it worst sees it."""
    ages_s: dict[str, float] = {}
    for snapshot in snapshots:
        for sample in snapshot.get("db_client_replica_age_seconds", ()):
            name = sample["labels"][0]
            ages_s[name] = max(ages_s.get(name, 0.0), sample["value"])
    return ages_s


def tenants_of(lines: Iterable[Sequence[float]]) -> list[Tenant]:
    """Return each account's sums of what nodes tell: account, requests, seconds of work, refused."""
    return summed_up(
        Tenant(number=int(number), requests=requests, work_s=work_s, refused=refused)
        for number, requests, work_s, refused in lines
    )


def summed_up(tenants: Iterable[Tenant]) -> list[Tenant]:
    """Return one of each account."""
    sums: dict[int, Tenant] = {}
    for one in tenants:
        before = sums.get(one.number)
        sums[one.number] = (
            one
            if before is None
            else Tenant(
                number=one.number,
                requests=before.requests + one.requests,
                work_s=before.work_s + one.work_s,
                refused=before.refused + one.refused,
            )
        )
    return [*sums.values()]
