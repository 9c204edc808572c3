"""The connection layer behind PgBouncer in transaction mode.

The PgBouncer here is a real one, with fewer connections to the server than the pool has to it: from one transaction to
the next they change places, and what was left on one of them is found by somebody else.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.database.pgbouncer import SERVER_CONNECTIONS, PgBouncer
from tests.objects.conftest import running_node
from tests.objects.kit import INLINE_MAX, SEGMENT_MAX, BytesPayload

from seawall.access import AccountBook, Credentials, NewAccount
from seawall.clock import monotonic_s
from seawall.database import Database, DatabaseSettings, Endpoint
from seawall.database.pool import SERVER_SETTINGS, Pool, dialects
from seawall.database.queries import Query
from seawall.errors import DatabaseDown, DeadlineExceeded
from seawall.objects.digests import Digests


def a_query(name: str, sql: str) -> Query:
    return Query(name=f"tests.{name}", why="a test", sql=sql)


READ = a_query(
    "read",
    "select ordinal, kept.value from unnest($1::text[]) with ordinality as asked (key, ordinal)"
    " join kept on kept.key = asked.key",
)
WRITE = a_query(
    "write",
    "insert into kept (key, value) select * from unnest($1::text[], $2::bigint[])"
    " on conflict (key) do update set value = excluded.value returning value as answers",
)
COUNT = a_query("count", "select count(*) as count from kept where value >= $1::bigint")
ADD = a_query("add", "insert into kept (key, value) values ($1::text, $2::bigint) returning value")
SLEEP = a_query("sleep", "select /* tests.sleep */ pg_sleep($1)")
SLEEPERS = a_query(
    "sleepers",
    "select count(*) as count from pg_stat_activity"
    " where datname = current_database() and state = 'active' and query like 'select /* tests.sleep *%'",
)
PROCESS = a_query("process", "select pg_backend_pid() as pid")
IN_FORCE = a_query(
    "in_force", "select name, current_setting(name) as value from unnest($1::text[]) as asked (name) order by name"
)
PREPARED = a_query("prepared", "select count(*) as count from pg_prepared_statements")


@asynccontextmanager
async def a_database(endpoint: Endpoint, **chosen: Any) -> AsyncIterator[Database]:
    async with Database(endpoint, DatabaseSettings(**chosen), application_name="tests of PgBouncer") as database:
        yield database


@pytest.fixture
async def database(pgbouncer: PgBouncer, connection: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[Database]:
    """Behind PgBouncer, with a table of keys and values that are positive."""
    await connection.execute("create table kept (key text primary key, value bigint not null check (value >= 0))")
    async with a_database(pgbouncer.endpoint) as opened:
        yield opened


async def everything_is_back(pool: Pool) -> None:
    async with asyncio.timeout(10):
        while pool.lent:
            await asyncio.sleep(0.01)


# Which it is.


async def test_pgbouncer_is_recognised_by_its_refusal_and_remembered(pgbouncer: PgBouncer, database: Database) -> None:
    await asyncio.gather(*(database.fetch(SLEEP, 0.05) for _ in range(6)))
    refusals = pgbouncer.log.count("pooler error: unsupported startup parameter: seawall.needs_a_session")

    assert not database.pool._dialect.has_session
    assert database.pool.counts.opened == 6
    assert database.pool.counts.open_failures == 0
    assert 1 <= refusals <= 2, "those who connect at the same time learn it by themselves, others do not ask again"


async def test_a_server_itself_is_not_taken_for_a_pooler(database_endpoint: Endpoint) -> None:
    async with a_database(database_endpoint) as direct:
        wanted = {**SERVER_SETTINGS, "seawall.needs_a_session": "on"}
        rows = await direct.fetch(
            IN_FORCE, [*wanted.keys() - {"tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"}]
        )

        assert direct.pool._dialect.has_session
        assert {row["name"]: row["value"] for row in rows}.items() <= wanted.items()


async def test_a_pgbouncer_told_to_ignore_our_settings_is_recognised_all_the_same(pgbouncer: PgBouncer) -> None:
    pgbouncer.stop()
    pgbouncer.options["ignore_startup_parameters"] = ", ".join([*SERVER_SETTINGS, "statement_timeout"])
    pgbouncer.start()

    async with a_database(pgbouncer.endpoint) as database:
        rows = await database.fetch(IN_FORCE, ["plan_cache_mode"])

        assert [row["value"] for row in rows] == ["force_generic_plan"]
        assert not database.pool._dialect.has_session


async def test_which_it_is_is_asked_again_when_somebody_else_answers(
    pgbouncer: PgBouncer, database_endpoint: Endpoint
) -> None:
    async with a_database(pgbouncer.endpoint) as database:
        await database.fetch(PROCESS)
        pgbouncer.stop()
        with pytest.raises(DatabaseDown):
            await database.fetch(PROCESS)
        database.pool._endpoint = database_endpoint
        await database.fetch(PROCESS)
        assert database.pool._dialect.has_session

        pgbouncer.start()
        database.pool._endpoint = pgbouncer.endpoint
        await database.pool.resize(0)
        await database.pool.resize(2)
        await database.fetch(PROCESS)
        assert not database.pool._dialect.has_session


# Settings.


async def test_each_statement_and_transaction_has_our_settings(database: Database) -> None:
    wanted = {
        **{name: value for name, value in SERVER_SETTINGS.items() if not name.startswith("tcp_")},
        "application_name": "tests of PgBouncer",
        "statement_timeout": "5s",
        "transaction_isolation": "read committed",
    }

    alone = await database.fetch(IN_FORCE, [*wanted])
    async with database.transaction() as transaction:
        together = await transaction.fetch(IN_FORCE, [*wanted])
    async with database.transaction(patience_s=30.0) as transaction:
        patient = await transaction.fetch(IN_FORCE, [*wanted])

    assert {row["name"]: row["value"] for row in alone} == wanted
    assert {row["name"]: row["value"] for row in together} == wanted
    assert {row["name"]: row["value"] for row in patient} == {**wanted, "statement_timeout": "30s"}


async def test_nothing_of_ours_is_left_for_others_on_the_same_server_connection(
    pgbouncer: PgBouncer, database: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    # A type of its own makes the driver look it up, and switch jit off meanwhile where that is on.
    await connection.execute(f"alter database {pgbouncer.server.database} set jit = on")
    await connection.execute("create type mood as enum ('calm', 'hurried')")
    (row,) = await database.fetch(a_query("mood", "select 'calm'::mood as mood, array['hurried'::mood] as moods"))
    await asyncio.gather(*(database.read(READ, str(key)) for key in range(200)))
    with pytest.raises(asyncpg.CheckViolationError):
        await database.fetch(ADD, "bad", -1)
    await everything_is_back(database.pool)
    ours = {row["pid"] for row in await asyncio.gather(*(database.fetch_one(PROCESS) for _ in range(20)))}

    names = [*SERVER_SETTINGS, "statement_timeout"]
    newcomer = await asyncpg.connect(**pgbouncer.server.connect_arguments())
    expected = await newcomer.fetch(IN_FORCE.sql, names)
    await newcomer.close()
    seen = set()
    others = [
        await asyncpg.connect(**pgbouncer.endpoint.connect_arguments(), statement_cache_size=0)
        for _ in range(SERVER_CONNECTIONS)
    ]
    for other in others:  # together they hold every server connection
        await other.execute("begin")
        seen.add(await other.fetchval(PROCESS.sql))
        # PgBouncer keeps the time zone for each client; ours may be the last that was set on this connection.
        assert [r for r in await other.fetch(IN_FORCE.sql, names) if r["name"] != "timezone"] == [
            r for r in expected if r["name"] != "timezone"
        ]
        assert await other.fetchval(PREPARED.sql) == 0
    for other in others:
        await other.execute("rollback")
        await other.close()

    assert (row["mood"], row["moods"]) == ("calm", ["hurried"])
    assert ours <= seen


def test_what_each_transaction_says_is_one_message_with_all_but_what_pgbouncer_keeps() -> None:
    direct, pooled = dialects({**SERVER_SETTINGS, "application_name": "a", "statement_timeout": "5000"})

    assert direct.begin == "begin"
    assert pooled.startup == {"application_name": "a", "timezone": "UTC"}
    assert pooled.begin.startswith("begin isolation level read committed; set local plan_cache_mode = ")
    assert "set local statement_timeout = '5000'" in pooled.begin
    assert "tcp_" not in pooled.begin


# Statements.


async def test_batches_write_and_read_as_they_do_directly(database: Database, database_endpoint: Endpoint) -> None:
    async with a_database(database_endpoint) as direct:
        written = await asyncio.gather(
            *(database.write(WRITE, f"key {number % 400}", number, identity_width=1, echo=1) for number in range(1200))
        )
        keys = [f"key {number}" for number in range(500)]
        through = await asyncio.gather(*(database.read(READ, key) for key in keys))
        directly = await asyncio.gather(*(direct.read(READ, key) for key in keys))

        assert [row["answers"] for row in written] == list(range(1200))
        assert [row and row["value"] for row in through] == [row and row["value"] for row in directly]
        assert [row and row["value"] for row in through] == [*range(800, 1200), *[None] * 100]
        assert {name: batcher.saved_statements > 0 for name, _, batcher in database.batches()}["tests.write"]


async def test_a_bad_row_fails_only_whose_row_it_is(database: Database) -> None:
    answers = await asyncio.gather(
        *(
            database.write(WRITE, f"key {key:03}", -1 if key == 77 else key, identity_width=1, echo=1)
            for key in range(128)
        ),
        return_exceptions=True,
    )

    assert [place for place, answer in enumerate(answers) if isinstance(answer, BaseException)] == [77]
    assert isinstance(answers[77], asyncpg.CheckViolationError)
    assert (await database.fetch_one(COUNT, 0))["count"] == 127


async def test_a_transaction_takes_effect_as_a_whole_or_not_at_all(database: Database) -> None:
    async with database.transaction() as transaction:
        first = await transaction.fetch_one(PROCESS)
        await transaction.fetch(ADD, "one", 1)
        await transaction.fetch(ADD, "two", 2)
        last = await transaction.fetch_one(PROCESS)

    async def raises_between() -> None:
        async with database.transaction() as transaction:
            await transaction.fetch(ADD, "three", 3)
            raise ZeroDivisionError

    async def fails_at_the_second() -> None:
        async with database.transaction() as transaction:
            await transaction.fetch(ADD, "four", 4)
            await transaction.fetch(ADD, "one", 1)

    with pytest.raises(ZeroDivisionError):
        await raises_between()
    with pytest.raises(asyncpg.UniqueViolationError):
        await fails_at_the_second()

    assert first["pid"] == last["pid"]
    assert (await database.fetch_one(COUNT, 0))["count"] == 2


async def test_many_tasks_share_a_pool_of_two(pgbouncer: PgBouncer, database: Database) -> None:
    async with a_database(pgbouncer.endpoint, read_lanes=1, write_lanes=1, spare_connections=0) as small:

        async def work(number: int) -> int:
            if number % 3 == 0:
                async with small.transaction() as transaction:
                    row = await transaction.fetch_one(ADD, f"key {number}", number)
            elif number % 3 == 1:
                row = await small.fetch_one(ADD, f"key {number}", number)
            else:
                await small.write(WRITE, f"key {number}", number, identity_width=1, echo=1)
                row = await small.read(READ, f"key {number}")
            return int(row["value"])

        assert await asyncio.gather(*(work(number) for number in range(150))) == list(range(150))
        assert small.pool.counts.opened <= 2
    assert (await database.fetch_one(COUNT, 0))["count"] == 150


# What is given up, and what breaks.


async def test_a_statement_whose_time_is_up_is_stopped_and_its_connection_used_again(
    database: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    started_s = time.monotonic()
    with pytest.raises(DatabaseDown):
        await database.fetch(SLEEP, 20.0, patience_s=0.3)
    await everything_is_back(database.pool)

    assert time.monotonic() - started_s < 4.0
    assert await connection.fetchval(SLEEPERS.sql) == 0
    assert (await database.fetch_one(COUNT, 0))["count"] == 0
    assert (database.pool.counts.opened, database.pool.counts.cancels) == (1, 1)


async def test_the_servers_own_limit_ends_a_statement_too(pgbouncer: PgBouncer) -> None:
    async with a_database(pgbouncer.endpoint) as database:

        async def sleep_too_long() -> None:
            async with database.transaction() as transaction:
                await transaction.say("set local statement_timeout = '100ms'")
                await transaction.fetch(SLEEP, 4.0)

        with pytest.raises(DeadlineExceeded):
            await sleep_too_long()
        await everything_is_back(database.pool)

        await database.fetch(PROCESS)
        assert database.pool.counts.opened == 1


async def test_a_crowd_that_gives_up_leaves_nothing_behind(
    database: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    for _ in range(3):
        crowd = [asyncio.create_task(database.fetch(SLEEP, 20.0)) for _ in range(12)]
        await asyncio.sleep(0.1)
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    await everything_is_back(database.pool)
    async with asyncio.timeout(5):  # a connection that was dropped takes its statement along within a second
        while await connection.fetchval(SLEEPERS.sql):
            await asyncio.sleep(0.05)

    rows = await asyncio.gather(*(database.fetch_one(ADD, str(key), key) for key in range(20)))
    assert [row["value"] for row in rows] == list(range(20))
    assert database.pool.lent + database.pool.idle <= database.settings.connections


async def test_callers_cancelled_anywhere_leave_whole_rows_and_clean_connections(database: Database) -> None:
    chance = random.Random(7)

    async def write(number: int) -> None:
        async with database.transaction() as transaction:
            await transaction.fetch(ADD, f"{number} first", number)
            await transaction.fetch(ADD, f"{number} second", number)

    async def cancelled(number: int) -> None:
        task = asyncio.create_task(write(number) if number % 2 else database.fetch(ADD, f"{number} alone", number))
        await asyncio.sleep(chance.uniform(0, 0.03))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    for start in range(0, 120, 6):
        await asyncio.gather(*(cancelled(start + place) for place in range(6)))
    await everything_is_back(database.pool)

    pairs = await database.fetch(
        a_query("pairs", "select value, count(*) as count from kept where value % 2 = 1 group by value")
    )
    assert {row["count"] for row in pairs} <= {2}
    async with database.pool.connection(deadline_s=monotonic_s() + 5.0) as clean:
        assert not clean.raw.is_in_transaction()


async def test_connections_are_replaced_when_the_pooler_was_restarted(pgbouncer: PgBouncer, database: Database) -> None:
    await asyncio.gather(*(database.fetch(SLEEP, 0.02) for _ in range(6)))
    pgbouncer.stop()
    await asyncio.sleep(0.05)
    waiting = asyncio.create_task(database.fetch_one(COUNT, 0))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    pgbouncer.start()

    assert (await waiting)["count"] == 0
    assert database.pool.lent + database.pool.idle <= database.settings.connections
    assert (await database.fetch_one(ADD, "key", 1))["value"] == 1


# Objects.


@pytest.mark.parametrize("size", [3, INLINE_MAX + 1, SEGMENT_MAX + 1])
async def test_objects_are_put_copied_read_listed_and_deleted(pgbouncer: PgBouncer, tmp_path: Path, size: int) -> None:
    async with running_node(pgbouncer.endpoint, tmp_path / "blobs") as node:
        pair = await AccountBook(node.database).add(NewAccount(name="alice"))
        credential = await Credentials(node.database).find(pair.access_key)
        assert credential is not None
        alice = credential.caller
        await node.store.buckets.add(alice, "hers", region="")
        keys = [f"key {number:02}" for number in range(40)]

        await asyncio.gather(*(node.put(alice, "hers", key, key.encode() * size) for key in keys))
        bodies = await asyncio.gather(*(node.get(alice, "hers", key) for key in keys))
        await node.copy(alice, ("hers", keys[0]), ("hers", "copy"))
        upload = await node.begin(alice, "hers", "joined")
        await node.uploads.put_part(upload, 1, BytesPayload(b"x" * size), Digests())

        assert bodies == [key.encode() * size for key in keys]
        assert await node.keys(alice, "hers") == ["copy", *keys]
        await node.store.delete(alice, "hers", keys)
        assert await node.keys(alice, "hers") == ["copy"]
        assert not node.database.pool._dialect.has_session
