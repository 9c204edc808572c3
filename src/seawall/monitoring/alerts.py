"""Which objective is at risk, told once for each episode of trouble, and told again when it is over.

An episode begins with the first alert; others join it. It is over when all of them have been clean for half a minute,
and begins again, as the same one, when something fires soon after: then it has to be clean for twice as long. What a
fast rule has told of an objective is not told again by its slower ones, which would remember it for hours.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from seawall.monitoring.objectives import DAY, RULES, BurnRule, Objective
from seawall.monitoring.things import Alert, Severity
from seawall.monitoring.watches import BurnWatch, Look, NodesWatch, TrafficWatch, Trouble, Watch
from seawall.telemetry.points import Point

CLEAN_S: Final = 30.0
CLEAN_MAX_S: Final = 240.0
"""How long an alert's short window has to be clean until it is over. Twice as long after each time it came back."""

REFRACTORY_S: Final = 300.0
"""What fires so soon after an episode belongs to it."""

GAP_S: Final = 5.0
"""When nothing was looked at for so long, nobody can say that it was clean."""

TOLD_MAX: Final = 512
"""So many stretches that were told of are remembered, for three days at the most, for a start after this one."""

History = Iterable[tuple[float, float, Point]]
"""What was before: on the wall clock when it began, how many seconds it is of, and what they were like."""


class Turn(StrEnum):
    """What an alert does to its episode."""

    OPENED = "opened"
    """It is the first."""
    JOINED = "joined"
    REOPENED = "reopened"
    """It is the first again, soon after the episode was over."""
    RESOLVED = "resolved"
    """It is over, and others are not."""
    OVER = "over"
    """It is over, and with it the episode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertEvent:
    """An alert fired, or is over (`alert.resolved`): what the journal is told, and everybody else.

    `severity` is the worst of the episode so far. `wakes` says that somebody has to get up now: it is the episode's
    first page, or a page that begins it again. `ended_s` is where the trouble of what is over ended in what was
    measured.
    """

    turn: Turn
    at_s: float
    episode: str
    severity: Severity
    wakes: bool
    alert: Alert
    ended_s: float | None = None

    @property
    def fired(self) -> bool:
        """Whether the alert began, or else ended."""
        return self.turn in {Turn.OPENED, Turn.JOINED, Turn.REOPENED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """Trouble that hangs together. Times are on the wall clock; `over_s` None: it goes on."""

    name: str
    began_s: float
    opened_s: float
    severity: Severity
    reopened: int = 0
    over_s: float | None = None

    @property
    def clean_s(self) -> float:
        """How long its alerts have to be clean."""
        return min(CLEAN_S * (1 << self.reopened), CLEAN_MAX_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Active:
    """An alert that has fired, and since when its watch has been clean, on the monotonic clock."""

    alert: Alert
    clean_since_s: float | None = None


class AlertBook:
    """Knows what fires. State: the watches, the alerts that have fired, and the episode they belong to.

    It is given the point of each second. `at_s` is the second on the wall clock, for what is told; `now_s` is on the
    monotonic one, and all is decided by it, so that a clock set back or forward neither hastens nor delays anything.
    """

    def __init__(self, objectives: Sequence[Objective], rules: Sequence[BurnRule] = RULES) -> None:
        self._watches: list[Watch] = [BurnWatch(objective, rule) for objective in objectives for rule in rules]
        self._watches += [NodesWatch(), TrafficWatch()]
        self._active: dict[tuple[str, str], _Active] = {}
        self._told: deque[tuple[str, int, float, float]] = deque(maxlen=TOLD_MAX)
        self._rank = {(watch.name, watch.rule): rank for rank, watch in enumerate(self._watches)}
        self._key = {(watch.name, watch.rule): watch.key for watch in self._watches}
        self._over_since_s: float | None = None
        self._last_s: float | None = None
        self.episode: Episode | None = None

    def __repr__(self) -> str:
        return f"<AlertBook {[*self._active]} in {self.episode}>"

    @property
    def active(self) -> tuple[Alert, ...]:
        """The alerts that have fired and are not over, the first one first."""
        return tuple(active.alert for active in self._active.values())

    def observe(self, at_s: float, point: Point, now_s: float) -> list[AlertEvent]:
        """Look at one second; return what has changed by it."""
        if self._last_s is not None and now_s - self._last_s > GAP_S:
            self._active = {key: replace(active, clean_since_s=None) for key, active in self._active.items()}
        self._last_s = now_s
        events: list[AlertEvent] = []
        known = ""
        for watch in self._watches:
            active = self._active.get((watch.name, watch.rule))
            # A watch that told first goes on counting what a faster one tells as well.
            look = watch.look(point, now_s, counted=active is not None or watch.key != known)
            if active is None and watch.key == known:
                continue
            events += self._judged(watch, look, at_s, now_s)
            if (watch.name, watch.rule) in self._active:
                known = watch.key
        events += self._notes_over(at_s, now_s)
        return events

    def note(self, alert: Alert, at_s: float, now_s: float) -> list[AlertEvent]:
        """Take an alert that another has found, as the detector does; it is over when it was not noted for a while."""
        key = (alert.name, alert.rule)
        if key in self._active:
            self._active[key] = replace(self._active[key], clean_since_s=now_s)
            return []
        event = self._fired(alert, at_s)
        self._active[key] = _Active(alert=alert, clean_since_s=now_s)
        return [event]

    def _judged(self, watch: Watch, look: Look, at_s: float, now_s: float) -> list[AlertEvent]:
        key = (watch.name, watch.rule)
        active = self._active.get(key)
        trouble = look.trouble
        if active is None:
            if trouble is None:
                return []
            event = self._fired(_alert_of(watch, trouble, at_s), at_s)
            self._active[key] = _Active(alert=event.alert)
            return [event]
        if trouble is not None and trouble.severity is Severity.PAGE and active.alert.severity is not Severity.PAGE:
            worse = replace(_alert_of(watch, trouble, at_s), began_s=active.alert.began_s)
            event = self._fired(worse, at_s)
            self._active[key] = _Active(alert=worse)
            return [event]
        if not look.is_clean:
            self._active[key] = replace(active, clean_since_s=None)
            return []
        since_s = now_s if active.clean_since_s is None else active.clean_since_s
        if self.episode is None or now_s - since_s < self.episode.clean_s:
            self._active[key] = replace(active, clean_since_s=since_s)
            return []
        return [self._ended(key, at_s, now_s, ended_s=at_s - watch.ended_age_s())]

    def _notes_over(self, at_s: float, now_s: float) -> list[AlertEvent]:
        """End what others had noted, and note no more."""
        over = [
            key
            for key, active in self._active.items()
            if key not in self._rank
            and self.episode is not None
            and active.clean_since_s is not None
            and now_s - active.clean_since_s >= self.episode.clean_s
        ]
        events = []
        for key in over:
            since_s = self._active[key].clean_since_s
            events.append(self._ended(key, at_s, now_s, ended_s=at_s - (now_s - (since_s or now_s))))
        # After a gap it is as if they were noted anew.
        for key, active in self._active.items():
            if key not in self._rank and active.clean_since_s is None:
                self._active[key] = replace(active, clean_since_s=now_s)
        return events

    def _fired(self, alert: Alert, at_s: float) -> AlertEvent:
        is_page = alert.severity is Severity.PAGE
        episode, last_s = self.episode, self._last_s
        if episode is not None and episode.over_s is not None and self._over_since_s is not None:
            is_soon = last_s is not None and last_s - self._over_since_s < REFRACTORY_S
            episode = replace(episode, reopened=episode.reopened + 1) if is_soon else None
        if episode is None:
            turn, wakes = Turn.OPENED, is_page
            stamp = datetime.fromtimestamp(at_s, UTC).strftime("%Y%m%d-%H%M%S")
            episode = Episode(name=stamp, began_s=alert.began_s, opened_s=at_s, severity=alert.severity)
        elif episode.over_s is not None:
            turn, wakes = Turn.REOPENED, is_page
        else:
            turn, wakes = Turn.JOINED, is_page and episode.severity is not Severity.PAGE
        severity = Severity.PAGE if is_page else episode.severity
        self.episode = replace(episode, severity=severity, over_s=None, began_s=min(episode.began_s, alert.began_s))
        self._over_since_s = None
        return AlertEvent(
            turn=turn, at_s=at_s, episode=episode.name, severity=severity, wakes=wakes, alert=alert, ended_s=None
        )

    def _ended(self, key: tuple[str, str], at_s: float, now_s: float, *, ended_s: float) -> AlertEvent:
        alert = self._active.pop(key).alert
        assert self.episode is not None
        if key in self._rank:
            self._told.append((self._key[key], self._rank[key], alert.began_s, at_s))
        is_over = not self._active
        if is_over:
            self.episode = replace(self.episode, over_s=at_s)
            self._over_since_s = now_s
        return AlertEvent(
            turn=Turn.OVER if is_over else Turn.RESOLVED,
            at_s=at_s,
            episode=self.episode.name,
            severity=self.episode.severity,
            wakes=False,
            alert=alert,
            ended_s=max(ended_s, alert.began_s),
        )

    def as_json(self) -> dict[str, Any]:
        """Return what must survive a restart beside the points, for `json.dumps`; to be written after each event."""
        return {
            "episode": None if self.episode is None else asdict(self.episode),
            "active": [asdict(active.alert) for active in self._active.values()],
            "told": [list(told) for told in self._told],
            "watches": {f"{watch.name} {watch.rule}": watch.as_json() for watch in self._watches},
        }

    def resume(self, state: Mapping[str, Any] | None, history: History, *, at_s: float, now_s: float) -> None:
        """Go on where another stopped, or was stopped: with what it wrote (None: nothing), and with the points it kept.

        Of each second, ten seconds and minute of the last hour, day and month, as many as there are; those of one
        length in the order of time. What lies in the future, since the clock was set back, is left out.
        """
        if state is not None:
            self._take(state, at_s=at_s, now_s=now_s)
        open_since = [
            (self._key[key], self._rank[key], active.alert.began_s, at_s)
            for key, active in self._active.items()
            if key in self._rank
        ]
        told = [*self._told, *open_since]
        for watch in self._watches:
            if isinstance(watch, BurnWatch):
                watch.advance(now_s)
        for began_s, step_s, point in history:
            ago_s = at_s - began_s
            if not 0 <= ago_s <= 3 * DAY:
                continue
            for rank, watch in enumerate(self._watches):
                is_told = any(
                    key == watch.key and faster < rank and from_s < began_s + step_s and began_s < until_s
                    for key, faster, from_s, until_s in told
                )
                if not is_told:
                    watch.recall(point, step_s, now_s - ago_s)

    def _take(self, state: Mapping[str, Any], *, at_s: float, now_s: float) -> None:
        episode = None
        if (found := state["episode"]) is not None:
            episode = Episode(**{**found, "severity": Severity(found["severity"])})
        alerts = [Alert(**{**found, "severity": Severity(found["severity"])}) for found in state["active"]]
        told = [(key, rank, from_s, until_s) for key, rank, from_s, until_s in state["told"]]
        for watch in self._watches:
            if (left := state["watches"].get(f"{watch.name} {watch.rule}")) is not None:
                watch.resume(left)
        self.episode = episode
        if episode is not None and episode.over_s is not None:
            self._over_since_s = now_s - max(0.0, at_s - episode.over_s)
        self._active = {(alert.name, alert.rule): _Active(alert=alert) for alert in alerts}
        self._told.extend(stretch for stretch in told if stretch[3] > at_s - 3 * DAY)


def _alert_of(watch: Watch, trouble: Trouble, at_s: float) -> Alert:
    return Alert(
        name=watch.name,
        severity=trouble.severity,
        rule=watch.rule,
        began_s=at_s - trouble.began_age_s,
        fired_s=at_s,
        observed=trouble.observed,
        threshold=trouble.threshold,
        reason=trouble.reason,
    )
