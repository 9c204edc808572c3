"""What happened, in order, in sentences: each with the number or the event it rests on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from seawall.incidents.record import Happening, Incident, is_bad
from seawall.incidents.series import quantile_s, rate, share
from seawall.incidents.store import Row
from seawall.incidents.wording import clock, duration, many, percent, sentence
from seawall.monitoring.things import Action, Diagnosis, RuledOut
from seawall.telemetry.points import total

BEFORE_S: Final = 60.0
"""How long before the incident began events and points are of interest."""
LINES_MAX: Final = 200

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that happened. `source` is the metric or the kind of event it was read from."""

    at_s: float
    text: str
    source: str
    is_milestone: bool = False


def timeline(incident: Incident, rows: Sequence[Row]) -> list[Line]:
    """Return what happened, the first first; what people wrote is among it."""
    lines = [
        *_milestones(incident, rows),
        *_measured(incident, rows),
        *_alerts(incident),
        *_diagnoses(incident),
        *_actions(incident),
        *_people(incident),
        *(_told(one) for one in incident.happenings if one.kind in SENTENCES),
    ]
    lines.sort(key=lambda line: (line.at_s, not line.is_milestone))
    if len(lines) > LINES_MAX:
        dropped = len(lines) - LINES_MAX
        middle = Line(
            at_s=lines[LINES_MAX // 2].at_s, text=f"{many(dropped, 'more line')} left out here.", source="incident.json"
        )
        lines = [*lines[: LINES_MAX // 2], middle, *lines[-LINES_MAX // 2 :]]
    return lines


# From the record.


def _milestones(incident: Incident, rows: Sequence[Row]) -> Iterator[Line]:
    first = next((row for row in rows if row.at_s + row.seconds > incident.began_s and is_bad(row.point)), None)
    if first is not None and total(first.point, "requests"):
        bad = (share(first, "failed") or 0) + (share(first, "refused") or 0) + (share(first, "slow") or 0)
        asked = many(total(first.point, "requests") / first.seconds, "request")
        seen = f": of {asked} in that second, {percent(bad)} failed, were refused or were slow"
    else:
        seen = ": no node was ready" if first is not None else ""
    yield Line(at_s=incident.began_s, text=f"It began{seen}.", source="requests", is_milestone=True)
    if incident.recovered_s is not None:
        impact = incident.impact
        text = (
            f"Recovered, after {many(impact.bad_s, 'bad second')}."
            if impact.bad_s
            else "Recovered; no request had failed, been refused or been slow in numbers that count."
        )
        yield Line(at_s=incident.recovered_s, text=text, source="requests", is_milestone=True)


def _alerts(incident: Incident) -> Iterator[Line]:
    for number, raised in enumerate(sorted(incident.alerts, key=lambda one: one.alert.fired_s)):
        alert = raised.alert
        which = "Detected" if number == 0 else "Another alert"
        after = duration(alert.fired_s - incident.began_s)
        yield Line(
            at_s=alert.fired_s,
            text=f"{which}, {after} after the begin: {sentence(alert.reason)[:-1]} "
            f"({alert.name}, rule {alert.rule}: {alert.observed:.3g}, at most {alert.threshold:.3g}).",
            source="alert.fired",
            is_milestone=number == 0,
        )
        if raised.ended_s is not None:
            # What was seen too late to be told before it ended was over when it was told.
            ended_s = max(raised.ended_s, alert.fired_s)
            yield Line(at_s=ended_s, text=f"Over: {alert.name}, rule {alert.rule}.", source="alert.resolved")


def _diagnoses(incident: Incident) -> Iterator[Line]:
    for diagnosis in incident.diagnoses:
        yield Line(
            at_s=diagnosis.at_s,
            text=said(diagnosis),
            source="diagnosis",
            is_milestone=diagnosis.at_s == incident.diagnosed_s,
        )


def said(diagnosis: Diagnosis) -> str:
    """Return a diagnosis in a sentence or two."""
    if diagnosis.suspect is None:
        return f"Diagnosis: unknown. {sentence(diagnosis.mechanism)}".strip()
    return f"Diagnosis: {suspect_of(diagnosis)}. {sentence(diagnosis.mechanism)}".strip()


def suspect_of(diagnosis: Diagnosis) -> str:
    """Return who is suspected, and how much it explains."""
    if diagnosis.suspect is None:
        return "unknown"
    part = "" if diagnosis.share is None else f", which explains {percent(diagnosis.share)} of what users notice"
    return f"{diagnosis.suspect.value}{part}"


def cleared(diagnosis: Diagnosis) -> list[RuledOut]:
    """Return the layers that are innocent; of those that are not well either, the reason says so."""
    return [one for one in diagnosis.ruled_out if not one.reason.startswith(NOT_WELL)]


def also_ill(diagnosis: Diagnosis) -> list[RuledOut]:
    """Return the layers that are not well, and explain less than the suspect."""
    return [one for one in diagnosis.ruled_out if one.reason.startswith(NOT_WELL)]


NOT_WELL: Final = "not well either"
"""How the diagnosis begins the reason of a layer that it does not quite clear."""


def _actions(incident: Incident) -> Iterator[Line]:
    for number, action in enumerate(incident.actions):
        yield Line(
            at_s=action.at_s,
            text=f"The service {done(action)}",
            source="mitigation.begun",
            is_milestone=number == 0,
        )
        if action.undone_s is not None:
            yield Line(
                at_s=action.undone_s,
                text=f"Undone, for it was no longer needed: it had {deed(action)}.",
                source="mitigation.undone",
            )


DEEDS: Final[Mapping[str, tuple[str, str]]] = {
    "cancel session": ("cancelled a statement", "cancelled the statement of {target}"),
    "terminate session": ("ended a session", "ended {target}"),
    "limit tenant": ("held an account back", "held account {target} to a part of what is for all"),
    "eject replica": ("left a replica out", "left replica {target} out"),
    "limit admission": ("let fewer requests in", "let fewer requests in"),
}
"""What the service does by itself, as it is told: without naming whom, and naming them."""


def done(action: Action) -> str:
    """Return an action as the end of a sentence: what, why, and what was measured before and after."""
    measured = ", ".join(
        f"`{name}` from {before:.4g} to {action.after[name]:.4g}"
        for name, before in action.before.items()
        if action.after.get(name, before) != before
    )
    # Where the reason names whom, it is said once.
    what = DEEDS[action.name][0] if action.name in DEEDS and action.target in action.reason else deed(action)
    colon = "." if action.reason[:1].isupper() else ":"
    return f"{what}{colon} {action.reason.rstrip('.')}" + (f" ({measured})." if measured else ".")


def deed(action: Action) -> str:
    """Return what was done, and to whom, in a few words."""
    _, named = DEEDS.get(action.name, ("", "{name} {target}"))
    return named.format(name=action.name.replace("_", " "), target=action.target).strip()


def _people(incident: Incident) -> Iterator[Line]:
    if incident.acknowledged is not None:
        by = incident.acknowledged
        yield Line(
            at_s=by.at_s,
            text=f"Acknowledged by {by.who}, {duration(by.at_s - incident.detected_s)} after it was detected.",
            source="incident.acknowledged",
        )
    for note in incident.notes:
        yield Line(at_s=note.at_s, text=f"{note.who} noted: {note.text}", source="incident.note")


# From the points.


def _measured(incident: Incident, rows: Sequence[Row]) -> Iterator[Line]:
    """Yield what can be read off the points: when what was scarce ran out, and how bad it became."""
    during = [row for row in rows if incident.began_s - BEFORE_S <= row.at_s]
    for marker in (_pool_full, _connections_refused, _database_away, _first_refusals):
        line = marker(during)
        if line is not None:
            yield line
    worst = max(during, key=lambda row: rate(row, "failed") + rate(row, "refused"), default=None)
    if worst is not None and (bad := rate(worst, "failed") + rate(worst, "refused")) > 0:
        yield Line(
            at_s=worst.at_s,
            text=f"The worst moment: {many(rate(worst, 'failed'), 'request')} a second failed and "
            f"{rate(worst, 'refused'):,.0f} were refused, {percent(bad / rate(worst, 'requests'))} of all.",
            source="requests",
        )
    slowest = max(
        (row for row in during if is_bad(row.point)),
        key=lambda row: quantile_s([row.point], 0.99) or 0.0,
        default=None,
    )
    if slowest is not None and (late_s := quantile_s([slowest.point], 0.99)) and late_s >= 0.1:
        yield Line(
            at_s=slowest.at_s,
            text=f"Slowest: one in a hundred of those served took {duration(late_s)} or longer.",
            source="requests.le",
        )


def _pool_full(rows: Sequence[Row]) -> Line | None:
    for row in rows:
        size, lent = row.point.get("pool.size", 0), row.point.get("pool.lent", 0)
        waiting = row.point.get("pool.waiting", 0) + row.point.get("pool.rows_waiting", 0)
        if size > 0 and lent >= size and waiting > 0:
            text = f"All {size:.0f} connections to the database were in use, and {waiting:,.0f} waited."
            return Line(at_s=row.at_s, text=text, source="pool.lent, pool.waiting")
    return None


def _connections_refused(rows: Sequence[Row]) -> Line | None:
    for row in rows:
        if row.point.get("pool.refused", 0) > 0:
            most, has = row.point.get("database.connections_max"), row.point.get("database.connections")
            of = f": it had {has:.0f} of {most:.0f}" if most is not None and has is not None else ""
            text = f"PostgreSQL refused {many(row.point['pool.refused'], 'connection')} as too many{of}."
            return Line(at_s=row.at_s, text=text, source="pool.refused")
    return None


def _database_away(rows: Sequence[Row]) -> Line | None:
    away = next((row for row in rows if row.point.get("database.up") == 0), None)
    if away is None:
        return None
    back = next((row for row in rows if row.at_s > away.at_s and row.point.get("database.up") == 1), None)
    until = (
        "" if back is None else f" It answered again at {clock(back.at_s)}, {duration(back.at_s - away.at_s)} later."
    )
    return Line(at_s=away.at_s, text=f"The database did not answer the keeper's probe.{until}", source="database.up")


def _first_refusals(rows: Sequence[Row]) -> Line | None:
    row = next((row for row in rows if total(row.point, "refused") > 0), None)
    if row is None:
        return None
    pace = row.point.get("gate.pace_per_s")
    let_in = "" if pace is None else f", and let {many(pace, 'request')} a second in"
    return Line(
        at_s=row.at_s,
        text=f"Admission began to turn requests away: {rate(row, 'refused'):,.0f} of {rate(row, 'requests'):,.0f} "
        f"a second{let_in}.",
        source="requests.refused",
    )


# From the journal.


def _told(happening: Happening) -> Line:
    return Line(at_s=happening.at_s, text=SENTENCES[happening.kind](happening.fields), source=happening.kind)


def _of(fields: Fields, *names: str, otherwise: str = "") -> str:
    """Return the first of some fields that is there."""
    return next((str(fields[name]) for name in names if fields.get(name) not in (None, "")), otherwise)


def _because(fields: Fields) -> str:
    reason = _of(fields, "reason", "why", "error", "words")
    return f": {reason.rstrip('.')}" if reason else ""


def _process(fields: Fields) -> str:
    pid = _of(fields, "pid")
    return f" (process {pid})" if pid else ""


def _exit(fields: Fields) -> str:
    signal, code = _of(fields, "signal"), _of(fields, "exit_code", "code")
    return f", killed by signal {signal}" if signal else f", exit code {code}" if code else ""


def _node(fields: Fields) -> str:
    return f"Node {_of(fields, 'node', 'name', otherwise='(unnamed)')}"


def _database(fields: Fields) -> str:
    server = _of(fields, "server", "endpoint")
    return f"The database {server}" if server else "The database"


def _after(fields: Fields) -> str:
    seconds = fields.get("silent_s", fields.get("after_s"))
    return f" after {duration(seconds)}" if isinstance(seconds, int | float) else ""


def _attempt(fields: Fields) -> str:
    """Return what would have been done, whether the action's fields stand in the event or below `action`."""
    inner = fields.get("action")
    action = inner if isinstance(inner, Mapping) else fields
    words = _of(fields, "words")
    said = f"{_of(action, 'name', 'action')} {_of(action, 'target')}".strip() + _because({**action, "words": ""})
    return f"{said}: {words.rstrip('.')}" if words else said


def _for(fields: Fields) -> str:
    seconds = fields.get("silent_s")
    return f": nothing was heard of it for {duration(seconds)}" if isinstance(seconds, int | float) else ""


def _whom(fields: Fields) -> str:
    target, status = _of(fields, "target"), _of(fields, "status")
    return (f" by {target}" if target else "") + (f" that it was {status}" if status else "")


def _took(fields: Fields) -> str:
    took_s = fields.get("took_s")
    return f", within {duration(took_s)}" if isinstance(took_s, int | float) else ""


def _settings(fields: Fields) -> str:
    changes = "; ".join(
        f"{name} = {value}" for name, value in fields.items() if isinstance(value, str | int | float | bool)
    )
    return f"Settings were changed: {changes or 'no value was written down'}."


def _by(fields: Fields) -> str:
    seconds = fields.get("by_s")
    if not isinstance(seconds, int | float):
        return "The machine's clock was set: times before and after do not compare."
    way = "forward" if seconds > 0 else "back"
    return f"The machine's clock was set {way} by {duration(abs(seconds))}: times before and after differ by that."


SENTENCES: Final[Mapping[str, Callable[[Fields], str]]] = {
    "keeper.started": lambda fields: f"The keeper started{_process(fields)}.",
    "keeper.stopped": lambda fields: f"The keeper stopped{_because(fields)}; until it was back nobody watched.",
    "node.started": lambda fields: f"{_node(fields)} started{_process(fields)}.",
    "node.died": lambda fields: f"{_node(fields)} died{_process(fields)}{_exit(fields)}{_because(fields)}.",
    "node.silent": lambda fields: f"{_node(fields)} fell silent{_for(fields)}{_because(fields)}.",
    "node.back": lambda fields: f"{_node(fields)} was heard again{_after(fields)}.",
    "database.down": lambda fields: f"{_database(fields)} could not be reached{_because(fields)}.",
    "database.back": lambda fields: f"{_database(fields)} answered again{_after(fields)}.",
    "postgresql.died": lambda fields: f"PostgreSQL died{_process(fields)}{_exit(fields)}{_because(fields)}.",
    "postgresql.started_again": lambda fields: f"PostgreSQL was started again{_process(fields)}.",
    "database.failover": lambda fields: (
        "Another server of the database takes writes now: "
        f"{_of(fields, 'primary', 'to', 'server', otherwise='(unnamed)')}."
    ),
    "signal.unusual": lambda fields: f"Unusual: {_of(fields, 'reason', otherwise='a signal').rstrip('.')}.",
    "mitigation.failed": lambda fields: (
        f"The service tried to act and could not: {_of(fields, 'name', 'action')} {_of(fields, 'target')}".rstrip()
        + f"{_because(fields)}."
    ),
    "notification.sent": lambda fields: f"People were told{_whom(fields)}{_took(fields)}.",
    "notification.failed": lambda fields: f"Nobody could be told{_whom(fields)}{_because(fields)}.",
    "drill.begun": lambda fields: f"A drill began: {_of(fields, 'name', 'fault', 'drill')}.",
    "drill.ended": lambda fields: f"The drill ended: {_of(fields, 'name', 'fault', 'drill')}.",
    "settings.changed": _settings,
    "clock.jumped": _by,
    "journal.dropped": lambda fields: (
        "The journal lost events, for the disk could not take them: "
        f"{_of(fields, 'events', otherwise='nobody counted how many')}."
    ),
}
"""The kinds of the journal that say something the record does not say itself."""
