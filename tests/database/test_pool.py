import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seawall.clock import monotonic_s
from seawall.database import Database, DatabaseSettings, Endpoint
from seawall.database import pool as pools
from seawall.database.local_server import LocalServer, LocalServerSettings
from seawall.database.pool import CONNECTS_AT_ONCE, Connection, Pool
from seawall.database.queries import Query
from seawall.database.waiting import WaitingRoom
from seawall.errors import DatabaseDown, DeadlineExceeded, OutcomeUnknown, Overloaded, StorageFull, Unavailable
from seawall.telemetry.purpose import PURPOSE, Purpose

NOWHERE = Endpoint(host="/nowhere", port=5432, user="nobody", password="", database="none")
MIB = 1024 * 1024


def a_query(sql: str) -> Query:
    return Query(name="tests.query", why="a test", sql=sql)


@dataclass(slots=True, eq=False)
class FakeRaw:
    """A connection as the driver has it: what was cancelled, the server may do all the same, a little later."""

    server: "FakeServer"
    in_transaction: bool = False
    closed: bool = False
    under_way: bool = False
    late: str = ""

    def is_closed(self) -> bool:
        return self.closed

    def is_in_transaction(self) -> bool:
        return self.in_transaction

    def terminate(self) -> None:
        self.closed = True
        self.server.open.discard(self)

    async def close(self, *, timeout: float) -> None:
        await asyncio.sleep(0)
        self.terminate()

    async def execute(self, words: str, timeout: float | None = None) -> None:
        assert not self.under_way, "two tasks have the same connection"
        if self.closed:
            raise asyncpg.InterfaceError("connection is closed")
        self.under_way = True
        try:
            await asyncio.sleep(0)
            self._do(self.late)
            self.late = words
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self._do(self.late)
            self.late = ""
        finally:
            self.under_way = False

    def _do(self, words: str) -> None:
        if words == "begin":
            self.in_transaction = True
        elif words in {"commit", "rollback"}:
            self.in_transaction = False


@dataclass(slots=True)
class FakeServer:
    """What the driver connects to. State: the connections, and how many there were at the most."""

    steps: int = 3
    failures: list[Exception] = field(default_factory=list)
    broken: list[bool] = field(default_factory=list)
    """Which of the next connections are gone as soon as they are there."""
    open: set[FakeRaw] = field(default_factory=set)
    connecting: int = 0
    connects: int = 0
    most_connecting: int = 0
    most_open: int = 0

    async def connect(self, **_: Any) -> FakeRaw:
        self.connecting += 1
        self.connects += 1
        self.most_connecting = max(self.most_connecting, self.connecting)
        try:
            for _step in range(self.steps):
                await asyncio.sleep(0)
            if self.failures:
                raise self.failures.pop(0)
        finally:
            self.connecting -= 1
        raw = FakeRaw(self)
        self.open.add(raw)
        self.most_open = max(self.most_open, len(self.open))
        if self.broken and self.broken.pop(0):
            raw.terminate()
        return raw


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    fake = FakeServer()
    monkeypatch.setattr(asyncpg, "connect", fake.connect)
    monkeypatch.setattr(pools, "CONNECT_PAUSE_S", (0.0, 0.0))
    return fake


def a_pool(size: int) -> Pool:
    return Pool(NOWHERE, size=size, application_name="tests", statement_timeout_s=5.0)


def soon(seconds: float = 5.0) -> float:
    return monotonic_s() + seconds


async def settled(pool: Pool) -> None:
    """Let the pool get over what was cancelled."""
    for _ in range(100):
        await asyncio.sleep(0)
        if not pool.lent:
            return
    pytest.fail(f"something was never given back: {pool!r}")


@asynccontextmanager
async def all_lent(pool: Pool) -> AsyncIterator[Connection]:
    """Take the only connection of a pool for the length of the block."""
    async with pool.connection(deadline_s=soon()) as connection:
        yield connection


# Places.


async def test_connections_are_opened_when_they_are_needed_and_used_again(server: FakeServer) -> None:
    pool = a_pool(3)

    for _ in range(10):
        async with pool.connection(deadline_s=soon()):
            pass

    assert server.connects == 1
    assert (pool.lent, pool.idle) == (0, 1)
    await pool.close()
    assert not server.open


@pytest.mark.usefixtures("server")
async def test_whoever_came_first_is_served_first() -> None:
    pool = a_pool(1)
    served: list[int] = []

    async def borrow(number: int) -> None:
        async with pool.connection(deadline_s=soon()):
            served.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(borrow(number) for number in range(20)))

    assert served == list(range(20))


@pytest.mark.usefixtures("server")
async def test_a_late_comer_does_not_overtake_the_one_whose_turn_has_just_come() -> None:
    pool = a_pool(1)
    served: list[str] = []

    async def borrow(name: str) -> None:
        async with pool.connection(deadline_s=soon()):
            served.append(name)

    async with all_lent(pool):
        waiting = asyncio.create_task(borrow("waited"))
        await asyncio.sleep(0)
    late = asyncio.create_task(borrow("late"))
    await asyncio.gather(late, waiting)

    assert served == ["waited", "late"]


async def test_at_most_two_connections_are_being_opened_at_a_time(server: FakeServer) -> None:
    pool = a_pool(10)

    async def borrow() -> None:
        async with pool.connection(deadline_s=soon()):
            await asyncio.sleep(0.01)

    await asyncio.gather(*(borrow() for _ in range(10)))

    assert server.most_connecting == CONNECTS_AT_ONCE


@pytest.mark.usefixtures("server")
async def test_a_waiter_is_told_in_time_that_nothing_came_back() -> None:
    pool = a_pool(1)

    async def borrow() -> None:
        async with pool.connection(deadline_s=soon(0.05)):
            pytest.fail("there was no connection")

    async with all_lent(pool):
        started_s = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await asyncio.create_task(borrow())
        waited_s = time.monotonic() - started_s

    assert 0.04 <= waited_s < 1.0
    assert (pool.lent, pool.waiting, pool.idle) == (0, 0, 1)


@pytest.mark.usefixtures("server")
async def test_whose_time_is_up_is_not_served_even_when_a_connection_is_idle() -> None:
    pool = a_pool(1)

    with pytest.raises(DeadlineExceeded):
        async with pool.connection(deadline_s=soon(-0.001)):
            pytest.fail("it is too late")

    assert pool.lent == 0


@pytest.mark.usefixtures("server")
async def test_a_full_waiting_room_refuses_and_those_who_left_make_room() -> None:
    pool = a_pool(1)
    pool.room = WaitingRoom(limit=3)

    async def borrow() -> None:
        async with pool.connection(deadline_s=soon()):
            pass

    async with all_lent(pool):
        waiting = [asyncio.create_task(borrow()) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await asyncio.create_task(borrow())
        waiting[1].cancel()
        await asyncio.sleep(0)
        waiting.append(asyncio.create_task(borrow()))
        await asyncio.sleep(0)
        assert pool.waiting == 3

    await asyncio.gather(*waiting, return_exceptions=True)
    assert [task.cancelled() for task in waiting] == [False, True, False, False]


# Cancellation.


@settings(max_examples=300, deadline=None)
@given(
    size=st.integers(1, 3),
    borrowers=st.lists(
        st.tuples(st.sampled_from(["statement", "transaction"]), st.integers(0, 6), st.none() | st.integers(0, 25)),
        min_size=1,
        max_size=8,
    ),
    failures=st.lists(
        st.sampled_from([OSError("refused"), asyncpg.CannotConnectNowError("starting"), TimeoutError()]), max_size=3
    ),
)
def test_cancelling_anywhere_loses_doubles_and_soils_no_connection(
    size: int, borrowers: list[tuple[str, int, int | None]], failures: list[Exception]
) -> None:
    async def scenario() -> None:
        server = FakeServer(failures=list(failures))
        pool = a_pool(size)

        async def borrow(kind: str, start: int) -> None:
            for _ in range(start):
                await asyncio.sleep(0)
            async with pool.connection(deadline_s=soon()) as connection:
                await connection.raw.execute("select")
                assert not connection.raw.is_in_transaction(), "somebody else's transaction"
                if kind == "transaction":
                    await connection.raw.execute("begin")
                    await connection.raw.execute("select")
                    await connection.raw.execute("commit")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncpg, "connect", server.connect)
            patch.setattr(pools, "CONNECT_PAUSE_S", (0.0, 0.0))
            tasks = [asyncio.create_task(borrow(kind, start)) for kind, start, _ in borrowers]
            for step in range(30):
                for task, (_, _, cancelled_at) in zip(tasks, borrowers, strict=True):
                    if cancelled_at == step:
                        task.cancel()
                await asyncio.sleep(0)
                assert max(len(server.open), pool.lent, pool.idle) <= size
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await settled(pool)

            for result, (_, _, cancelled_at) in zip(ended, borrowers, strict=True):
                assert result is None or (isinstance(result, asyncio.CancelledError) and cancelled_at is not None)
            assert server.most_open <= size
            assert pool.waiting == 0
            assert pool.idle == len(server.open)
            await asyncio.gather(*(borrow("transaction", 0) for _ in range(2 * size)))
            await pool.close()
            assert not server.open

    asyncio.run(scenario())


async def test_a_begin_that_comes_through_after_its_cancellation_is_rolled_back_before_the_next_borrower(
    server: FakeServer,
) -> None:
    pool = a_pool(1)

    async def begin() -> None:
        async with pool.connection(deadline_s=soon()) as connection:
            await connection.raw.execute("begin")

    cancelled = asyncio.create_task(begin())
    while not server.open or not next(iter(server.open)).late:
        await asyncio.sleep(0)
    cancelled.cancel()
    with suppress(asyncio.CancelledError):
        await cancelled

    async with pool.connection(deadline_s=soon()) as connection:
        await connection.raw.execute("select")
        assert not connection.raw.is_in_transaction()
    assert server.connects == 1


async def test_what_comes_back_while_the_pool_closes_is_closed(server: FakeServer) -> None:
    pool = a_pool(2)

    async with all_lent(pool):
        await pool.close()

    assert not server.open
    with pytest.raises(DatabaseDown):
        async with pool.connection(deadline_s=soon()):
            pytest.fail("the pool is closed")


# What breaks.


async def test_a_connection_that_broke_while_idle_is_replaced_without_anybody_noticing(server: FakeServer) -> None:
    pool = a_pool(2)
    async with all_lent(pool):
        pass
    next(iter(server.open)).terminate()

    async with pool.connection(deadline_s=soon()) as connection:
        assert not connection.raw.is_closed()

    assert server.connects == 2


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.AdminShutdownError("terminating"),
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.ReadOnlySQLTransactionError("it is a replica now"),
        OSError("reset"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_connection_that_failed_as_lost_is_not_lent_again(server: FakeServer, error: Exception) -> None:
    pool = a_pool(1)

    async def fail() -> None:
        async with pool.connection(deadline_s=soon()):
            raise error

    with pytest.raises(type(error)):
        await fail()
    assert (pool.lent, pool.idle, len(server.open)) == (0, 0, 0)

    async with pool.connection(deadline_s=soon()):
        assert server.connects == 2


async def test_a_connection_whose_statement_was_at_fault_is_lent_again(server: FakeServer) -> None:
    pool = a_pool(1)

    async def fail() -> None:
        async with pool.connection(deadline_s=soon()):
            raise asyncpg.UniqueViolationError("twice")

    with pytest.raises(asyncpg.UniqueViolationError):
        await fail()

    async with pool.connection(deadline_s=soon()):
        assert server.connects == 1


async def test_connecting_is_tried_again_until_the_deadline(server: FakeServer) -> None:
    server.failures = [
        OSError("refused"),
        asyncpg.CannotConnectNowError("starting"),
        asyncpg.TooManyConnectionsError("full"),
        asyncpg.InvalidPasswordError("changed just now"),
    ]

    async with all_lent(a_pool(1)):
        assert server.connects == 5


async def test_a_database_that_stays_away_is_reported_as_such(server: FakeServer) -> None:
    server.failures = [OSError("refused")] * 100_000
    pool = a_pool(1)

    with pytest.raises(DatabaseDown):
        async with pool.connection(deadline_s=soon(0.05)):
            pytest.fail("there is no database")

    assert pool.lent == 0


# Against PostgreSQL.

SLEEP = a_query("select /* tests.sleep */ pg_sleep($1)")
ANSWER = a_query("select /* tests.answer */ 42 as answer")
BACKENDS = a_query(
    "select /* tests.backends */ count(*) as count from pg_stat_activity where application_name = 'tests of the pool'"
)


@pytest.fixture
def data_dir(open_directory: Callable[[], Path]) -> Path:
    return open_directory() / "data"


@asynccontextmanager
async def a_database(endpoint: Endpoint, **chosen: Any) -> AsyncIterator[Database]:
    async with Database(endpoint, DatabaseSettings(**chosen), application_name="tests of the pool") as database:
        yield database


async def test_a_crowd_that_gives_up_leaves_no_more_backends_than_places(database_endpoint: Endpoint) -> None:
    async with a_database(database_endpoint) as database:
        for _ in range(5):
            crowd = [asyncio.create_task(database.fetch(SLEEP, 10.0)) for _ in range(20)]
            await asyncio.sleep(0.1)
            for task in crowd:
                task.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)
            (row,) = await database.fetch(BACKENDS)

            assert row["count"] <= database.settings.connections
        while database.pool.lent:  # until the server has stopped what was cancelled
            await asyncio.sleep(0.01)


async def test_a_cancelled_transaction_is_rolled_back_and_its_connection_used_again(
    database_endpoint: Endpoint,
) -> None:
    async with a_database(database_endpoint, read_lanes=1, write_lanes=0, spare_connections=0) as database:
        pid = a_query("select pg_backend_pid() as pid")
        before = (await database.fetch_one(pid))["pid"]

        async def never_ends() -> None:
            async with database.transaction() as transaction:
                await transaction.fetch(a_query("insert into garbage values ('f/lost', 1)"))
                await transaction.fetch(SLEEP, 10.0)

        task = asyncio.create_task(never_ends())
        await asyncio.sleep(0.1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

        assert (await database.fetch_one(a_query("select count(*) as count from garbage")))["count"] == 0
        assert (await database.fetch_one(pid))["pid"] == before


@pytest.mark.parametrize("steps", range(12))
async def test_a_write_is_never_part_of_a_transaction_that_was_cancelled_before_it(
    database_endpoint: Endpoint, connection: "asyncpg.Connection[asyncpg.Record]", steps: int
) -> None:
    async with a_database(database_endpoint, read_lanes=1, write_lanes=0, spare_connections=0) as database:
        await database.fetch(ANSWER)

        async def begin() -> None:
            async with database.transaction():
                await asyncio.sleep(10)

        task = asyncio.create_task(begin())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await database.fetch(a_query("insert into garbage values ('f/kept', 1)"))
        await asyncio.gather(task, return_exceptions=True)

        assert await connection.fetchval("select count(*) from garbage") == 1


async def test_a_statement_that_takes_too_long_is_stopped_at_the_server(database_endpoint: Endpoint) -> None:
    async with a_database(database_endpoint, patience_s=0.2) as database:
        started_s = time.monotonic()
        with pytest.raises(Unavailable):
            await database.fetch(SLEEP, 10.0)

        assert time.monotonic() - started_s < 2.0
        assert (await database.fetch_one(ANSWER))["answer"] == 42


async def test_work_that_nobody_waits_for_may_take_longer_than_a_request(database_endpoint: Endpoint) -> None:
    async with a_database(database_endpoint, patience_s=0.2) as database:
        rows = await database.fetch(SLEEP, 0.6, patience_s=5.0)

        assert len(rows) == 1


async def test_errors_of_the_driver_come_out_in_the_words_of_the_house(database_endpoint: Endpoint) -> None:
    failures: dict[str, type[Exception]] = {
        "53100": StorageFull,
        "53200": Unavailable,
        "40P01": Unavailable,
        "25006": DatabaseDown,
        "57014": DeadlineExceeded,
        "22012": asyncpg.DivisionByZeroError,
    }
    async with a_database(database_endpoint) as database:
        for code, expected in failures.items():
            raising = f"do $$ begin raise exception using errcode = '{code}'; end $$"
            with pytest.raises(expected) as raised:
                async with database.transaction() as transaction:
                    await transaction.say(raising)
            assert type(raised.value) is expected


async def test_after_a_restart_of_the_server_work_goes_on(data_dir: Path) -> None:
    server_settings = LocalServerSettings(data_dir=data_dir, memory_bytes=512 * MIB)
    async with LocalServer(server_settings) as server, a_database(server.service) as database:
        await asyncio.gather(*(database.fetch(SLEEP, 0.05) for _ in range(4)))
        assert database.pool.idle == 4
        under_way = [asyncio.create_task(database.fetch(SLEEP, 10.0)) for _ in range(2)]
        await asyncio.sleep(0.1)

        await server.restart()

        ended = await asyncio.gather(*under_way, return_exceptions=True)
        assert [type(error) for error in ended] == [OutcomeUnknown, OutcomeUnknown]
        for _ in range(10):
            assert (await database.fetch_one(ANSWER))["answer"] == 42
        assert database.pool.lent == 0


async def test_requests_wait_for_a_server_that_is_restarting(data_dir: Path) -> None:
    server_settings = LocalServerSettings(data_dir=data_dir, memory_bytes=512 * MIB)
    async with LocalServer(server_settings) as server, a_database(server.service, patience_s=30.0) as database:
        restarting = asyncio.create_task(server.restart())
        await asyncio.sleep(0.3)

        row = await database.fetch_one(ANSWER)

        assert row["answer"] == 42
        await restarting


# Size, age, and who holds what.


@pytest.mark.usefixtures("server")
async def test_a_task_that_holds_a_connection_is_refused_a_second_one() -> None:
    pool = a_pool(2)

    async with pool.connection(deadline_s=soon()):
        with pytest.raises(RuntimeError, match="must not ask for another"):
            async with pool.connection(deadline_s=soon()):
                pytest.fail("a bounded pool would stop")

    assert (pool.lent, pool.idle) == (0, 1)


async def test_a_smaller_pool_closes_what_is_too_many_before_it_says_so(server: FakeServer) -> None:
    pool = a_pool(3)
    release = asyncio.Event()

    async def borrow() -> None:
        async with pool.connection(deadline_s=soon()):
            await release.wait()

    borrowers = [asyncio.create_task(borrow()) for _ in range(3)]
    while len(server.open) < 3:
        await asyncio.sleep(0)
    resizing = asyncio.create_task(pool.resize(1))
    await asyncio.sleep(0.01)
    assert not resizing.done()

    release.set()
    await resizing

    assert len(server.open) <= 1
    await asyncio.gather(*borrowers)
    assert (pool.lent, pool.size) == (0, 1)
    await borrow()
    assert (pool.lent, pool.idle, len(server.open)) == (0, 1, 1)


async def test_of_a_pool_made_smaller_only_what_is_too_many_is_closed_and_nothing_opened_again(
    server: FakeServer,
) -> None:
    pool = a_pool(10)
    release = asyncio.Event()
    served = 0

    async def borrow() -> None:
        nonlocal served
        async with pool.connection(deadline_s=soon()):
            await release.wait()
        served += 1

    borrowers = [asyncio.create_task(borrow()) for _ in range(14)]
    while len(server.open) < 10:
        await asyncio.sleep(0)
    resizing = asyncio.create_task(pool.resize(7))
    await asyncio.sleep(0)
    release.set()  # all come back in the same moment

    await asyncio.wait_for(resizing, 5)
    assert len(server.open) == 7
    await asyncio.gather(*borrowers)
    assert (served, server.connects, pool.lent, pool.idle) == (14, 10, 0, 7)


async def test_idle_connections_are_closed_before_any_that_is_lent_is_waited_for(server: FakeServer) -> None:
    pool = a_pool(4)
    release = asyncio.Event()

    async def borrow() -> None:
        async with pool.connection(deadline_s=soon()):
            await release.wait()

    first = [asyncio.create_task(borrow()) for _ in range(4)]
    while len(server.open) < 4:
        await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*first)
    release.clear()
    holding = [asyncio.create_task(borrow()) for _ in range(2)]
    await asyncio.sleep(0)

    await asyncio.wait_for(pool.resize(2), 5)

    assert (pool.lent, pool.idle, len(server.open)) == (2, 0, 2)
    release.set()
    await asyncio.gather(*holding)
    assert (pool.lent, pool.idle, server.connects) == (0, 2, 4)


async def test_a_smaller_pool_says_so_though_everything_left_is_lent_on_at_once(server: FakeServer) -> None:
    pool = a_pool(4)
    releases = [asyncio.Event() for _ in range(3)]

    async def borrow(release: asyncio.Event) -> None:
        async with pool.connection(deadline_s=soon()):
            await release.wait()

    borrowers = [asyncio.create_task(borrow(releases[number // 2])) for number in range(4)]
    while len(server.open) < 4:
        await asyncio.sleep(0)
    resizing = asyncio.create_task(pool.resize(2))
    await asyncio.sleep(0)
    releases[0].set()  # two come back and are on their way out
    releases[1].set()  # and the two that stay come back as well
    await asyncio.gather(*borrowers)
    assert (pool.lent, pool.idle) == (2, 2)
    borrowers = [asyncio.create_task(borrow(releases[2])) for _ in range(2)]

    await asyncio.wait_for(resizing, 5)

    assert (pool.lent, pool.idle, len(server.open), server.connects) == (2, 0, 2, 4)
    releases[2].set()
    await asyncio.gather(*borrowers)


async def test_a_pool_made_larger_again_keeps_what_it_was_about_to_close(server: FakeServer) -> None:
    pool = a_pool(3)
    release = asyncio.Event()

    async def borrow() -> None:
        async with pool.connection(deadline_s=soon()):
            await release.wait()

    borrowers = [asyncio.create_task(borrow()) for _ in range(3)]
    while len(server.open) < 3:
        await asyncio.sleep(0)
    resizing = asyncio.create_task(pool.resize(1))
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*borrowers)
    assert pool.lent == 2, "two are on their way out"

    await pool.resize(3)
    await asyncio.wait_for(resizing, 5)
    await settled(pool)

    assert (pool.idle, len(server.open), server.connects) == (3, 3, 3)


@settings(max_examples=300, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), min_size=1, max_size=6),
    borrowers=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.booleans()), max_size=12),
    broken=st.lists(st.booleans(), max_size=8),
)
def test_resized_at_any_moment_a_pool_has_what_it_may_and_serves_everybody(
    sizes: list[tuple[int, int]], borrowers: list[tuple[int, int, bool]], broken: list[bool]
) -> None:
    async def scenario() -> None:
        server = FakeServer(broken=list(broken))
        pool = a_pool(4)
        resizing: list[tuple[int, asyncio.Task[None]]] = []

        async def borrow(start: int, length: int, *, fails: bool) -> None:
            for _ in range(start):
                await asyncio.sleep(0)
            with suppress(ZeroDivisionError):
                async with pool.connection(deadline_s=soon()):
                    for _ in range(length):
                        await asyncio.sleep(0)
                    if fails:
                        raise ZeroDivisionError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncpg, "connect", server.connect)
            tasks = [asyncio.create_task(borrow(start, length, fails=fails)) for start, length, fails in borrowers]
            allowed = 4
            for size, pause in sizes:
                # As a lease does: one at a time.
                for _, earlier in resizing:
                    earlier.cancel()
                    await asyncio.wait([earlier])
                allowed = max(size, pool.size, pool.lent + pool.idle, len(server.open))
                resizing = [(size, asyncio.create_task(pool.resize(size)))]
                for _ in range(pause):
                    await asyncio.sleep(0)
                    assert len(server.open) <= allowed
            resizing[0][1].cancel()
            await asyncio.wait([resizing[0][1]])
            async with asyncio.timeout(5):
                await pool.resize(3)
            assert len(server.open) <= 3
            async with asyncio.timeout(5):
                await asyncio.gather(*tasks)
            await settled(pool)
            assert pool.idle == len(server.open) <= 3
            await pool.close()

    asyncio.run(scenario())


async def test_a_connection_that_breaks_as_soon_as_it_is_open_is_not_replaced_by_two(server: FakeServer) -> None:
    pool = a_pool(0)
    server.broken = [True]
    await pool.resize(1)
    await asyncio.sleep(0)
    assert pool.lent == 1, "it is being opened"

    async with pool.connection(deadline_s=soon()):
        for _ in range(10):
            await asyncio.sleep(0)
            assert (pool.lent, len(server.open)) == (1, 1)

    await pool.close()


async def test_what_was_granted_is_opened_as_soon_as_the_server_is_there(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "MAINTAIN_EVERY_S", 0.01)
    monkeypatch.setattr(pools, "CONNECT_TIMEOUT_S", 0.01)
    server.failures = [OSError("refused")] * 100_000
    pool = a_pool(0)
    await pool.resize(2)
    await asyncio.sleep(0.05)
    assert pool.idle == 0

    server.failures.clear()
    async with asyncio.timeout(2):
        while pool.idle < 2:
            await asyncio.sleep(0.01)

    await pool.close()


@pytest.mark.parametrize("steps", range(10))
async def test_a_smaller_pool_does_not_wait_for_a_connection_nobody_needs(server: FakeServer, steps: int) -> None:
    server.steps = 1_000_000  # it does not answer
    pool = a_pool(0)
    await pool.resize(1)
    for _ in range(steps):
        await asyncio.sleep(0)

    await asyncio.wait_for(pool.resize(0), 0.5)

    assert (pool.lent, len(server.open)) == (0, 0)
    server.steps = 3
    await pool.resize(1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (pool.lent, pool.idle) == (0, 1)
    await pool.close()


@pytest.mark.parametrize("steps", range(10))
async def test_an_abandoned_pool_keeps_no_connection_it_was_opening_or_trying(server: FakeServer, steps: int) -> None:
    pool = a_pool(0)
    await pool.resize(1)
    for _ in range(steps):
        await asyncio.sleep(0)
    before, connects = set(server.open), server.connects

    pool.abandon()
    for _ in range(20):
        await asyncio.sleep(0)

    assert all(raw.closed for raw in before)
    assert len(server.open) <= server.connects - connects, "what is open was asked for afterwards"
    await pool.close()


async def test_an_abandoned_pool_keeps_no_connection_that_came_back_in_doubt(server: FakeServer) -> None:
    pool = a_pool(1)
    with pytest.raises(ZeroDivisionError):
        async with pool.connection(deadline_s=soon()):
            raise ZeroDivisionError

    pool.abandon()

    assert not server.open
    await settled(pool)
    assert pool.idle == 0
    await pool.close()


@pytest.mark.usefixtures("server")
async def test_a_pool_knows_how_much_was_lent_at_the_most_since_it_was_asked_last() -> None:
    pool = a_pool(5)

    async def borrow() -> None:
        async with pool.connection(deadline_s=soon()):
            await asyncio.sleep(0)

    await asyncio.gather(*(borrow() for _ in range(3)))
    assert (pool.take_most_lent(), pool.take_most_lent()) == (3, 0)
    async with all_lent(pool):
        assert (pool.take_most_lent(), pool.take_most_lent()) == (1, 1)


@pytest.mark.usefixtures("server")
async def test_a_pool_that_may_have_no_connection_yet_serves_who_waits_once_it_may() -> None:
    pool = a_pool(0)
    served: list[int] = []

    async def borrow(number: int) -> None:
        async with pool.connection(deadline_s=soon()):
            served.append(number)

    borrowers = [asyncio.create_task(borrow(number)) for number in range(3)]
    await asyncio.sleep(0.01)
    assert served == []

    await pool.resize(2)
    await asyncio.gather(*borrowers)

    assert sorted(served) == [0, 1, 2]


async def test_an_old_connection_is_replaced_and_one_idle_for_long_is_tried(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "MAINTAIN_EVERY_S", 0.01)
    monkeypatch.setattr(pools, "LIFETIME_S", 0.2)
    monkeypatch.setattr(pools, "IDLE_CHECK_S", 0.05)
    pool = a_pool(1)
    async with pool.connection(deadline_s=soon()) as connection:
        raw = cast("FakeRaw", connection.raw)

    await asyncio.sleep(0.12)
    assert raw.late == ""
    assert connection.used_s > monotonic_s() - 0.1, "it was tried"
    await asyncio.sleep(0.2)

    assert raw.closed
    assert (pool.counts.retired, pool.idle, len(server.open)) == (1, 0, 0)
    await pool.close()


async def test_a_connection_that_retires_has_its_place_until_it_is_closed(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "MAINTAIN_EVERY_S", 0.01)
    monkeypatch.setattr(pools, "LIFETIME_S", 0.01)
    close = FakeRaw.close

    async def close_slowly(self: FakeRaw, *, timeout: float) -> None:
        await asyncio.sleep(0.02)
        await close(self, timeout=timeout)

    monkeypatch.setattr(FakeRaw, "close", close_slowly)
    pool = a_pool(1)

    while pool.counts.retired < 3:
        async with pool.connection(deadline_s=soon()):
            assert len(server.open) == 1
        await asyncio.sleep(0.001)

    assert server.most_open == 1
    await pool.close()


@pytest.mark.usefixtures("server")
async def test_a_connection_held_for_too_long_is_told_once_with_its_stack(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pools, "MAINTAIN_EVERY_S", 0.01)
    monkeypatch.setattr(pools, "HELD_TOO_LONG_S", 0.03)
    pool = a_pool(1)

    async def a_slow_borrower() -> None:
        async with pool.connection(deadline_s=soon()):
            await asyncio.sleep(0.15)

    await asyncio.create_task(a_slow_borrower())

    [told] = [record for record in caplog.records if record.message == "database.connection_held_long"]
    assert "a_slow_borrower" in told.__dict__["stack"]
    assert told.__dict__["site"].endswith("a_slow_borrower")
    await pool.close()


@pytest.mark.usefixtures("server")
async def test_the_table_names_who_held_connections_and_still_does() -> None:
    pool = a_pool(2)

    async def borrow(tenant: int, held_s: float) -> None:
        PURPOSE.set(Purpose(route="GetObject", tenant=tenant))
        async with pool.connection(deadline_s=soon(), site="a test"):
            await asyncio.sleep(held_s)

    await asyncio.create_task(borrow(1, 0.03))
    holding = asyncio.create_task(borrow(2, 0.2))
    await asyncio.sleep(0.1)
    blamed = pool.holds.blame(now_s=monotonic_s())
    await holding

    assert [(line.account.tenant, line.account.route, line.account.site) for line in blamed] == [
        (2, "GetObject", "a test"),
        (1, "GetObject", "a test"),
    ]
    assert sum(line.share for line in blamed) == pytest.approx(1.0)
    assert blamed[0].held_s > blamed[1].held_s > 0.02


async def test_a_crowd_that_gives_up_sends_two_requests_to_cancel_at_a_time(database_endpoint: Endpoint) -> None:
    """Each request is a connection of its own: the server must not see a connection for each who gave up."""
    pool = Pool(database_endpoint, size=6, application_name="tests", statement_timeout_s=30.0)
    query = a_query("select pg_sleep(20)")

    async def give_up() -> None:
        async with pool.connection(deadline_s=soon(20)) as connection:
            await connection.fetch(query, timeout_s=0.3)

    started_s = time.monotonic()
    ended = await asyncio.gather(*(asyncio.create_task(give_up()) for _ in range(6)), return_exceptions=True)
    async with asyncio.timeout(10):
        while pool.lent:
            await asyncio.sleep(0.01)

    assert {type(error) for error in ended} == {TimeoutError}
    assert pool.counts.cancels == 6
    assert (pool.lent, pool.idle) == (0, 6)
    assert time.monotonic() - started_s < 10
    await pool.close()
