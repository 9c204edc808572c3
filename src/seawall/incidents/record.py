"""What is known of an incident, and how that changes: values, and functions that return new ones.

An incident is one episode of alerts: the first opens it, others join it, and with the last it is over; when the episode
goes on, so does the incident. Times are on the wall clock, in seconds since 1970, since they are told to people.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Self

from seawall.monitoring.things import Action, Alert, Diagnosis, Layer, Severity
from seawall.telemetry.points import GROUPS, Point, total

LOST_SHARE: Final = 0.01
SLOW_SHARE: Final = 0.05
"""A second is bad when so much of what was asked in it failed or was refused, or was slow."""
DIAGNOSES_MAX: Final = 50
ACTIONS_MAX: Final = 200
ALERTS_MAX: Final = 100
NOTES_MAX: Final = 500
NOTE_CHARACTERS_MAX: Final = 4000
HAPPENINGS_MAX: Final = 500
"""An incident is kept whole in memory, and written whole: each part has an end."""
SHARE_STEP: Final = 0.1
"""A diagnosis of the same suspect is kept when it explains so much more than the last one that was."""


class Status(StrEnum):
    """Whether it goes on."""

    OPEN = "open"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """An alert of the incident, and when it ended."""

    alert: Alert
    ended_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What somebody wrote about it."""

    at_s: float
    who: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Who took it up first, and when."""

    at_s: float
    who: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """An event of the journal, kept here because the journal has an end."""

    at_s: float
    kind: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """A past incident that looked alike: `score` 0 to 1, and why."""

    id: str
    title: str
    score: float
    why: str
    ended_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of requests."""

    requests: int = 0
    failed: int = 0
    refused: int = 0
    slow: int = 0

    @property
    def bad(self) -> int:
        """Those nobody was happy with."""
        return self.failed + self.refused + self.slow

    @property
    def bad_share(self) -> float:
        """Their part of all, 0 where nothing was asked."""
        return self.bad / self.requests if self.requests else 0.0

    def plus(self, other: "Counts") -> "Counts":
        """Return both together."""
        return Counts(
            requests=self.requests + other.requests,
            failed=self.failed + other.failed,
            refused=self.refused + other.refused,
            slow=self.slow + other.slow,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """One minute of the wall clock: when it began, and what became of requests in it."""

    began_s: float
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """Whom it hit and how much, from its begin to `until_s`.

    While it goes on it is counted along; once it is over, anew, up to the recovery. `users_failed` and `users_seen` are
    distinct accounts, in whole minutes. `keys_claimed` are access keys for which something failed and which nobody
    could look up yet; `keys_of_nobody` were looked up and belong to no account. `watched_s` is for how many seconds
    there are numbers, `bad_s` how many of them were bad (`is_bad`).
    """

    until_s: float = 0.0
    groups: Mapping[str, Counts] = field(default_factory=dict)
    users_failed: int = 0
    users_seen: int = 0
    keys_claimed: int = 0
    keys_of_nobody: int = 0
    watched_s: float = 0.0
    bad_s: float = 0.0
    minute: Minute | None = None
    worst: Minute | None = None

    @property
    def counts(self) -> Counts:
        """All groups together."""
        together = Counts()
        for counts in self.groups.values():
            together = together.plus(counts)
        return together

    @property
    def users_share(self) -> float | None:
        """The part of those who asked for something for whom something failed; None when nobody is known."""
        return self.users_failed / self.users_seen if self.users_seen else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One episode, as far as it is known.

    `episode` is the name its alerts share. `mitigated_s` is when something was first done about it, by the service
    itself; `recovered_s` where the trouble ended in what was measured; `resolved_s` when that was certain. `shape` is
    the part each segment has in the time that was added to requests, for comparison.
    """

    id: str
    episode: str
    status: Status
    severity: Severity
    began_s: float
    detected_s: float
    diagnosed_s: float | None = None
    mitigated_s: float | None = None
    recovered_s: float | None = None
    resolved_s: float | None = None
    alerts: tuple[Raised, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()
    actions: tuple[Action, ...] = ()
    notes: tuple[Note, ...] = ()
    acknowledged: Acknowledgement | None = None
    impact: Impact = field(default_factory=Impact)
    happenings: tuple[Happening, ...] = ()
    shape: Mapping[str, float] = field(default_factory=dict)
    similar: tuple[Similar, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self.status is Status.OPEN

    @property
    def is_burning(self) -> bool:
        """Whether an alert has not ended."""
        return any(raised.ended_s is None for raised in self.alerts)

    @property
    def best(self) -> Diagnosis | None:
        """The diagnosis that explains most, the first of equals; made while it lasted, if one was."""
        ended_s = math.inf if self.recovered_s is None else self.recovered_s
        made = [one for one in self.diagnoses if one.at_s <= ended_s] or self.diagnoses
        # Shares of much the same size are the same: the first name was found while it was at its worst.
        return max(made, key=lambda one: (one.suspect is not None, round(one.share or 0.0, 1), -one.at_s), default=None)

    @property
    def title(self) -> str:
        """What it was to users, and why, as far as that is known."""
        return title_of(self.impact, self.alerts, self.best)

    def until_s(self, now_s: float) -> float:
        """Return when it ended, or the present."""
        return now_s if self.resolved_s is None else self.recovered_s or self.resolved_s

    def as_json(self) -> dict[str, Any]:
        """Return what `json.dumps` can write."""
        return {"title": self.title, **asdict(self)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Return the incident that was written.

        Raises:
            KeyError, TypeError, ValueError: this is none.
        """
        return cls(
            id=found["id"],
            episode=found["episode"],
            status=Status(found["status"]),
            severity=Severity(found["severity"]),
            **{name: found[name] for name in TIMES},
            alerts=tuple(Raised(alert=_alert(one["alert"]), ended_s=one["ended_s"]) for one in found["alerts"]),
            diagnoses=tuple(Diagnosis.from_json(one) for one in found["diagnoses"]),
            actions=tuple(Action(**one) for one in found["actions"]),
            notes=tuple(Note(**one) for one in found["notes"]),
            acknowledged=None if found["acknowledged"] is None else Acknowledgement(**found["acknowledged"]),
            impact=_impact(found["impact"]),
            happenings=tuple(Happening(**one) for one in found["happenings"]),
            shape=found["shape"],
            similar=tuple(Similar(**one) for one in found["similar"]),
        )


TIMES: Final = ("began_s", "detected_s", "diagnosed_s", "mitigated_s", "recovered_s", "resolved_s")


def _alert(found: Mapping[str, Any]) -> Alert:
    return Alert(**{**found, "severity": Severity(found["severity"])})


def _minute(found: Mapping[str, Any] | None) -> Minute | None:
    return None if found is None else Minute(began_s=found["began_s"], counts=Counts(**found["counts"]))


def _impact(found: Mapping[str, Any]) -> Impact:
    groups = {name: Counts(**counts) for name, counts in found["groups"].items()}
    minutes = {name: _minute(found[name]) for name in ("minute", "worst")}
    return Impact(**{**found, "groups": groups, **minutes})


# How it begins and ends.


def next_id(known: Iterable[str], now_s: float) -> str:
    """Return a name no incident has: its day in UTC, and its number on that day.

    >>> next_id(["2026-11-24-1", "2026-11-24-9", "2026-11-23-40"], 1795478400.0)
    '2026-11-24-10'
    """
    day = datetime.fromtimestamp(now_s, UTC).date().isoformat()
    numbers = [int(one.rpartition("-")[2]) for one in known if one.rpartition("-")[0] == day]
    return f"{day}-{max(numbers, default=0) + 1}"


def order(incident_id: str) -> tuple[str, int]:
    """Return what sorts incidents by their names: the tenth of a day after the ninth."""
    day, _, number = incident_id.rpartition("-")
    return day, int(number)


def opened(incident_id: str, alert: Alert, *, episode: str, severity: Severity) -> Incident:
    """Return an incident that consists of one alert."""
    return Incident(
        id=incident_id,
        episode=episode,
        status=Status.OPEN,
        severity=severity,
        began_s=min(alert.began_s, alert.fired_s),
        detected_s=alert.fired_s,
        alerts=(Raised(alert=alert),),
    )


def joined(incident: Incident, alert: Alert, *, severity: Severity) -> Incident:
    """Return the incident with another alert, or with one that became worse; where it had ended, it goes on."""
    alerts = _bounded((*alert_ended(incident, alert, alert.fired_s).alerts, Raised(alert=alert)), ALERTS_MAX)
    return replace(incident, status=Status.OPEN, recovered_s=None, resolved_s=None, severity=severity, alerts=alerts)


def alert_ended(incident: Incident, alert: Alert, ended_s: float) -> Incident:
    """Return the incident without one of its alerts burning."""
    return replace(
        incident,
        alerts=tuple(
            replace(raised, ended_s=ended_s) if raised.ended_s is None and _is_same(raised.alert, alert) else raised
            for raised in incident.alerts
        ),
    )


def resolved(incident: Incident, now_s: float) -> Incident:
    """Return the incident closed: it recovered when the trouble of its last alert ended."""
    alerts = tuple(replace(one, ended_s=now_s) if one.ended_s is None else one for one in incident.alerts)
    recovered_s = max([incident.began_s, *(one.ended_s or now_s for one in alerts)])
    # What was found afterwards counts no more.
    return _named(replace(incident, status=Status.RESOLVED, alerts=alerts, recovered_s=recovered_s, resolved_s=now_s))


def _is_same(one: Alert, other: Alert) -> bool:
    return (one.name, one.rule) == (other.name, other.rule)


# What is learned meanwhile.


def diagnosed(incident: Incident, diagnosis: Diagnosis) -> Incident:
    """Return the incident with a diagnosis, unless it says nothing that the last one did not say.

    It counts as diagnosed since its best suspect was named first.
    """
    known = incident.diagnoses
    if diagnosis.suspect is None and incident.diagnosed_s is not None:
        # When it is nearly over nothing explains any more what is hardly there.
        return incident
    if known:
        last = known[-1]
        said_before = last.suspect is diagnosis.suspect and last.culprit == diagnosis.culprit
        if said_before and (diagnosis.share or 0.0) < (last.share or 0.0) + SHARE_STEP:
            return incident
    # The first ones stay: when it was diagnosed is read off them.
    kept = (*known[: DIAGNOSES_MAX // 2], *known[DIAGNOSES_MAX // 2 :][-(DIAGNOSES_MAX // 2 - 1) :], diagnosis)
    return _named(replace(incident, diagnoses=kept))


def _named(incident: Incident) -> Incident:
    """Return the incident with when its best suspect was named first."""
    best = incident.best
    if best is None or best.suspect is None:
        return incident
    named_s = min(one.at_s for one in incident.diagnoses if one.suspect is best.suspect)
    return replace(incident, diagnosed_s=max(named_s, incident.detected_s))


def acted(incident: Incident, action: Action) -> Incident:
    """Return the incident with something that was done about it, or undone."""
    same = [number for number, one in enumerate(incident.actions) if _is_same_action(one, action)]
    if same:
        actions = (*incident.actions[: same[-1]], action, *incident.actions[same[-1] + 1 :])
    else:
        actions = _bounded((*incident.actions, action), ACTIONS_MAX)
    first_s = min(one.at_s for one in actions)
    return replace(incident, actions=actions, mitigated_s=min(incident.mitigated_s or math.inf, first_s))


def _is_same_action(one: Action, other: Action) -> bool:
    return (one.name, one.target, one.at_s) == (other.name, other.target, other.at_s)


def noted(incident: Incident, note: Note) -> Incident:
    """Return the incident with a note."""
    return replace(incident, notes=_bounded((*incident.notes, note), NOTES_MAX))


def acknowledged(incident: Incident, by: Acknowledgement) -> Incident:
    """Return the incident taken up by somebody; who was first stays."""
    return incident if incident.acknowledged is not None else replace(incident, acknowledged=by)


def happened(incident: Incident, happenings: Iterable[Happening]) -> Incident:
    """Return the incident with events of the journal, in the order of time, each once."""
    new = [one for one in happenings if one not in incident.happenings]
    if not new:
        return incident
    together = sorted((*incident.happenings, *new), key=lambda one: one.at_s)
    return replace(incident, happenings=_bounded(together, HAPPENINGS_MAX))


def _bounded(kept: Sequence[Any], most: int) -> tuple[Any, ...]:
    """Return at most so many: the first half and the last, for how it began and how it ended."""
    return tuple(kept) if len(kept) <= most else (*kept[: most // 2], *kept[-(most - most // 2) :])


# Whom it hit.


def counts_of(point: Point, group: str) -> Counts:
    """Return what became of the requests of a group."""
    return Counts(**{name: int(point.get(f"{group}.{name}", 0)) for name in ("requests", "failed", "refused", "slow")})


def is_bad(point: Point) -> bool:
    """Say whether users felt it: too much failed, was refused or was slow, or nobody was there to answer."""
    if point.get("nodes.expected", 0) > 0 and 0 in (point.get("nodes.up"), point.get("nodes.ready")):
        return True
    requests = total(point, "requests")
    lost = total(point, "failed") + total(point, "refused")
    slow = total(point, "slow")
    return requests > 0 and (lost >= LOST_SHARE * requests or (slow > 0 and slow >= SLOW_SHARE * (requests - lost)))


def grown(impact: Impact, at_s: float, seconds: float, point: Point) -> Impact:
    """Return the impact with what `seconds` more seconds brought, from `at_s` on."""
    groups = {group: impact.groups.get(group, Counts()).plus(counts_of(point, group)) for group in GROUPS}
    now = Counts()
    for group in GROUPS:
        now = now.plus(counts_of(point, group))
    minute_s = at_s // 60 * 60
    before = impact.minute.counts if impact.minute is not None and impact.minute.began_s == minute_s else Counts()
    minute = Minute(began_s=minute_s, counts=before.plus(now))
    worst = impact.worst
    if worst is None or minute.began_s == worst.began_s or minute.counts.bad > worst.counts.bad:
        worst = minute
    return replace(
        impact,
        until_s=at_s + seconds,
        groups=groups,
        watched_s=impact.watched_s + seconds,
        bad_s=impact.bad_s + (seconds if is_bad(point) else 0.0),
        minute=minute,
        worst=worst,
    )


# What it is called.

CAUSES: Final[Mapping[Layer, str]] = {
    Layer.CONNECTIONS: "the database's connections were used up",
    Layer.STATEMENTS: "the database took long over its statements",
    Layer.LOCKS: "statements waited for a lock in the database",
    Layer.DATABASE: "the database did not answer",
    Layer.REPLICA: "a replica of the database was ill or late",
    Layer.DISK: "the disk was slow, full or failing",
    Layer.NETWORK: "the network between clients and nodes was slow or broken",
    Layer.PROCESSOR: "the nodes did not get the processor",
    Layer.TENANT: "one tenant took what is for all",
    Layer.DEMAND: "more was asked than could be done",
}
"""What each layer means to somebody who has to write a headline."""

OF_ONE_KIND: Final = 0.8
"""When so much of what was bad was of one kind of requests, the headline names the kind."""

EFFECTS: Final[Mapping[tuple[str, str], str]] = {
    ("reads", "failed"): "Files could not be read",
    ("writes", "failed"): "Files could not be written",
    ("others", "failed"): "Listings and other requests failed",
    ("all", "failed"): "Requests failed",
    ("reads", "refused"): "Readers were turned away",
    ("writes", "refused"): "Writers were turned away",
    ("others", "refused"): "Listings and other requests were turned away",
    ("all", "refused"): "Requests were turned away",
    ("reads", "slow"): "Files were slow to read",
    ("writes", "slow"): "Files were slow to write",
    ("others", "slow"): "Listings and other requests were slow",
    ("all", "slow"): "Requests were slow",
}


def title_of(impact: Impact, alerts: Sequence[Raised], best: Diagnosis | None) -> str:
    """Return one line: what it was to users, and why."""
    effect = effect_of(impact, alerts)
    if best is None or best.suspect is None:
        return f"{effect}: cause not known" if best is not None else effect
    return f"{effect}: {CAUSES[best.suspect]}"


def effect_of(impact: Impact, alerts: Sequence[Raised]) -> str:
    """Return what users had of it: the worst that a third of those who suffered had."""
    counts = impact.counts
    if counts.bad == 0:
        names = sorted({raised.alert.name.removeprefix("signal:") for raised in alerts})
        return f"Unusual: {', '.join(names)}" if names else "Nothing failed"
    worst_first = ("failed", "refused", "slow")
    most = next(name for name in worst_first if getattr(counts, name) * len(worst_first) >= counts.bad)
    for group, one in impact.groups.items():
        if getattr(one, most) >= OF_ONE_KIND * getattr(counts, most):
            return EFFECTS[group, most]
    return EFFECTS["all", most]
