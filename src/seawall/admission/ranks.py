"""Who goes first when not everybody can: ranks, and the rank up to which requests are let in.

A rank is a class and, within it, a level that depends on who asks: a user is let in or not for minutes, not for a
request, so that one who gets through gets through with everything. Decisions only.

Source: Zhou et al., "Overload Control for Scaling WeChat Microservices" (DAGOR), SoCC 2018, section 4.2: two levels
of priority, 128 users' levels, a cursor found in the histogram of what arrived.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from seawall.telemetry.purpose import Urgency

LEVELS: Final = 128
"""Levels in each class. The last is for those who take their whole fair share already, and who are no more urgent than
a write then: who takes less goes before them."""

RANKS: Final = len(Urgency) * LEVELS

BEYOND_SHARE: Final = RANKS - 1
"""The rank of what is asked by those who have had more than their share: after everything else, whatever it is."""

SEEN: Final = 0.5
"""From so many arrivals on, a rank counts as one that comes."""

# A multiplier that spreads neighbours far apart. Source: Knuth, The Art of Computer Programming 3, 6.4.
_SPREAD: Final = 2654435761


class Threshold(NamedTuple):
    """Who is let in: all of lower ranks, and of this one so large a part."""

    rank: int
    part: float


EVERYBODY: Final = Threshold(RANKS, 0.0)


def rank_of(urgency: int, user: int, *, turn: int) -> int:
    """Return the rank of a request, lower is better; another `turn` deals the users' levels anew.

    >>> rank_of(Urgency.INTERACTIVE, 7, turn=1) // LEVELS == Urgency.INTERACTIVE
    True
    """
    return urgency * LEVELS + (((user ^ turn) * _SPREAD & 0xFFFFFFFF) >> 8) % (LEVELS - 1)


def threshold_for(arrivals: Sequence[float], allowed: float) -> Threshold:
    """Return who may be let in so that no more than `allowed` are, of what arrives by rank in the same time.

    >>> threshold_for([2.0] * RANKS, 5.0)
    Threshold(rank=2, part=0.5)
    >>> threshold_for([2.0] * RANKS, 5000.0) == EVERYBODY
    True
    """
    left = allowed
    for rank, count in enumerate(arrivals):
        if count > left:
            return Threshold(rank, left / count)
        left -= count
    return EVERYBODY


def spared_below(arrivals: Sequence[float], threshold: Threshold, *, is_shrinking: bool) -> int:
    """Return the rank below which nobody is turned away yet, whatever the pace is.

    How much of a queue a class makes is seen when it is not let in any more: what is more urgent may be far more, and
    have no part in it. So one look reaches no further than the least urgent class that was let in; and where that was
    turned away whole, to the next one only if the queue does not shrink for it.

    Args:
        arrivals: what arrives by rank.
        threshold: who was let in until now.
        is_shrinking: whether the queue is shorter than it was.

    >>> spared_below([2.0] * RANKS, EVERYBODY, is_shrinking=False) // LEVELS == Urgency.BACKGROUND
    True
    """
    if is_shrinking and threshold.part == 0 and threshold.rank < RANKS:
        return threshold.rank // LEVELS * LEVELS
    last = threshold.rank if threshold.part > 0 else threshold.rank - 1
    while last > 0 and arrivals[last] < SEEN:
        last -= 1
    return last // LEVELS * LEVELS
