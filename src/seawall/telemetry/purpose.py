"""What a piece of work is for: which request, whose, how urgent, until when.

A door says so once, and whatever the request does below is done in its name: who waits for a
connection is served by it, and who holds one is listed by it. It travels with the task, so that no
function between the door and the database has to hand it on.
"""

from contextvars import ContextVar
from enum import IntEnum
from typing import Final, NamedTuple


class Urgency(IntEnum):
    """Who goes first when not everybody can."""

    CRITICAL = 0
    """What keeps the service alive, and what ends work that holds much: leases, health, Complete, Abort."""
    INTERACTIVE = 1
    """Somebody looks at a screen: GET, HEAD, lists."""
    NORMAL = 2
    """Other writes."""
    BACKGROUND = 3
    """Nobody waits: sweeping, scrubbing, accounts so marked."""


class Purpose(NamedTuple):
    """What a piece of work is for.

    `tenant` is an account's number, 0 for those nobody knows. `deadline_s` is on the monotonic clock;
    None where each step has its own patience, because the client sets the pace. `only_reads`: nothing is decided
    by what is read, but what is answered.
    """

    route: str = "internal"
    tenant: int = 0
    urgency: Urgency = Urgency.NORMAL
    deadline_s: float | None = None
    only_reads: bool = False


INTERNAL: Final = Purpose()

PURPOSE: Final[ContextVar[Purpose]] = ContextVar("purpose", default=INTERNAL)
"""The purpose of the running task. Set by doors and loops, read below."""

STALENESS: Final[ContextVar[float]] = ContextVar("staleness", default=0.0)
"""How old, in seconds, what the running task has read may be at the most; 0: it is the present."""


def without_deadline() -> None:
    """From here on the client sets the pace: the request has no end of its own any more."""
    PURPOSE.set(PURPOSE.get()._replace(deadline_s=None))
