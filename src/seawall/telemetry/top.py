"""Which tenants take most, of any number of them, in a fixed room.

Source: Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams", ICDT
2005 (Space-Saving), with weights: who comes when all counters are taken has that of the least, and begins where it
stood. Whoever had more than a 64th of all is among those that are left. What is told of them was counted since they
have the counter, so that nobody is charged with what others did.
"""

from heapq import heapify, heapreplace
from typing import Final

COUNTERS: Final = 64
TOLD: Final = 20

REQUEST_S: Final = 1e-4
"""What a request weighs beside the seconds of work it took: who is refused all the time takes none."""


class _Counter:
    """One tenant's. `weight` orders them, and may be too large by what the one before had."""

    __slots__ = ("refused", "requests", "weight", "work_s")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.requests = 0
        self.refused = 0
        self.work_s = 0.0


class TopTenants:
    """State: a counter for each of those who took most since somebody asked, and the work of all."""

    def __init__(self) -> None:
        self.total_s = 0.0
        self._counters: dict[int, _Counter] = {}
        # Once all counters are taken: each with its weight of some time ago, which is no more than that of now.
        self._heap: list[tuple[float, int]] = []

    def __repr__(self) -> str:
        return f"<TopTenants {len(self._counters)} counted>"

    def add(self, tenant: int, requests: int, work_s: float, refused: int) -> None:
        """Count some requests, so many of which were refused."""
        counter = self._counters.get(tenant)
        if counter is None:
            counter = self._counters[tenant] = _Counter(self._make_room(tenant))
        counter.requests += requests
        counter.refused += refused
        counter.work_s += work_s
        counter.weight += work_s + REQUEST_S * requests
        self.total_s += work_s

    def _make_room(self, newcomer: int) -> float:
        """Take the counter of who has least, if all are taken; return what that was."""
        if len(self._counters) < COUNTERS:
            return 0.0
        heap, counters = self._heap, self._counters
        if not heap:
            heap[:] = [(counter.weight, tenant) for tenant, counter in counters.items()]
            heapify(heap)
        while True:
            weight, tenant = heap[0]
            now = counters[tenant].weight
            if now <= weight:
                heapreplace(heap, (weight, newcomer))
                del counters[tenant]
                return weight
            heapreplace(heap, (now, tenant))

    def take(self) -> tuple[list[tuple[int, int, float, int]], float]:
        """Return of each that took most its number, requests, seconds of work and refusals; and its part of all work.

        The largest comes first, and the part is the largest one's: 0 where nothing was done. Then all begins anew.
        """
        largest = sorted(self._counters.items(), key=lambda one: one[1].work_s + REQUEST_S * one[1].requests)
        told = [(tenant, one.requests, one.work_s, one.refused) for tenant, one in largest[: -TOLD - 1 : -1]]
        share = max((one[2] for one in told), default=0.0) / self.total_s if self.total_s > 0 else 0.0
        self._counters, self._heap, self.total_s = {}, [], 0.0
        return told, share
