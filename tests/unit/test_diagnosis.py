"""Who is suspected: a table of seconds as each layer's trouble makes them, the traps, and what explains nothing."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.monitoring.cases import Tenant
from seawall.monitoring.database_sight import DatabaseSight, Holder, ReplicaSight, Session, Trouble, behind, masked
from seawall.monitoring.diagnosis import as_text, diagnose
from seawall.monitoring.things import Diagnosis, Layer
from seawall.telemetry.points import NAMES, Point
from seawall.telemetry.segments import Segment

MIB: Final = 1024 * 1024

USUAL: Final[Mapping[str, float]] = {
    "reads.requests": 100.0,
    "reads.failed": 0.0,
    "reads.refused": 0.0,
    "reads.seconds": 0.3,
    "reads.segment.database": 0.1,
    "reads.segment.database_wait": 0.05,
    "reads.segment.disk": 0.02,
    "reads.segment.other": 0.1,
    "reads.segment.network": 0.03,
    "writes.requests": 10.0,
    "writes.failed": 0.0,
    "writes.refused": 0.0,
    "writes.seconds": 0.1,
    "writes.segment.database": 0.03,
    "writes.segment.disk": 0.05,
    "gate.level": 0.1,
    "gate.in_flight": 1.0,
    "pool.size": 6.0,
    "pool.lent": 1.0,
    "pool.busy": 0.1,
    "pool.rows_waiting": 0.0,
    "pool.failed": 0.0,
    "pool.refused": 0.0,
    "pool.without_lease": 0.0,
    "loop.lag_s": 0.002,
    "cpu.used": 0.2,
    "cpu.waited": 0.02,
    "cpu.machine": 0.3,
    "cpu.stolen": 0.0,
    "disk.probe_s": 0.002,
    "disk.free_bytes": 1e11,
    "database.disk_free_bytes": 1e11,
    "clients.reset": 0.0,
    "clients.first_byte_s": 0.001,
    "clients.drain_s": 0.01,
    "users.seen": 500.0,
    "tenant.share": 0.02,
    "nodes.up": 1.0,
    "nodes.expected": 1.0,
    "database.up": 1.0,
    "database.answer_s": 0.002,
    "database.connections": 10.0,
    "database.connections_max": 92.0,
    "database.foreign": 0.0,
    "database.active_foreign": 0.0,
    "database.lock_waiters": 0.0,
    "database.lock_wait_s": 0.0,
    "database.idle_in_transaction_s": 0.0,
    "database.longest_statement_s": 0.001,
    "database.cpu": 0.1,
}

BEFORE: Final = [USUAL] * 30

SIGHT: Final = DatabaseSight(
    at_s=1000.0,
    up=True,
    answer_s=0.002,
    is_local=True,
    processes_live=True,
    connections_max=92,
    role_connections=9,
    role_max=92,
    counted={},
    holders=(Holder(application="seawall node-1", role="seawall", connections=7, idle_in_transaction=0, is_ours=True),),
)


def session(**changed: object) -> Session:
    """Return somebody else's session."""
    one = Session(
        pid=4711,
        began_s=900.0,
        role="reports",
        application="psql",
        state="idle in transaction",
        doing="lock table current_objects",
        for_s=8.0,
        is_ours=False,
    )
    return replace(one, **changed)  # type: ignore[arg-type]


def seconds(count: int = 8, /, **changed: float) -> list[Point]:
    """Return seconds that are not as usual; `__` stands for a dot."""
    return [{**USUAL, **{name.replace("__", "."): value for name, value in changed.items()}}] * count


NOBODY_SERVED: Final = {
    "reads__requests": 60.0,
    "reads__failed": 60.0,
    "reads__seconds": 300.0,
    "reads__segment__database": 20.0,
    "reads__segment__database_wait": 280.0,
    "pool__rows_waiting": 300.0,
    "gate__in_flight": 400.0,
    "pool__busy": 1.0,
}
SLOWER: Final = {"reads__seconds": 5.0, "reads__segment__database": 4.0}


@dataclass(frozen=True)
class Given:
    """What is measured, and who is to be named."""

    suspect: Layer | None
    now: Sequence[Point]
    sight: DatabaseSight | None = SIGHT
    tenants: Sequence[Tenant] = ()
    before: Sequence[Point] = field(default_factory=lambda: BEFORE)
    says: str = ""


LOCKED: Final = replace(SIGHT, blockers=(session(blocks=4),), idle=(session(blocks=4),))
HOGGED: Final = replace(
    SIGHT,
    holders=(
        Holder(application="batch", role="reports", connections=80, idle_in_transaction=0, is_ours=False),
        *SIGHT.holders,
    ),
)
HEAVY: Final = replace(SIGHT, longest=(session(state="active", doing="select count(*) from huge", for_s=9.0),))
DOWN: Final = replace(SIGHT, up=False, trouble=Trouble.REFUSED, last_trouble=Trouble.REFUSED, processes_live=False)
SILENT: Final = replace(DOWN, trouble=Trouble.SILENT, last_trouble=Trouble.SILENT, processes_live=True, answer_s=6.0)
BACK: Final = replace(SIGHT, last_trouble=Trouble.STARTING, last_trouble_s=995.0)
NO_NUMBERS: Final = dict.fromkeys(NAMES, math.nan)
MANY: Final = tuple(Tenant(number=number, requests=110, work_s=1.0, refused=1) for number in range(2, 20))
NARROW: Final = {"reads__segment__network": 12.0, "reads__seconds": 12.0}

CASES: Final[Mapping[str, Given]] = {
    "no connections left, nobody notices": Given(
        Layer.CONNECTIONS, seconds(database__connections=92, database__foreign=82), HOGGED, says="80 are held by batch"
    ),
    "no connections left for nodes": Given(
        Layer.CONNECTIONS,
        seconds(**NOBODY_SERVED, pool__refused=5, pool__failed=5, database__connections=92),
        HOGGED,
    ),
    "our own role leaks": Given(
        Layer.CONNECTIONS,
        seconds(database__connections=90),
        replace(
            SIGHT,
            role_connections=92,
            holders=(
                Holder(application="cron", role="seawall", connections=83, idle_in_transaction=83, is_ours=True),
            ),
        ),
        says="83 of them idle in a transaction",
    ),
    "a connection is opened for each request": Given(
        Layer.CONNECTIONS,
        seconds(
            reads__requests=25,
            reads__seconds=28,
            reads__segment__database=17,
            reads__segment__database_wait=10,
            database__opened=40,
            database__connections=28,
            database__cpu=0.75,
            cpu__waited=0.78,
            loop__lag_s=0.05,
        ),
        says="Connections are not kept: 40 a second",
    ),
    "nodes hold all of theirs while statements are as fast as ever": Given(
        Layer.CONNECTIONS,
        seconds(pool__busy=1.0, reads__segment__database_wait=40, reads__seconds=41, reads__refused=20),
    ),
    "everybody waits for a lock": Given(
        Layer.LOCKS,
        seconds(
            **NOBODY_SERVED,
            database__lock_waiters=4,
            database__lock_wait_s=4.0,
            database__idle_in_transaction_s=8.0,
        ),
        LOCKED,
        says="behind session 4711 (psql, role reports)",
    ),
    "only writers wait for a lock": Given(
        Layer.LOCKS,
        seconds(
            writes__failed=10,
            writes__requests=10,
            writes__segment__database=50,
            writes__seconds=50,
            database__lock_waiters=2,
            database__lock_wait_s=3.0,
        ),
        LOCKED,
    ),
    "a blocked session's lock was given back already, and all is late for it": Given(
        Layer.LOCKS, seconds(**NOBODY_SERVED, database__lock_waiters=4, database__lock_wait_s=4.0), SIGHT
    ),
    "heavy statements of others": Given(
        Layer.STATEMENTS,
        seconds(
            **SLOWER,
            database__active_foreign=4,
            database__cpu=0.9,
            database__longest_statement_s=9,
            cpu__waited=0.5,
            loop__lag_s=0.05,
        ),
        HEAVY,
        says="select count(*) from huge",
    ),
    "statements take longer, nobody knows why": Given(Layer.STATEMENTS, seconds(**SLOWER)),
    "the database is not there": Given(Layer.DATABASE, seconds(**NOBODY_SERVED, database__up=0, pool__failed=9), DOWN),
    "the database was not there for a moment": Given(
        Layer.DATABASE, [*seconds(6), *seconds(1, database__up=0, reads__failed=40), *seconds(2)], BACK
    ),
    "the database hangs": Given(
        Layer.DATABASE, seconds(**NOBODY_SERVED, database__up=0), replace(SILENT, other_way_answers=None)
    ),
    "the database does not hear from us": Given(
        Layer.NETWORK,
        seconds(**NOBODY_SERVED, database__up=0),
        replace(SILENT, other_way_answers=True),
        says="on the way nodes take",
    ),
    "a database elsewhere does not hear from us": Given(
        Layer.NETWORK, seconds(**NOBODY_SERVED, database__up=0), replace(SILENT, is_local=False, processes_live=None)
    ),
    "nodes cannot reach the database, the keeper can": Given(
        Layer.NETWORK, seconds(**NOBODY_SERVED, pool__failed=4), says="which answers the keeper"
    ),
    "a replica is late": Given(
        Layer.REPLICA,
        seconds(replica__age_s=9, replica__out=1, replica__late=50, database__replica_lag_s=8),
        replace(SIGHT, replicas=(ReplicaSight(name="replica", state="streaming", lag_s=8.0, lag_bytes=1),)),
        before=[{**USUAL, "replica.age_s": 0.6, "replica.out": 0.0, "replica.late": 0.0}] * 30,
    ),
    "the disk is slow": Given(Layer.DISK, seconds(writes__segment__disk=2.5, writes__seconds=2.6)),
    "the disk is slow for everybody": Given(
        Layer.DISK, seconds(writes__segment__disk=2.5, writes__seconds=2.6, disk__probe_s=0.4), says="400 ms"
    ),
    "the disk is full": Given(Layer.DISK, seconds(disk__refused=10, writes__failed=10)),
    "the database's disk is full, and it fails": Given(
        Layer.DISK, seconds(**NOBODY_SERVED, database__up=0, database__disk_free_bytes=0), DOWN
    ),
    "the database's disk is full, and it can still be read": Given(
        Layer.DISK, seconds(writes__failed=10, database__disk_free_bytes=4096)
    ),
    "the disk fails": Given(Layer.DISK, seconds(disk__errors=3, reads__failed=3)),
    "nobody arrives any more": Given(Layer.NETWORK, seconds(reads__requests=0, writes__requests=0)),
    "connections of clients are reset": Given(
        Layer.NETWORK, seconds(reads__requests=0, writes__requests=0, clients__reset=50)
    ),
    "new connections say nothing for long": Given(Layer.NETWORK, seconds(clients__first_byte_s=0.3)),
    "clients are slow": Given(Layer.NETWORK, seconds(**NARROW, clients__drain_s=16.0)),
    "nodes do not get the processor": Given(
        Layer.PROCESSOR,
        seconds(
            cpu__waited=0.6, loop__lag_s=0.08, reads__seconds=4, reads__segment__other=2.5, reads__segment__database=1
        ),
    ),
    "a node is gone": Given(Layer.PROCESSOR, seconds(nodes__up=1, nodes__expected=2, reads__requests=40)),
    "one tenant floods": Given(
        Layer.TENANT,
        seconds(
            reads__requests=1500,
            reads__refused=1200,
            tenant__share=0.8,
            gate__pace_per_s=300,
            pool__busy=1.0,
            reads__segment__database_wait=30,
            reads__seconds=35,
        ),
        tenants=(Tenant(number=1, requests=13_000, work_s=80, refused=11_800), *MANY),
        says="Account 1 makes 86%",
    ),
    "far more users than usual": Given(
        Layer.DEMAND,
        seconds(
            reads__requests=900,
            reads__refused=600,
            gate__pace_per_s=300,
            pool__busy=1.0,
            users__seen=4000,
            reads__segment__database_wait=20,
            reads__seconds=30,
        ),
        tenants=MANY,
    ),
    "many ask for too much, among them one that has asked for most so far": Given(
        Layer.DEMAND,
        seconds(reads__requests=500, reads__refused=400, gate__pace_per_s=100, reads__seconds=20, users__seen=4000),
        tenants=(Tenant(number=1, requests=3_000, work_s=0.2, refused=0), *MANY),
    ),
    "a report slows all, and who asks for most as ever is refused most": Given(
        Layer.STATEMENTS,
        seconds(
            reads__requests=150,
            reads__refused=60,
            reads__seconds=9,
            reads__segment__database=8,
            gate__pace_per_s=90,
            tenant__share=0.6,
            database__active_foreign=1,
            database__longest_statement_s=9,
            database__cpu=1.0,
        ),
        HEAVY,
        before=[{**USUAL, "tenant.share": 0.6}] * 30,
        tenants=(Tenant(number=1, requests=960, work_s=50, refused=400), *MANY[:5]),
    ),
    "one floods where few come, and one of these makes most of it": Given(
        Layer.TENANT,
        seconds(reads__requests=300, reads__refused=250, gate__pace_per_s=50, tenant__share=0.9, reads__seconds=5),
        before=[{**USUAL, "reads.requests": 4.0, "writes.requests": 1.0, "tenant.share": 0.9}] * 30,
        tenants=(Tenant(number=1, requests=2_950, work_s=4, refused=2_480), *MANY[:2]),
    ),
    "nodes have few connections, for they need few": Given(
        None,
        seconds(pool__size=2, reads__requests=2, writes__requests=0, reads__failed=1),
        before=[{**USUAL, "reads.requests": 2.0}] * 30,
    ),
    # Traps.
    "no connections left, while the network hiccups": Given(
        Layer.CONNECTIONS,
        [
            *seconds(2, database__connections=92),
            *seconds(1, database__connections=92, clients__first_byte_s=0.08, reads__segment__network=0.5),
        ]
        * 3,
        HOGGED,
    ),
    "everybody waits for a lock, while the machine is busy": Given(
        Layer.LOCKS,
        seconds(
            **NOBODY_SERVED, database__lock_waiters=4, database__lock_wait_s=4.0, cpu__machine=1.0, cpu__waited=0.03
        ),
        LOCKED,
    ),
    "the network is slow, while a session is idle in a transaction that nobody waits for": Given(
        Layer.NETWORK,
        seconds(clients__first_byte_s=0.3, database__idle_in_transaction_s=9.0),
        replace(SIGHT, idle=(session(),)),
    ),
    # Nobody.
    "all is as usual": Given(None, seconds()),
    "all is as usual, on a busy machine": Given(None, seconds(cpu__machine=1.0, cpu__used=0.9)),
    "somebody is idle in a transaction": Given(None, seconds(database__idle_in_transaction_s=30.0)),
    "a report runs": Given(None, seconds(database__active_foreign=1, database__longest_statement_s=9), HEAVY),
    "requests fail, and nothing says why": Given(None, seconds(reads__failed=40)),
    "nothing was measured": Given(None, [{}] * 8, None, before=[]),
    "nothing at all": Given(None, [], None, before=[]),
    "nothing can be reckoned with": Given(None, [NO_NUMBERS] * 8, before=[NO_NUMBERS] * 30),
}  # fmt: skip


def asked(case: Given) -> Diagnosis:
    """Return what is said of it."""
    return diagnose(case.before, case.now, case.sight, at_s=1000.0, tenants=case.tenants)


@pytest.mark.parametrize("name", CASES)
def test_the_right_layer_is_suspected_and_the_others_are_cleared(name: str) -> None:
    case = CASES[name]

    found = asked(case)

    assert found.suspect == case.suspect, "\n".join([found.mechanism, *(one.reason for one in found.ruled_out)])
    assert case.says in found.mechanism
    assert {one.layer for one in found.ruled_out} == set(Layer) - {case.suspect}
    assert all(one.reason for one in found.ruled_out)
    assert found.advice
    assert Diagnosis.from_json(json.loads(json.dumps(found.as_json()))) == found


@pytest.mark.parametrize("name", [name for name in CASES if "locks" in str(CASES[name].suspect)])
def test_a_baseline_that_is_too_short_hides_no_mechanism(name: str) -> None:
    found = asked(replace(CASES[name], before=BEFORE[:2]))

    assert found.suspect is Layer.LOCKS
    assert "too little to compare with" in found.evidence[0]


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].suspect])
def test_an_onset_known_wrongly_changes_nothing(name: str) -> None:
    case = CASES[name]
    late = [*case.before[:20], *case.now[:6]]

    found = asked(replace(case, before=late))

    assert found.suspect is case.suspect


def test_the_blocker_is_named_so_that_it_can_be_stopped() -> None:
    found = asked(CASES["everybody waits for a lock"])

    assert found.culprit is not None
    assert (found.culprit.kind, found.culprit.number, found.culprit.started_s) == ("session", 4711, 900.0)
    assert any("pg_terminate_backend(4711)" in line for line in found.advice)
    assert found.share == pytest.approx(1.0, abs=0.01)


def test_it_reads_as_a_page() -> None:
    text = as_text(asked(CASES["everybody waits for a lock"]))

    assert text.startswith("Suspected: locks (100% of what users notice)\n4 sessions wait for a lock")
    assert "\n  - disk: a small write takes 2.0 ms" in text


def test_the_account_is_named_that_takes_more_than_its_share() -> None:
    found = asked(CASES["one tenant floods"])

    assert found.culprit is not None
    assert (found.culprit.kind, found.culprit.number) == ("tenant", 1)


def test_where_nothing_is_known_to_be_usual_nobody_takes_more_than_usual() -> None:
    tenants = (Tenant(number=1, requests=900, work_s=25, refused=0), *MANY[:5])
    now = seconds(tenant__share=0.8, reads__seconds=3.0, reads__segment__database=2.5)

    assert asked(Given(Layer.STATEMENTS, now, before=[], tenants=tenants)).suspect is Layer.STATEMENTS


def test_an_idle_transaction_nobody_waits_for_is_cleared_by_that() -> None:
    found = asked(CASES["the network is slow, while a session is idle in a transaction that nobody waits for"])

    cleared = next(one.reason for one in found.ruled_out if one.layer is Layer.LOCKS)
    assert "idle in a transaction for 9.0 s, and nobody waits for it" in cleared


POINTS = st.lists(
    st.dictionaries(
        st.sampled_from(NAMES), st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1e6), max_size=40
    ),
    max_size=12,
)


@given(before=POINTS, now=POINTS)
def test_whatever_is_measured_there_is_an_answer(before: Sequence[Point], now: Sequence[Point]) -> None:
    found = diagnose(before, now, SIGHT, at_s=0.0)

    assert found.mechanism
    assert len(found.ruled_out) == len(Layer) - (found.suspect is not None)
    assert found.share is None or 0 <= found.share <= 1
    json.dumps(found.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("select 'a' , 42", "select ?, ?"),
        ("alter role x password 'cut off her", "alter role x password ?"),
        ("select $1, t.c2 from t2 where n = $q$it's$q$", "select $1, t.c2 from t2 where n = ?"),
        ("select $$never ends", "select ?"),
        (r"select e'it\'s', 1.5e9", "select ?, ?"),
        (r"select 1 where path = 'C:\' and secret = 'hunter2'", "select ? where path = ?"),
        ("select \"it's\", 'hunter2'", 'select "it\'s", ?'),
        ("-- it's mine\nselect 'hunter2'", "? select ?"),
        ("/* it's */ select 'hunter2'", "? select ?"),
        ("/* a /* b */ it's */ select 'hunter2'", "?"),
        ("select /* objects.put */ 0xbeef, .5, 1e-5", "select /* objects.put */ ?, ?, ?"),
        ("x" * 300, "x" * 199 + "…"),
    ],
)
def test_statements_are_shown_without_what_may_be_somebodys_data(statement: str, shown: str) -> None:
    assert masked(statement).replace(" ,", ",") == shown


def test_the_root_of_waiting_is_who_waits_for_nobody() -> None:
    assert behind({2: [1], 3: [2, 1], 4: [9]}) == {1: 2, 9: 1}
    assert behind({}) == {}


def test_who_waits_in_a_circle_has_a_root_too() -> None:
    assert behind({1: [2], 2: [1]}) == {1: 2}


def test_what_was_seen_can_be_written_down() -> None:
    for sight in (LOCKED, HOGGED, DOWN):
        assert DatabaseSight.from_json(json.loads(json.dumps(sight.as_json()))) == sight


def test_what_was_seen_last_is_not_told_as_what_is() -> None:
    counted = {"database.connections": 9.0}

    assert replace(SIGHT, counted=counted).point()["database.connections"] == 9.0
    assert "database.connections" not in replace(DOWN, counted=counted).point()


@pytest.mark.parametrize(
    ("segment", "suspect"),
    [
        (Segment.DATABASE, Layer.STATEMENTS),
        (Segment.DISK, Layer.DISK),
        (Segment.NETWORK, Layer.NETWORK),
        # Time alone, without a mechanism, accuses nobody.
        (Segment.OTHER, None),
        (Segment.HASHING, None),
        (Segment.DATABASE_WAIT, None),
    ],
)
def test_added_time_speaks_against_the_layer_it_is_spent_in(segment: Segment, suspect: Layer | None) -> None:
    point = {**USUAL, "reads.seconds": 10.0, f"reads.segment.{segment.name.lower()}": 9.0}

    assert diagnose(BEFORE, [point] * 8, SIGHT, at_s=0.0).suspect is suspect
