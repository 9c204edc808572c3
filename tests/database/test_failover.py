"""The primary dies and a replica is promoted: work goes on, and nothing that was acknowledged is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from tests.database.cluster import Cluster
from tests.database.linearizability import violations
from tests.database.registers import GET, PUT, Clients, nodes_of, readers, until

from seawall.clock import monotonic_s
from seawall.database import Database, DatabaseSettings
from seawall.database.pool import is_lost
from seawall.errors import Unavailable
from seawall.telemetry.purpose import PURPOSE, STALENESS, Purpose

RESUMED_S = 5.0
"""How soon after the promotion writes are acknowledged again."""


@pytest.fixture
async def cluster_to_lose(open_directory: Callable[[], Path]) -> AsyncIterator[Cluster]:
    """Commits wait for one of two replicas, so that one can be promoted without the other's leave."""
    async with Cluster(open_directory(), synchronous=True, quorum=1) as cluster:
        yield cluster


async def fail_over(cluster: Cluster) -> float:
    """Kill the primary and promote the replica that has most; return when that was done."""
    await cluster.kill_primary()
    await asyncio.sleep(0.5)
    await cluster.promote(await cluster.furthest_replica())
    return monotonic_s()


async def test_writes_resume_soon_after_a_promotion_and_no_acknowledged_one_is_lost(cluster_to_lose: Cluster) -> None:
    cluster = cluster_to_lose
    async with nodes_of(cluster, 2) as nodes:
        clients = Clients(nodes)
        async with clients.at_work(writers=6, readers=6):
            await asyncio.sleep(1.0)
            promoted_s = await fail_over(cluster)
            await asyncio.sleep(RESUMED_S)

        resumed_s = next(at_s for at_s in clients.acknowledged if at_s > promoted_s) - promoted_s
        assert resumed_s < RESUMED_S
        assert violations(clients.history) == []
        assert all(isinstance(failure, Unavailable) for failure in clients.failures)
        for node in nodes:
            assert node.balancer is not None
            assert node.balancer.failovers == 1
            assert node.pool is not node.servers[0].pool
            # The other replica follows the new primary, and reads go there again.
            await until(partial(follows_one, node))


def follows_one(node: Database) -> bool:
    return len(readers(node)) == 1


async def test_what_waits_when_the_primary_dies_is_done_by_the_next_one(cluster_to_lose: Cluster) -> None:
    cluster = cluster_to_lose
    async with nodes_of(cluster, 1) as [node]:
        await node.write(PUT, "a", "before", identity_width=1, echo=1)
        await cluster.kill_primary()
        await until(lambda: node.servers[0].is_ill)
        writing = [asyncio.create_task(node.write(PUT, f"k{n}", f"v{n}", identity_width=1, echo=1)) for n in range(20)]
        reading = [asyncio.create_task(node.read(GET, "a")) for _ in range(20)]
        await asyncio.sleep(0.3)

        await cluster.promote(await cluster.furthest_replica())

        outcomes = await asyncio.gather(*writing)
        assert [outcome["answers"] for outcome in outcomes] == [f"v{n}" for n in range(20)]
        assert {row["value"] for row in await asyncio.gather(*reading)} == {"before"}
        assert (await node.read(GET, "k19"))["value"] == "v19"


async def test_a_primary_that_was_frozen_and_replaced_is_not_believed_when_it_wakes_up(
    cluster_to_lose: Cluster,
) -> None:
    cluster = cluster_to_lose
    async with nodes_of(cluster, 1) as [node]:
        await fail_over(cluster)
        balancer = node.balancer
        assert balancer is not None
        await until(lambda: balancer.failovers == 1)
        first, promoted = node.servers[0], balancer.primary
        assert promoted is not None
        assert promoted.sighting is not None

        # As it would say of itself: it has not heard that it is not the primary any more.
        balancer._see(first, type(promoted.sighting)(in_recovery=False, timeline=1, position=1 << 60))

        assert balancer.primary is promoted
        await node.write(PUT, "a", "1", identity_width=1, echo=1)
        assert (await node.read(GET, "a"))["value"] == "1"


async def test_without_a_primary_reads_fail_unless_old_answers_are_allowed(cluster_to_lose: Cluster) -> None:
    cluster = cluster_to_lose
    async with nodes_of(cluster, 1) as [strict], nodes_of_the_same(cluster) as lenient:
        await strict.write(PUT, "a", "1", identity_width=1, echo=1)
        await cluster.wait_caught_up()
        await asyncio.sleep(2.5)  # a check of the primary, then one of the replicas
        await cluster.kill_primary()
        balancer = lenient.balancer
        assert balancer is not None
        await until(lambda: balancer.is_headless)

        with pytest.raises(Unavailable):
            await strict.read(GET, "a")
        assert STALENESS.get() == 0.0
        with pytest.raises(Unavailable):
            await lenient.read(GET, "a")  # a write may depend on it
        PURPOSE.set(Purpose(only_reads=True))
        assert (await lenient.read(GET, "a"))["value"] == "1"
        assert 0 < STALENESS.get() < 60


def nodes_of_the_same(cluster: Cluster) -> Database:
    settings = DatabaseSettings(stale_reads_s=60.0)
    return Database(cluster.endpoints, settings, application_name="tests lenient")


async def test_the_farewell_of_a_dying_server_counts_as_a_lost_connection(cluster_to_lose: Cluster) -> None:
    # The driver calls it an internal error when a server says goodbye between two statements.
    raw = await asyncpg.connect(**cluster_to_lose.primary.connect_arguments())
    try:
        await cluster_to_lose.kill_primary()
        failures = []
        for _ in range(10):
            try:
                await raw.fetchval("select 1")
            except Exception as error:  # noqa: BLE001 - which ones come is the question
                failures.append(error)
        assert failures
        assert all(is_lost(failure) for failure in failures)
    finally:
        raw.terminate()
