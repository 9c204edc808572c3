"""What each tenant has had lately, and what of it is fair when not everybody can have what they want.

Fair is max-min: who wants less than an equal part gets it all, and what they leave is divided among the others.
Sources: Bertsekas and Gallager, Data Networks, 6.5.2; to mark what is beyond the share where it comes in, and to drop
that first, is Stoica, Shenker and Zhang, "Core-Stateless Fair Queueing", SIGCOMM 1998. The mark is a token bucket's.
"""

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

WINDOW_S: Final = 1.0
"""How far back usage counts, at the least; twice that at the most."""

TENANTS_MAX: Final = 10_000
"""How many are told apart in a window. Who comes beyond has had nothing, as far as anybody knows."""

HEAVY_PART: Final = 0.05
"""Who takes less than so much of all that is served is never the one who takes too much: thousands of small users
are not each other's problem, they are many."""

BURST_S: Final = 0.5
"""How much of its share a tenant may take at once, after it asked for nothing: so many seconds of it, and one."""


class Standing(IntEnum):
    """How what a tenant has had compares with its share."""

    LIGHT = 0
    HEAVY = 1
    """It takes its whole share."""
    BEYOND = 2
    """It has had its share."""
    CAPPED = 3
    """It has had what an operator, or the keeper, lets it have, however much is free."""


@dataclass(slots=True)
class _Bucket:
    """What a tenant may still have. State: that, and as of when."""

    left: float
    at_s: float


@dataclass(slots=True)
class _Cap:
    """What one tenant may have at the most. State: what it may still have, and as of when."""

    per_s: float
    until_s: float
    bucket: _Bucket

    @property
    def burst(self) -> float:
        return max(1.0, self.per_s * BURST_S)


class Shares:
    """State: what each tenant got in this window and in the last, who was turned away, what is fair and left of it.

    Tenants are numbers: of accounts, or of addresses where nobody knows an account.
    """

    def __init__(self) -> None:
        self.fair_per_s = math.inf
        """What one tenant may be charged a second before the rest is beyond its share."""

        self._now: dict[int, float] = {}
        self._before: dict[int, float] = {}
        self._wanting: set[int] = set()
        self._wanting_before: set[int] = set()
        self._turns_s = 0.0
        self._buckets: dict[int, _Bucket] = {}
        self._caps: dict[int, _Cap] = {}

    def __repr__(self) -> str:
        return f"<Shares {len(self._now)} tenants, {self.fair_per_s:.1f} a second are fair>"

    def take(self, tenant: int, *, now_s: float, cost: float = 1.0) -> Standing:
        """Take so much out of what is left of a tenant's share, if anything is; return how it stands then.

        Where nobody is turned away, nobody takes too much.
        """
        if self._caps and self._is_capped(tenant, now_s=now_s, cost=cost):
            return Standing.CAPPED
        if self.fair_per_s == math.inf:
            return Standing.LIGHT
        bucket = self._fill(tenant, now_s)
        if bucket.left <= 0:
            return Standing.BEYOND
        bucket.left -= cost
        return Standing.LIGHT if bucket.left > self._burst / 2 else Standing.HEAVY

    def cap(self, tenant: int, per_s: float | None, *, now_s: float, until_s: float) -> None:
        """Let a tenant be charged no more than so much a second until then, however much is free; None: as it likes."""
        if per_s is None:
            self._caps.pop(tenant, None)
        elif (known := self._caps.get(tenant)) is not None:
            known.per_s, known.until_s = per_s, until_s
        else:
            self._caps[tenant] = _Cap(per_s, until_s, _Bucket(max(1.0, per_s * BURST_S), now_s))

    def caps(self, now_s: float) -> dict[int, float]:
        """Return who is capped, and at how much a second."""
        return {tenant: cap.per_s for tenant, cap in self._caps.items() if cap.until_s > now_s}

    def charge(self, tenant: int, *, now_s: float, cost: float) -> None:
        """Take so much out of a tenant's share that nobody knew of when it asked."""
        cap = self._caps.get(tenant)
        if cap is not None:
            cap.bucket.left = max(-cap.burst, cap.bucket.left - cost)
        if self.fair_per_s < math.inf:
            self._fill(tenant, now_s).left -= cost

    def serve(self, tenant: int, cost: float = 1.0) -> None:
        """Note that a tenant got so much."""
        had = self._now.get(tenant)
        if had is not None:
            self._now[tenant] = had + cost
        elif len(self._now) < TENANTS_MAX:
            self._now[tenant] = cost

    def turn_away(self, tenant: int) -> None:
        """Note that a tenant wanted more than it was given."""
        if len(self._wanting) < TENANTS_MAX:
            self._wanting.add(tenant)

    def look(self, now_s: float) -> None:
        """Decide again what is fair; called a few times a second."""
        if now_s >= self._turns_s:
            is_next = now_s < self._turns_s + WINDOW_S
            self._before, self._now = (self._now if is_next else {}), {}
            self._wanting_before, self._wanting = (self._wanting if is_next else set()), set()
            self._turns_s = now_s + WINDOW_S
        wanting = self._wanting | self._wanting_before
        if not wanting:
            self.fair_per_s = math.inf
            self._buckets.clear()
            return
        usages = dict(self._before)
        for tenant, cost in self._now.items():
            usages[tenant] = usages.get(tenant, 0.0) + cost
        over_s = WINDOW_S + max(0.0, WINDOW_S - (self._turns_s - now_s))
        self.fair_per_s = fair_share(usages, wanting=wanting) / over_s
        if self.fair_per_s == math.inf:
            self._buckets.clear()
        elif len(self._buckets) > TENANTS_MAX:
            self._buckets = {tenant: bucket for tenant, bucket in self._buckets.items() if tenant in usages}

    def _is_capped(self, tenant: int, *, now_s: float, cost: float) -> bool:
        cap = self._caps.get(tenant)
        if cap is None:
            return False
        if cap.until_s <= now_s:
            del self._caps[tenant]
            return False
        bucket = cap.bucket
        bucket.left = min(cap.burst, bucket.left + (now_s - bucket.at_s) * cap.per_s)
        bucket.at_s = now_s
        if bucket.left < min(cost, cap.burst):
            return True
        bucket.left -= cost
        return False

    @property
    def _burst(self) -> float:
        return 1.0 + self.fair_per_s * BURST_S

    def _fill(self, tenant: int, now_s: float) -> _Bucket:
        bucket = self._buckets.get(tenant)
        if bucket is None:
            bucket = self._buckets[tenant] = _Bucket(self._burst, now_s)
        else:
            # Nobody owes for long: not more than is given again in a second.
            left = max(bucket.left, -self.fair_per_s) + (now_s - bucket.at_s) * self.fair_per_s
            bucket.left = min(self._burst, left)
            bucket.at_s = now_s
        return bucket


def fair_share(usages: Mapping[int, float], *, wanting: Collection[int]) -> float:
    """Return the most one tenant may have of what all had together, by max-min; infinite where nobody wants more.

    Args:
        usages: what each tenant had.
        wanting: the tenants that would have taken more, those who had nothing included.

    >>> fair_share({1: 6.0, 2: 2.0, 3: 1.0}, wanting={1, 2})
    4.0
    """
    total = left = sum(usages.values())
    satisfied = sorted(cost for tenant, cost in usages.items() if tenant not in wanting)
    wants = [*satisfied, *itertools.repeat(math.inf, len(wanting))]
    for waiting, cost in zip(range(len(wants), 0, -1), wants, strict=True):
        if cost > left / waiting:
            return max(left / waiting, HEAVY_PART * total)
        left -= cost
    return math.inf
