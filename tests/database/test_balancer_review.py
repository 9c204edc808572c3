"""What a balancer must not do when servers restart, stall, are demoted or are full: each of these went wrong once."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.database.cluster import Cluster, ask
from tests.database.registers import GET, PUT, nodes_of, until
from tests.database.test_batching import (
    BAD,
    WRITE,
    Call,
    FakeDatabase,
    a_batcher,
    assert_nothing_is_left,
    calls,
    outcomes_of,
)

from seawall.clock import monotonic_s
from seawall.database import Database, DatabaseSettings, Endpoint, Query
from seawall.database import balancer as balancing
from seawall.database.balancer import CHECK_TIMEOUT_S, Balancer
from seawall.database.batching import ELSEWHERE, Batcher
from seawall.database.pool import Connection, Pool
from seawall.database.servers import Server, Sighting
from seawall.errors import DatabaseDown, OutcomeUnknown, Unavailable

READ = Query(name="tests.read", why="a test", sql="select")
ONE = Query(name="tests.one", why="a test", sql="select 1 as one")


def soon(seconds: float = 5.0) -> float:
    return monotonic_s() + seconds


def balancer_of(node: Database) -> Balancer:
    assert node.balancer is not None
    return node.balancer


async def stop_checks(node: Database) -> None:
    """From here on it is always the time between two checks."""
    watching = balancer_of(node)._watching
    for task in watching:
        task.cancel()
    await asyncio.wait(watching)


async def read_on(node: Database, server: Server, key: str) -> Any:
    async with server.pool.connection(deadline_s=soon()) as connection:
        [answer] = await balancer_of(node).fresh(server)(connection, GET, [[key]], 2.0)
        return answer


@asynccontextmanager
async def silent_server() -> AsyncIterator[Endpoint]:
    """Accepts connections, as a frozen server does, and says nothing."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield Endpoint(host="127.0.0.1", port=port, user="u", password="p", database="d")
    finally:
        for writer in writers:
            writer.close()
        server.close()


# What replicas show.


async def test_a_replica_that_restarted_since_the_last_check_is_not_believed_to_be_as_far_as_before(
    cluster: Cluster,
) -> None:
    async with nodes_of(cluster, 1) as [node]:
        replica = node.servers[1]
        await node.write(PUT, "a", "old", identity_width=1, echo=1)
        await ask(cluster.primary_superuser, "checkpoint")
        await cluster.wait_caught_up()
        await ask(cluster.superusers[1], "checkpoint")
        await stop_checks(node)
        await node.write(PUT, "a", "new", identity_width=1, echo=1)
        await cluster.wait_caught_up()
        assert (await read_on(node, replica, "a"))["value"] == "new"

        # It begins again from its last checkpoint, and shows what it shows while it replays the rest.
        cluster._replicas[0].lag_s = 60.0
        await cluster.restart(0)
        assert await ask(cluster.replica(0), "select value from registers where key = 'a'") == "old"

        assert await read_on(node, replica, "a") is ELSEWHERE


async def test_a_replica_of_another_timeline_answers_nothing_even_to_those_who_wait_there(cluster: Cluster) -> None:
    async with nodes_of(cluster, 1) as [node]:
        replica = node.servers[1]
        await node.write(PUT, "a", "1", identity_width=1, echo=1)
        await cluster.wait_caught_up()
        await stop_checks(node)
        assert await read_on(node, replica, "a") is not ELSEWHERE

        balancer_of(node)._see(replica, Sighting(in_recovery=True, timeline=99, position=1 << 60))

        assert await read_on(node, replica, "a") is ELSEWHERE


async def test_a_position_on_another_timeline_does_not_say_how_old_an_answer_is(cluster: Cluster) -> None:
    async with nodes_of(cluster, 1) as [node]:
        await stop_checks(node)
        replica = node.servers[1]
        before_s = replica.fresh_s
        primary = node.servers[0].sighting
        assert primary is not None
        balancer_of(node)._see(node.servers[0], primary)

        balancer_of(node)._see(replica, Sighting(in_recovery=True, timeline=99, position=1 << 60))

        assert replica.fresh_s == before_s


# Who is ill.


async def test_nobody_is_ill_because_our_own_event_loop_was_busy(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, stalls = balancing.look, 0

    async def look_and_stall(raw: Any) -> Sighting:
        nonlocal stalls
        stalls += 1
        asyncio.get_running_loop().call_soon(time.sleep, CHECK_TIMEOUT_S * 1.2)
        return await real(raw)

    async with nodes_of(cluster, 1) as [node]:
        monkeypatch.setattr(balancing, "look", look_and_stall)
        await asyncio.sleep(3.0)
        monkeypatch.setattr(balancing, "look", real)
        assert stalls > 0
        assert [server.counts.ejections for server in node.servers] == [0, 0, 0]


async def test_nobody_is_ill_because_a_caller_had_no_patience() -> None:
    async with silent_server() as endpoint:
        pool = Pool(endpoint, size=3, application_name="tests", statement_timeout_s=5.0)
        told: list[bool] = []
        pool.on_failed_connect = lambda: told.append(True)

        async def connect() -> None:
            async with pool.connection(deadline_s=soon(0.05)):
                pass

        outcomes = await asyncio.gather(*(connect() for _ in range(3)), return_exceptions=True)

        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert told == []
        assert pool.lent == 0
        await pool.close()


async def test_a_replica_without_free_connections_does_not_draw_reads(cluster: Cluster) -> None:
    async with nodes_of(cluster, 1) as [node]:
        await node.write(PUT, "a", "1", identity_width=1, echo=1)
        for _ in range(20):
            await asyncio.gather(*(node.read(GET, "a") for _ in range(20)))
        full, release = node.servers[1].pool, asyncio.Event()

        async def hold() -> None:
            async with full.connection(deadline_s=soon()):
                await release.wait()

        holding = [asyncio.create_task(hold()) for _ in range(full.size)]
        try:
            await until(lambda: len(full.holds.lent) == full.size)
            await asyncio.sleep(3.0)  # How long statements take where nothing is asked is forgotten.
            slow = 0
            for _ in range(30):
                began_s = monotonic_s()
                assert (await node.read(GET, "a"))["value"] == "1"
                slow += monotonic_s() - began_s > 0.3
        finally:
            release.set()
            await asyncio.gather(*holding)
        assert slow <= 2


# Following the primary.


async def test_abandoning_a_server_that_does_not_answer_ends_the_attempts_to_connect() -> None:
    async with silent_server() as endpoint:
        pool = Pool(endpoint, size=3, application_name="tests", statement_timeout_s=5.0)

        async def connect() -> None:
            async with pool.connection(deadline_s=soon(5.0)):
                pass

        began_s = monotonic_s()
        connecting = [asyncio.create_task(connect()) for _ in range(5)]
        await asyncio.sleep(0.2)
        pool.abandon()
        outcomes = await asyncio.gather(*connecting, return_exceptions=True)

        assert all(isinstance(outcome, DatabaseDown) for outcome in outcomes)
        assert monotonic_s() - began_s < 1.5
        assert (pool.lent, pool.waiting) == (0, 0)
        await pool.close()


async def test_who_gets_a_place_while_the_primary_changes_gets_no_connection_to_the_old_one(cluster: Cluster) -> None:
    async with nodes_of(cluster, 1) as [node]:
        await stop_checks(node)
        balancer, old = balancer_of(node), node.servers[0]
        old.pool.abandon()
        old.pool.size = 0

        async def where() -> object:
            async with balancer.connection(deadline_s=soon()) as connection:
                return await connection.raw.fetchval("select pg_is_in_recovery()")

        asking = asyncio.create_task(where())
        await until(lambda: old.pool.waiting == 1)
        await old.pool.resize(1)
        assert (old.pool.waiting, old.pool.lent) == (0, 1)
        balancer._see(node.servers[1], Sighting(in_recovery=False, timeline=99, position=1 << 60))

        assert await asking is True, "the replica is the one that leads, as far as the balancer knows"
        await until(lambda: old.pool.lent == 0)


async def test_a_write_that_a_demoted_primary_refused_is_done_by_the_next_one(cluster: Cluster) -> None:
    async with nodes_of(cluster, 1) as [node]:
        await node.write(PUT, "a", "1", identity_width=1, echo=1)
        # As if this one had taken writes until a moment ago, and no check had noticed that it does not any more.
        balancer_of(node)._see(node.servers[1], Sighting(in_recovery=False, timeline=99, position=1 << 60))

        outcomes = await asyncio.gather(
            *(node.write(PUT, key, f"{key}{n}", identity_width=1, echo=1) for n in range(3) for key in "abc")
        )

        assert [outcome["answers"] for outcome in outcomes] == [f"{key}{n}" for n in range(3) for key in "abc"]
        assert (await node.read(GET, "a"))["value"] == "a2"
        assert not any(batcher._behind for _, _, batcher in node.batches())


async def test_cancelled_borrowers_leave_nothing_behind(cluster: Cluster) -> None:
    async with nodes_of(cluster, 1) as [node]:
        balancer, pool = balancer_of(node), node.servers[0].pool

        async def borrow() -> None:
            async with balancer.connection(deadline_s=soon()) as connection:
                await connection.fetch(ONE, timeout_s=1.0)

        for attempt in range(60):
            if attempt % 3 == 0:
                pool.abandon()
            tasks = [asyncio.create_task(borrow()) for _ in range(pool.size + 2)]
            await asyncio.sleep(attempt * 0.0004)
            if attempt % 4 == 1:
                pool.abandon()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await until(lambda: pool.lent == 0)

        assert pool.waiting == 0
        assert not pool.holds.lent
        assert not pool._holders
        assert pool.idle <= pool.size


# Statements.


async def test_a_statement_that_was_not_prepared_in_time_can_be_prepared_later(database_endpoint: Endpoint) -> None:
    pool = Pool(database_endpoint, size=1, application_name="tests", statement_timeout_s=5.0)
    try:
        async with pool.connection(deadline_s=soon()) as connection:
            pid = connection.raw.get_server_pid()
        os.kill(pid, signal.SIGSTOP)
        try:

            async def prepare_in_vain() -> None:
                async with pool.connection(deadline_s=soon()) as connection:
                    await connection.fetch(ONE, timeout_s=0.2)

            with pytest.raises(TimeoutError):
                await prepare_in_vain()
        finally:
            os.kill(pid, signal.SIGCONT)
        await until(lambda: pool.lent == 0)

        async with pool.connection(deadline_s=soon()) as connection:
            assert connection.raw.get_server_pid() == pid
            [row] = await connection.fetch(ONE, timeout_s=5.0)
            assert row["one"] == 1
    finally:
        await pool.close()


async def test_a_transaction_that_was_lost_before_its_commit_is_known_not_to_be_done(
    database_endpoint: Endpoint,
) -> None:
    async with Database(database_endpoint, DatabaseSettings(), application_name="tests") as database:

        async def lose() -> None:
            async with database.transaction() as transaction:
                pid = transaction._connection.raw.get_server_pid()
                await ask(database_endpoint, "select pg_terminate_backend($1)", pid)
                await transaction.fetch(ONE)

        with pytest.raises(DatabaseDown) as lost:
            await lose()
        assert not isinstance(lost.value, OutcomeUnknown)


@asynccontextmanager
async def lend_anything(**_: object) -> AsyncIterator[Any]:
    await asyncio.sleep(0)

    class Anything:
        def on_behalf_of(self, _: object) -> None: ...

    yield Anything()


class Lends:
    """Lends what nobody looks at; every so many times it has nothing."""

    def __init__(self, fates: Sequence[bool] = (True,)) -> None:
        self.fates = fates
        self.times = 0

    @asynccontextmanager
    async def connection(self, **options: object) -> AsyncIterator[Any]:
        self.times += 1
        if not self.fates[self.times % len(self.fates)]:
            await asyncio.sleep(0)
            raise DatabaseDown
        async with lend_anything(**options) as connection:
            yield connection


async def test_reads_whose_connection_is_lost_while_a_bad_row_is_looked_for_are_sent_again() -> None:
    fates: list[Exception] = [asyncpg.DataError("bad"), asyncpg.ConnectionDoesNotExistError("gone")]

    async def ask_badly(_: Connection, __: Query, columns: Sequence[list[Any]], timeout_s: float) -> list[Any]:
        await asyncio.sleep(0)
        if fates:
            raise fates.pop(0)
        return [*columns[0]]

    batcher = Batcher(READ, cast(Pool, Lends()), lanes=1, ask=ask_badly)

    answers = await asyncio.gather(*(batcher.submit((n,), deadline_s=soon()) for n in range(8)), return_exceptions=True)

    assert answers == [*range(8)]
    await batcher.close()


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.integers(0, 15), max_size=30),
    cancelled=st.dictionaries(st.integers(0, 29), st.integers(0, 10), max_size=8),
    fates=st.lists(st.sampled_from(["answer", "some", "fail", "lost", "late"]), min_size=1, max_size=5),
    lends=st.lists(st.booleans(), min_size=1, max_size=4),
    lanes=st.integers(1, 3),
)
def test_every_read_handed_on_is_answered_once(
    steps: list[int], cancelled: dict[int, int], fates: list[str], lends: list[bool], lanes: int
) -> None:
    async def run() -> None:
        sent = 0

        async def answer(_: Connection, __: Query, columns: Sequence[list[Any]], timeout_s: float) -> list[Any]:
            await asyncio.sleep(0)
            return [*columns[0]]

        async def answer_some(_: Connection, __: Query, columns: Sequence[list[Any]], timeout_s: float) -> list[Any]:
            nonlocal sent
            sent += 1
            await asyncio.sleep(0)
            match fates[sent % len(fates)]:
                case "fail":
                    raise asyncpg.DataError("bad")
                case "lost":
                    raise asyncpg.ConnectionDoesNotExistError("gone")
                case "late":
                    return [ELSEWHERE] * len(columns[0])
                case "some":
                    return [ELSEWHERE if value % 2 else value for value in columns[0]]
            return [*columns[0]]

        troubles: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        primary = Batcher(READ, cast(Pool, Lends()), lanes=2, ask=answer)
        replica = Batcher(READ, cast(Pool, Lends(lends)), lanes=lanes, ask=answer_some, elsewhere=primary)

        async def call(number: int) -> object:
            return await replica.submit((number,), deadline_s=soon())

        tasks: dict[int, asyncio.Task[object]] = {}
        for step in range(30):
            for number, at in enumerate(steps):
                if at == step:
                    tasks[number] = asyncio.create_task(call(number))
                if number in tasks and step == at + cancelled.get(number, 99):
                    tasks[number].cancel()
            await asyncio.sleep(0)
        await replica.close()
        await primary.close()
        for number, task in tasks.items():
            with suppress(asyncio.CancelledError):
                assert await asyncio.wait_for(task, 1.0) == number
        assert (replica.waiting, primary.waiting, replica.under_way, primary.under_way) == (0, 0, 0, 0)
        assert not troubles

    asyncio.run(run())


class Demoted(FakeDatabase):
    """Refuses to write where the other loses the connection."""

    async def _take_time(self, number: int) -> None:
        try:
            await super()._take_time(number)
        except asyncpg.ConnectionDoesNotExistError:
            raise asyncpg.ReadOnlySQLTransactionError("a replica") from None


@settings(max_examples=200, deadline=None)
@given(
    scenario=st.lists(calls, max_size=40),
    durations=st.lists(st.integers(0, 8), min_size=1, max_size=5),
    lost=st.frozensets(st.integers(0, 12), max_size=6),
    lanes=st.integers(1, 3),
)
def test_writes_that_were_refused_are_done_once_and_in_order(
    scenario: list[Call], durations: list[int], lost: frozenset[int], lanes: int
) -> None:
    async def run() -> None:
        fake = Demoted(size=3, durations=durations, lost=lost)
        batcher = a_batcher(fake, WRITE, lanes=lanes)

        outcomes = await outcomes_of(batcher, scenario)

        arrival = sorted(range(len(scenario)), key=lambda number: (scenario[number].step, number))
        for number, (what, outcome) in enumerate(zip(scenario, outcomes, strict=True)):
            if outcome == number:
                assert fake.written[what.key].count(number) == 1
            elif not isinstance(outcome, asyncio.CancelledError):
                assert isinstance(outcome, DatabaseDown) or what.kind == BAD
                assert number not in fake.written[what.key]
        for values in fake.written.values():
            assert values == sorted(values, key=arrival.index)
        await assert_nothing_is_left(batcher)

    asyncio.run(run())


async def test_who_waits_for_a_place_when_a_pool_closes_is_told_so() -> None:
    nowhere = Endpoint(host="127.0.0.1", port=1, user="u", password="p", database="d")
    pool = Pool(nowhere, size=0, application_name="tests", statement_timeout_s=5.0)

    async def borrow() -> None:
        async with pool.connection(deadline_s=soon(0.3)):
            pass

    waiting = asyncio.create_task(borrow())
    await until(lambda: pool.waiting == 1)
    await pool.close()

    with pytest.raises(DatabaseDown):
        await asyncio.wait_for(waiting, 2.0)
    with pytest.raises(DatabaseDown):
        await asyncio.wait_for(borrow(), 2.0)
