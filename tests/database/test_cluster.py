"""The clusters other tests rely on do what is said of them, and set the trap readers of replicas must avoid."""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic_ns

import asyncpg
import pytest
from tests.database.cluster import BROKEN, WAIT_S, Cluster, ask, processes_of
from tests.database.linearizability import Operation, is_linearizable, violations

from seawall.database.endpoint import Endpoint

PATIENCE_S = 1.0
"""How long something is watched that must not happen."""

_numbers = itertools.count(1)


@pytest.fixture
async def table(cluster: Cluster) -> str:
    return await new_table(cluster)


@pytest.fixture
async def synchronous_table(synchronous_cluster: Cluster) -> str:
    return await new_table(synchronous_cluster)


async def new_table(cluster: Cluster) -> str:
    name = f"kept_{next(_numbers)}"
    await ask(cluster.primary, f"create table {name} (key text primary key, value text)")
    await cluster.wait_caught_up()
    return name


async def put(endpoint: Endpoint, table: str, key: str, value: str, *, within_s: float = WAIT_S) -> None:
    upsert = f"insert into {table} values ($1, $2) on conflict (key) do update set value = excluded.value"
    await ask(endpoint, upsert, key, value, within_s=within_s)


async def get(endpoint: Endpoint, table: str, key: str) -> object:
    return await ask(endpoint, f"select value from {table} where key = $1", key)


async def count(endpoint: Endpoint, table: str) -> object:
    return await ask(endpoint, f"select count(*) from {table}")


async def wait_until_a_commit_waits(cluster: Cluster) -> None:
    """Wait until a commit on the primary is on its disk and waits for replicas."""
    async with asyncio.timeout(WAIT_S):
        while not await ask(
            cluster.primary_superuser, "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
        ):
            await asyncio.sleep(0.01)


async def test_what_is_written_on_the_primary_is_read_on_every_replica(cluster: Cluster, table: str) -> None:
    await put(cluster.primary, table, "a", "1")
    await cluster.wait_caught_up()

    assert [await get(endpoint, table, "a") for endpoint in cluster.endpoints] == ["1", "1", "1"]


async def test_only_the_first_member_takes_writes(cluster: Cluster, table: str) -> None:
    assert cluster.primary == cluster.endpoints[0]
    assert [await ask(one, "select pg_is_in_recovery()") for one in cluster.endpoints] == [False, True, True]
    for i in (0, 1):
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await put(cluster.replica(i), table, "a", "1")


async def test_passwords_are_asked_for_everywhere_also_of_replication(cluster: Cluster) -> None:
    for endpoint in cluster.superusers:
        rules = "select count(*) from pg_hba_file_rules where auth_method <> 'scram-sha-256'"
        assert await ask(endpoint, rules) == 0
        assert await ask(endpoint, "select current_setting('is_superuser')") == "on"
    assert await ask(cluster.primary, "select current_setting('is_superuser')") == "off"


async def test_a_paused_replica_does_not_answer_and_later_has_what_it_missed(cluster: Cluster, table: str) -> None:
    await cluster.pause(0)
    await put(cluster.primary, table, "a", "1")
    await cluster.wait_caught_up()

    with pytest.raises(TimeoutError):
        await ask(cluster.replica(0), "select 1", within_s=PATIENCE_S)
    assert await get(cluster.replica(1), table, "a") == "1"
    await cluster.resume(0)
    await cluster.wait_caught_up()
    assert await get(cluster.replica(0), table, "a") == "1"


async def test_a_lagging_replica_shows_the_past_until_its_lag_is_lifted(cluster: Cluster, table: str) -> None:
    await cluster.lag(0, 60)
    await put(cluster.primary, table, "a", "1")
    async with asyncio.timeout(WAIT_S):
        while await get(cluster.replica(1), table, "a") is None:
            await asyncio.sleep(0.01)

    assert await get(cluster.replica(0), table, "a") is None
    await cluster.lag(0, 0)
    await cluster.wait_caught_up()
    assert await get(cluster.replica(0), table, "a") == "1"


async def test_a_killed_replica_refuses_and_restarted_has_what_it_missed(cluster: Cluster, table: str) -> None:
    await cluster.kill(1)
    await put(cluster.primary, table, "a", "1")

    with pytest.raises(OSError, match="refused"):
        await ask(cluster.replica(1), "select 1")
    await cluster.restart(1)
    await cluster.wait_caught_up()
    assert await get(cluster.replica(1), table, "a") == "1"


async def test_a_paused_replica_can_be_killed_and_restarted(cluster: Cluster, table: str) -> None:
    await cluster.pause(0)

    await cluster.restart(0)

    await put(cluster.primary, table, "a", "1")
    await cluster.wait_caught_up()
    assert await get(cluster.replica(0), table, "a") == "1"


async def test_a_second_primary_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="kill the primary first"):
        await cluster.promote(0)

    assert await ask(cluster.replica(0), "select pg_is_in_recovery()") is True


async def test_a_synchronous_commit_waits_while_a_replica_is_paused(
    synchronous_cluster: Cluster, synchronous_table: str
) -> None:
    cluster = synchronous_cluster
    await cluster.pause(1)

    writing = asyncio.create_task(put(cluster.primary, synchronous_table, "a", "1"))
    await wait_until_a_commit_waits(cluster)
    done, _ = await asyncio.wait([writing], timeout=PATIENCE_S)

    assert not done
    await cluster.resume(1)
    await asyncio.wait_for(writing, WAIT_S)
    assert await get(cluster.primary, synchronous_table, "a") == "1"


@pytest.mark.parametrize("level", ["on", "remote_apply"])
async def test_a_replica_may_show_a_commit_before_the_primary_does_and_naive_readers_go_back_in_time(
    synchronous_cluster: Cluster, synchronous_table: str, level: str
) -> None:
    # The primary shows a commit only once all have answered; one replica cannot, the other has long replayed it.
    cluster, table = synchronous_cluster, synchronous_table
    history: list[Operation] = []

    async def read(endpoint: Endpoint, client: str) -> object:
        invoked_ns = monotonic_ns()
        value = await get(endpoint, table, "a")
        assert value is None or isinstance(value, str)
        operation = Operation(
            kind="get", key="a", value=value, invoked_ns=invoked_ns, answered_ns=monotonic_ns(), client=client
        )
        history.append(operation)
        return value

    async def write(value: str) -> None:
        invoked_ns = monotonic_ns()
        await put_at_level(cluster.primary, table, "a", value, level)
        operation = Operation(
            kind="put", key="a", value=value, invoked_ns=invoked_ns, answered_ns=monotonic_ns(), client="writer"
        )
        history.append(operation)

    await write("old")
    await cluster.wait_caught_up()
    await cluster.pause(1)
    writing = asyncio.create_task(write("new"))
    await wait_until_a_commit_waits(cluster)
    async with asyncio.timeout(WAIT_S):
        while await read(cluster.replica(0), "reader of replica 0") != "new":
            await asyncio.sleep(0.01)
    afterwards = await read(cluster.primary, "reader of the primary")
    await cluster.resume(1)
    await asyncio.wait_for(writing, WAIT_S)
    await read(cluster.primary, "reader of the primary")

    assert afterwards == "old"
    [found] = violations(history)
    assert found.operation.client == "reader of the primary"
    assert found.operation.value == "old"
    assert found.possible == {"new"}
    assert is_linearizable([one for one in history if one is not found.operation])


async def put_at_level(endpoint: Endpoint, table: str, key: str, value: str, level: str) -> None:
    async with asyncio.timeout(WAIT_S):
        connection = await asyncpg.connect(**endpoint.connect_arguments())
        try:
            await connection.execute(f"set synchronous_commit to {level}")
            await connection.execute(
                f"insert into {table} values ($1, $2) on conflict (key) do update set value = excluded.value",
                key,
                value,
            )
        finally:
            connection.terminate()


async def test_one_answer_of_two_is_enough_when_so_chosen(open_directory: Callable[[], Path]) -> None:
    async with Cluster(open_directory(), synchronous=True, quorum=1) as cluster:
        table = await new_table(cluster)
        await cluster.pause(0)

        await put(cluster.primary, table, "a", "1")

        assert await get(cluster.primary, table, "a") == "1"
        assert await cluster.furthest_replica() == 1


async def test_after_a_promotion_no_acknowledged_write_is_lost_and_writes_go_on(
    open_directory: Callable[[], Path],
) -> None:
    async with Cluster(open_directory(), synchronous=True) as cluster:
        table = await new_table(cluster)
        acknowledged: list[str] = []
        writers = [asyncio.create_task(write_until_it_fails(cluster, table, f"{n}", acknowledged)) for n in range(4)]
        async with asyncio.timeout(WAIT_S):
            while len(acknowledged) < 200:
                await asyncio.sleep(0.01)

        await cluster.kill_primary()
        await asyncio.wait_for(asyncio.gather(*writers), WAIT_S)
        await cluster.promote(0)
        await put(cluster.primary, table, "after", "1")

        assert cluster.primary == cluster.replica(0)
        assert await ask(cluster.primary, "select pg_is_in_recovery()") is False
        await cluster.wait_caught_up()
        for endpoint in (cluster.primary, cluster.replica(1)):
            kept = await ask(endpoint, f"select array_agg(key) from {table}")
            assert isinstance(kept, list)
            assert {*acknowledged, "after"} <= set(kept)
        # Still synchronous: the new primary waits for the other replica, as the old one did.
        await cluster.pause(1)
        with pytest.raises(TimeoutError):
            await put(cluster.primary, table, "waits", "1", within_s=PATIENCE_S)


async def write_until_it_fails(cluster: Cluster, table: str, name: str, acknowledged: list[str]) -> None:
    connection = await asyncpg.connect(**cluster.primary.connect_arguments())
    try:
        with suppress(*BROKEN):
            for n in itertools.count():
                await connection.execute(f"insert into {table} values ($1, $1)", f"{name}.{n}")
                acknowledged.append(f"{name}.{n}")
    finally:
        connection.terminate()


async def test_a_replica_that_was_ahead_of_the_promoted_one_follows_it_all_the_same(
    open_directory: Callable[[], Path],
) -> None:
    async with Cluster(open_directory()) as cluster:
        table = await new_table(cluster)
        await put(cluster.primary, table, "on all", "1")
        await cluster.wait_caught_up()
        await cluster.kill(0)
        await put(cluster.primary, table, "on one", "1")
        await cluster.wait_caught_up()
        await cluster.kill_primary()
        await cluster.restart(0)
        assert await cluster.furthest_replica() == 1

        await cluster.promote(0)
        await put(cluster.primary, table, "after", "1")
        await cluster.wait_caught_up()

        for endpoint in (cluster.replica(0), cluster.replica(1)):
            assert await ask(endpoint, f"select array_agg(key order by key) from {table}") == ["after", "on all"]


async def test_a_replica_killed_during_the_failover_follows_the_new_primary_once_restarted(
    open_directory: Callable[[], Path],
) -> None:
    async with Cluster(open_directory()) as cluster:
        table = await new_table(cluster)
        await cluster.kill(1)
        await cluster.kill_primary()
        await cluster.promote(0)
        await put(cluster.primary, table, "a", "1")

        await cluster.restart(1)
        await cluster.wait_caught_up()

        assert await get(cluster.replica(1), table, "a") == "1"
        # And it can lead in its turn.
        await cluster.kill_primary()
        await cluster.promote(1)
        assert await get(cluster.primary, table, "a") == "1"
        assert cluster.primary == cluster.replica(1)
        # And come back as what it was.
        await cluster.restart(1)
        await put(cluster.primary, table, "a", "2")
        with pytest.raises(ValueError, match="kill the primary first"):
            await cluster.promote(0)


async def test_nothing_is_left_running_when_the_block_fails_amid_pauses_and_deaths(
    open_directory: Callable[[], Path],
) -> None:
    directory = open_directory()
    writing: list[asyncio.Task[None]] = []

    async def go_wrong() -> None:
        async with Cluster(directory, synchronous=True) as cluster:
            table = await new_table(cluster)
            await cluster.pause(0)
            writing.append(asyncio.create_task(put(cluster.primary, table, "a", "1")))
            await wait_until_a_commit_waits(cluster)
            await cluster.kill(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await go_wrong()

    await asyncio.wait(writing, timeout=WAIT_S)
    # Told by the stopping primary that it may be lost, or that it was committed here only.
    assert writing[0].done()
    writing[0].exception()
    assert running_in(directory) == []


async def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing_running(
    open_directory: Callable[[], Path],
) -> None:
    directory = open_directory()
    (directory / "replica_1").write_text("in the way")

    with pytest.raises(ExceptionGroup) as failure:
        async with Cluster(directory):
            pytest.fail("the block must not be entered")

    assert failure.group_contains(FileExistsError, match="replica_1")
    assert running_in(directory) == []


def running_in(directory: Path) -> list[int]:
    return [pid for data in directory.glob("*/pg") for pid in processes_of(data)]
