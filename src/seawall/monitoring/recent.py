"""The last minutes, second by second: what a diagnosis compares, and where the usual ends and now begins."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from seawall.monitoring.cases import Tenant
from seawall.telemetry.metrics import Snapshot
from seawall.telemetry.points import Point

NOW_S: Final = 10.0
"""How much is looked at as now. Long enough to see what takes a request its five seconds to fail."""

SINCE_MAX_S: Final = 20.0
"""From an onset that is known, so much at the most: what comes later is what has become of it."""

USUAL_S: Final = 300.0
MARGIN_S: Final = 5.0
"""Before an onset nothing is taken for usual: an alert knows it only roughly."""

KEPT_S: Final = 1200.0
"""So that there is a usual to compare with while an incident lasts a quarter of an hour."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One second. `tenants` are as nodes tell them: account, requests, seconds of work, refused."""

    at_s: float
    point: Point
    tenants: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """What is to be compared."""

    before: tuple[Point, ...]
    now: tuple[Point, ...]
    tenants: tuple[Tenant, ...]


class Recent:
    """State: the seconds of the last twenty minutes."""

    def __init__(self) -> None:
        self._kept: deque[Kept] = deque()

    def __repr__(self) -> str:
        return f"<Recent {len(self._kept)} s>"

    def add(self, at_s: float, point: Point, tenants: Iterable[Sequence[Any]] = ()) -> None:
        """Note a second of the fleet: its point, and its largest tenants, of all nodes one after the other."""
        # A clock that was set back makes what was later unusable.
        while self._kept and self._kept[-1].at_s >= at_s:
            self._kept.pop()
        self._kept.append(Kept(at_s, point, [*tenants]))
        while self._kept[0].at_s < at_s - KEPT_S:
            self._kept.popleft()

    def windows(self, at_s: float, *, began_s: float | None = None) -> Windows:
        """Return what to compare.

        Args:
            at_s: now, on the wall clock.
            began_s: when it began, where an alert knows; None: nobody has noticed anything yet.
        """
        now_from_s = at_s - NOW_S if began_s is None else max(began_s - 1, at_s - SINCE_MAX_S)
        usual_to_s = now_from_s if began_s is None else min(began_s, now_from_s) - MARGIN_S
        now = [one for one in self._kept if now_from_s < one.at_s <= at_s]
        return Windows(
            before=tuple(one.point for one in self._kept if usual_to_s - USUAL_S < one.at_s <= usual_to_s),
            now=tuple(one.point for one in now),
            tenants=tuple(tenants_of(line for one in now for line in one.tenants)),
        )


def replica_ages(snapshots: Iterable[Snapshot]) -> dict[str, float]:
    """Return how old what each replica shows is, by its name, as the node that knows it worst sees it."""
    ages_s: dict[str, float] = {}
    for snapshot in snapshots:
        for sample in snapshot.get("db_client_replica_age_seconds", ()):
            name = sample["labels"][0]
            ages_s[name] = max(ages_s.get(name, 0.0), sample["value"])
    return ages_s


def tenants_of(lines: Iterable[Sequence[float]]) -> list[Tenant]:
    """Return each account's sums, of what nodes tell of their seconds."""
    sums: dict[int, tuple[float, float, float]] = {}
    for number, requests, work_s, refused in lines:
        before = sums.get(int(number), (0.0, 0.0, 0.0))
        sums[int(number)] = (before[0] + requests, before[1] + work_s, before[2] + refused)
    return [
        Tenant(number=number, requests=requests, work_s=work_s, refused=refused)
        for number, (requests, work_s, refused) in sums.items()
    ]
