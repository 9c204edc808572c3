"""Reads are spread over replicas, and nobody can tell: through pauses, lags and deaths, histories stay linearizable."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from tests.database.cluster import Cluster, ask
from tests.database.linearizability import violations
from tests.database.registers import GET, PUT, Clients, nodes_of, readers, until

from seawall.clock import monotonic_s
from seawall.database import Database
from seawall.database.balancer import CHECK_EVERY_S, CHECK_TIMEOUT_S, Balancer
from seawall.database.read_index import ReadIndex
from seawall.database.servers import Server
from seawall.errors import SeawallError
from seawall.telemetry.purpose import STALENESS

NODES = 3
NOTICED_S = CHECK_EVERY_S + CHECK_TIMEOUT_S + 1.0

Trouble = Callable[[Cluster], Awaitable[None]]


async def pauses(cluster: Cluster) -> None:
    for i in (0, 1):
        await cluster.pause(i)
        await asyncio.sleep(1.5)
        await cluster.resume(i)
        await asyncio.sleep(1.5)


async def lags(cluster: Cluster) -> None:
    await cluster.lag(0, 0.05)
    await asyncio.sleep(1.5)
    await cluster.lag(1, 1.0)
    await asyncio.sleep(1.5)
    await cluster.lag(0, 0)
    await cluster.lag(1, 0)
    await asyncio.sleep(1.5)


async def deaths(cluster: Cluster) -> None:
    await cluster.kill(0)
    await asyncio.sleep(1.0)
    await cluster.restart(0)
    await asyncio.sleep(2.0)
    await cluster.kill(1)
    await cluster.restart(1)
    await asyncio.sleep(1.0)


async def short_pauses(cluster: Cluster) -> None:
    for _ in range(12):
        i = random.choice((0, 1))
        await cluster.pause(i)
        await asyncio.sleep(random.uniform(0.05, 0.3))
        await cluster.resume(i)
        await asyncio.sleep(random.uniform(0.0, 0.3))


ENOUGH = 20
"""So many reads that replicas answered say something, on however busy a machine."""

TROUBLES = [pauses, lags, deaths, short_pauses]


def answered(nodes: list[Database]) -> int:
    return sum(server.counts.answered for node in nodes for server in node.servers)


def judged(nodes: list[Database]) -> int:
    return sum(server.counts.judged for node in nodes for server in node.servers)


async def live_through(cluster: Cluster, trouble: Trouble) -> tuple[Clients, list[Database]]:
    async with nodes_of(cluster, NODES) as nodes:
        clients = Clients(nodes)
        async with clients.at_work(writers=2, readers=6):
            await asyncio.sleep(0.5)
            await trouble(cluster)
        return clients, nodes


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_histories_are_linearizable_whatever_happens_to_replicas(cluster: Cluster, trouble: Trouble) -> None:
    clients, nodes = await live_through(cluster, trouble)

    assert violations(clients.history) == []
    assert clients.failures == []
    assert answered(nodes) > ENOUGH


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_histories_are_linearizable_with_synchronous_replication(
    synchronous_cluster: Cluster, trouble: Trouble
) -> None:
    clients, nodes = await live_through(synchronous_cluster, trouble)

    assert violations(clients.history) == []
    # Writes wait for all replicas, and may run out of patience; reads do not.
    assert all(operation.writes for operation in clients.history if operation.answered_ns is None)
    assert answered(nodes) > ENOUGH


async def test_who_does_not_wait_for_replicas_goes_back_in_time_and_the_judge_says_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def believe_at_once(*_: object) -> bool:
        return True

    monkeypatch.setattr(Balancer, "_reaches", believe_at_once)

    clients, _ = await live_through(cluster, lags)

    found = violations(clients.history)
    assert found
    assert all(one.operation.kind == "get" for one in found)


async def look_while_a_commit_waits(cluster: Cluster, change: str) -> tuple[Clients, Database]:
    """Read where one replica shows a commit that the primary does not show yet, because another cannot answer."""
    async with nodes_of(cluster, 1) as [node]:
        clients = Clients([node])
        await clients.write(node, "a", "old", "writer")
        await cluster.wait_caught_up()
        await cluster.pause(1)
        value = None if change == "delete" else "new"
        writing = asyncio.create_task(clients.write(node, "a", value, "writer"))

        async def replica_shows_it() -> None:
            while await ask(cluster.replica(0), "select value from registers where key = 'a'") != value:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(replica_shows_it(), 10.0)
        for _ in range(60):
            await clients.read(node, "a", "reader")
        assert not writing.done()
        await cluster.resume(1)
        await writing
        await clients.read(node, "a", "reader")
        return clients, node


@pytest.mark.parametrize("change", ["put", "delete"])
async def test_a_commit_that_the_primary_does_not_show_yet_is_not_read_on_a_replica(
    synchronous_cluster: Cluster, change: str
) -> None:
    clients, node = await look_while_a_commit_waits(synchronous_cluster, change)

    seen = [one.value for one in clients.history if one.kind == "get"]
    assert set(seen[:-1]) == {"old"}
    assert seen[-1] == (None if change == "delete" else "new")
    assert violations(clients.history) == []
    assert judged([node]) > 0


@pytest.mark.parametrize(
    ("change", "method", "naive"),
    [
        ("put", "shows", lambda _index, _xmin: True),
        ("delete", "covers", lambda index, row: row is None or index.shows(row["xmin"])),
    ],
    ids=["rows", "missing rows"],
)
async def test_who_believes_what_only_a_replica_shows_goes_back_in_time_and_the_judge_says_so(
    synchronous_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, change: str, method: str, naive: object
) -> None:
    # The naive version waits until the replica has replayed enough, as it should.
    monkeypatch.setattr(ReadIndex, method, naive)

    clients, _ = await look_while_a_commit_waits(synchronous_cluster, change)

    [found] = violations(clients.history)
    assert found.operation.value == "old"


async def test_reads_use_all_servers_when_all_are_well(cluster: Cluster) -> None:
    async with nodes_of(cluster, 1) as [node]:
        await node.write(PUT, "a", "1", identity_width=1, echo=1)

        for _ in range(50):
            rows = await asyncio.gather(*(node.read(GET, "a") for _ in range(20)))
            assert {row["value"] for row in rows} == {"1"}

        shares = [server.counts.answered / 1000 for server in node.servers]
        assert shares[0] == 0, "of the primary's own reads nothing is to be judged"
        assert min(shares[1:]) > 0.1
        assert sum(shares) < 0.95


async def test_a_frozen_replica_is_left_out_and_comes_back(cluster: Cluster) -> None:
    async with nodes_of(cluster, 1) as [node]:
        await node.write(PUT, "a", "1", identity_width=1, echo=1)
        frozen = node.servers[1]
        await cluster.pause(0)
        slowest_s = 0.0
        until_s = monotonic_s() + NOTICED_S
        while monotonic_s() < until_s:
            began_s = monotonic_s()
            assert (await node.read(GET, "a"))["value"] == "1"
            slowest_s = max(slowest_s, monotonic_s() - began_s)
            await asyncio.sleep(0.005)

        assert frozen.is_ill
        assert frozen.counts.ejections == 1
        assert slowest_s < 1.5, "who asked the frozen one was answered by the primary"

        await cluster.resume(0)
        await until(lambda: len(readers(node)) == 2)
        before = frozen.counts.answered
        await until_answered(node, frozen, before)


async def until_answered(node: Database, server: Server, before: int) -> None:
    async with asyncio.timeout(10.0):
        while server.counts.answered == before:
            await asyncio.gather(*(node.read(GET, "a") for _ in range(10)))


async def test_a_replica_that_lags_is_skipped_until_it_has_caught_up(cluster: Cluster) -> None:
    async with nodes_of(cluster, 1) as [node]:
        await cluster.lag(0, 3.0)
        lagging = node.servers[1]
        for number in range(100):
            await node.write(PUT, "a", str(number), identity_width=1, echo=1)
            rows = await asyncio.gather(*(node.read(GET, "a") for _ in range(5)))
            assert {row["value"] for row in rows} == {str(number)}

        assert lagging.is_late
        assert 0 < lagging.counts.late <= 30, "it was tried, and then left alone"
        assert not lagging.is_ill
        await cluster.lag(0, 0)
        await until(lambda: lagging in readers(node))


async def test_a_server_that_is_full_is_not_ill(cluster: Cluster) -> None:
    async with nodes_of(cluster, 1) as [node]:
        before = await ask(cluster.primary_superuser, "select rolconnlimit from pg_roles where rolname = current_user")
        role = cluster.primary.user
        await ask(cluster.primary_superuser, f"alter role {role} connection limit 1")
        try:
            await cluster.wait_caught_up()
            for server in node.servers:
                server.pool.abandon()
            outcomes = await asyncio.gather(*(node.read(GET, "a") for _ in range(3)), return_exceptions=True)
            await asyncio.sleep(NOTICED_S)

            assert all(outcome is None or isinstance(outcome, SeawallError) for outcome in outcomes)
            assert [server.is_ill for server in node.servers] == [False, False, False]
            assert sum(server.pool.counts.refused_by_server for server in node.servers) > 0
        finally:
            await ask(cluster.primary_superuser, f"alter role {role} connection limit {before}")
            await cluster.wait_caught_up()


async def test_with_all_replicas_gone_the_primary_answers(cluster: Cluster) -> None:
    async with nodes_of(cluster, 1) as [node]:
        await node.write(PUT, "a", "1", identity_width=1, echo=1)
        await cluster.kill(0)
        await cluster.kill(1)

        rows = [await node.read(GET, "a") for _ in range(100)]
        await until(lambda: len(readers(node)) == 0)
        rows += [await node.read(GET, "a") for _ in range(100)]

        assert {row["value"] for row in rows} == {"1"}
        assert STALENESS.get() == 0.0
