"""Who comes when, what they want, and what they do when they do not get it: values and decisions, nothing else.

Users come whether earlier requests were answered or not (open loop): those who wait do not keep others from coming, as
they do not in life. A user asks about once in a think time, independently of everybody else, so that the requests of
a crowd are a Poisson process of its rate, each by one of the users then active, chosen at random; and a higher rate
means more users, not busier ones.

Source: Schroeder, Wierman, Harchol-Balter, "Open Versus Closed: A Cautionary Tale", NSDI 2006.
"""

import heapq
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Final, NamedTuple, Self

from seawall.telemetry.purpose import Urgency

REQUESTS_MAX: Final = 2_000_000
"""How many requests one load may bring, so that what is remembered of them stays below some 100 MiB."""

CROWDS_MAX: Final = 255

POLITE_RETRIES: Final = 3
POLITE_BASE_S: Final = 1.0
POLITE_MAX_S: Final = 20.0
"""As botocore's standard mode waits: up to 1 s, 2 s, 4 s, … and never longer than 20 s."""

USER_CONNECTIONS: Final = 6
"""As many as a browser opens to one host."""


class Kind(StrEnum):
    """What a request asks of S3."""

    GET = "get"
    """One of the objects that were stored before the load began."""
    PUT = "put"
    """A new object, under a key of its own."""
    LIST = "list"
    """A page of keys."""
    BUCKETS = "buckets"
    """ListBuckets: signed like the others, and asks nothing of objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort:
    """One sort of request in a mix: `share` is relative to the other sorts; the size is that of a PUT's body."""

    kind: Kind
    share: float = 1.0
    size_bytes: int = 4096
    background: bool = False

    def __post_init__(self) -> None:
        if not self.share > 0 or self.size_bytes < 0:
            raise ValueError(f"a sort of request has a share above 0 and a size of at least 0: {self}")

    @property
    def urgency(self) -> Urgency:
        """The class the service sees it in."""
        if self.background:
            return Urgency.BACKGROUND
        return Urgency.NORMAL if self.kind is Kind.PUT else Urgency.INTERACTIVE


SMALL_READS: Final = (Sort(kind=Kind.GET),)
USUAL_MIX: Final = (Sort(kind=Kind.GET, share=80), Sort(kind=Kind.PUT, share=15), Sort(kind=Kind.LIST, share=5))


class Manner(StrEnum):
    """How users take it when they are not served."""

    NONE = "none"
    """They go."""
    POLITE = "polite"
    """They come back when they were told to, and after a pause that is longer each time."""
    INSTANT = "instant"
    """They ask again at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A manner, and how many times more a user asks at the most."""

    manner: Manner
    retries: int

    def __post_init__(self) -> None:
        if self.retries < 0 or (self.manner is Manner.NONE) != (self.retries == 0):
            raise ValueError(f"only who does not retry has 0 retries: {self}")

    def pause_s(self, *, attempts: int, retry_after_s: float | None, luck: float) -> float | None:
        """Return how long to wait before the next attempt, or None for giving up.

        Args:
            attempts: how many have failed; at least 1.
            retry_after_s: what the service said, if it did.
            luck: uniform in 0 … 1: the jitter.

        Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (full jitter).

        >>> Retry(manner=Manner.POLITE, retries=3).pause_s(attempts=2, retry_after_s=1.5, luck=0.25)
        2.0
        """
        if attempts > self.retries:
            return None
        if self.manner is Manner.INSTANT:
            return 0.0
        # Full jitter, on top of what was asked for: nobody comes sooner than told, and not all at once.
        return (retry_after_s or 0.0) + luck * min(POLITE_MAX_S, POLITE_BASE_S * 2.0 ** (attempts - 1))


GIVE_UP: Final = Retry(manner=Manner.NONE, retries=0)
POLITE: Final = Retry(manner=Manner.POLITE, retries=POLITE_RETRIES)


def instant(retries: int) -> Retry:
    """Return the manner of those who ask again at once."""
    return Retry(manner=Manner.INSTANT, retries=retries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """So many requests a second for so long."""

    rate_per_s: float
    seconds: float

    def __post_init__(self) -> None:
        if not (0 <= self.rate_per_s < math.inf and 0 < self.seconds < math.inf):
            raise ValueError(f"a phase has a rate of at least 0 and lasts longer than 0 s: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Users that behave alike: a tenant group.

    `think_s` is the time between two requests of one user, on average; 0 for a single user, however high the rate.
    `deadline_s` is how long a user waits for one answer before they give that attempt up.
    """

    name: str
    phases: tuple[Phase, ...]
    mix: tuple[Sort, ...] = USUAL_MIX
    think_s: float = 10.0
    retry: Retry = POLITE
    deadline_s: float = 1.0
    user_connections: int = USER_CONNECTIONS

    def __post_init__(self) -> None:
        if not (self.phases and self.mix):
            raise ValueError(f"the crowd {self.name} needs a phase and a mix")
        if self.think_s < 0 or self.deadline_s <= 0 or self.user_connections < 1:
            raise ValueError(f"the crowd {self.name} needs a think time, a deadline, and a connection a user")

    @property
    def end_s(self) -> float:
        """When the last may come."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def users(self) -> int:
        """How many there are when most are active."""
        return max(self.users_active(phase.rate_per_s) for phase in self.phases)

    def users_active(self, rate_per_s: float) -> int:
        """Return how many users make a rate, each asking once in a think time."""
        return max(1, math.ceil(rate_per_s * self.think_s)) if rate_per_s > 0 else 0

    @property
    def last_words_s(self) -> float:
        """How long after the last came the last attempt can end; Retry-After, which the service chooses, not counted.

        >>> Crowd(name="all", phases=(Phase(rate_per_s=1, seconds=1),), retry=instant(2), deadline_s=3).last_words_s
        9.0
        """
        told = range(1, self.retry.retries + 1)
        pauses = [self.retry.pause_s(attempts=attempts, retry_after_s=None, luck=1.0) or 0.0 for attempts in told]
        return (self.retry.retries + 1) * self.deadline_s + sum(pauses)


class Arrival(NamedTuple):
    """One request, when it is due: the numbers of its crowd, its sort in the crowd's mix, and its user of all users."""

    due_s: float
    crowd: int
    sort: int
    user: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Who comes: crowds, and between which seconds it is a surge (nowhere, where the two are the same).

    The same seed brings the same users at the same moments.
    """

    crowds: tuple[Crowd, ...]
    surge_from_s: float = 0.0
    surge_until_s: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.crowds or len({crowd.name for crowd in self.crowds}) < len(self.crowds):
            raise ValueError("a load has crowds, each with a name of its own")
        if max(len(self.crowds), *(len(crowd.mix) for crowd in self.crowds)) > CROWDS_MAX:
            raise ValueError(f"a load has at most {CROWDS_MAX} crowds, and a crowd as many sorts of request")
        if not 0 <= self.surge_from_s <= self.surge_until_s <= self.end_s:
            raise ValueError(f"a surge lies within the {self.end_s:g} s of its load")
        expected = sum(phase.rate_per_s * phase.seconds for crowd in self.crowds for phase in crowd.phases)
        if expected > REQUESTS_MAX:
            raise ValueError(f"{expected:,.0f} requests are more than the {REQUESTS_MAX:,} that can be remembered")

    @classmethod
    def with_surge(cls, *crowds: Crowd, before_s: float, surge_s: float, seed: int = 1) -> Self:
        """Return a load whose surge begins after so many seconds and lasts so many."""
        return cls(crowds=crowds, surge_from_s=before_s, surge_until_s=before_s + surge_s, seed=seed)

    @property
    def end_s(self) -> float:
        """When the last may come."""
        return max(crowd.end_s for crowd in self.crowds)

    @property
    def users(self) -> int:
        """How many users there are, at most."""
        return sum(crowd.users for crowd in self.crowds)

    @property
    def last_words_s(self) -> float:
        """How long after its end the last attempt can end; Retry-After, which the service chooses, not counted."""
        return max(crowd.last_words_s for crowd in self.crowds)

    def arrivals(self) -> Iterator[Arrival]:
        """Yield every request in the order in which they are due."""
        firsts = accumulate((crowd.users for crowd in self.crowds), initial=0)
        return heapq.merge(
            *(
                _arrivals_of(crowd, number, first_user=first, seed=self.seed)
                for number, (crowd, first) in enumerate(zip(self.crowds, firsts, strict=False))
            )
        )


def surge_phases(
    *, calm_per_s: float, surge_per_s: float, before_s: float, surge_s: float, after_s: float
) -> tuple[Phase, ...]:
    """Return a calm, a surge, and the calm after it."""
    return (
        Phase(rate_per_s=calm_per_s, seconds=before_s),
        Phase(rate_per_s=surge_per_s, seconds=surge_s),
        Phase(rate_per_s=calm_per_s, seconds=after_s),
    )


def _arrivals_of(crowd: Crowd, number: int, *, first_user: int, seed: int) -> Iterator[Arrival]:
    """Yield the requests of one crowd: a Poisson process for each phase, which has no memory of the one before."""
    noise = random.Random(f"{seed} {crowd.name}")  # noqa: S311 - not a secret
    sorts, shares = range(len(crowd.mix)), _cumulative([sort.share for sort in crowd.mix])
    began_s = 0.0
    for phase in crowd.phases:
        end_s, active = began_s + phase.seconds, crowd.users_active(phase.rate_per_s)
        at_s = began_s
        while active:
            at_s += noise.expovariate(phase.rate_per_s)
            if at_s >= end_s:
                break
            sort = noise.choices(sorts, cum_weights=shares)[0] if len(sorts) > 1 else 0
            yield Arrival(at_s, number, sort, first_user + noise.randrange(active))
        began_s = end_s


def _cumulative(shares: Sequence[float]) -> list[float]:
    return [*accumulate(shares)]
