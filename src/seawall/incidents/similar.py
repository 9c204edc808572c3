"""Which past incidents looked like this one: the same suspect, the same alerts, time added in the same places."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seawall.incidents.record import Incident, Similar
from seawall.incidents.timeline import deed
from seawall.incidents.wording import duration
from seawall.monitoring.things import Layer
from seawall.telemetry.points import GROUPS, Point, total
from seawall.telemetry.segments import SEGMENTS

WEIGHTS: Final = {"suspect": 0.5, "alerts": 0.25, "shape": 0.25}
"""What each likeness counts. The suspect is most: it is what one acts upon."""
SCORE_MIN: Final = 0.5
SIMILAR_MAX: Final = 3
ADDED_MIN: Final = 0.05
"""Less added time than this part of what requests took before has no shape, only noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """What is compared of an incident, and what is told of it."""

    id: str
    title: str
    suspect: Layer | None
    alerts: frozenset[str]
    shape: Mapping[str, float]
    ended_by: str


def sketch(incident: Incident) -> Sketch:
    """Return what is compared of an incident."""
    return Sketch(
        id=incident.id,
        title=incident.title,
        suspect=incident.best.suspect if incident.best is not None else None,
        alerts=frozenset(raised.alert.name for raised in incident.alerts),
        shape=incident.shape,
        ended_by=_ended_by(incident),
    )


def most_similar(one: Sketch, past: Iterable[Sketch]) -> tuple[Similar, ...]:
    """Return the past incidents that are most like one, the most alike first."""
    found = [alike for other in past if other.id != one.id and (alike := compare(one, other)).score >= SCORE_MIN]
    return tuple(sorted(found, key=lambda similar: -similar.score)[:SIMILAR_MAX])


def compare(one: Sketch, other: Sketch) -> Similar:
    """Return how much two incidents are alike, 0 to 1, and in what.

    What is not known of one of them counts for nothing, and the rest for more: at the first alert there is no suspect.
    """
    scores: dict[str, float] = {}
    why: list[str] = []
    if one.suspect is not None and other.suspect is not None:
        scores["suspect"] = float(one.suspect is other.suspect)
        if one.suspect is other.suspect:
            why.append(f"the same suspect ({one.suspect.value})")
    if one.alerts and other.alerts:
        same, either = one.alerts & other.alerts, one.alerts | other.alerts
        scores["alerts"] = len(same) / len(either)
        if same:
            why.append(f"{len(same)} of {len(either)} alerts the same ({', '.join(sorted(same))})")
    if one.shape and other.shape:
        scores["shape"] = cosine(one.shape, other.shape)
        where = max(one.shape, key=lambda name: one.shape[name] * other.shape.get(name, 0.0))
        if scores["shape"] >= 0.5:
            why.append(f"time added in the same place ({where.replace('_', ' ')}, likeness {scores['shape']:.2f})")
    weight = sum(WEIGHTS[name] for name in scores)
    score = sum(WEIGHTS[name] * value for name, value in scores.items()) / weight if weight else 0.0
    return Similar(id=other.id, title=other.title, score=round(score, 3), why="; ".join(why), ended_by=other.ended_by)


def shape_of(before: Sequence[Point], during: Sequence[Point]) -> dict[str, float]:
    """Return which part each segment has in the time that was added to a request; nothing where hardly any was."""
    usual, now = seconds_per_request(before), seconds_per_request(during)
    if not now:
        return {}
    added = {name: max(0.0, seconds - usual.get(name, 0.0)) for name, seconds in now.items()}
    together = sum(added.values())
    if together <= ADDED_MIN * sum(usual.values()) or together <= 0:
        return {}
    return {name: round(seconds / together, 4) for name, seconds in added.items() if seconds / together >= 0.005}


def seconds_per_request(points: Sequence[Point]) -> dict[str, float]:
    """Return the mean time a request that was admitted spent in each segment, in seconds."""
    admitted = sum(total(point, "requests") - total(point, "refused") for point in points)
    if admitted <= 0:
        return {}
    names = [segment.name.lower() for segment in SEGMENTS]
    return {
        name: sum(point.get(f"{group}.segment.{name}", 0.0) for point in points for group in GROUPS) / admitted
        for name in names
    }


def cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Return how much two vectors point the same way.

    >>> round(cosine({"disk": 1.0}, {"disk": 0.5, "network": 0.5}), 2)
    0.71
    """
    size = math.hypot(*one.values()) * math.hypot(*other.values())
    return sum(value * other.get(name, 0.0) for name, value in one.items()) / size if size else 0.0


def _ended_by(incident: Incident) -> str:
    if incident.recovered_s is None:
        return ""
    took = duration(incident.recovered_s - incident.began_s)
    if not incident.actions:
        return f"over after {took}; the service did nothing"
    done = ", ".join(dict.fromkeys(deed(action) for action in incident.actions))
    return f"over after {took}; the service {done}"
