"""An incident to test with: readers come, the database's connections are used up, a session is ended, all is well."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from seawall.incidents.desk import Second
from seawall.incidents.record import Happening, Incident, Note, acted, diagnosed, grown, happened, opened, resolved
from seawall.incidents.similar import shape_of
from seawall.incidents.store import Row
from seawall.monitoring.alerts import AlertEvent, Turn
from seawall.monitoring.things import Action, Alert, Culprit, Diagnosis, Layer, RuledOut, Severity
from seawall.telemetry.journal import Event
from seawall.telemetry.metrics import DURATION_BUCKETS_S
from seawall.telemetry.users import Bitmap, Users

BEGAN_S = 1_795_554_182.0
"""2026-11-24, 21:03:02 UTC."""
DETECTED_S = BEGAN_S + 6
DIAGNOSED_S = BEGAN_S + 11
MITIGATED_S = BEGAN_S + 17
RECOVERED_S = BEGAN_S + 31
RESOLVED_S = BEGAN_S + 61
EPISODE = "20261124-210308"


def alert(name: str = "availability", *, began_s: float = BEGAN_S, fired_s: float = DETECTED_S) -> Alert:
    return Alert(
        name=name,
        severity=Severity.PAGE,
        rule="60s/10s",
        began_s=began_s,
        fired_s=fired_s,
        observed=0.312,
        threshold=0.0144,
        reason="31.2 % of requests failed or were refused in the last 10 s, where 1.44 % would be 14.4 times too many",
    )


def alert_event(
    turn: Turn = Turn.OPENED, *, at_s: float = DETECTED_S, episode: str = EPISODE, **more: Any
) -> AlertEvent:
    return AlertEvent(
        turn=turn,
        at_s=at_s,
        episode=episode,
        severity=Severity.PAGE,
        wakes=turn in {Turn.OPENED, Turn.REOPENED},
        alert=more.get("alert", alert()),
        ended_s=more.get("ended_s"),
    )


def diagnosis(
    suspect: Layer | None = Layer.CONNECTIONS, *, at_s: float = DIAGNOSED_S, share: float = 0.87
) -> Diagnosis:
    return Diagnosis(
        at_s=at_s,
        suspect=suspect,
        share=share if suspect is not None else None,
        mechanism="The server has no connection left: 97 of 97 are in use, and 40 of them are idle in a transaction",
        evidence=(
            "Users: 1,145 requests a second (usually 442), 16% fail, 10% are refused, and 311 ms longer each",
            "connections the server has: 97, usually 57",
            "connections it refused to nodes: 28",
            "session 4711 (nightly report, role reports) is idle in a transaction for 14 s",
        ),
        ruled_out=(
            RuledOut(layer=Layer.DEMAND, reason="not well either, but explains less: 2.6 times the usual is asked"),
            RuledOut(layer=Layer.LOCKS, reason="no session waits for a lock"),
            RuledOut(layer=Layer.STATEMENTS, reason="a statement takes 3.1 ms, usually 3.0 ms"),
            RuledOut(layer=Layer.DISK, reason="a small write takes 1.9 ms, usually 2.1 ms"),
            RuledOut(layer=Layer.NETWORK, reason="3 segments were sent again, usually 2; no connection was reset"),
            RuledOut(layer=Layer.PROCESSOR, reason="nodes were kept from running for 1% of the time, usually 1%"),
        ),
        advice=(
            "Find out why the report `nightly report` stays in a transaction, and have it end in time",
            "Run fewer nodes, or raise `max_connections` (it needs a restart)",
        ),
        culprit=Culprit(kind="session", name="nightly report", number=4711, started_s=BEGAN_S - 4),
    )


def action(*, undone_s: float | None = None) -> Action:
    return Action(
        name="terminate session",
        target="session 4711 (nightly report, role reports)",
        reason="session 4711 (nightly report, role reports) has been idle in a transaction for 14 s, and no "
        "connections are left: select * from current_objects",
        at_s=MITIGATED_S,
        before={"database.connections": 97, "pool.waiting": 214},
        after={"database.connections": 57, "pool.waiting": 3},
        undone_s=undone_s,
    )


def point(at_s: float, *, seed: int = 1) -> dict[str, float]:
    """Return what the second that begins then was like."""
    return dict(_point(at_s, seed))


@cache
def _point(at_s: float, seed: int) -> dict[str, float]:
    chance = random.Random(f"{seed} {at_s}")
    since_s = at_s - BEGAN_S
    is_bad = 0 <= since_s < RECOVERED_S - BEGAN_S
    severity = min(1.0, (since_s + 1) / 5) if is_bad and at_s < MITIGATED_S + 4 else 0.5 if is_bad else 0.0
    asked = round((410 + chance.gauss(0, 14)) * (2.6 if is_bad else 1.0))
    failed = round(asked * 0.21 * severity)
    refused = round(asked * 0.13 * severity)
    slow = round(asked * 0.22 * severity)
    median_s = 0.004 + 0.4 * severity
    found: dict[str, float] = {
        "reads.requests": asked,
        "reads.failed": failed,
        "reads.refused": refused,
        "reads.slow": slow,
        "reads.seconds": (asked - refused) * (median_s + 0.002),
        "writes.requests": asked // 12,
        "writes.failed": failed // 40,
        "reads.segment.database_wait": (asked - refused) * (0.0004 + 0.41 * severity),
        "reads.segment.database": (asked - refused) * 0.0031,
        "reads.segment.network": (asked - refused) * 0.0009,
        "reads.segment.other": (asked - refused) * (0.0007 + 0.01 * severity),
        "reads.segment.authentication": (asked - refused) * 0.0001,
        "pool.size": 12,
        "pool.lent": 12 if severity > 0.3 else 2 + chance.randrange(4),
        "pool.waiting": round(214 * severity),
        "pool.rows_waiting": round(60 * severity),
        "pool.refused": 4 if severity > 0.9 else 0,
        "database.connections": 97 if is_bad else 57,
        "database.connections_max": 97,
        "database.up": 1,
        "disk.probe_s": 0.0019,
        "nodes.up": 2,
        "nodes.expected": 2,
    }
    if severity:
        found["gate.pace_per_s"] = 640.0
    for _ in range(asked - failed - refused):
        took_s = median_s * math.exp(chance.gauss(0, 0.5))
        bound = next((bound for bound in DURATION_BUCKETS_S if took_s <= bound), math.inf)
        found[f"reads.le.{bound:g}"] = found.get(f"reads.le.{bound:g}", 0) + 1
    return found


def rows(first_s: float = BEGAN_S - 60, last_s: float = RESOLVED_S, *, seed: int = 1) -> list[Row]:
    return [Row(at_s=at_s, seconds=1.0, point=point(at_s, seed=seed)) for at_s in seconds(first_s, last_s)]


def seconds(first_s: float, last_s: float) -> list[float]:
    return [first_s + number for number in range(int(last_s - first_s))]


def journal() -> list[Event]:
    """Return what the journal says of that time."""
    return [
        Event(BEGAN_S - 4, "drill.begun", {"name": "connection hog"}, 1),
        Event(DETECTED_S, "alert.fired", {"alert": "availability"}, 2),
        Event(DETECTED_S + 0.4, "notification.sent", {"target": "ops", "status": "opened"}, 3),
        Event(BEGAN_S + 13, "node.silent", {"node": "node-2", "silent_s": 5.2}, 4),
        Event(BEGAN_S + 19, "node.back", {"node": "node-2"}, 5),
    ]


def whole(incident_id: str = "2026-11-24-1") -> tuple[Incident, list[Row]]:
    """Return the incident when it is over, and its points."""
    incident = opened(incident_id, alert(), episode=EPISODE, severity=Severity.PAGE)
    incident = diagnosed(incident, diagnosis(None, at_s=DETECTED_S + 2))
    incident = diagnosed(incident, diagnosis())
    incident = acted(incident, action())
    incident = happened(incident, [Happening(at_s=e.at_s, kind=e.kind, fields=e.fields) for e in journal()])
    incident = resolved(incident, RESOLVED_S)
    incident = replace(incident, recovered_s=RECOVERED_S)
    measured = rows()
    impact = incident.impact
    for row in measured:
        if BEGAN_S <= row.at_s < RECOVERED_S:
            impact = grown(impact, row.at_s, row.seconds, row.point)
    impact = replace(impact, users_failed=812, users_seen=2950, keys_of_nobody=3)
    before = [row.point for row in measured if row.at_s < BEGAN_S]
    during = [row.point for row in measured if BEGAN_S <= row.at_s < RECOVERED_S]
    return replace(incident, impact=impact, shape=shape_of(before, during)), measured


class Past:
    """What the fleet remembers. State: its points and users."""

    def __init__(self, remembered: Sequence[Row] = (), users: Users | None = None) -> None:
        self.rows = [*remembered]
        self.users = users or Users()
        self.fails = False

    async def series(self, since_s: float, until_s: float) -> list[tuple[float, dict[str, float]]]:
        if self.fails:
            raise TimeoutError
        return [(row.at_s, dict(row.point)) for row in self.rows if since_s <= row.at_s < until_s]

    async def users_between(self, _since_s: float, _until_s: float) -> Users:
        users = Users(seen=Bitmap(self.users.seen), failed=Bitmap(self.users.failed))
        users.claimed |= self.users.claimed
        return users


def second(at_s: float, **more: Any) -> Second:
    return Second(at_s=at_s, point=point(at_s), **more)


def note(text: str, *, at_s: float = BEGAN_S + 20, who: str = "mara") -> Note:
    return Note(at_s=at_s, who=who, text=text)
