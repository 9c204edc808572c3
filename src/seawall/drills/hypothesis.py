"""What has to hold while something is broken, and whether it did: values and decisions, nothing else.

A hypothesis speaks of what people notice: the share of small reads that are served in time, by their intended start,
of those who did nothing to deserve the trouble (where one tenant floods: of the others). What is refused, fails or
comes late counts alike: it was not served in time.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

IN_TIME_S = 1.0
"""What a person takes for an answer without a wait. Source: Nielsen, "Usability Engineering", 1993, section 5.5."""

STEADY_FOR_S = 3
"""How many good seconds in a row are a recovery, and not a lucky moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """One second of a drill: what became of the small reads that were meant to start in it.

    `at_s` is its beginning, on any clock that the fault's times are on too. `slowest_s` is how long the one that
    waited longest waited, for an answer of any kind or until they gave up.
    """

    at_s: float
    asked: int
    in_time: int
    slowest_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.in_time <= self.asked:
            raise ValueError(f"{self.in_time} of {self.asked} cannot have been served")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """What has to hold before, during and after a fault.

    `before_min`, `during_min` and `after_min` are shares of small reads served within `IN_TIME_S`. `during_min` is 0
    where nobody can be served: then what has to hold is that everybody is told so within `answered_within_s`.
    `recovered_within_s` counts from the moment at which the fault is put right.
    """

    before_min: float = 0.99
    during_min: float
    answered_within_s: float = math.inf
    after_min: float = 0.99
    recovered_within_s: float = 5.0
    lost_writes_max: int = 0

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.before_min, self.during_min, self.after_min)):
            raise ValueError(f"shares are from 0 to 1: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How it went, against a hypothesis. A share is None where nothing was asked; `recovered_s` where it never was."""

    before: float | None
    during: float | None
    after: float | None
    slowest_s: float
    recovered_s: float | None
    lost_writes: int
    complaints: tuple[str, ...]

    @property
    def held(self) -> bool:
        """Whether the hypothesis held."""
        return not self.complaints


def judge(
    hypothesis: Hypothesis, seconds: Sequence[Second], *, broken_s: float, mended_s: float, lost_writes: int
) -> Verdict:
    """Return how it went.

    Seconds in which the fault began or ended belong neither before, nor during, nor after; a recovery may begin in
    the one in which it ended.

    Args:
        hypothesis: what had to hold.
        seconds: the whole drill, in order.
        broken_s: when the fault began.
        mended_s: when it was put right.
        lost_writes: how many acknowledged writes could not be read afterwards.
    """
    recovered_s = recovery_s(seconds, mended_s=mended_s, share_min=hypothesis.after_min)
    steady_from_s = mended_s + hypothesis.recovered_within_s
    during = [second for second in seconds if broken_s <= second.at_s and second.at_s + 1 <= mended_s]
    before_share = share_of(second for second in seconds if second.at_s + 1 <= broken_s)
    during_share = share_of(during)
    after_share = share_of(second for second in seconds if second.at_s >= steady_from_s)
    slowest_s = max((second.slowest_s for second in during), default=0.0)

    complaints = [
        f"{when} it, {_percent(share)} of small reads were served in time, and it should be {_percent(least)} or more"
        if share is not None
        else f"{when} it, nothing was asked, so nothing is known"
        for when, share, least in (
            ("before", before_share, hypothesis.before_min),
            ("during", during_share, hypothesis.during_min),
            ("after", after_share, hypothesis.after_min),
        )
        if share is None or share < least
    ]
    if slowest_s > hypothesis.answered_within_s:
        complaints.append(f"somebody waited {slowest_s:.1f} s for an answer: at most {hypothesis.answered_within_s:g}")
    if recovered_s is None:
        complaints.append("it did not recover")
    elif recovered_s > hypothesis.recovered_within_s:
        complaints.append(f"it took {recovered_s:.1f} s to recover: at most {hypothesis.recovered_within_s:g}")
    if lost_writes > hypothesis.lost_writes_max:
        complaints.append(f"{lost_writes} acknowledged writes were lost")
    return Verdict(
        before=before_share,
        during=during_share,
        after=after_share,
        slowest_s=slowest_s,
        recovered_s=recovered_s,
        lost_writes=lost_writes,
        complaints=tuple(complaints),
    )


def seconds_of(requests: Iterable[tuple[float, float, bool]]) -> list[Second]:
    """Return the seconds of a drill from its requests: when each was due, how long it took, and whether it was served.

    >>> seconds_of([(0.1, 0.02, True), (0.2, 3.0, True), (2.5, 0.01, False)])[0]
    Second(at_s=0, asked=2, in_time=1, slowest_s=3.0)
    """
    gathered: dict[int, tuple[int, int, float]] = {}
    for due_s, took_s, served in requests:
        second = math.floor(due_s)
        asked, in_time, slowest_s = gathered.get(second, (0, 0, 0.0))
        gathered[second] = (asked + 1, in_time + (served and took_s <= IN_TIME_S), max(slowest_s, took_s))
    return [
        Second(at_s=second, asked=asked, in_time=in_time, slowest_s=slowest_s)
        for second, (asked, in_time, slowest_s) in sorted(gathered.items())
    ]


def share_of(seconds: Iterable[Second]) -> float | None:
    """Return the share that was served in time, or None where nothing was asked.

    >>> share_of([Second(at_s=0, asked=90, in_time=90), Second(at_s=1, asked=10, in_time=0)])
    0.9
    """
    counted = [*seconds]
    asked = sum(second.asked for second in counted)
    return sum(second.in_time for second in counted) / asked if asked else None


def recovery_s(seconds: Sequence[Second], *, mended_s: float, share_min: float) -> float | None:
    """Return how long after `mended_s` the first of `STEADY_FOR_S` good seconds in a row began, or None.

    A second in which nothing was asked is neither good nor bad.
    """
    later = [second for second in seconds if second.at_s + 1 > mended_s and second.asked]
    good = 0
    for place, second in enumerate(later):
        good = good + 1 if second.in_time >= share_min * second.asked else 0
        if good == STEADY_FOR_S:
            return max(0.0, later[place - STEADY_FOR_S + 1].at_s - mended_s)
    return None


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"
