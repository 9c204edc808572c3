"""Where a request spends its time: exclusive stretches that add up to its duration.

A request has one stopwatch. Whoever makes it wait says for what, and what is not said is `OTHER`. It travels with the
task, as the purpose does, and stays with the request's own task: work that goes on beside it is not waited for twice.
"""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from typing import Final, TypeVar

from seawall.clock import monotonic_s

T = TypeVar("T")


class Segment(IntEnum):
    """What a request waits for, or is done with."""

    OTHER = 0
    """Our own code, and the event loop before it gets its turn."""
    ADMISSION = 1
    """A refusal that is told later."""
    AUTHENTICATION = 2
    DATABASE_WAIT = 3
    """A connection, or the next batch."""
    DATABASE = 4
    """The statement is at the server."""
    DISK = 5
    HASHING = 6
    NETWORK = 7
    """The client: its body is still to come, or it is slow to read."""


SEGMENTS: Final = tuple(Segment)

# Looked up once: a member of an enumeration takes longer to find than a stopwatch to switch.
_OTHER: Final = Segment.OTHER
_ZEROS: Final = [0.0] * len(SEGMENTS)


class Stopwatch:
    """The time of one request, by segment. State: the sums, which segment runs, and since when."""

    __slots__ = ("running", "since_s", "sums_s")

    def __init__(self, started_s: float) -> None:
        self.sums_s = _ZEROS.copy()
        self.running = _OTHER
        self.since_s = started_s

    def __repr__(self) -> str:
        return f"<Stopwatch {self.running.name.lower()}>"

    def switch(self, segment: Segment, now_s: float) -> Segment:
        """Charge what has passed to the segment that ran, and run another; return the one that ran."""
        before = self.running
        self.sums_s[before] += now_s - self.since_s
        self.running = segment
        self.since_s = now_s
        return before

    def move(self, seconds: float, *, charged: Segment, to: Segment) -> None:
        """Charge what was charged to one segment to another: it is known only now what it was."""
        self.sums_s[charged] -= seconds
        self.sums_s[to] += seconds


STOPWATCH: Final[ContextVar[Stopwatch | None]] = ContextVar("stopwatch", default=None)
"""The stopwatch of the request the running task works for; None where it works for none."""


async def unwatched(work: Awaitable[T]) -> T:
    """Do some work in a task of its own, beside the request's: it is not waited for twice."""
    STOPWATCH.set(None)
    return await work


@contextmanager
def timed(segment: Segment) -> Iterator[None]:
    """Charge the length of the block to a segment. For what takes long; hot paths call `switch` themselves."""
    watch = STOPWATCH.get()
    if watch is None:
        yield
        return
    before = watch.switch(segment, monotonic_s())
    try:
        yield
    finally:
        watch.switch(before, monotonic_s())
