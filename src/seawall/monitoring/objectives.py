"""What is promised, and how fast what may go wrong may be used up.

An objective says which share of what is asked must go well over thirty days. What may go wrong is its budget; the burn
rate is how many times too fast the budget is being used. The alerts of this service and the rules it exports for
Prometheus are both made from the values here.

Source: Google, "The Site Reliability Workbook", chapter 5, "Alerting on SLOs".
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from seawall.errors import Misconfigured
from seawall.monitoring.things import Severity
from seawall.telemetry.metrics import DURATION_BUCKETS_S
from seawall.telemetry.points import GROUPS, Point

PERIOD_DAYS: Final = 30
"""What is promised is promised for so long."""

EVENTS_MIN: Final = 10
"""So many have to go wrong within a rule's long window before it fires. One request that fails is tried again by its
client: by botocore up to five times in all, by rclone up to ten. Where little is asked, that is no trouble of many."""

FAST_SHARE: Final = 0.03
"""Of a minute's requests, so many go wrong in 2 s if all do, and in 6 s if 30 % do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveSettings:
    """What an operator promises.

    `availability` is the share of requests that neither fail nor are refused, `latency` the share of the reads and
    writes served that take no longer than `read_s` and `write_s`.
    """

    availability: float = 0.999
    latency: float = 0.99
    read_s: float = 0.5
    write_s: float = 2.5

    def __post_init__(self) -> None:
        for name, share in (("availability", self.availability), ("latency", self.latency)):
            # With a larger budget, 14.4 times its rate is more than all there is.
            if not 0.95 <= share < 1:
                raise Misconfigured(f"The objective for {name} is {share:g}; it must be from 0.95 on, and below 1.")
        for name, limit_s in (("reads", self.read_s), ("writes", self.write_s)):
            if limit_s not in DURATION_BUCKETS_S:
                bounds = ", ".join(f"{bound:g}" for bound in DURATION_BUCKETS_S)
                raise Misconfigured(
                    f"The objective for {name} is {limit_s:g} s, which is not counted; these are: {bounds}."
                )


def slow_s_of(settings: ObjectiveSettings) -> dict[str, float]:
    """Return until when an answer is in time, by group, as nodes count it. Nothing is promised of the rest."""
    return {"reads": settings.read_s, "writes": settings.write_s, "others": settings.write_s}


class Counts(NamedTuple):
    """How many there were, and how many of them went wrong."""

    total: float
    bad: float

    @property
    def share(self) -> float:
        """The part that went wrong; none of nothing."""
        return self.bad / self.total if self.total > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One promise. `groups` are those whose requests count, `limit_s` is there where it is about time."""

    name: str
    of: str
    groups: tuple[str, ...]
    target: float
    limit_s: float | None = None

    @property
    def key(self) -> str:
        """What tells it from the others."""
        return f"{self.name} of {self.of}"

    @property
    def budget(self) -> float:
        """The share that may go wrong."""
        return 1 - self.target

    @property
    def wrong(self) -> str:
        """What has become of those that went wrong."""
        return "failed or were refused" if self.limit_s is None else f"took longer than {self.limit_s:g} s"

    def counts(self, point: Point) -> Counts:
        """Return what a point says of it. Of time, only what was served can speak."""
        total = bad = 0.0
        for group in self.groups:
            lost = point.get(f"{group}.failed", 0.0) + point.get(f"{group}.refused", 0.0)
            asked = point.get(f"{group}.requests", 0.0)
            total += asked if self.limit_s is None else max(0.0, asked - lost)
            bad += lost if self.limit_s is None else point.get(f"{group}.slow", 0.0)
        return Counts(total, min(bad, total))


def objectives_of(settings: ObjectiveSettings) -> tuple[Objective, ...]:
    """Return the promises. Writes are few beside reads, so their end would be too small a part of all to be seen."""
    return (
        Objective(name="availability", of="requests", groups=GROUPS, target=settings.availability),
        Objective(name="availability", of="writes", groups=("writes",), target=settings.availability),
        Objective(name="latency", of="reads", groups=("reads",), target=settings.latency, limit_s=settings.read_s),
        Objective(name="latency", of="writes", groups=("writes",), target=settings.latency, limit_s=settings.write_s),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnRule:
    """Fires while too much goes wrong in a long window and in a short one at its end: it matters, and it is still so.

    `long_burn` and `short_burn` are the burn rates that are too much, `least_share` the share below which nothing is.
    `step_s` says how finely its windows are counted.
    """

    name: str
    severity: Severity
    long_s: int
    short_s: int
    step_s: int
    long_burn: float
    short_burn: float
    least_share: float = 0.0

    def long_share(self, objective: Objective) -> float:
        """Return the share of the long window from which on it fires."""
        return max(self.least_share, self.long_burn * objective.budget)

    def short_share(self, objective: Objective) -> float:
        """Return the share of the short window from which on it fires."""
        return max(self.least_share, self.short_burn * objective.budget)


MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


def _standard(name: str, severity: Severity, *, long_s: int, short_s: int, step_s: int, burn: float) -> BurnRule:
    return BurnRule(
        name=name, severity=severity, long_s=long_s, short_s=short_s, step_s=step_s, long_burn=burn, short_burn=burn
    )


RULES: Final[tuple[BurnRule, ...]] = (
    BurnRule(
        name="60s/10s",
        severity=Severity.PAGE,
        long_s=MINUTE,
        short_s=10,
        step_s=1,
        # Two seconds of an outage satisfy the long window. So the short one must show what is not borne for long.
        long_burn=1,
        short_burn=14.4,
        least_share=FAST_SHARE,
    ),
    _standard("1h/5m", Severity.PAGE, long_s=HOUR, short_s=5 * MINUTE, step_s=10, burn=14.4),
    _standard("6h/30m", Severity.PAGE, long_s=6 * HOUR, short_s=30 * MINUTE, step_s=10, burn=6),
    _standard("3d/6h", Severity.WARNING, long_s=3 * DAY, short_s=6 * HOUR, step_s=60, burn=1),
)
"""The fastest first. All but the first are table 5-8 of the workbook: 2 % of the budget in an hour, 5 % in six hours,
10 % in three days."""
