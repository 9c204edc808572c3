"""Keeps the incident that goes on: opened, joined and closed by what alerts say, filled by everything else.

The keeper's loop tells it each second what happened, and is told what people should hear; that never waits for the disk
or the database. Writing is a loop of its own: what a full or hanging disk does not take waits in memory, and is tried
again. Another loop copies what changed to PostgreSQL, and looks up whose keys were claimed, once it answers.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from seawall.clock import wall_s
from seawall.errors import Invalid, NotRunning, Unavailable
from seawall.incidents.case import Case, Series, UsersBetween
from seawall.incidents.copies import Copies
from seawall.incidents.pages import html, markdown
from seawall.incidents.postmortem import Remedy, draft
from seawall.incidents.record import (
    NOTE_CHARACTERS_MAX,
    Acknowledgement,
    Happening,
    Incident,
    Note,
    acknowledged,
    acted,
    alert_ended,
    diagnosed,
    happened,
    is_bad,
    joined,
    next_id,
    noted,
    opened,
    resolved,
)
from seawall.incidents.similar import Sketch, most_similar, sketch
from seawall.incidents.store import LATEST, IncidentFiles, Row
from seawall.incidents.summary import diagnosis_lines, impact_line, in_short, summary_line
from seawall.incidents.timeline import BEFORE_S, SENTENCES
from seawall.monitoring.alerts import AlertEvent, Turn
from seawall.monitoring.notices import Notice, Status
from seawall.monitoring.things import Action, Diagnosis
from seawall.telemetry.journal import Event, Tell
from seawall.telemetry.points import Point

log = logging.getLogger(__name__)

SAVE_S: Final = 1.0
COPY_S: Final = (5.0, 60.0)
"""How often is copied, and at the least often while the database does not take it."""
COPIED_AT_START: Final = 100
"""So many of the latest are copied again when the keeper starts: they may have ended while the database was away."""
EVENTS_BEFORE_MAX: Final = 200
"""Events of the minute before an incident that are remembered for it."""
COMPARED_MAX: Final = 500
CASES_MAX: Final = 20
"""Incidents that wait for the disk, or for a database that says whose keys were claimed; the oldest is let go."""
WHO_CHARACTERS_MAX: Final = 100
FELT_S: Final = 5.0
"""So long after the last bad second a diagnosis still says something about it."""
FORMS: Final = ("md", "html")


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """What the keeper learned in a second: its point, and what alerts, diagnosis, mitigation and the journal said."""

    at_s: float
    point: Point
    alerts: Sequence[AlertEvent] = ()
    diagnosis: Diagnosis | None = None
    actions: Sequence[Action] = ()
    events: Sequence[Event] = ()


class IncidentDesk:
    """Keeps incidents. State: the last one, those not done with, past ones in short, and what is not copied yet.

    Args:
        directory: of the files.
        tell: writes to the journal.
        series: gives points of the past.
        users_between: gives users of the past.
        url: where an incident can be read; `{id}` stands for its name.
        remedies: gives what check-up and drills propose.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tell: Tell,
        series: Series,
        users_between: UsersBetween,
        url: str = "",
        remedies: Callable[[], Sequence[Remedy]] = tuple,
    ) -> None:
        self.files = IncidentFiles(directory)
        self._tell = tell
        self._series = series
        self._users_between = users_between
        self._url = url
        self._remedies = remedies
        self._last: Case | None = None
        self._cases: list[Case] = []
        self._ids: list[str] = []
        self._past: list[Sketch] = []
        self._recent: deque[Happening] = deque(maxlen=EVENTS_BEFORE_MAX)
        self._to_tell: list[Notice] = []
        self._uncopied: dict[str, Incident] = {}
        self._woken = asyncio.Event()
        self._writing = asyncio.Lock()
        self._is_failing = False
        self._bad_s = 0.0

    def __repr__(self) -> str:
        goes_on = self.open.id if self.open is not None else "none"
        return f"<IncidentDesk open: {goes_on}, {len(self._ids)} in all, {len(self._uncopied)} to copy>"

    @property
    def open(self) -> Incident | None:
        """The incident that goes on."""
        last = self._last
        return last.incident if last is not None and last.incident.is_open else None

    async def start(self, events: Callable[[float], Iterable[Event]]) -> None:
        """Read what is there, and go on with what goes on; `events` gives those of the journal since a time."""
        # First: no new incident may take the name of an old one, whatever cannot be read.
        self._ids = await asyncio.to_thread(self.files.ids)
        incidents = await asyncio.to_thread(lambda: [*self.files.all()])
        self._past = [sketch(incident) for incident in incidents[:COMPARED_MAX]]
        self._uncopied = {incident.id: incident for incident in reversed(incidents[:COPIED_AT_START])}
        if not incidents:
            return
        # Where the clock was set back a day, what goes on does not have the latest name.
        latest = next((one for one in incidents if one.is_open), incidents[0])
        last = Case(latest, await asyncio.to_thread(self.files.people, latest.id))
        self._last = last
        self._cases = [last]
        if not last.incident.is_open:
            return
        rows = await asyncio.to_thread(self.files.points, last.incident.id)
        last.recall(rows)
        since_s = rows[-1].at_s + rows[-1].seconds if rows else last.incident.began_s - BEFORE_S
        last.fetch(since_s, wall_s())
        since_began = await asyncio.to_thread(lambda: [*events(min(since_s, last.incident.began_s - BEFORE_S))])
        last.change(happened(last.incident, _happenings(one for one in since_began if one.at_s >= since_s)))
        if not any(
            one.kind == "notification.sent" and one.fields.get("incident") == last.incident.id for one in since_began
        ):
            # Whoever was to tell of it was killed before.
            self._to_tell.append(self._notice(last.incident, Status.OPENED, wall_s()))
        log.info("incident.resumed", extra={"incident": last.incident.id})

    def end_orphan(self) -> None:
        """Close what goes on here while nobody knows of an alert: its end was not written when the keeper was killed.

        When it ended nobody knows but that it was measured until then. People hear of it with the next second.
        """
        case = self._last
        if case is None or not case.incident.is_open:
            return
        ended_s = max(case.incident.impact.until_s, case.incident.detected_s)
        for raised in case.incident.alerts:
            if raised.ended_s is None:
                self._change(case, alert_ended(case.incident, raised.alert, ended_s))
        self._to_tell += self._resolve(case, wall_s())

    async def stop(self) -> None:
        """Write what is left, once."""
        await self._save_all()

    # Each second.

    def look(self, second: Second) -> list[Notice]:
        """Take what a second brought; return what people should hear. Waits for nothing."""
        new = _happenings(second.events)
        self._recent.extend(new)
        told, self._to_tell = self._to_tell, []
        for event in second.alerts:
            told += self._alert(event)
        case = self._last
        if case is None or not case.incident.is_open:
            return told
        before = case.incident
        after = happened(before, new)
        if is_bad(second.point):
            self._bad_s = second.at_s
        if second.diagnosis is not None and self._is_felt(before, second.at_s):
            after = diagnosed(after, second.diagnosis)
        for action in second.actions:
            after = acted(after, action)
        self._change(case, after)
        case.add(Row(at_s=second.at_s, seconds=1.0, point=second.point))
        if _is_news(before, after):
            told.append(self._notice(case.incident, Status.UPDATED, second.at_s))
        return told

    def _is_felt(self, incident: Incident, at_s: float) -> bool:
        """Say whether there is still something to be explained: what is found in what is left of it misleads."""
        return not incident.diagnoses or not incident.impact.bad_s or abs(at_s - self._bad_s) <= FELT_S

    def _alert(self, event: AlertEvent) -> list[Notice]:
        case = self._last
        if case is None or case.incident.episode != event.episode:
            return self._open(event) if event.fired else []
        before = case.incident
        if not event.fired:
            ended_s = event.at_s if event.ended_s is None else event.ended_s
            self._change(case, alert_ended(before, event.alert, ended_s))
            return self._resolve(case, event.at_s) if event.turn is Turn.OVER and before.is_open else []
        self._change(case, joined(before, event.alert, severity=event.severity))
        if not before.is_open:
            # Between the end and now nobody kept points for it.
            case.fetch(before.resolved_s or event.at_s, event.at_s)
            self._write_event("incident.opened", case.incident, again=True)
            return [self._notice(case.incident, Status.OPENED, event.at_s)]
        return [self._notice(case.incident, Status.UPDATED, event.at_s)] if event.wakes else []

    def _open(self, event: AlertEvent) -> list[Notice]:
        told = []
        if self._last is not None and self._last.incident.is_open:
            # Whoever knew of its episode is gone, and has begun another.
            told = self._resolve(self._last, event.at_s)
        new = opened(next_id(self._ids, event.at_s), event.alert, episode=event.episode, severity=event.severity)
        new = happened(new, [one for one in self._recent if one.at_s >= new.began_s - BEFORE_S])
        case = Case(new)
        case.fetch(new.began_s - BEFORE_S, event.at_s)
        self._ids.insert(0, new.id)
        self._last = case
        self._cases = [*self._cases, case][-CASES_MAX:]
        self._change(case, replace(new, similar=most_similar(sketch(new), self._past)))
        self._write_event("incident.opened", new, again=False)
        return [*told, self._notice(case.incident, Status.OPENED, event.at_s)]

    def _resolve(self, case: Case, now_s: float) -> list[Notice]:
        self._change(case, resolved(case.incident, now_s))
        case.is_counted = False
        self._write_event("incident.resolved", case.incident)
        others = [one for one in self._past if one.id != case.incident.id]
        self._past = [sketch(case.incident), *others][:COMPARED_MAX]
        return [self._notice(case.incident, Status.RESOLVED, now_s)]

    def _change(self, case: Case, changed: Incident) -> None:
        if changed is case.incident:
            return
        if changed.best is not case.incident.best:
            changed = replace(changed, similar=most_similar(sketch(changed), self._past))
        if case not in self._cases:
            # One of the past, that somebody has something to say of.
            self._cases = [case, *self._cases[1 - CASES_MAX :]]
        case.change(changed)
        self._woken.set()

    def _write_event(self, kind: str, incident: Incident, **fields: Any) -> None:
        self._tell(kind, incident=incident.id, title=incident.title, severity=incident.severity.value, **fields)

    def _notice(self, incident: Incident, status: Status, at_s: float) -> Notice:
        return Notice(
            incident_id=incident.id,
            status=status,
            severity=incident.severity,
            alert=incident.alerts[0].alert.name,
            title=incident.title,
            summary=summary_line(incident, at_s),
            diagnosis=tuple(diagnosis_lines(incident)),
            impact=impact_line(incident),
            url=self._url.replace("{id}", incident.id),
            opened_s=incident.detected_s,
            at_s=at_s,
            resolved_s=incident.resolved_s if status is Status.RESOLVED else None,
            by=incident.acknowledged.who if incident.acknowledged and status is Status.ACKNOWLEDGED else "",
        )

    # What people ask and say.

    async def answer(self, message: Mapping[str, Any]) -> Any:
        """Answer a question of a command: `incidents.list`, `.show`, `.post-mortem`, `.note`, `.acknowledge`.

        Raises:
            SeawallError: it was declined, with the reason.
        """
        incident_id, who = str(message.get("id", "")), str(message.get("who", ""))
        match message["ask"]:
            case "incidents.list":
                return await self.listed()
            case "incidents.show":
                return (await self.find(incident_id)).as_json()
            case "incidents.post-mortem":
                return await self.post_mortem(incident_id, str(message.get("format", FORMS[0])))
            case "incidents.note":
                return (await self.note(incident_id, who=who, text=str(message.get("text", "")))).as_json()
            case "incidents.acknowledge":
                return (await self.acknowledge(incident_id, who=who)).as_json()
            case question:
                raise NotRunning(f"This service does not know the question {question!r}: it is another release.")

    async def listed(self) -> list[dict[str, Any]]:
        """Return all incidents in short, the latest first."""
        written = {incident.id: incident for incident in await asyncio.to_thread(lambda: [*self.files.all()])}
        known = {**written, **{case.incident.id: case.incident for case in self._cases}}
        return [in_short(known[incident_id]) for incident_id in self._ids if incident_id in known]

    async def find(self, incident_id: str) -> Incident:
        """Return an incident as it is now.

        Raises:
            Missing: there is none of that name.
        """
        return (await self._case_of(incident_id)).incident

    async def post_mortem(self, incident_id: str, form: str) -> str:
        """Return the draft, as `md` or `html`.

        Raises:
            Missing: there is no such incident.
            Invalid: there is no such form.
        """
        case = await self._case_of(incident_id)
        waiting = [*case.rows]
        rows = await asyncio.to_thread(self.files.points, case.incident.id)
        last_s = rows[-1].at_s if rows else float("-inf")
        rows += [row for row in waiting if row.at_s > last_s]
        return await asyncio.to_thread(
            post_mortem, case.incident, rows, form, now_s=wall_s(), remedies=self._remedies()
        )

    async def note(self, incident_id: str, *, who: str, text: str) -> Incident:
        """Add a note; it is on the disk when this returns, unless the disk is full.

        Raises:
            Missing: there is no such incident.
            Invalid: the note is empty or too long.
        """
        text = writable(text).strip()
        if not 0 < len(text) <= NOTE_CHARACTERS_MAX:
            raise Invalid(f"A note has 1 to {NOTE_CHARACTERS_MAX:,} characters.")
        case = await self._case_of(incident_id)
        note = Note(at_s=wall_s(), who=_name(who), text=text)
        self._change(case, noted(case.incident, note))
        self._tell("incident.note", incident=case.incident.id, who=note.who, text=text)
        await self._save_all()
        return case.incident

    async def acknowledge(self, incident_id: str, *, who: str) -> Incident:
        """Say that somebody takes it up; who said so first stays. People hear of it with the next second.

        Raises:
            Missing: there is no such incident.
        """
        case = await self._case_of(incident_id)
        by = Acknowledgement(at_s=wall_s(), who=_name(who))
        changed = acknowledged(case.incident, by)
        if changed is not case.incident:
            self._change(case, changed)
            self._tell("incident.acknowledged", incident=case.incident.id, who=by.who)
            self._to_tell.append(self._notice(case.incident, Status.ACKNOWLEDGED, by.at_s))
            await self._save_all()
        return case.incident

    async def _case_of(self, incident_id: str) -> Case:
        if incident_id == LATEST and self._last is not None:
            return self._last
        for case in self._cases:
            if case.incident.id == incident_id:
                return case
        incident = await asyncio.to_thread(self.files.find, incident_id)
        case = Case(incident, await asyncio.to_thread(self.files.people, incident.id))
        # Somebody else may have noted something meanwhile. Who only reads takes nobody's place among what is written.
        return next((one for one in self._cases if one.incident.id == incident.id), case)

    # Writing.

    async def keep(self) -> None:
        """Write what changed, each second, and at once what matters. Runs until cancelled."""
        while True:
            self._woken.clear()
            await self._save_all()
            try:
                async with asyncio.timeout(SAVE_S):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def copy(self, copies: Copies) -> None:
        """Copy what changed to the database, and look up whose keys were claimed. Runs until cancelled."""
        pause_s = COPY_S[0]
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self.copy_now(copies)
                pause_s = COPY_S[0]
            except Unavailable as error:
                log.info("incident.not_copied", extra={"incidents": len(self._uncopied), "error": str(error)})
                pause_s = min(2 * pause_s, COPY_S[1])

    async def copy_now(self, copies: Copies) -> None:
        """Copy what was written since the last time.

        Raises:
            Unavailable: the database did not take all of it; the rest is copied the next time.
        """
        for incident_id, incident in [*self._uncopied.items()]:
            await copies.keep(incident)
            if self._uncopied.get(incident_id) is incident:
                del self._uncopied[incident_id]
        for case in [*self._cases]:
            keys = sorted(case.people.users.claimed)
            if keys:
                case.looked_up(await copies.owners(keys), keys)
                self._woken.set()

    async def _save_all(self) -> None:
        async with self._writing:
            for case in [*self._cases]:
                await self._save(case)
            self._cases = [case for case in self._cases if case is self._last or not case.is_done]

    async def _save(self, case: Case) -> None:
        try:
            written = await case.save(self.files, self._series, self._users_between, now_s=wall_s())
        except OSError as error:
            if not self._is_failing:
                log.error("incident.unwritten", extra={"incident": case.incident.id, "error": str(error)})  # noqa: TRY400
            self._is_failing = True
            return
        except Exception as error:
            # Ours, and in every attempt: the other incidents must not wait behind it.
            log.exception("incident.unwritable", extra={"incident": case.incident.id, "error": repr(error)})
            return
        if written is not None:
            self._is_failing = False
            self._uncopied[written.id] = written
            if not written.is_open:
                await asyncio.to_thread(self._forget_points)

    def _forget_points(self) -> None:
        try:
            forgotten = self.files.forget_points()
        except OSError as error:
            log.warning("incident.points_not_forgotten", extra={"error": str(error)})
            return
        if forgotten:
            log.info("incident.points_forgotten", extra={"incidents": len(forgotten)})


def post_mortem(
    incident: Incident, rows: Sequence[Row], form: str, *, now_s: float, remedies: Sequence[Remedy] = ()
) -> str:
    """Return the draft of a post-mortem, written as `md` or `html`.

    Raises:
        Invalid: there is no such form.
    """
    if form not in FORMS:
        raise Invalid(f"A post-mortem is written as {' or '.join(FORMS)}, not as {form}.")
    document = draft(incident, rows, now_s=now_s, remedies=remedies)
    return html(document) if form == "html" else markdown(document)


def _happenings(events: Iterable[Event]) -> list[Happening]:
    """Return what of the journal an incident keeps: alerts, diagnoses and the like it knows better itself."""
    return [
        Happening(at_s=event.at_s, kind=event.kind, fields=dict(event.fields))
        for event in events
        if event.kind in SENTENCES
    ]


def _is_news(before: Incident, after: Incident) -> bool:
    """Say whether people should hear of what changed: another suspect, or something that was done about it."""
    named = (before.best.suspect if before.best else None, after.best.suspect if after.best else None)
    is_first = before.best is None and after.best is not None
    return named[0] is not named[1] or is_first or len(after.actions) > len(before.actions)


def _name(who: str) -> str:
    printable = "".join(letter for letter in writable(who) if letter.isprintable()).strip()
    return printable[:WHO_CHARACTERS_MAX] or "somebody"


def writable(text: str) -> str:
    """Return text that can be written as UTF-8: half a surrogate pair, as `\\udcff` in JSON, cannot.

    >>> writable("a \\udcff b")
    'a ? b'
    """
    return text.encode("utf-8", "replace").decode()
