"""How many requests a second may be let in: as many as are served, and a few more or less to keep a short queue.

The pace is in requests, not in ranks: when fewer come, more ranks fit into it at once, so that nobody is turned away
for a moment longer than there is a reason to. Decisions only.

What is scarce serves at its capacity while it has a queue, so the capacity is seen then, and only then; while it has
none, all that is known is that it can do at least as much as it did. From there it is proportional control of the
queue's length, as in Uber's Cinnamon (2023); that a standing queue is worked off, and not just kept from growing, is
CoDel's point (RFC 8289).
"""

import math
from typing import Final

DRAIN: Final = 0.2
"""Per target that a queue is too long (or too short), so much less (or more) than what is served is let in: with a
target of a tenth of a second, what is too much is worked off in half a second or so."""

DRAIN_MOST: Final = 0.7
IDLE_MOST: Final = 2
"""While nothing waits, look after look, and somebody is turned away, the step doubles so many times: what was scarce
is so no longer."""

CHANGE_S: Final = 1.0
"""Over how long it is believed that the capacity is another: what is served in a quarter of a second is a few more or
less by chance, and to follow the one more than the other would make a habit of it."""

ONSET_S: Final = 0.2
ONSET_PART: Final = 1.5
"""The same, where so many times as much was served as was believed possible: that is no chance."""

FLOOR_PART: Final = 0.25
"""Of what was served at the best lately, so much is let in at the least: else a service whose database was away for
some seconds would have to grow back from nothing."""

FLOOR_PER_S: Final = 10.0


def next_capacity_per_s(capacity_per_s: float, *, served_per_s: float, level: float, elapsed_s: float) -> float:
    """Return how much can be served, after a look at how much was.

    Args:
        capacity_per_s: what was believed.
        served_per_s: what was served since the last look, refusals and failures left out.
        level: how long the queue of what is scarcest is, in parts of what is tolerated.
        elapsed_s: since the last look.
    """
    if level <= 0 and served_per_s < capacity_per_s:
        return capacity_per_s
    over_s = ONSET_S if served_per_s > ONSET_PART * capacity_per_s else CHANGE_S
    return settled(capacity_per_s, served_per_s, elapsed_s=elapsed_s, over_s=over_s)


def pace_for(capacity_per_s: float, *, best_per_s: float, level: float, idle_looks: int) -> float:
    """Return how many requests a second may be let in until the next look.

    Args:
        capacity_per_s: what can be served.
        best_per_s: what was served when it went best, not long ago.
        level: as above.
        idle_looks: how many times in a row nothing waited although somebody was turned away.

    >>> pace_for(100.0, best_per_s=100.0, level=3.0, idle_looks=0)
    60.0
    >>> pace_for(100.0, best_per_s=100.0, level=1.0, idle_looks=0)
    100.0
    """
    if level > 0:
        part = 1 - min(DRAIN_MOST, DRAIN * (level - 1))
    else:
        part = 1 + DRAIN * 2 ** min(IDLE_MOST, max(0, idle_looks - 1))
    return max(FLOOR_PER_S, best_per_s * FLOOR_PART, capacity_per_s * part)


def settled(before: float, now: float, *, elapsed_s: float, over_s: float) -> float:
    """Return a value that follows `now` with a time constant of `over_s`."""
    return before + (now - before) * (1 - math.exp(-elapsed_s / over_s))
