"""Decide whether what a replica answers could have been read on the primary at the same moment.

A replica must have replayed all that was acknowledged before the read began. That alone is not enough: it may
show a commit *before* the primary does, where that becomes visible only once it is flushed and, with
synchronous replication, acknowledged by others. Who read it here and then there would go back in time. So
a read takes with it what the primary showed after it began, and what is not in there is read again there.

Source: the read index of Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 6.4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FIRST_NORMAL_XID: Final = 3
"""Transactions below this number are the server's own, and over for everybody."""

CYCLE: Final = 1 << 32
"""A row keeps the lower 32 bits of the number of the transaction that made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadIndex:
    """What the primary showed at one moment: up to which byte of its log, and which transactions.

    `next_xid` is the first number that no transaction had then, with its epoch; `in_progress` are those below it
    that were not over.
    """

    position: int
    next_xid: int
    in_progress: frozenset[int]

    def covers(self, row: "Mapping[str, int] | None") -> bool:
        """Return whether what a replica found could have been found on the primary.

        A row that is missing may have been deleted by a transaction the primary does not show yet: nobody can tell.
        """
        return row is not None and self.shows(row["xmin"])

    def shows(self, xmin: int) -> bool:
        """Return whether the transaction that made a row was over on the primary.

        Args:
            xmin: the row's, 32 bits wide.

        >>> index = ReadIndex(position=0, next_xid=CYCLE + 100, in_progress=frozenset({CYCLE + 90}))
        >>> index.shows(99), index.shows(90), index.shows(100), index.shows(CYCLE - 5)
        (True, False, False, True)
        """
        if xmin < FIRST_NORMAL_XID:
            return True
        # The nearest number with these bits. One that is older than half a cycle may be taken for a future one, which
        # is the harmless side: the row is read again on the primary.
        ahead = (xmin - self.next_xid) % CYCLE
        return ahead >= CYCLE // 2 and self.next_xid + ahead - CYCLE not in self.in_progress
