"""Stories that alerts are judged by: what is asked each second, and what goes wrong of it.

The simulations of our own alerts and the unit tests of the exported Prometheus rules are made from the same table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from seawall.monitoring.alerts import AlertBook, AlertEvent
from seawall.monitoring.objectives import HOUR, ObjectiveSettings, objectives_of
from seawall.monitoring.things import Severity

BEGIN_S = 1_790_000_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """So many seconds, of whose requests so much fails, is refused, or is slow."""

    seconds: int
    failed: float = 0.0
    refused: float = 0.0
    slow: float = 0.0
    rate_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is asked, and when the first page has to come, in seconds after the second phase begins; None: never.

    `alert` is the name of what pages or warns, `step_s` how coarse the story is told to Prometheus.
    """

    name: str
    phases: tuple[Phase, ...]
    pages_within_s: float | None
    alert: str = "availability"
    rate_per_s: float = 50
    step_s: int = 1
    severity: Severity = Severity.PAGE


def outage(name: str, *, pages_within_s: float | None, rate_per_s: float = 50, **bad: float) -> Scenario:
    """A minute and more without trouble, and one with it."""
    return Scenario(
        name=name,
        phases=(Phase(seconds=75), Phase(seconds=50, **bad)),
        pages_within_s=pages_within_s,
        rate_per_s=rate_per_s,
        alert="latency" if "slow" in bad else "availability",
    )


def burn(name: str, *, hours: float, pages_within_s: float, healthy_s: int, **bad: float) -> Scenario:
    """Some that goes wrong for a long time."""
    return Scenario(
        name=name,
        phases=(Phase(seconds=healthy_s), Phase(seconds=int(hours * HOUR), **bad)),
        pages_within_s=pages_within_s,
        rate_per_s=10,
        step_s=30,
    )


SCENARIOS = (
    outage("100 % fail", failed=1.0, pages_within_s=3),
    outage("30 % fail", failed=0.3, pages_within_s=10),
    outage("5 % fail", failed=0.05, pages_within_s=40),
    burn("2 % fail", failed=0.02, hours=1, healthy_s=HOUR, pages_within_s=45 * 60),
    burn("1 % fail", failed=0.01, hours=4, healthy_s=6 * HOUR, pages_within_s=3.7 * HOUR),
    outage("100 % are slow", slow=1.0, pages_within_s=3),
    outage("30 % are slow", slow=0.3, pages_within_s=10),
    outage("70 % are refused in a surge", refused=0.7, rate_per_s=500, pages_within_s=5),
    outage("100 % fail, 5 requests a second", failed=1.0, rate_per_s=5, pages_within_s=3),
    Scenario(
        name="the first seconds after the start fail",
        phases=(Phase(seconds=5), Phase(seconds=30, failed=0.3)),
        pages_within_s=10,
        rate_per_s=50,
    ),
    Scenario(
        name="one of 6 a minute fails",
        phases=(Phase(seconds=120), Phase(seconds=10, failed=1.0), Phase(seconds=120)),
        pages_within_s=None,
        rate_per_s=0.1,
    ),
    Scenario(
        name="2 of 5 fail",
        phases=(Phase(seconds=120, rate_per_s=0), Phase(seconds=2, failed=1.0), Phase(seconds=3), Phase(seconds=60)),
        pages_within_s=None,
        rate_per_s=1,
    ),
    Scenario(
        name="a moment of 0.8 s fails",
        phases=(Phase(seconds=75), Phase(seconds=1, failed=0.8), Phase(seconds=60)),
        pages_within_s=None,
    ),
    outage("0.1 % fail", failed=0.001, rate_per_s=100, pages_within_s=None),
)


def points(scenario: Scenario) -> Iterator[dict[str, float]]:
    """Yield the point of each second. Fractions of a request are carried on, so that there are none."""
    asked = failed = refused = slow = 0.0
    for phase in scenario.phases:
        rate = scenario.rate_per_s if phase.rate_per_s is None else phase.rate_per_s
        for _ in range(phase.seconds):
            before = (int(asked), int(failed), int(refused), int(slow))
            # Rounded, so that ten tenths are one.
            asked = round(asked + rate, 9)
            failed = round(failed + rate * phase.failed, 9)
            refused = round(refused + rate * phase.refused, 9)
            slow = round(slow + rate * phase.slow, 9)
            yield point(
                requests=int(asked) - before[0],
                failed=int(failed) - before[1],
                refused=int(refused) - before[2],
                slow=int(slow) - before[3],
            )


def point(
    *, requests: float = 0, failed: float = 0, refused: float = 0, slow: float = 0, nodes: float = 1, **more: float
) -> dict[str, float]:
    """Return a second of reads."""
    served = requests - failed - refused
    return {
        "reads.requests": requests,
        "reads.failed": failed,
        "reads.refused": refused,
        "reads.slow": slow,
        "reads.le.0.005": served - slow,
        "reads.le.5": slow,
        "nodes.up": nodes,
        "nodes.expected": nodes,
        **more,
    }


def book() -> AlertBook:
    """Return a book of the usual objectives."""
    return AlertBook(objectives_of(ObjectiveSettings()))


def events_of(scenario: Scenario) -> Iterator[tuple[float, AlertEvent]]:
    """Yield what a fresh book makes of a scenario: the seconds since its second phase began, and the event.

    A second is over when its point is looked at, so what the first bad second brings is noticed 1 s after it began.
    """
    alerts, healthy_s = book(), scenario.phases[0].seconds
    for second, now in enumerate(points(scenario)):
        for event in alerts.observe(BEGIN_S + second, now, 1000.0 + second):
            yield second + 1 - healthy_s, event


@cache
def seconds_to_page(scenario: Scenario) -> float | None:
    """Return how long after its second phase began a scenario wakes somebody."""
    return next((at_s for at_s, event in events_of(scenario) if event.wakes), None)


def table() -> str:
    """Return the scenarios and what comes of them, as a table in Markdown."""
    lines = ["| what happens | requests a second | first page after |", "|---|---|---|"]
    for scenario in SCENARIOS:
        found = seconds_to_page(scenario)
        when = "never" if found is None else f"{found:g} s" if found < 120 else f"{found / 60:.0f} min"
        lines.append(f"| {scenario.name} | {scenario.rate_per_s:g} | {when} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201 - that is what it is for
