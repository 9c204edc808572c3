"""What is done at once: to whom, how often, within which bounds, and that it is undone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from seawall.errors import DatabaseDown
from seawall.monitoring.cases import Tenant
from seawall.monitoring.database_sight import DatabaseSight, Session
from seawall.monitoring.mitigation import (
    BEGUN,
    FAILED,
    LASTS_MAX_S,
    MEASURED,
    MEASURED_AFTER_S,
    PROPOSED,
    QUIET_S,
    RESTS_S,
    TERMINATED_AFTER_S,
    TOLD_AGAIN_S,
    UNDONE,
    Happened,
    Mitigation,
    MitigationSettings,
    Now,
    steps,
)
from seawall.monitoring.things import Culprit, Diagnosis, Layer

SETTINGS = MitigationSettings()


def session(**changed: Any) -> Session:
    """Return one of ours, that forgot its transaction."""
    one = Session(
        pid=7,
        began_s=900.25,
        role="seawall",
        application="cron",
        state="idle in transaction",
        doing="lock table current_objects",
        for_s=8.0,
        is_ours=True,
        blocks=3,
    )
    return replace(one, **changed)


RUNNING = session(state="active", doing="update everything", for_s=60.0)


def now(suspect: Layer | None, *sessions: Session, at_s: float = 1000.0, **changed: Any) -> Now:
    """Return a second in which this layer is suspected, with these sessions in the places where one looks for them."""
    found = Diagnosis(
        at_s=at_s, suspect=suspect, share=1.0, mechanism="It is so.", evidence=(), ruled_out=(), advice=()
    )
    sight = DatabaseSight(
        at_s=at_s,
        up=True,
        answer_s=0.001,
        counted={},
        blockers=tuple(one for one in sessions if one.blocks),
        idle=tuple(one for one in sessions if one.is_idle_in_transaction),
        longest=tuple(one for one in sessions if one.state == "active"),
    )
    point = {"reads.requests": 100.0, "reads.failed": 40.0, "database.lock_waiters": 3.0}
    return Now(
        **{"at_s": at_s, "point": point, "diagnosis": found, "sight": sight, "nodes": ("node-1", "node-2"), **changed}
    )


def flooded(*, asked: float = 900.0, at_s: float = 1000.0) -> Now:
    """Return a second in which account 42 takes what is for all."""
    seen = now(
        Layer.TENANT,
        at_s=at_s,
        point={"reads.requests": 1000.0, "reads.refused": 800.0},
        tenants=(
            Tenant(number=42, requests=10 * asked, work_s=3.0, refused=790),
            Tenant(number=1, requests=100, work_s=0.3, refused=10),
        ),
    )
    assert seen.diagnosis is not None
    culprit = Culprit(kind="tenant", name="42", number=42)
    return replace(seen, diagnosis=replace(seen.diagnosis, culprit=culprit))


@dataclass
class House:
    """Those who do what is decided. State: what was asked of them."""

    done: list[tuple[str, object]] = field(default_factory=list)
    there: bool = True
    error: Exception | None = None

    async def cancel(self, one: Session) -> bool:
        return self._note("cancel", one.pid)

    async def terminate(self, one: Session) -> bool:
        return self._note("terminate", one.pid)

    def tell(self, node: str, message: dict[str, Any]) -> bool:
        return self._note(node, message)

    def _note(self, what: str, whom: object) -> bool:
        if self.error is not None:
            raise self.error
        self.done.append((what, whom))
        return self.there

    def mitigation(self, settings: MitigationSettings = SETTINGS) -> Mitigation:
        """Return what decides, with these to act."""
        return Mitigation(settings, cancel=self.cancel, terminate=self.terminate, tell=self.tell)


def kinds(happened: Sequence[Happened]) -> list[str]:
    """Return what happened, in a word each."""
    return [one.kind for one in happened]


@pytest.mark.parametrize(
    ("suspect", "one", "stopped"),
    [
        (Layer.LOCKS, session(), ["terminate session"]),
        (Layer.LOCKS, RUNNING, ["cancel session"]),
        (Layer.LOCKS, session(for_s=2.0), []),
        (Layer.LOCKS, replace(RUNNING, for_s=9.0), []),
        (Layer.LOCKS, session(blocks=0), []),
        (Layer.LOCKS, session(waits_for_lock=True, state="active", for_s=60.0), []),
        (Layer.LOCKS, session(is_ours=False), []),
        (Layer.LOCKS, session(application="seawall command migrate"), []),
        (Layer.LOCKS, session(application="seawall keeper"), []),
        (Layer.LOCKS, session(application="seawall node-1"), ["terminate session"]),
        (Layer.CONNECTIONS, session(blocks=0), ["terminate session"]),
        (Layer.CONNECTIONS, replace(RUNNING, blocks=0), []),
        (Layer.STATEMENTS, replace(RUNNING, blocks=0), ["cancel session"]),
        (Layer.STATEMENTS, session(), []),
        (Layer.STATEMENTS, replace(RUNNING, blocks=0, application="seawall node-1"), []),
        (Layer.LOCKS, replace(RUNNING, application="seawall node-1"), []),
        (Layer.NETWORK, session(), []),
        (Layer.DEMAND, RUNNING, []),
        (None, session(), []),
    ],
)
def test_only_ours_past_its_limit_and_in_the_way_is_stopped(
    suspect: Layer | None, one: Session, stopped: list[str]
) -> None:
    assert [step.name for step in steps(now(suspect, one), SETTINGS, tried={})] == stopped


def test_others_sessions_are_stopped_where_the_operator_said_so() -> None:
    allowed = MitigationSettings(mitigate_foreign=True)

    assert steps(now(Layer.LOCKS, session(is_ours=False)), allowed, tried={})


def test_nothing_is_decided_from_what_was_seen_before_the_database_went_away() -> None:
    seen = now(Layer.LOCKS, session())
    assert seen.sight is not None

    assert not steps(replace(seen, sight=replace(seen.sight, up=False)), SETTINGS, tried={})
    assert not steps(replace(seen, sight=None), SETTINGS, tried={})


async def test_a_statement_is_stopped_and_its_session_ended_only_if_that_does_not_help() -> None:
    house = House()
    mitigation = house.mitigation()

    first = await mitigation.step(now(Layer.LOCKS, RUNNING))
    soon = await mitigation.step(now(Layer.LOCKS, RUNNING, at_s=1000.0 + TERMINATED_AFTER_S / 2))
    later = await mitigation.step(now(Layer.LOCKS, RUNNING, at_s=1000.0 + TERMINATED_AFTER_S))
    again = await mitigation.step(now(Layer.LOCKS, RUNNING, at_s=1004.0))

    assert [kinds(each) for each in (first, soon, later, again)] == [[BEGUN], [], [BEGUN], []]
    assert house.done == [("cancel", 7), ("terminate", 7)]


async def test_a_session_that_does_something_else_since_it_was_stopped_is_not_ended_for_it() -> None:
    house = House()
    mitigation = house.mitigation()

    await mitigation.step(now(Layer.STATEMENTS, replace(RUNNING, blocks=0)))
    await mitigation.step(now(Layer.STATEMENTS, replace(RUNNING, blocks=0, for_s=20.0), at_s=1100.0))
    assert house.done == [("cancel", 7), ("cancel", 7)]

    await mitigation.step(now(Layer.STATEMENTS, replace(RUNNING, blocks=0, for_s=23.0), at_s=1103.0))
    assert house.done[2:] == [("terminate", 7)]


async def test_the_same_number_of_a_younger_session_is_another() -> None:
    house = House()
    mitigation = house.mitigation()

    await mitigation.step(now(Layer.LOCKS, session()))
    await mitigation.step(now(Layer.LOCKS, session(began_s=1200.0), at_s=1300.0))

    assert house.done == [("terminate", 7), ("terminate", 7)]


async def test_what_was_done_is_told_with_what_it_changed() -> None:
    mitigation = House().mitigation()

    (begun,) = await mitigation.step(now(Layer.LOCKS, session()))
    well = {"reads.requests": 100.0, "reads.failed": 0.0, "database.lock_waiters": 0.0}
    (measured,) = await mitigation.step(now(None, at_s=1000.0 + MEASURED_AFTER_S, point=well))

    assert (begun.kind, measured.kind) == (BEGUN, MEASURED)
    assert begun.action.before["database.lock_waiters"] == 3.0
    assert measured.action.before["failed"] == 40.0
    assert measured.action.after["failed"] == 0.0
    assert "3 wait for it" in measured.action.reason
    assert not mitigation.lasts


async def test_an_incident_has_a_bound_and_the_next_one_begins_anew() -> None:
    house = House()
    mitigation = house.mitigation(MitigationSettings(actions_max=3))
    crowd = [session(pid=number, blocks=0) for number in range(10)]

    for second in range(5):
        await mitigation.step(now(Layer.CONNECTIONS, *crowd, at_s=1000.0 + second))
    assert len(house.done) == 3

    mitigation.new_incident()
    await mitigation.step(now(Layer.CONNECTIONS, *crowd, at_s=1100.0))
    assert len(house.done) == 6


async def test_it_says_what_it_would_do_where_it_may_do_nothing() -> None:
    house = House()
    mitigation = house.mitigation(MitigationSettings(mitigate=False))

    happened = await mitigation.step(now(Layer.LOCKS, session()))
    again = await mitigation.step(now(Layer.LOCKS, session(), at_s=1001.0))

    assert (kinds(happened), again, house.done) == ([PROPOSED], [], [])


@pytest.mark.parametrize("house", [House(there=False), House(error=DatabaseDown())])
async def test_what_could_not_be_done_is_told_and_not_tried_for_ever(house: House) -> None:
    mitigation = house.mitigation()

    (failed,) = await mitigation.step(now(Layer.LOCKS, session()))
    again = await mitigation.step(now(Layer.LOCKS, session(), at_s=1001.0))

    assert failed.kind == FAILED
    assert failed.words
    assert again == []


async def test_an_account_that_takes_what_is_for_all_is_held_to_a_part_until_it_asks_for_less() -> None:
    house = House()
    mitigation = house.mitigation()

    (begun,) = await mitigation.step(flooded())
    # A fifth of the 200 that are served, by two nodes.
    limit = {"knob": "limit_tenant", "tenant": 42, "per_s": 20.0}
    assert begun.kind == BEGUN
    assert house.done == [("node-1", limit), ("node-2", limit)]

    house.done.clear()
    await mitigation.step(flooded(at_s=1000.0 + TOLD_AGAIN_S))
    assert house.done == [("node-1", limit), ("node-2", limit)]

    house.done.clear()
    calm = replace(flooded(asked=30.0), diagnosis=None)
    happened = [
        await mitigation.step(replace(calm, at_s=at_s)) for at_s in (1030.0, 1030.0 + QUIET_S - 1, 1030.0 + QUIET_S)
    ]
    assert [kinds(each) for each in happened] == [[], [], [UNDONE]]
    assert house.done[-2:] == [("node-1", {**limit, "per_s": None}), ("node-2", {**limit, "per_s": None})]
    assert happened[-1][0].action.undone_s == 1030.0 + QUIET_S
    assert not mitigation.lasts


async def test_an_account_that_comes_again_is_held_without_a_pause() -> None:
    house = House()
    mitigation = house.mitigation()

    await mitigation.step(flooded())
    for at_s, asked in ((1010.0, 10.0), (1015.0, 900.0), (1010.0 + QUIET_S, 10.0)):
        happened = await mitigation.step(flooded(asked=asked, at_s=at_s))
        assert UNDONE not in kinds(happened)
    assert mitigation.lasts


async def test_nobody_is_held_for_ever_for_asking_for_as_much_as_ever() -> None:
    house = House()
    mitigation = house.mitigation()
    await mitigation.step(flooded())

    happened = [(at_s, await mitigation.step(flooded(at_s=1000.0 + at_s))) for at_s in range(1, int(LASTS_MAX_S) + 1)]
    assert [(at_s, one.kind) for at_s, each in happened for one in each] == [
        (MEASURED_AFTER_S, MEASURED),
        (LASTS_MAX_S, UNDONE),
    ]
    assert house.done[-1][1] == {"knob": "limit_tenant", "tenant": 42, "per_s": None}

    # What is refused by then is not refused by the limit: only if it is still the culprit it is held again.
    ended_s = 1000.0 + LASTS_MAX_S
    assert not await mitigation.step(flooded(at_s=ended_s + RESTS_S - 1))
    assert kinds(await mitigation.step(flooded(at_s=ended_s + RESTS_S))) == [BEGUN]


async def test_a_moment_in_which_nobody_is_served_holds_nobody_to_nothing() -> None:
    house = House()
    jammed = replace(flooded(), point={"reads.requests": 900.0, "reads.refused": 900.0}, served_per_s=200.0)

    await house.mitigation().step(jammed)

    assert house.done[0] == ("node-1", {"knob": "limit_tenant", "tenant": 42, "per_s": 20.0})


async def test_a_late_replica_is_not_asked_until_it_has_caught_up() -> None:
    house = House()
    mitigation = house.mitigation()

    def late(at_s: float, replicas: Mapping[str, float]) -> Now:
        return now(Layer.REPLICA, at_s=at_s, replicas=replicas, nodes=("node-1",))

    await mitigation.step(late(1000.0, {"a:5432": 9.0, "b:5432": 0.4}))
    assert house.done == [("node-1", {"knob": "eject_server", "server": "a:5432", "out": True})]

    for at_s in (1001.0, 1001.0 + QUIET_S):
        happened = await mitigation.step(late(at_s, {"a:5432": 0.5, "b:5432": 0.4}))
    assert kinds(happened)[-1] == UNDONE
    assert house.done[-1] == ("node-1", {"knob": "eject_server", "server": "a:5432", "out": False})
