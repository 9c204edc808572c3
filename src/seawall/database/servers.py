"""What a process knows of the servers of one database, and what follows: who takes writes, who answers reads.

Decisions only: nothing here awaits, and the time is an argument. Saturation is not illness: a server that has no
connection to spare is busy, and taking it away would make the others busier. Only one that cannot be
reached, or does not answer a check, is left out until it does.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from seawall.database.endpoint import Endpoint
from seawall.database.pool import Pool

MARKS_MAX: Final = 3600
"""How many of the primary's positions are remembered: with a check each second, those of an hour."""

IDLE_HALF_LIFE_S: Final = 1.0
"""How soon a server's slowness is half forgotten when it is asked nothing: it may have recovered."""

LEAST_ROUND_S: Final = 1e-5
"""What nobody has asked yet takes at least so long. Without, how much waits there would not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a server said of itself in a check.

    `timeline` is the primary's own, and on a replica the one it receives: 0 where it receives none. `position` is how
    far its log is on disk, and on a replica how far it has replayed it.
    """

    in_recovery: bool
    timeline: int
    position: int
    waits_for_disk: bool = True
    """Whether commits there are on disk before anybody sees them (`synchronous_commit` is not off)."""


@dataclass(slots=True)
class ServerCounts:
    """What became of the reads given to a replica, and how often a server was left out."""

    answered: int = 0
    judged: int = 0
    """Rows that were missing, or newer than what the primary showed: read again there."""
    late: int = 0
    """Rows read on the primary because the replica had not replayed enough."""
    failed: int = 0
    """Rows read on the primary because the replica did not answer."""
    ejections: int = 0


@dataclass(slots=True, eq=False)
class Server:
    """One server, as this process sees it. State: the last sighting, and whether it is ill or late."""

    endpoint: Endpoint
    pool: Pool
    direct: Endpoint
    """The server itself, where `endpoint` is a pooler before it: for checks and leases."""
    sighting: Sighting | None = None
    is_ill: bool = False
    out_until_s: float = float("-inf")
    """Until when it is left out whatever it says, since somebody who knows more had it put out."""
    is_put_out: bool = False
    replayed: int = 0
    """What it had replayed when it was last looked at. It may have restarted since, and show less."""
    is_awaited_at: int = 0
    """A position it did not reach in time: it answers no reads until it is seen there."""
    fresh_s: float = float("-inf")
    """When the primary was at a position that this one has replayed: it shows nothing older."""
    counts: ServerCounts = field(default_factory=ServerCounts)

    def __repr__(self) -> str:
        role = "unseen" if self.sighting is None else "replica" if self.sighting.in_recovery else "primary"
        return f"<Server {self.endpoint.name}: {role}{', ill' if self.is_ill else ''}, {self.pool!r}>"

    @property
    def is_late(self) -> bool:
        """Whether it is known not to have replayed what was asked for."""
        return self.replayed < self.is_awaited_at

    def see(self, sighting: Sighting) -> None:
        """Note what it said; it is well."""
        if self.sighting is None or sighting.timeline != self.sighting.timeline:
            self.is_awaited_at = 0  # That was a place in another log.
        self.sighting = sighting
        self.is_ill = False
        self.replayed = sighting.position if sighting.in_recovery else 0

    def fall_ill(self) -> None:
        """Note that it could not be reached, or did not answer. What it had replayed may be gone with it."""
        self.counts.ejections += not self.is_ill
        self.is_ill = True
        self.replayed = 0


class Marks:
    """Where the primary was, and when: how old an answer of a replica may be. State: the last of them."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS_MAX)

    def add(self, now_s: float, position: int) -> None:
        """Note that the primary was there now."""
        self._marks.append((now_s, position))

    def when_at(self, position: int) -> float:
        """Return when the primary was last seen at this position or before it; -inf if never."""
        return next((at_s for at_s, there in reversed(self._marks) if there <= position), float("-inf"))


def primary_of(servers: Sequence[Server]) -> Server | None:
    """Return the server that takes writes, ill or not; None when none has said that it does.

    Of several, the one with the highest timeline: each promotion begins a new one, so the others were primaries
    before and do not know yet that they are not.
    """
    leaders = [one for one in servers if one.sighting is not None and not one.sighting.in_recovery]
    return max(leaders, key=lambda one: (one.sighting.timeline if one.sighting else 0, not one.is_ill), default=None)


def follows(server: Server, primary: Server) -> bool:
    """Return whether a server is this primary's replica, as far as they said: it receives the same timeline."""
    mine, its = server.sighting, primary.sighting
    return mine is not None and its is not None and mine.in_recovery and mine.timeline == its.timeline


def readers_of(servers: Sequence[Server], primary: Server | None) -> tuple[Server, ...]:
    """Return the replicas that may be asked; without a primary that is well there is nobody to judge their answers.

    One that follows another timeline than the primary's is not its replica, however far it is.
    """
    if primary is None or primary.is_ill or primary.sighting is None or not primary.sighting.waits_for_disk:
        return ()
    return tuple(
        one
        for one in servers
        if follows(one, primary) and not one.is_ill and not one.is_late and not one.is_put_out and one.pool.size > 0
    )


def freshest_of(servers: Sequence[Server], *, now_s: float, age_max_s: float) -> Server | None:
    """Return the replica whose answers are least old, if they are no older than that."""
    replicas = [
        one
        for one in servers
        if one.sighting is not None and one.sighting.in_recovery and not one.is_ill and not one.is_put_out
    ]
    best = max(replicas, key=lambda one: one.fresh_s, default=None)
    return best if best is not None and now_s - best.fresh_s <= age_max_s else None


def expected_s(*, round_s: float, rows: int, idle_s: float) -> float:
    """Return what a row would have to wait for, comparable between servers.

    Args:
        round_s: how long a statement takes there of late.
        rows: how many wait there or are under way.
        idle_s: since when it was asked nothing.

    Of two servers chosen at random the one with less is taken: nearly as good as the best of all, and no herd runs to
    whichever looks best. Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS
    12(10), 2001.
    """
    return max(LEAST_ROUND_S, round_s * math.exp2(-idle_s / IDLE_HALF_LIFE_S)) * (rows + 1)
