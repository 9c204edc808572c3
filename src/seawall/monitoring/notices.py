"""What is told to people when an incident begins, is understood, and ends: a plain value, written by whoever knows.

It says everything in sentences and knows no service that may carry it: `payloads` writes it down for each.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from seawall.monitoring.things import Severity


class Status(StrEnum):
    """What happened to the incident."""

    OPENED = "opened"
    UPDATED = "updated"
    """More is known: a diagnosis, something that was done about it, a rise of its severity."""
    ACKNOWLEDGED = "acknowledged"
    """Somebody has taken it on."""
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing to tell. Times are on the wall clock, in seconds since 1970.

    `alert` is the name of the alert that opened the incident (`availability`). `summary` is one sentence,
    `diagnosis` a few lines, `impact` one line; what is not known yet is empty. `url` is where the incident can be read,
    empty where there is no such place. `at_s` is when it happened, `resolved_s` when the incident ended, if it did.
    `by` is who acknowledged it.
    """

    incident_id: str
    status: Status
    severity: Severity
    alert: str
    title: str
    summary: str
    opened_s: float
    at_s: float
    diagnosis: tuple[str, ...] = ()
    impact: str = ""
    url: str = ""
    resolved_s: float | None = None
    by: str = ""

    def __post_init__(self) -> None:
        if not self.incident_id or not self.title:
            raise ValueError("a notice names its incident and has a title")
        if (self.status is Status.RESOLVED) != (self.resolved_s is not None):
            raise ValueError("a resolved incident, and no other, says when it was resolved")


def sample_notice(*, at_s: float, severity: Severity = Severity.WARNING) -> Notice:
    """Return a notice that says it is only a test, and arrives as loudly as a real one of that severity."""
    return Notice(
        incident_id=f"test-{at_s:.0f}",
        status=Status.OPENED,
        severity=severity,
        alert="test",
        title="Test of notifications",
        summary="Somebody ran `seawall notify test`. Nothing is wrong, and nothing has to be done.",
        diagnosis=("A diagnosis would stand here, a line for each thing that is known.",),
        impact="Nobody is affected.",
        opened_s=at_s,
        at_s=at_s,
    )


def resolution_of(notice: Notice, *, at_s: float, summary: str) -> Notice:
    """Return the notice that ends what another began."""
    return replace(notice, status=Status.RESOLVED, at_s=at_s, resolved_s=at_s, summary=summary)
