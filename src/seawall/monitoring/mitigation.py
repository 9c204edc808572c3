"""What is done about it at once, by the service itself: little, bounded, written down, and undone when it is over.

Three things. A session of the database past its limit, that others wait for or that takes what is scarce, is stopped.
An account that takes what is for all is held to a part of it. A replica that is late is not asked. Everything else
waits for people.

Whose sessions: those of the service's own role, for the service knows what they may cost (its transactions take
milliseconds, its deadlines seconds), so one past the limit is a mistake. Those of others only where the operator has
said so: a report that takes an hour may be worth an hour's slowness, and nobody can tell from here.

What is decided is decided in `steps` and `over`, which know neither time nor database. `Mitigation` acts.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from seawall.errors import SeawallError
from seawall.monitoring.cases import Tenant
from seawall.monitoring.database_cases import REPLICA_LATE_S, SERVICE
from seawall.monitoring.database_sight import DatabaseSight, Session
from seawall.monitoring.things import Action, Diagnosis, Layer
from seawall.monitoring.words import amount, duration
from seawall.telemetry.points import Point, total

log = logging.getLogger(__name__)

CANCEL: Final = "cancel session"
TERMINATE: Final = "terminate session"
LIMIT: Final = "limit tenant"
EJECT: Final = "eject replica"

PROTECTED: Final = ("seawall keeper", "seawall command", "seawall probe", "seawall local server", "pg_dump")
"""What is never stopped, whatever it costs: what operators have begun, and what looks at it. What nodes run has an end
of its own, and may take a while where nobody waits for it: the sweeper's goes through all there is."""

TERMINATED_AFTER_S: Final = 2.0
"""After a cancel: what does not stop then does not listen."""

SOON_S: Final = 1.0
"""How exactly it is known when a statement began: a sight is that old."""

AT_ONCE: Final = 5
"""Sessions stopped in one step, a second."""

LEFT_TO_TENANT: Final = 0.2
"""Of what is served, to an account that takes what is for all."""

LEAST_PER_S: Final = 1.0
TOLD_AGAIN_S: Final = 20.0
"""What nodes are told holds for a minute (`service.knobs`)."""

QUIET_S: Final = 15.0
"""How long the cause has to be gone until what was done is undone: else it would come and go."""

LASTS_MAX_S: Final = 600.0
"""What is done lasts no longer: a limit refuses much by itself, and would be its own reason for ever."""

RESTS_S: Final = 20.0
"""Until it may be done again: a diagnosis looks at ten seconds, and those with the limit must be behind it."""

MEASURED_AFTER_S: Final = 5.0
CAUGHT_UP_S: Final = 2.0

BEGUN: Final = "mitigation.begun"
MEASURED: Final = "mitigation.measured"
UNDONE: Final = "mitigation.undone"
FAILED: Final = "mitigation.failed"
PROPOSED: Final = "mitigation.proposed"

TOLD_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    CANCEL: ("database.lock_waiters", "database.lock_wait_s", "database.longest_statement_s", "database.cpu"),
    TERMINATE: ("database.lock_waiters", "database.lock_wait_s", "database.connections", "database.cpu"),
    LIMIT: ("tenant.share", "gate.pace_per_s", "pool.busy"),
    EJECT: ("replica.age_s", "replica.late", "database.replica_lag_s"),
}
"""What is written down before and after, beside what users notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MitigationSettings:
    """What an operator chooses.

    Args:
        mitigate: False: it only says what it would do.
        mitigate_foreign: whether sessions of other roles may be stopped too.
        idle_in_transaction_max_s: how long a session may sit in a transaction while others wait for it, or while there
            are no connections left. Ours never sit in one: they take milliseconds.
        statement_max_s: how long a statement may run that others wait for, or that takes the processors. Longer than
            any request waits for the database, shorter than people take to find it.
        actions_max: so many things are done in one incident at the most; what needs more needs people.
    """

    mitigate: bool = True
    mitigate_foreign: bool = False
    idle_in_transaction_max_s: float = 5.0
    statement_max_s: float = 15.0
    actions_max: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do. `target` names it: what was done to a target is not done to it again.

    `session` is the one to be stopped; `knob` is what nodes are told, and `undo` what takes that back.
    """

    name: str
    target: str
    reason: str
    session: Session | None = None
    knob: Mapping[str, Any] | None = None
    undo: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """A line for the journal: its kind, and the action. `words` say why it failed."""

    kind: str
    action: Action
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """What there is to decide by, this second.

    `tenants` is what accounts asked for in the last `tenants_s` (`fleet.top_tenants`), `replicas` how old what each of
    them shows is, by the name nodes call it, and `nodes` those that can be told something. `served_per_s` is what was
    served of late; None: as much as in this second.
    """

    at_s: float
    point: Point
    diagnosis: Diagnosis | None
    sight: DatabaseSight | None
    tenants: Sequence[Tenant] = ()
    tenants_s: float = 10.0
    replicas: Mapping[str, float] = field(default_factory=dict)
    nodes: Sequence[str] = ()
    served_per_s: float | None = None


Stop = Callable[[Session], Awaitable[bool]]
"""Stops a session, in one way or another; returns whether it was still there."""


# Decisions.


def steps(now: Now, settings: MitigationSettings, *, tried: Mapping[str, float]) -> list[Step]:
    """Return what to do now.

    Args:
        now: what is.
        settings: what may be done.
        tried: what was done already, by target, and when. A session that was asked to stop and goes on is ended, once.
    """
    if now.diagnosis is None or now.diagnosis.suspect is None:
        return []
    match now.diagnosis.suspect:
        case Layer.LOCKS | Layer.CONNECTIONS | Layer.STATEMENTS:
            found = [_stop(session, why, tried, now.at_s) for session, why in runaways(now, settings)]
            wanted = [step for step in found if step is not None][:AT_ONCE]
        case Layer.TENANT:
            wanted = _hold(now)
        case Layer.REPLICA:
            wanted = _leave_out(now)
        case _:
            wanted = []
    # Whether somebody is to be asked again to stop is known already.
    return [step for step in wanted if step.name == CANCEL or step.target not in tried]


def runaways(now: Now, settings: MitigationSettings) -> Iterable[tuple[Session, str]]:
    """Yield the sessions past their limit that the suspected layer suffers from, and in which way."""
    if now.sight is None or not now.sight.up or now.diagnosis is None:
        return
    idle_max_s, running_max_s = settings.idle_in_transaction_max_s, settings.statement_max_s
    match now.diagnosis.suspect:
        case Layer.LOCKS:
            candidates = [(one, f"{one.blocks} wait for it") for one in now.sight.blockers if not one.waits_for_lock]
        case Layer.CONNECTIONS:
            candidates = [(one, "no connections are left") for one in now.sight.idle]
        case Layer.STATEMENTS:
            candidates = [(one, "it takes the processors") for one in now.sight.longest if not one.waits_for_lock]
        case _:
            return
    for session, why in candidates:
        allowed = session.is_ours or settings.mitigate_foreign
        limit_s = idle_max_s if session.is_idle_in_transaction else running_max_s
        spared = PROTECTED if session.is_idle_in_transaction else (*PROTECTED, SERVICE)
        if allowed and session.for_s > limit_s and not session.application.startswith(spared):
            yield session, why


def over(now: Now, step: Step) -> bool:
    """Return whether the cause of something that lasts is gone."""
    match step.name:
        case "limit tenant" if step.knob is not None:
            asked = next((one.requests for one in now.tenants if str(one.number) == step.target), 0.0)
            return asked / now.tenants_s <= 2 * float(step.knob["per_s"]) * max(1, len(now.nodes))
        case "eject replica":
            age_s = now.replicas.get(step.target)
            return age_s is not None and age_s < CAUGHT_UP_S
        case _:
            return True


def _stop(session: Session, why: str, tried: Mapping[str, float], at_s: float) -> Step | None:
    """Return how to stop a session: what it does first, and itself where that is nothing, or did not help."""
    target = f"{session.pid} since {session.began_s:.6f}"
    reason = f"{session.who} has been {session.state} for {duration(session.for_s)}, and {why}: {session.doing}"
    if session.is_idle_in_transaction:
        return Step(name=TERMINATE, target=f"{TERMINATE} {target}", reason=reason, session=session)
    cancelled_s = tried.get(f"{CANCEL} {target}")
    if cancelled_s is None or at_s - session.for_s > cancelled_s + SOON_S:  # That was another statement.
        return Step(name=CANCEL, target=f"{CANCEL} {target}", reason=reason, session=session)
    if at_s - cancelled_s < TERMINATED_AFTER_S:
        return None
    return Step(name=TERMINATE, target=f"{TERMINATE} {target}", reason=f"{reason}; it did not stop", session=session)


def _hold(now: Now) -> list[Step]:
    culprit = now.diagnosis.culprit if now.diagnosis is not None else None
    if culprit is None or culprit.kind != "tenant" or not now.nodes:
        return []
    served_per_s = now.served_per_s
    if served_per_s is None:
        served_per_s = served(now.point)
    per_s = round(max(LEAST_PER_S, LEFT_TO_TENANT * served_per_s / len(now.nodes)), 1)
    knob = {"knob": "limit_tenant", "tenant": culprit.number, "per_s": per_s}
    return [
        Step(
            name=LIMIT,
            target=str(culprit.number),
            reason=f"{now.diagnosis.mechanism} Each node lets in {amount(per_s)} of its requests a second."
            if now.diagnosis is not None
            else "",
            knob=knob,
            undo={**knob, "per_s": None},
        )
    ]


def served(point: Point) -> float:
    """Return how many requests were served."""
    return total(point, "requests") - total(point, "refused") - total(point, "failed")


def _leave_out(now: Now) -> list[Step]:
    return [
        Step(
            name=EJECT,
            target=name,
            reason=f"It shows what was {duration(age_s)} ago.",
            knob={"knob": "eject_server", "server": name, "out": True},
            undo={"knob": "eject_server", "server": name, "out": False},
        )
        for name, age_s in now.replicas.items()
        if age_s >= REPLICA_LATE_S
    ]


# Acting.


@dataclass(slots=True)
class _Lasting:
    """Something that holds until it is undone."""

    step: Step
    action: Action
    told_s: float
    quiet_since_s: float | None = None


class Mitigation:
    """Does it. State: what was tried in this incident, what lasts, and what is yet to be measured.

    Args:
        settings: what may be done.
        cancel: stops what a session does (`DatabaseProbe.cancel`).
        terminate: ends a session.
        tell: tells a node something (`telemetry.Link.tell`); returns whether it was heard.
    """

    def __init__(
        self,
        settings: MitigationSettings,
        *,
        cancel: Stop,
        terminate: Stop,
        tell: Callable[[str, dict[str, Any]], bool],
    ) -> None:
        self._settings = settings
        self._stop: Mapping[str, Stop] = {CANCEL: cancel, TERMINATE: terminate}
        self._tell = tell
        self._tried: dict[str, float] = {}
        self._done = 0
        self._lasting: dict[str, _Lasting] = {}
        # What has lasted for as long as it may, and when it may be done again.
        self._rests: dict[str, float] = {}
        self._to_measure: list[Action] = []

    def __repr__(self) -> str:
        return f"<Mitigation {len(self._tried)} tried, {len(self._lasting)} last>"

    def new_incident(self) -> None:
        """Begin to count anew. What lasts goes on until its cause is gone."""
        self._done = 0
        self._tried = {target: at_s for target, at_s in self._tried.items() if target in {*self._lasting, *self._rests}}

    async def step(self, now: Now) -> list[Happened]:
        """Do what there is to do this second, and return what is to be written down. It never raises for a failure.

        Call it each second while an incident is open, and afterwards (with no diagnosis) until nothing lasts.
        """
        happened = [*self._measured(now), *self._undone(now)]
        for target in [target for target, until_s in self._rests.items() if now.at_s >= until_s]:
            del self._rests[target]
            self._tried.pop(target, None)
        for step in steps(now, self._settings, tried=self._tried):
            if self._done >= self._settings.actions_max:
                break
            self._done += 1
            happened.append(await self._do(step, now))
        return happened

    @property
    def lasts(self) -> bool:
        """Whether something holds that will have to be undone, or is yet to be measured."""
        return bool(self._lasting or self._to_measure)

    async def _do(self, step: Step, now: Now) -> Happened:
        self._tried[step.target] = now.at_s
        action = Action(
            name=step.name,
            target=step.session.who if step.session is not None else step.target,
            reason=step.reason,
            at_s=now.at_s,
            before=_told(step.name, now.point),
            after={},
        )
        if not self._settings.mitigate:
            return Happened(kind=PROPOSED, action=action)
        try:
            done = await self._act(step, now)
        except SeawallError as error:
            log.warning("mitigation.failed", extra={"action": step.name, "target": action.target, "error": str(error)})
            return Happened(kind=FAILED, action=action, words=str(error))
        if not done:
            gone = "it had ended by itself" if step.session is not None else "no node heard it"
            return Happened(kind=FAILED, action=action, words=gone)
        log.warning("mitigation.begun", extra={"action": step.name, "target": action.target, "reason": step.reason})
        self._to_measure.append(action)
        if step.undo is not None:
            self._lasting[step.target] = _Lasting(step=step, action=action, told_s=now.at_s)
        return Happened(kind=BEGUN, action=action)

    async def _act(self, step: Step, now: Now) -> bool:
        if step.session is not None:
            return await self._stop[step.name](step.session)
        assert step.knob is not None
        return self._tell_all(step.knob, now.nodes)

    def _tell_all(self, knob: Mapping[str, Any], nodes: Iterable[str]) -> bool:
        heard = [self._tell(node, dict(knob)) for node in nodes]
        return any(heard)

    def _measured(self, now: Now) -> Iterable[Happened]:
        """Yield what was done a while ago, with what it has changed."""
        ripe = [action for action in self._to_measure if now.at_s - action.at_s >= MEASURED_AFTER_S]
        self._to_measure = [action for action in self._to_measure if action not in ripe]
        for action in ripe:
            yield Happened(kind=MEASURED, action=replace(action, after=_told(action.name, now.point)))

    def _undone(self, now: Now) -> Iterable[Happened]:
        """Say again what lasts, and take back what is over."""
        for target, lasting in [*self._lasting.items()]:
            if not over(now, lasting.step):
                lasting.quiet_since_s = None
            elif lasting.quiet_since_s is None:
                lasting.quiet_since_s = now.at_s
            is_over = lasting.quiet_since_s is not None and now.at_s - lasting.quiet_since_s >= QUIET_S
            if is_over or now.at_s - lasting.action.at_s >= LASTS_MAX_S:
                assert lasting.step.undo is not None
                self._tell_all(lasting.step.undo, now.nodes)
                del self._lasting[target]
                # It may become necessary again.
                if is_over:
                    self._tried.pop(target, None)
                else:
                    self._rests[target] = now.at_s + RESTS_S
                undone = replace(lasting.action, after=_told(lasting.action.name, now.point), undone_s=now.at_s)
                log.warning("mitigation.undone", extra={"action": undone.name, "target": undone.target})
                yield Happened(kind=UNDONE, action=undone)
            elif now.at_s - lasting.told_s >= TOLD_AGAIN_S:
                assert lasting.step.knob is not None
                lasting.told_s = now.at_s
                self._tell_all(lasting.step.knob, now.nodes)


def _told(name: str, point: Point) -> dict[str, float]:
    """Return the numbers that show whether it helps."""
    users = {what: total(point, what) for what in ("requests", "failed", "refused", "slow")}
    return {**users, **{column: point[column] for column in TOLD_COLUMNS[name] if column in point}}
