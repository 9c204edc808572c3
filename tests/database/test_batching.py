import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seawall.clock import monotonic_s
from seawall.database import Database, DatabaseSettings, Endpoint, Query, batching
from seawall.database.batching import SWEEP_EVERY_S, WIDTH_MAX, Batcher
from seawall.database.pool import Pool
from seawall.database.waiting import WaitingRoom
from seawall.errors import DatabaseDown, DeadlineExceeded, OutcomeUnknown, Overloaded, Unavailable
from seawall.telemetry.purpose import Purpose

READ = Query(name="tests.read", why="a test", sql="select")
WRITE = Query(name="tests.write", why="a test", sql="insert")

# What a row may hold besides its number: it makes the fake database fail.
FINE, BAD = "fine", "bad"


def soon(seconds: float = 5.0) -> float:
    return monotonic_s() + seconds


@dataclass(slots=True)
class FakeDatabase:
    """A pool and its server in one. State: what was written, in order, and what is under way.

    It refuses what the batcher must never do: a row twice in a statement, or in two that are under way, and rows out
    of order. `durations` says how many steps each statement takes; `lost` which of them lose the connection.
    """

    size: int = 2
    durations: list[int] = field(default_factory=list)
    lost: frozenset[int] = frozenset()
    table: dict[object, int] = field(default_factory=dict)
    written: dict[object, list[int]] = field(default_factory=lambda: defaultdict(list))
    widths: list[int] = field(default_factory=list)
    sent: list[object] = field(default_factory=list)
    under_way: set[object] = field(default_factory=set)
    statements: int = 0
    lent: int = 0
    gate: asyncio.Event | None = None

    @asynccontextmanager
    async def connection(self, *, deadline_s: float, **_: object) -> AsyncIterator["FakeDatabase"]:
        while self.lent == self.size or (self.gate is not None and not self.gate.is_set()):
            if monotonic_s() >= deadline_s:
                raise DeadlineExceeded
            await asyncio.sleep(0)
        self.lent += 1
        try:
            yield self
        finally:
            self.lent -= 1

    def on_behalf_of(self, purposes: Sequence[Purpose]) -> None:
        assert len(purposes) <= WIDTH_MAX

    async def fetch(self, query: Query, *columns: list[Any], timeout_s: float) -> list[dict[str, Any]]:
        assert timeout_s > 0
        number, self.statements = self.statements, self.statements + 1
        self.widths.append(len(columns[0]))
        self.sent += columns[1]
        if query is READ:
            await self._take_time(number)
            return [
                {"ordinal": place, "value": self.table[key]}
                for place, key in enumerate(columns[0], start=1)
                if key in self.table
            ]
        keys = columns[0]
        assert keys == sorted(set(keys)), "rows must be sorted, and no row there twice"
        assert not self.under_way.intersection(keys), "two statements write the same row"
        self.under_way.update(keys)
        try:
            await self._take_time(number)
            if BAD in columns[2]:
                raise asyncpg.CharacterNotInRepertoireError("a bad row")
            for key, value in zip(keys, columns[1], strict=True):
                self.table[key] = value
                self.written[key].append(value)
        finally:
            self.under_way.difference_update(keys)
        return [{"answers": value} for value in columns[1]]

    async def _take_time(self, number: int) -> None:
        for _ in range(self.durations[number % len(self.durations)] if self.durations else 1):
            await asyncio.sleep(0)
        if number in self.lost:
            raise asyncpg.ConnectionDoesNotExistError("gone")


def a_batcher(fake: FakeDatabase, query: Query, *, lanes: int = 2) -> Batcher:
    pool = cast("Pool", fake)
    if query is READ:
        return Batcher(query, pool, lanes=lanes)
    return Batcher(query, pool, lanes=lanes, identity_width=1, echo=1)


async def assert_nothing_is_left(batcher: Batcher) -> None:
    await batcher.close()
    assert batcher.waiting == 0
    assert "0 waiting, 0 of" in repr(batcher)
    assert not batcher._behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One caller: when it comes, what it writes, and when it loses patience."""

    step: int
    key: str
    kind: str = FINE
    cancelled_after: int | None = None


calls = st.builds(
    Call,
    step=st.integers(0, 12),
    key=st.sampled_from("abcde"),
    kind=st.sampled_from([FINE, FINE, FINE, FINE, BAD]),
    cancelled_after=st.none() | st.none() | st.integers(0, 6),
)


async def outcomes_of(batcher: Batcher, scenario: Sequence[Call]) -> list[Any]:
    """Let the callers come, in order; return what became of each."""

    async def call(number: int, what: Call) -> Any:
        answer = await batcher.submit((what.key, number, what.kind), deadline_s=soon())
        return None if answer is None else answer["answers"]

    tasks: dict[int, asyncio.Task[Any]] = {}
    for step in range(60):
        for number, what in enumerate(scenario):
            if what.step == step:
                tasks[number] = asyncio.create_task(call(number, what))
            if what.cancelled_after is not None and what.step + what.cancelled_after == step and number in tasks:
                tasks[number].cancel()
        await asyncio.sleep(0)
    return await asyncio.gather(*(tasks[number] for number in range(len(scenario))), return_exceptions=True)


@settings(max_examples=400, deadline=None)
@given(
    scenario=st.lists(calls, max_size=40),
    durations=st.lists(st.integers(0, 8), min_size=1, max_size=5),
    lost=st.frozensets(st.integers(0, 12), max_size=2),
    lanes=st.integers(1, 3),
    size=st.integers(1, 3),
)
def test_merged_writes_are_as_those_one_by_one(
    scenario: list[Call], durations: list[int], lost: frozenset[int], lanes: int, size: int
) -> None:
    async def run() -> None:
        fake = FakeDatabase(size=size, durations=durations, lost=lost)
        batcher = a_batcher(fake, WRITE, lanes=lanes)

        outcomes = await outcomes_of(batcher, scenario)

        arrival = sorted(range(len(scenario)), key=lambda number: (scenario[number].step, number))
        for number, (what, outcome) in enumerate(zip(scenario, outcomes, strict=True)):
            match outcome:
                case asyncio.CancelledError():
                    assert what.cancelled_after is not None
                case asyncpg.CharacterNotInRepertoireError():
                    assert what.kind == BAD, "only whose row it is may hear of it"
                case DatabaseDown():
                    assert lost
                case _:
                    assert outcome == number
                    assert what.kind == FINE
                    assert fake.written[what.key].count(number) == 1
        for values in fake.written.values():
            assert values == sorted(values, key=arrival.index), "writes of one key keep their order"
        assert all(width <= WIDTH_MAX for width in fake.widths)
        await assert_nothing_is_left(batcher)

    asyncio.run(run())


@settings(max_examples=150, deadline=None)
@given(
    keys=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    present=st.sets(st.integers(0, 30)),
    durations=st.lists(st.integers(0, 5), min_size=1, max_size=4),
)
def test_merged_reads_are_as_those_one_by_one(keys: list[int], present: set[int], durations: list[int]) -> None:
    async def run() -> None:
        fake = FakeDatabase(durations=durations, table={key: key * 7 for key in present})
        batcher = a_batcher(fake, READ)

        rows = await asyncio.gather(
            *(batcher.submit((key, place), deadline_s=soon()) for place, key in enumerate(keys))
        )

        assert [row and row["value"] for row in rows] == [key * 7 if key in present else None for key in keys]
        await assert_nothing_is_left(batcher)

    asyncio.run(run())


# One property at a time.


async def test_those_who_wait_go_together_and_at_most_128_at_once() -> None:
    fake = FakeDatabase(size=1, durations=[50])
    batcher = a_batcher(fake, READ, lanes=1)

    await asyncio.gather(*(batcher.submit((key, key), deadline_s=soon()) for key in range(300)))

    assert fake.widths == [128, 128, 44]
    assert (sum(batcher.widths.counts), batcher.widths.total, batcher.saved_statements) == (3, 300, 297)


async def test_a_crowd_that_comes_at_once_uses_every_lane() -> None:
    fake = FakeDatabase(durations=[5])
    batcher = a_batcher(fake, READ, lanes=2)

    answers = [batcher.submit((key, key), deadline_s=soon()) for key in range(2 * WIDTH_MAX)]
    for _ in range(3):
        await asyncio.sleep(0)

    assert fake.lent == 2
    await asyncio.gather(*answers)


async def test_writes_of_one_key_take_turns_and_do_not_hold_others_up() -> None:
    fake = FakeDatabase(durations=[3])
    batcher = a_batcher(fake, WRITE)

    slow = [batcher.submit(("hot", number, FINE), deadline_s=soon()) for number in range(10)]
    other = batcher.submit(("cold", 99, FINE), deadline_s=soon())
    await other

    assert [answer.done() for answer in slow].count(True) <= 1
    await asyncio.gather(*slow)
    assert fake.written["hot"] == list(range(10))


async def test_a_hot_key_with_thousands_waiting_costs_each_of_them_little() -> None:
    fake = FakeDatabase()
    batcher = a_batcher(fake, WRITE)

    started_s = time.process_time()
    await asyncio.gather(*(batcher.submit(("hot", number, FINE), deadline_s=soon(60)) for number in range(4000)))
    spent_s = time.process_time() - started_s

    assert fake.written["hot"] == list(range(4000))
    assert spent_s < 3.0, "it takes seconds when each statement looks at all who wait"


async def test_one_bad_row_among_128_costs_a_few_statements_and_only_its_caller() -> None:
    fake = FakeDatabase()
    batcher = a_batcher(fake, WRITE)

    answers = await asyncio.gather(
        *(batcher.submit((key, key, BAD if key == 77 else FINE), deadline_s=soon()) for key in range(128)),
        return_exceptions=True,
    )

    failed = [place for place, answer in enumerate(answers) if isinstance(answer, BaseException)]
    assert failed == [77]
    assert len(fake.table) == 127
    assert fake.statements <= 15


async def test_whoever_is_cancelled_while_waiting_is_not_sent() -> None:
    fake = FakeDatabase(gate=asyncio.Event())
    batcher = a_batcher(fake, WRITE)
    answers = [batcher.submit((key, key, FINE), deadline_s=soon()) for key in range(3)]
    behind = [batcher.submit((1, 10 + number, FINE), deadline_s=soon()) for number in range(3)]
    await asyncio.sleep(0)

    answers[1].cancel()
    behind[0].cancel()
    assert fake.gate is not None
    fake.gate.set()
    await asyncio.gather(*answers, *behind, return_exceptions=True)

    assert sorted(cast("list[int]", fake.sent)) == [0, 2, 11, 12]
    await assert_nothing_is_left(batcher)


async def test_whose_time_is_up_is_told_so_and_not_sent() -> None:
    fake = FakeDatabase(gate=asyncio.Event())
    batcher = a_batcher(fake, READ)

    late = batcher.submit(("a", "late"), deadline_s=soon(0.02))
    patient = batcher.submit(("a", "patient"), deadline_s=soon())
    with pytest.raises(DeadlineExceeded):
        await late
    assert fake.gate is not None
    fake.gate.set()
    await patient

    assert fake.sent == ["patient"]
    assert batcher.room.counts.expired == 1


async def test_whose_time_is_up_while_a_read_is_under_way_does_not_wait_for_the_others() -> None:
    goes_on = asyncio.Event()

    async def ask(_: object, __: Query, columns: Sequence[list[Any]], ___: float) -> list[Any]:
        await goes_on.wait()
        return [*columns[1]]

    batcher = Batcher(READ, cast("Pool", FakeDatabase()), lanes=1, ask=ask)
    began_s = monotonic_s()
    late = batcher.submit(("a", "late"), deadline_s=soon(0.05))
    patient = batcher.submit(("a", "patient"), deadline_s=soon())

    with pytest.raises(DeadlineExceeded):
        await late
    assert monotonic_s() - began_s < 0.05 + 5 * SWEEP_EVERY_S
    assert not patient.done()
    goes_on.set()

    assert cast("object", await patient) == "patient"
    assert batcher.room.counts.expired == 1
    await batcher.close()


async def test_a_write_under_way_is_waited_for_to_its_end() -> None:
    goes_on = asyncio.Event()

    async def ask(_: object, __: Query, columns: Sequence[list[Any]], ___: float) -> list[Any]:
        await goes_on.wait()
        return [*columns[1]]

    batcher = Batcher(WRITE, cast("Pool", FakeDatabase()), lanes=1, identity_width=1, ask=ask)
    late = batcher.submit(("a", "late", FINE), deadline_s=soon(0.02))
    await asyncio.sleep(0.02 + 2 * SWEEP_EVERY_S)

    # Whether it was written is not known before.
    assert not late.done()
    goes_on.set()
    assert cast("object", await late) == "late"
    await batcher.close()


async def test_the_deadline_counts_while_a_connection_is_awaited() -> None:
    fake = FakeDatabase(gate=asyncio.Event())
    batcher = a_batcher(fake, READ, lanes=1)
    patient = batcher.submit(("a", "patient"), deadline_s=soon())
    late = batcher.submit(("a", "late"), deadline_s=soon(0.01))
    await asyncio.sleep(0.03)

    assert fake.gate is not None
    fake.gate.set()

    assert await patient is None
    with pytest.raises(DeadlineExceeded):
        await late
    assert fake.sent == ["patient"]


async def test_a_full_queue_refuses_until_those_who_left_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LIMIT", 4)
    fake = FakeDatabase(gate=asyncio.Event())
    batcher = a_batcher(fake, WRITE)
    batcher.room = WaitingRoom(limit=2)
    waiting = [batcher.submit((number % 2, number, FINE), deadline_s=soon()) for number in range(6)]

    for key in ("x", 0):
        with pytest.raises(Overloaded):
            batcher.submit((key, 100, FINE), deadline_s=soon())
    waiting[0].cancel()
    waiting[3].cancel()
    await asyncio.sleep(2 * SWEEP_EVERY_S)
    waiting += [batcher.submit((0, number, FINE), deadline_s=soon()) for number in (6, 7)]
    with pytest.raises(Overloaded):
        batcher.submit(("x", 100, FINE), deadline_s=soon())

    assert batcher.room.counts.refused == 3
    assert fake.gate is not None
    fake.gate.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert {key: fake.written[key] for key in (0, 1)} == {0: [2, 4, 6, 7], 1: [1, 5]}
    await assert_nothing_is_left(batcher)


async def test_a_lost_connection_fails_its_whole_batch_and_the_next_one_works() -> None:
    fake = FakeDatabase(lost=frozenset({0}))
    batcher = a_batcher(fake, WRITE)

    failed = await asyncio.gather(
        *(batcher.submit((key, key, FINE), deadline_s=soon()) for key in range(20)), return_exceptions=True
    )
    again = await asyncio.gather(*(batcher.submit((key, key, FINE), deadline_s=soon()) for key in range(20)))

    assert {type(error) for error in failed} == {OutcomeUnknown}
    assert len(again) == 20
    assert fake.statements == 2


async def test_when_there_is_no_connection_everybody_who_waits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def connection(_fake: FakeDatabase, **_: object) -> AsyncIterator[FakeDatabase]:
        await asyncio.sleep(0)
        raise DatabaseDown
        yield  # type: ignore[unreachable]

    monkeypatch.setattr(FakeDatabase, "connection", connection)
    batcher = a_batcher(FakeDatabase(), WRITE)

    outcomes = await asyncio.gather(
        *(batcher.submit((number % 3, number, FINE), deadline_s=soon()) for number in range(200)),
        return_exceptions=True,
    )

    assert {type(error) for error in outcomes} == {DatabaseDown}
    await assert_nothing_is_left(batcher)


async def test_what_is_wrong_in_the_query_itself_reaches_every_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(_fake: FakeDatabase, _query: Query, *_columns: object, timeout_s: float) -> list[dict[str, Any]]:
        return [{"not the column": timeout_s}]

    monkeypatch.setattr(FakeDatabase, "fetch", fetch)
    batcher = a_batcher(FakeDatabase(), READ)

    outcomes = await asyncio.gather(
        *(batcher.submit((key, key), deadline_s=soon()) for key in range(3)), return_exceptions=True
    )

    assert {type(error) for error in outcomes} == {KeyError}
    await assert_nothing_is_left(batcher)


async def test_a_cancelled_lane_leaves_nobody_waiting_for_ever() -> None:
    fake = FakeDatabase(durations=[1000])
    batcher = a_batcher(fake, WRITE)
    answers = [batcher.submit((number % 2, number, FINE), deadline_s=soon()) for number in range(6)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    for task in asyncio.all_tasks():
        if task.get_name() == "batch tests.write":
            task.cancel()
    fake.durations = [1]
    outcomes = await asyncio.gather(*answers, return_exceptions=True)

    assert all(outcome is None or isinstance(outcome, DatabaseDown | dict) for outcome in outcomes)
    assert (await batcher.submit((7, 7, FINE), deadline_s=soon())) is not None
    await assert_nothing_is_left(batcher)


async def test_closing_answers_those_who_wait_and_takes_nobody_any_more() -> None:
    fake = FakeDatabase(durations=[5])
    batcher = a_batcher(fake, WRITE)
    answers = [batcher.submit((number % 2, number, FINE), deadline_s=soon()) for number in range(6)]

    await asyncio.wait_for(batcher.close(), timeout=5.0)

    assert all(answer.done() and answer.exception() is None for answer in answers)
    with pytest.raises(DatabaseDown):
        batcher.submit((1, 1, FINE), deadline_s=soon())


# Against PostgreSQL.

SET = Query(
    name="tests.set",
    why="a test",
    sql="""
    insert into pairs (key, value)
    select * from unnest($1::text[], $2::text[]) as asked (key, value) order by 1
    on conflict (key) do update set value = excluded.value
    returning value as answers
    """,
)
GET = Query(
    name="tests.get",
    why="a test",
    sql="""
    select ordinal, value
    from unnest($1::text[]) with ordinality as asked (key, ordinal)
    join pairs using (key)
    """,
)

SLOW = Query(
    name="tests.slow", why="a test", sql="select 1::bigint as ordinal, pg_sleep(10) from unnest($1::integer[])"
)


@pytest.fixture
async def database(
    database_endpoint: Endpoint, connection: "asyncpg.Connection[asyncpg.Record]"
) -> AsyncIterator[Database]:
    await connection.execute("create table pairs (key text primary key, value text check (value <> 'refused'))")
    async with Database(database_endpoint, DatabaseSettings(), application_name="tests of batching") as opened:
        yield opened


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["fine", "fine", "refused", "\ud800", "\0"])),
        max_size=60,
    )
)
async def test_postgresql_agrees_that_merged_writes_are_as_those_one_by_one(
    database: Database, connection: "asyncpg.Connection[asyncpg.Record]", writes: list[tuple[str, str]]
) -> None:
    await connection.execute("truncate pairs")
    values = [f"{number} {kind}" if kind == "fine" else kind for number, (_, kind) in enumerate(writes)]

    outcomes: list[Any] = await asyncio.gather(
        *(
            database.write(SET, key, value, identity_width=1, echo=1)
            for (key, _), value in zip(writes, values, strict=True)
        ),
        return_exceptions=True,
    )
    found = await asyncio.gather(*(database.read(GET, key) for key in "abcdefgh"))

    expected: dict[str, str] = {}
    for (key, kind), value, outcome in zip(writes, values, outcomes, strict=True):
        if kind == "fine":
            assert outcome["answers"] == value
            expected[key] = value
        else:
            assert isinstance(outcome, asyncpg.PostgresError | asyncpg.InterfaceError)
    assert {key: row["value"] for key, row in zip("abcdefgh", found, strict=True) if row} == expected


async def test_a_backend_that_is_killed_fails_its_batch_and_the_next_one_works(
    database: Database, local_server: Any
) -> None:
    failing = [asyncio.create_task(database.read(SLOW, 1)) for _ in range(3)]
    superuser = await asyncpg.connect(**local_server.superuser.connect_arguments())
    async with asyncio.timeout(5):
        while not await superuser.fetchval(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where application_name = 'tests of batching' and state = 'active'"
        ):
            await asyncio.sleep(0.01)
    await superuser.close()

    outcomes = await asyncio.gather(*failing, return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {DatabaseDown}
    assert (await database.write(SET, "a", "fine", identity_width=1, echo=1))["answers"] == "fine"
    assert (await database.read(GET, "a"))["value"] == "fine"
    assert database.pool.lent == 0


async def test_batches_that_lock_each_other_out_are_sent_again_in_halves(
    database: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await connection.execute("insert into pairs values ('a', ''), ('b', '')")
    async with connection.transaction():
        await connection.execute("update pairs set value = 'mine' where key = 'b'")
        answers = [asyncio.create_task(database.write(SET, key, key, identity_width=1, echo=1)) for key in "ab"]
        await asyncio.sleep(0.2)
        await connection.execute("update pairs set value = 'mine' where key = 'a'")

    outcomes = await asyncio.gather(*answers, return_exceptions=True)

    assert not [outcome for outcome in outcomes if isinstance(outcome, BaseException)], outcomes
    rows = await connection.fetch("select key, value from pairs order by key")
    assert [tuple(row) for row in rows] == [("a", "a"), ("b", "b")]


async def test_a_slow_server_is_given_up_at_the_deadline(
    database_endpoint: Endpoint,
) -> None:
    chosen = DatabaseSettings(patience_s=0.3)
    async with Database(database_endpoint, chosen, application_name="tests of batching") as database:
        started_s = time.monotonic()
        outcomes = await asyncio.gather(*(database.read(SLOW, 1) for _ in range(5)), return_exceptions=True)

        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert time.monotonic() - started_s < 2.0
