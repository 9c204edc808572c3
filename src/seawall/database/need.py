"""Say how many connections a pool could use, so that idle nodes give back what busy ones want.

A node is asked every few seconds, by its lease, and what it may have comes seconds later: it must ask for a
little more than it uses, and for twice as much when somebody had to wait. What it does not use it gives back only
after a while: to close connections and to open them again costs more than to keep them between two bursts.
"""

from collections import deque
from typing import Final

from seawall.clock import monotonic_s
from seawall.database.budget import FLOOR
from seawall.database.pool import Pool

KEPT_S: Final = 30.0
"""How long a node keeps what it does not need any more."""

SPARE_DIVISOR: Final = 4
"""One to spare for so many in use: bursts between two looks should find a connection."""


def useful(*, size: int, lent: int, waiting: int, waited: bool, least: int, most: int) -> int:
    """Return how many connections a pool could use, going by what it did since it was last asked.

    Args:
        size: how many it may have now.
        lent: how many were out at the most, at one time.
        waiting: how many tasks wait for one now.
        waited: whether any task had to wait. How many more would have come is not known: then it asks for twice
            as many, and is asked again soon.
        least: it never wants fewer.
        most: it never wants more.

    >>> useful(size=8, lent=8, waiting=0, waited=False, least=2, most=20)
    10
    >>> useful(size=8, lent=8, waiting=1, waited=True, least=2, most=20)
    16
    """
    busy = lent + waiting
    wanted = busy + -(-busy // SPARE_DIVISOR)
    if waited or waiting:
        wanted = max(wanted, 2 * size)
    return min(most, max(least, wanted))


class Need:
    """What one pool could use: the most of what it could have used of late. State: those answers, oldest first.

    Call it for the number. A pool that has not been asked for that long yet wants all it may have: nobody knows
    what will come, and a node often starts because there is much to do.
    """

    def __init__(self, pool: Pool, *, most: int, least: int = FLOOR) -> None:
        self._pool = pool
        self._most = most
        self._least = min(least, most)
        self._turns = 0
        # Only those that no later one exceeds: the first is the greatest.
        self._lately: deque[tuple[float, int]] = deque([(monotonic_s(), most)])

    def __repr__(self) -> str:
        return f"<Need {self._lately[0][1]} of {self._least} to {self._most}>"

    def __call__(self) -> int:
        """Return how many connections the pool could use now or could have used of late."""
        pool, counts = self._pool, self._pool.room.counts
        turns = counts.served + counts.shed + counts.refused
        wanted = useful(
            size=pool.size,
            lent=pool.take_most_lent(),
            waiting=pool.waiting,
            waited=turns > self._turns,
            least=self._least,
            most=self._most,
        )
        self._turns = turns
        return self.at(monotonic_s(), wanted)

    def at(self, now_s: float, wanted: int) -> int:
        """Note that so many are wanted now; return what was wanted at the most since `KEPT_S` ago."""
        while self._lately and self._lately[-1][1] <= wanted:
            self._lately.pop()
        self._lately.append((now_s, wanted))
        while self._lately[0][0] < now_s - KEPT_S:
            self._lately.popleft()
        return self._lately[0][1]
