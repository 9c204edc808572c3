"""What the keeper makes of what it hears: alerts, a diagnosis, what is done about it, the incident, who is told.

It needs no database. What is decided is decided in `monitoring` and `incidents`; here they are told of each other.
"""

import asyncio
import logging
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from seawall.clock import monotonic_s, wall_s
from seawall.errors import NotRunning
from seawall.incidents.desk import IncidentDesk
from seawall.incidents.desk import Second as Told
from seawall.monitoring import alert_memory
from seawall.monitoring.alerts import AlertBook, AlertEvent
from seawall.monitoring.cases import Tenant
from seawall.monitoring.database_probe import DatabaseProbe
from seawall.monitoring.diagnosis import diagnose
from seawall.monitoring.disk_probe import DiskProbe
from seawall.monitoring.fleet import Fleet
from seawall.monitoring.mitigation import Happened, Mitigation, Now, served
from seawall.monitoring.outbox import Outbox
from seawall.monitoring.signals import SignalWatch
from seawall.monitoring.things import Action, Alert, Diagnosis
from seawall.telemetry.journal import Event, Journal
from seawall.telemetry.link import Link, Message
from seawall.telemetry.points import Point, total

log = logging.getLogger(__name__)

USUAL_S: Final = 300
"""How many seconds of what was before are taken for usual."""

ONSET_S: Final = 2
"""Right before the onset is neither: when it began is known to a second or two."""

LOOKED_AT_S: Final = 10
"""A diagnosis looks at so many seconds, the latest."""

EAGER_S: Final = 30
DIAGNOSED_EVERY_S: Final = (1, 5)
"""How often it is looked into: at first, and when an episode is older than `EAGER_S`."""

SURE_LOOKS: Final = 3
"""Something is done about a suspect that was the first in so many diagnoses in a row: the first seconds can mislead."""

SAVED_EVERY_S: Final = 60
"""Alerts that are being watched are written down so often, and with each event."""

ADMISSION: Final = "limit admission"
ADMISSION_OVER_S: Final = 5
"""What the gate does counts as one action, and as over when it has let everybody in for so long."""

SAVED_WITHIN_S: Final = 2.0

BEHIND_MAX: Final = 60
"""So many seconds are looked at at once after ourselves were stopped: as many as the fleet tells apart then."""


@dataclass(slots=True)
class Admission:
    """What the gate does in an incident, as an action. State: it, while it lasts; for how long nobody was refused."""

    action: Action | None = None
    idle_s: int = 0

    def look(self, at_s: float, point: Point, before: Point) -> Happened | None:
        """Return what has changed in this second."""
        is_limiting = point.get("gate.pace_per_s") is not None and total(point, "refused") > 0
        if self.action is None:
            if not is_limiting:
                return None
            self.idle_s = 0
            self.action = Action(
                name=ADMISSION,
                target="everybody",
                reason=f"More is asked than can be done: {point['gate.pace_per_s']:,.0f} requests a second are let in.",
                at_s=at_s,
                before=_told(before),
                after={},
            )
            return Happened(kind="mitigation.begun", action=self.action)
        self.idle_s = 0 if is_limiting else self.idle_s + 1
        if self.idle_s < ADMISSION_OVER_S:
            return None
        undone = replace(self.action, after=_told(point), undone_s=at_s)
        self.action = None
        return Happened(kind="mitigation.undone", action=undone)


class Watch:
    """Looks at each second. State: what was usual before the episode, when it was diagnosed, what admission does.

    Args:
        fleet: the seconds.
        book: the alerts; what it must not forget is in `state`.
        signals: what nobody has promised anything of.
        database: the keeper's own look at the database; None where there is none.
        disk: its look at the disk.
        mitigation: what acts.
        desk: keeps the incident.
        outbox: tells people.
        journal: what happened.
        link: the nodes.
        state: a file.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        book: AlertBook,
        signals: SignalWatch,
        database: DatabaseProbe | None,
        disk: DiskProbe,
        mitigation: Mitigation,
        desk: IncidentDesk,
        outbox: Outbox,
        journal: Journal,
        link: Link,
        state: Path,
    ) -> None:
        self.fleet = fleet
        self.desk = desk
        self._book = book
        self._signals = signals
        self._database = database
        self._disk = disk
        self._mitigation = mitigation
        self._outbox = outbox
        self._journal = journal
        self._link = link
        self._state = state
        self._seen = 0
        self._episode = ""
        self._onset_s = 0.0
        self._usual: list[Point] = []
        self._diagnosis: Diagnosis | None = None
        self._diagnosed_s = 0.0
        self._alike = 0
        self._admission = Admission()
        self._is_up = True
        self._saved_s = 0.0
        self._looked_s = monotonic_s()
        self._saving: asyncio.Task[None] | None = None
        self._journaled = journal.sequence

    def __repr__(self) -> str:
        return f"<Watch {self._book!r}>"

    async def start(self) -> None:
        """Go on where the last keeper stopped. What of it cannot be read is done without: to watch matters more."""
        for what, resume in (
            ("alerts", partial(alert_memory.resume, self._book, self._state, self.fleet)),
            ("incidents", partial(self.desk.start, self._journal.events)),
        ):
            try:
                await resume()
            except Exception as error:
                log.exception("watch.not_resumed", extra={"what": what, "error": repr(error)})
        if not self._book.active:
            self.desk.end_orphan()
        if self._book.active and self._book.episode is not None:
            self._begin(self._book.episode.name, self._book.episode.began_s)

    async def run(self) -> None:
        """Look at each second as it is complete. Runs until cancelled."""
        self._seen = self.fleet.completed
        while True:
            if self.fleet.completed == self._seen:
                await self.fleet.another_second()
            self.fleet.note_keeper(self._measured())
            new = min(self.fleet.completed - self._seen, BEHIND_MAX)
            self._seen = self.fleet.completed
            for at_s, point in self.fleet.recent(new + 1)[-new:]:
                try:
                    await self.look(at_s, point)
                except Exception as error:
                    # One second that cannot be made sense of must not cost those after it.
                    log.exception("watch.second_failed", extra={"at_s": at_s, "error": repr(error)})

    def _measured(self) -> dict[str, float]:
        """Return what the keeper measures itself."""
        database = self._database.point() if self._database is not None else {}
        ready = sum(bool(summary.get("ready")) for summary in self._link.summaries().values())
        return {**database, **self._disk.point(), "nodes.ready": float(ready)}

    async def look(self, at_s: float, point: Point) -> None:
        """Take one second: see what follows from it, do it, and tell of it."""
        # When that second began. Where the wall clock was set since, it is not known: but not later than now, and not
        # before the last one. A time in the future would have windows forget everything.
        self._looked_s = now_s = min(max(monotonic_s() - (wall_s() - at_s), self._looked_s), monotonic_s())
        self._look_at_database(point)
        # It is noticed when it was looked at, and not when the second began that it is seen in.
        events = [noticed(event, wall_s()) for event in self._book.observe(at_s, point, now_s)]
        for event in events:
            self._tell_of(event)
        with _not_in_the_way("signals"):
            for alert in self._signals.observe(at_s, point):
                self._tell_of_signal(alert)
        is_on = bool(self._book.active)
        if is_on and self._book.episode is not None and self._book.episode.name != self._episode:
            self._begin(self._book.episode.name, self._book.episode.began_s)
            self._mitigation.new_incident()
        # An alert that fired is told of, whatever becomes of these.
        diagnosis: Diagnosis | None = None
        actions: list[Action] = []
        with _not_in_the_way("diagnosis"):
            diagnosis = self._look_into(at_s) if is_on else None
        with _not_in_the_way("mitigation"):
            actions = await self._act(at_s, point, diagnosis, is_on=is_on)
        told = Told(
            at_s=at_s, point=point, alerts=events, diagnosis=diagnosis, actions=actions, events=self._new_events()
        )
        for notice in self.desk.look(told):
            self._outbox.put(notice)
        if events or abs(at_s - self._saved_s) >= SAVED_EVERY_S:
            self._saved_s = at_s
            await self._save()

    # Alerts.

    def _tell_of(self, event: AlertEvent) -> None:
        alert = event.alert
        kind = "alert.fired" if event.fired else "alert.resolved"
        self._journal.write(
            kind,
            alert=alert.name,
            rule=alert.rule,
            severity=event.severity.value,
            episode=event.episode,
            turn=event.turn.value,
            reason=alert.reason,
            observed=alert.observed,
            threshold=alert.threshold,
            began_s=alert.began_s,
        )
        log.warning(kind, extra={"alert": alert.name, "rule": alert.rule, "reason": alert.reason})

    def _tell_of_signal(self, alert: Alert) -> None:
        """Write down what became unusual, and what would be suspected. It is no incident: unusual need not be wrong."""
        found = self.diagnose_now()
        suspect = found.suspect.value if found.suspect is not None else "unknown"
        self._journal.write("signal.unusual", alert=alert.name, reason=alert.reason, suspect=suspect)
        log.warning("signal.unusual", extra={"alert": alert.name, "reason": alert.reason, "suspect": suspect})

    def _look_at_database(self, point: Point) -> None:
        is_up = point.get("database.up")
        if is_up is None or bool(is_up) == self._is_up or self._database is None:
            return
        self._is_up = bool(is_up)
        sight = self._database.sight
        if self._is_up:
            self._journal.write("database.back", server=self._database.endpoint.name)
        else:
            trouble = sight.last_trouble
            self._journal.write(
                "database.down",
                server=self._database.endpoint.name,
                reason=sight.words or (trouble.value if trouble is not None else ""),
            )

    # Diagnosis.

    def _begin(self, episode: str, began_s: float) -> None:
        self._episode, self._onset_s = episode, began_s
        self._usual = [point for at_s, point in self.fleet.recent(900) if at_s < began_s - ONSET_S][-USUAL_S:]
        self._diagnosis, self._diagnosed_s, self._alike = None, 0.0, 0

    def _look_into(self, at_s: float) -> Diagnosis | None:
        """Return what is to be suspected, if it is time to look into it again."""
        first_s, later_s = DIAGNOSED_EVERY_S
        every_s = first_s if at_s - self._onset_s < EAGER_S else later_s
        if abs(at_s - self._diagnosed_s) < every_s:
            return None
        self._diagnosed_s = at_s
        found = self.diagnosis_of(self._usual, self._onset_s, at_s)
        if found.suspect is None and self._diagnosis is not None and self._diagnosis.suspect is not None:
            # It is over, or nearly: whom it was remains known, and nothing is done about it any more.
            self._alike = 0
            return None
        before, self._diagnosis = self._diagnosis, found
        self._alike = self._alike + 1 if before is not None and before.suspect is found.suspect else 1
        if before is None or before.suspect is not found.suspect:
            self._journal.write(
                "diagnosis",
                suspect=found.suspect.value if found.suspect is not None else "unknown",
                share=found.share,
                mechanism=found.mechanism,
            )
        return found

    def diagnose_now(self) -> Diagnosis:
        """Return what is different now from what was usual, in an episode or not.

        Raises:
            NotRunning: nothing was measured yet.
        """
        recent = self.fleet.recent(USUAL_S + LOOKED_AT_S)
        if not recent:
            raise NotRunning("Nothing was measured yet: the service has just started.")
        at_s = recent[-1][0]
        if self._book.active:
            return self.diagnosis_of(self._usual, self._onset_s, at_s)
        onset_s = at_s - LOOKED_AT_S + 1
        usual = [point for began_s, point in recent if began_s < onset_s - ONSET_S]
        return self.diagnosis_of(usual, onset_s, at_s)

    def diagnosis_of(self, usual: Sequence[Point], onset_s: float, at_s: float) -> Diagnosis:
        """Return what is to be suspected, from the latest seconds since the onset."""
        now = [point for began_s, point in self.fleet.recent(LOOKED_AT_S + 1) if began_s >= onset_s][-LOOKED_AT_S:]
        return diagnose(
            usual,
            now,
            self._database.sight if self._database is not None else None,
            at_s=wall_s(),
            tenants=self._tenants(),
            disk_trouble=self._disk.trouble,
        )

    def _tenants(self) -> list[Tenant]:
        return [
            Tenant(number=one.number, requests=one.requests, work_s=one.seconds, refused=one.refused)
            for one in self.fleet.top_tenants()
        ]

    # Mitigation.

    async def _act(self, at_s: float, point: Point, diagnosis: Diagnosis | None, *, is_on: bool) -> list[Action]:
        """Do what there is to do, and return what was done, or has changed."""
        before = self._usual[-1] if self._usual else {}
        admission = (
            self._admission.look(wall_s(), point, before) if is_on or self._admission.action is not None else None
        )
        happened = [] if admission is None else [admission]
        if is_on or self._mitigation.lasts:
            is_sure = is_on and self._alike >= SURE_LOOKS
            now = Now(
                at_s=wall_s(),
                point=point,
                diagnosis=(diagnosis or self._diagnosis) if is_sure else None,
                sight=self._database.sight if self._database is not None else None,
                tenants=self._tenants(),
                replicas=replica_ages_s(self._link.summaries().values()),
                nodes=[*self._link.summaries()],
                served_per_s=statistics.fmean(
                    served(one) for _, one in self.fleet.recent(LOOKED_AT_S) or [(at_s, point)]
                ),
            )
            happened += await self._mitigation.step(now)
        for one in happened:
            self._journal.write(
                one.kind,
                action=one.action.name,
                target=one.action.target,
                reason=one.action.reason,
                before=dict(one.action.before),
                after=dict(one.action.after),
                words=one.words,
            )
        return [one.action for one in happened if one.kind not in {"mitigation.failed", "mitigation.proposed"}]

    # What others need to know.

    def _new_events(self) -> list[Event]:
        """Return what others wrote to the journal since the last second."""
        found = self._journal.since(self._journaled)
        if found:
            self._journaled = found[-1].sequence
        return found

    async def _save(self) -> None:
        """Write down what alerts must not forget. A disk that does not take it is no reason to stop watching.

        One at a time: on a disk that hangs each would hold a thread that others need, and two would write one file.
        """
        if self._saving is not None and not self._saving.done():
            # Again, with what is known by then, as soon as this one is over.
            self._saved_s = 0.0
            return
        self._saving = asyncio.create_task(alert_memory.keep(self._book, self._state), name="save alerts")
        self._saving.add_done_callback(_saved)
        await asyncio.wait([self._saving], timeout=SAVED_WITHIN_S)
        if not self._saving.done():
            log.warning("watch.not_saved", extra={"error": "the disk does not answer"})
            self._saved_s = 0.0


def _saved(saving: asyncio.Task[None]) -> None:
    error = None if saving.cancelled() else saving.exception()
    if error is not None:
        log.warning("watch.not_saved", extra={"error": repr(error)})


@contextmanager
def _not_in_the_way(what: str) -> Iterator[None]:
    """Log what goes wrong in the block, and go on: it must not keep the rest from being told."""
    try:
        yield
    except Exception as error:
        log.exception("watch.part_failed", extra={"part": what, "error": repr(error)})


def noticed(event: AlertEvent, at_s: float) -> AlertEvent:
    """Return an event as of this moment."""
    alert = replace(event.alert, fired_s=at_s) if event.fired else event.alert
    return replace(event, at_s=at_s, alert=alert)


def replica_ages_s(summaries: Iterable[Message]) -> dict[str, float]:
    """Return how old what each replica shows is, by the name nodes call it: the worst that a node knows of."""
    found: dict[str, float] = {}
    for summary in summaries:
        connections: Mapping[str, Any] = summary.get("connections") or {}
        for server in connections.get("servers", ()):
            if server["age_s"] is not None:
                found[server["server"]] = max(found.get(server["server"], 0.0), server["age_s"])
    return found


def _told(point: Point) -> dict[str, float]:
    return {what: total(point, what) for what in ("requests", "failed", "refused", "slow")}
