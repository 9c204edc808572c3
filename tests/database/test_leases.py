import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from tests.database.cluster import Cluster, ask, processes_of

from seawall.clock import monotonic_s
from seawall.database import leases
from seawall.database.endpoint import Endpoint
from seawall.database.leases import Lease, LeaseSettings
from seawall.database.local_server import LocalServer, LocalServerSettings
from seawall.database.migrations import migrate
from seawall.errors import DatabaseDown, Misconfigured, Unavailable

MIB = 1024 * 1024
MAX_CONNECTIONS = 40
RESERVED = 3 + 5
USABLE = MAX_CONNECTIONS - RESERVED
ALLOWED = USABLE - 4
STRANGER = "stranger"

# Times long enough for a busy machine with two cores, and short enough for a test.
QUICK = LeaseSettings(ttl_s=2.0, renew_s=0.4, margin_s=0.5, eager_s=0.1, nodes_max=2)
LETS_OTHERS_IN_S = QUICK.ttl_s + QUICK.renew_s

OURS = """
    select
        count(*) filter (where ours) as ours,
        count(*) filter (where not ours) - 1 as foreign,
        (select coalesce(sum(granted), 0) from connection_leases where expires_at > clock_timestamp()) as granted
    from (
        select usename = 'seawall' and application_name like 'seawall %' as ours
        from pg_stat_activity where backend_type = 'client backend' and usename is not null
    )
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small_server(open_directory: Callable[[], Path]) -> AsyncIterator[LocalServer]:
    """A PostgreSQL with few connections, and another program's role."""
    extra = {"max_connections": str(MAX_CONNECTIONS), "fsync": "off", "autovacuum": "off"}
    chosen = LocalServerSettings(data_dir=open_directory() / "data", memory_bytes=512 * MIB, extra=extra)
    async with LocalServer(chosen) as server:
        await migrate(server.service)
        async with administrator_of(server) as administrator:
            await administrator.execute(f"create role {STRANGER} login password '{STRANGER}'")
        yield server


@pytest.fixture
async def server(small_server: LocalServer) -> AsyncIterator[LocalServer]:
    """The same, with nobody there, and nobody left of ours when the test is over."""
    yield small_server
    async with administrator_of(small_server) as administrator:
        await administrator.execute(
            "select pg_terminate_backend(pid, 2000) from pg_stat_activity "
            "where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        await administrator.execute("delete from connection_leases")


@asynccontextmanager
async def administrator_of(server: LocalServer) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(**server.superuser.connect_arguments())
    try:
        yield connection
    finally:
        await connection.close()


class Holder:
    """A node that really opens every connection it may have. State: those connections, and what it was told."""

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        *,
        demand: int,
        settings: LeaseSettings = QUICK,
        heard: Callable[[int], None] = lambda _size: None,
        table: Callable[[], Lease] | None = None,
        beside: int = 1,
        optional: bool = False,
        within_s: float = 10.0,
    ) -> None:
        self.demand = demand
        self.refused = 0
        self.open: list[asyncpg.Connection[asyncpg.Record]] = []
        self._endpoint = endpoint
        self._name = name
        self._heard = heard
        self._beside = [f"seawall {name} check"] * (beside - 1)
        self._others: list[asyncpg.Connection[asyncpg.Record]] = []
        self.closes: Callable[[], Awaitable[None]] | None = None
        self.lease = Lease(
            endpoint,
            name=name,
            demand=lambda: self.demand,
            resize=self._resize,
            deadline_s=monotonic_s() + within_s,
            settings=settings,
            table=table,
            beside=beside,
            optional=optional,
        )
        self.running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Holder":
        for words in self._beside:
            named = {"application_name": words}
            self._others.append(await asyncpg.connect(**self._endpoint.connect_arguments(), server_settings=named))
        await self.lease.__aenter__()
        self.running = asyncio.create_task(self.lease.run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self.running is not None
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running
        for connection in self._others:
            await connection.close(timeout=2.0)
        await self.lease.__aexit__(None, None, None)
        assert not self.open

    async def _resize(self, size: int) -> None:
        self._heard(size)
        if size < len(self.open) and self.closes is not None:
            await self.closes()
        surplus = [self.open.pop() for _ in range(len(self.open) - size)]
        await asyncio.gather(*(connection.close(timeout=2.0) for connection in surplus))
        while len(self.open) < size:
            try:
                raw = await asyncpg.connect(
                    **self._endpoint.connect_arguments(), server_settings={"application_name": f"seawall {self._name}"}
                )
            except asyncpg.TooManyConnectionsError:
                self.refused += 1
                raise
            self.open.append(raw)


class Watcher:
    """Looks at the server all the time. State: the most it has seen, and what was allowed of late."""

    def __init__(self, *, follows_in_s: float) -> None:
        self.samples = 0
        self.most_open = 0
        self.most_granted = 0
        self.most_foreign = 0
        self.least_allowed = ALLOWED
        self._follows_in_s = follows_in_s
        self._allowed: deque[tuple[float, int]] = deque()

    async def watch(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        while True:
            row = await connection.fetchrow(OURS)
            assert row is not None
            now_s = monotonic_s()
            allowed = min(ALLOWED, USABLE - row["foreign"])
            self._allowed.append((now_s, allowed))
            while self._allowed[0][0] < now_s - self._follows_in_s:
                self._allowed.popleft()
            self.samples += 1
            self.most_open = max(self.most_open, row["ours"])
            self.most_granted = max(self.most_granted, row["granted"])
            self.most_foreign = max(self.most_foreign, row["foreign"])
            self.least_allowed = min(self.least_allowed, allowed)
            assert row["ours"] <= ALLOWED, f"{row} against {ALLOWED}"
            assert row["granted"] <= ALLOWED, f"{row} against {ALLOWED}"
            # Nobody can close connections before it knows that others came.
            assert row["ours"] <= max(allowed for _, allowed in self._allowed), f"{row} after {self._allowed}"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def watched(server: LocalServer, *, follows_in_s: float = LETS_OTHERS_IN_S) -> AsyncIterator[Watcher]:
    """Fail when more was ever open or granted than was allowed."""
    watcher = Watcher(follows_in_s=follows_in_s)
    async with administrator_of(server) as administrator:
        task = asyncio.create_task(watcher.watch(administrator))
        try:
            yield watcher
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    assert watcher.samples > 5


async def eventually(condition: Callable[[], bool], *, within_s: float = 15.0) -> float:
    """Wait until it holds; return how long that took."""
    started_s = monotonic_s()
    while not condition():
        assert monotonic_s() < started_s + within_s, "it never came to hold"
        await asyncio.sleep(0.01)
    return monotonic_s() - started_s


async def other_program(endpoint: Endpoint, *, most: int, refusals: list[str]) -> None:
    """Take connections and release them, one at a time, at random, for ever."""
    chance = random.Random(most)
    held: list[asyncpg.Connection[asyncpg.Record]] = []
    try:
        while True:
            if held and (len(held) == most or chance.random() < 0.4):
                await held.pop().close(timeout=2.0)
            else:
                try:
                    held.append(
                        await asyncpg.connect(
                            **endpoint.connect_arguments(), server_settings={"application_name": "psql"}
                        )
                    )
                except asyncpg.TooManyConnectionsError as error:
                    refusals.append(str(error))
            await asyncio.sleep(chance.uniform(0.02, 0.1))
    finally:
        for connection in held:
            connection.terminate()


# The fleet.


async def test_the_fleet_grows_and_shrinks_beside_another_program_and_nobody_of_it_is_ever_refused(
    server: LocalServer,
) -> None:
    chosen = replace(QUICK, nodes_max=12, keeper_connections=3)
    stranger = replace(server.service, user=STRANGER, password=STRANGER)
    refusals: list[str] = []
    async with watched(server) as watcher, AsyncExitStack() as stack:
        first = await stack.enter_async_context(Holder(server.service, "n-1", demand=50, settings=chosen))
        await eventually(lambda: len(first.open) == first.lease.granted - 1 == ALLOWED - 11 - 1)

        others = [
            asyncio.create_task(other_program(stranger, most=5, refusals=refusals)),
            asyncio.create_task(other_program(server.service, most=3, refusals=refusals)),
        ]
        await asyncio.sleep(1.0)
        rest = [Holder(server.service, f"n-{number}", demand=50, settings=chosen) for number in range(2, 13)]
        await asyncio.gather(*(holder.__aenter__() for holder in rest))
        holders = [first, *rest]
        await eventually(lambda: all(holder.lease.held for holder in holders))
        for _ in range(6):  # demands change, and the other program does not rest
            for holder in random.sample(holders, 4):
                holder.demand = random.choice([0, 1, 2, 5, 50])
            await asyncio.sleep(0.5)
        assert all(holder.lease.held for holder in holders)

        first.demand = 50
        for holder in rest:
            await holder.__aexit__()
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await eventually(lambda: len(first.open) == ALLOWED - 11 - 1)

        assert [holder.refused for holder in holders] == [0] * 12
    assert watcher.most_open > 20
    assert watcher.most_granted > 20
    assert watcher.most_foreign >= 5
    assert watcher.least_allowed < ALLOWED


async def test_a_node_makes_room_for_another_before_that_one_grows(server: LocalServer) -> None:
    async with watched(server), Holder(server.service, "n-1", demand=50) as first:
        await eventually(lambda: len(first.open) == ALLOWED - 1 - 1)
        may_close = asyncio.Event()

        async def wait() -> None:
            await asyncio.wait_for(may_close.wait(), 20)

        first.closes = wait

        async with Holder(server.service, "n-2", demand=50) as second:
            await asyncio.sleep(QUICK.ttl_s)  # closing takes longer than a lease, which is renewed meanwhile
            assert (first.lease.held, first.lease.granted, first.lease.share) == (True, ALLOWED - 1, ALLOWED // 2)
            assert (second.lease.held, second.lease.granted) == (False, 1)

            may_close.set()
            took_s = await eventually(lambda: len(second.open) == ALLOWED // 2 - 1)
            assert took_s < QUICK.renew_s + 1.0
            assert len(first.open) == ALLOWED // 2 - 1

        await eventually(lambda: len(first.open) == ALLOWED - 1 - 1)


async def test_nodes_make_room_for_other_programs_too(server: LocalServer) -> None:
    stranger = replace(server.service, user=STRANGER, password=STRANGER)
    async with Holder(server.service, "n-1", demand=50, settings=replace(QUICK, nodes_max=1)) as only:
        await eventually(lambda: len(only.open) == ALLOWED - 1)
        only.demand = 9
        await eventually(lambda: len(only.open) == 9)
        held = [await asyncpg.connect(**stranger.connect_arguments()) for _ in range(20)]

        only.demand = 50
        await eventually(lambda: only.lease.granted == USABLE - 20)
        await asyncio.sleep(2 * QUICK.renew_s)
        assert len(only.open) == USABLE - 20 - 1

        for connection in held:
            await connection.close()
        await eventually(lambda: len(only.open) == ALLOWED - 1)


async def test_a_node_starts_on_a_server_that_is_its_own_and_leaves_nothing_behind(server: LocalServer) -> None:
    async with Holder(server.service, "n-1", demand=3) as holder:
        assert (holder.lease.held, holder.lease.granted) == (True, 4)
        assert "4 granted" in repr(holder.lease)

    assert (holder.lease.held, holder.lease.granted) == (False, 0)
    async with administrator_of(server) as administrator:
        row = await administrator.fetchrow(OURS)
        assert row is not None
        assert (row["ours"], row["granted"]) == (0, 0)


# Nodes that die, pause, or are cut off.


async def test_what_a_killed_node_had_is_free_when_its_lease_ends_and_not_before(server: LocalServer) -> None:
    async with watched(server), Holder(server.service, "n-1", demand=50) as survivor:
        node = await start_node(server.service, "n-2")
        try:
            await eventually(lambda: len(survivor.open) == ALLOWED // 2 - 1)
            await node.hears(ALLOWED // 2 - 1)

            node.process.kill()
            await node.process.wait()

            took_s = await eventually(lambda: len(survivor.open) == ALLOWED - 1 - 1)
            assert QUICK.ttl_s - QUICK.renew_s - 0.1 < took_s < LETS_OTHERS_IN_S + 1.5
        finally:
            await node.end()


async def test_what_a_paused_node_has_open_counts_after_its_lease_and_it_closes_it_before_anything_else(
    server: LocalServer,
) -> None:
    async with watched(server), Holder(server.service, "n-1", demand=50) as survivor:
        node = await start_node(server.service, "n-2")
        try:
            await node.hears(ALLOWED // 2 - 1)
            async with administrator_of(server) as administrator:
                opened = "select count(*) from pg_stat_activity where application_name = 'seawall n-2'"
                while await administrator.fetchval(opened) < ALLOWED // 2 - 1:
                    await asyncio.sleep(0.05)
                node.process.send_signal(signal.SIGSTOP)
                while await administrator.fetchval(
                    "select true from connection_leases where node = 'n-2' and expires_at > clock_timestamp()"
                ):
                    await asyncio.sleep(0.05)
            await asyncio.sleep(2 * QUICK.renew_s)
            assert len(survivor.open) == ALLOWED // 2 - 1

            node.process.send_signal(signal.SIGCONT)
            assert await node.hears() == 0
            await node.hears(ALLOWED // 2 - 1)
        finally:
            await node.end()


async def test_a_node_that_cannot_renew_gives_up_before_others_may_have_what_it_had(server: LocalServer) -> None:
    told: list[tuple[float, int]] = []
    holder = Holder(server.service, "n-1", demand=5, heard=lambda size: told.append((monotonic_s(), size)))
    async with holder, administrator_of(server) as administrator:
        async with administrator.transaction():
            number = leases._lock_number(f"{server.service.host}:{server.service.port}")
            await administrator.execute(f"select pg_advisory_xact_lock({leases.LOCK_CLASS}, {number})")
            locked_s = monotonic_s()

            await eventually(lambda: not holder.open)
            gone_s = monotonic_s()
            ends_in_s = await administrator.fetchval(
                "select extract(epoch from expires_at - clock_timestamp())::float from connection_leases"
            )

            assert not holder.lease.held
            assert holder.lease.granted == 0
            assert told[-1][1] == 0
            assert ends_in_s > 0, "others could have had it already"
            assert gone_s - locked_s < QUICK.ttl_s - QUICK.margin_s + 0.3

        await eventually(lambda: len(holder.open) == 5)
        assert holder.lease.held


async def test_a_node_paused_in_the_middle_of_a_decision_does_not_keep_others_from_renewing(
    server: LocalServer,
) -> None:
    async with Holder(server.service, "n-1", demand=3) as holder:
        other = Holder(server.service, "n-2", demand=3)
        raw = await other.lease._connected()
        await raw.execute("begin")
        await leases._fetch(
            raw, "decide_alone", leases.LOCK_CLASS, leases._lock_number(f"{server.service.host}:{server.service.port}")
        )

        for _ in range(int(QUICK.ttl_s / 0.05)):
            assert holder.lease.held
            await asyncio.sleep(0.05)
        other.lease._drop()


async def test_a_lost_connection_is_replaced_and_the_lease_held_all_the_time(server: LocalServer) -> None:
    async with Holder(server.service, "n-1", demand=3) as holder, administrator_of(server) as administrator:
        for _ in range(3):
            ended = await administrator.fetchval(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'seawall n-1 lease'"
            )
            assert ended
            for _ in range(10):
                await asyncio.sleep(0.05)
                assert holder.lease.held
            await eventually(lambda: holder.lease.failure is None)

        assert len(holder.open) == 3


async def test_a_lease_that_was_lost_is_taken_again_where_there_is_room_without_closing_anything(
    server: LocalServer,
) -> None:
    told: list[int] = []
    async with Holder(server.service, "n-1", demand=5, heard=told.append) as holder:
        async with administrator_of(server) as administrator:
            await administrator.execute("delete from connection_leases")
            while not await administrator.fetchval("select granted from connection_leases"):
                await asyncio.sleep(0.02)
            assert await administrator.fetchval("select granted from connection_leases") == 6

        assert holder.lease.held
        assert told == [5]


async def test_a_lease_that_was_lost_to_others_is_given_up_before_another_is_asked_for(server: LocalServer) -> None:
    told: list[int] = []
    async with Holder(server.service, "n-1", demand=20, heard=told.append) as holder:
        async with administrator_of(server) as administrator, administrator.transaction():
            await administrator.execute("update connection_leases set node = 'n-9', incarnation = gen_random_uuid()")
        await eventually(lambda: 0 in told)

        await eventually(lambda: len(holder.open) > 0, within_s=QUICK.ttl_s + 3.0)


async def test_a_pool_that_cannot_be_resized_is_told_again(server: LocalServer) -> None:
    async with Holder(server.service, "n-1", demand=5) as holder:
        failures = [DatabaseDown(), OSError("reset"), Unavailable()]

        async def fail() -> None:
            if failures:
                raise failures.pop()

        holder.closes = fail
        holder.demand = 2
        await eventually(lambda: len(holder.open) == 2)

        assert not failures
        assert holder.lease.held


async def test_a_pool_that_could_not_be_emptied_is_filled_again_once_there_is_a_lease(server: LocalServer) -> None:
    async with Holder(server.service, "n-1", demand=5) as holder, administrator_of(server) as administrator:

        async def fail() -> None:
            holder.closes = None
            for connection in holder.open:
                connection.terminate()
            holder.open.clear()
            raise OSError("reset")

        holder.closes = fail
        async with administrator.transaction():
            number = leases._lock_number(f"{server.service.host}:{server.service.port}")
            await administrator.execute(f"select pg_advisory_xact_lock({leases.LOCK_CLASS}, {number})")
            await eventually(lambda: not holder.open)
            assert not holder.lease.held

        await eventually(lambda: len(holder.open) == 5)


async def test_a_lease_of_which_only_an_older_state_is_known_counts_for_what_it_is(server: LocalServer) -> None:
    """As after a promotion: what is known of it may be from before it grew."""
    told: list[int] = []
    holder = Holder(server.service, "n-1", demand=20, heard=told.append)
    async with holder, administrator_of(server) as administrator:
        await administrator.execute("update connection_leases set granted = 3")
        while await administrator.fetchval("select granted from connection_leases") != 21:
            await asyncio.sleep(0.02)
        assert told == [20], "there was room"

        async with administrator.transaction():
            await administrator.execute("update connection_leases set granted = 3")
            await administrator.execute(
                "insert into connection_leases (endpoint, node, incarnation, weight, demand, share, granted, "
                "expires_at) select endpoint, 'n-9', gen_random_uuid(), 1, 18, 18, 18, "
                "clock_timestamp() + interval '2 seconds' from connection_leases"
            )
        await eventually(lambda: 0 in told)
        await eventually(lambda: len(holder.open) == 20)


async def test_a_server_that_freezes_in_the_middle_of_a_decision_does_not_keep_a_node_from_giving_up(
    open_directory: Callable[[], Path],
) -> None:
    async with Cluster(open_directory(), replicas=1) as cluster:
        await migrate(cluster.primary)
        holder = Holder(cluster.primary, "n-1", demand=5)
        await holder.__aenter__()
        await eventually(lambda: len(holder.open) == 5)
        async with decisions_held_up(cluster, cluster.primary):
            await somebody_waits_to_decide(cluster)
            processes = processes_of(cluster._primary_data)
            for pid in processes:
                os.kill(pid, signal.SIGSTOP)
            try:
                took_s = await eventually(lambda: not holder.open)
                assert took_s < QUICK.ttl_s - QUICK.margin_s + 0.5
                assert holder.lease.granted == 0
            finally:
                for pid in processes:
                    with suppress(ProcessLookupError):  # One that was ending anyway.
                        os.kill(pid, signal.SIGCONT)
        await eventually(lambda: len(holder.open) == 5)
        await holder.__aexit__()


@asynccontextmanager
async def decisions_held_up(cluster: Cluster, endpoint: Endpoint) -> AsyncIterator[None]:
    """Let nobody decide about a server for the length of the block."""
    raw = await asyncpg.connect(**cluster.primary_superuser.connect_arguments())
    try:
        number = leases._lock_number(f"{endpoint.host}:{endpoint.port}")
        await raw.execute("select pg_advisory_lock($1::integer, $2::integer)", leases.LOCK_CLASS, number)
        yield
    finally:
        await raw.close(timeout=5.0)


async def somebody_waits_to_decide(cluster: Cluster) -> None:
    waiting = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
    async with asyncio.timeout(10):
        while not await ask(cluster.primary_superuser, waiting):
            await asyncio.sleep(0.01)


async def test_what_a_node_has_beside_its_pool_is_part_of_its_lease_and_kept_for_who_is_to_come(
    server: LocalServer,
) -> None:
    chosen = replace(QUICK, nodes_max=3)
    async with AsyncExitStack() as stack:
        watcher = await stack.enter_async_context(watched(server))
        first = await stack.enter_async_context(Holder(server.service, "n-1", demand=50, settings=chosen, beside=2))
        await eventually(lambda: len(first.open) == ALLOWED - 2 * 2 - 2)
        assert first.lease.granted == ALLOWED - 2 * 2

        second = await stack.enter_async_context(Holder(server.service, "n-2", demand=50, settings=chosen, beside=2))
        await eventually(lambda: len(second.open) == (ALLOWED - 2) // 2 - 2)
        assert first.lease.granted == second.lease.granted == (ALLOWED - 2) // 2
        first.demand = 0
        await eventually(lambda: (len(first.open), first.lease.granted) == (1, 3))
        assert first.lease.held
        assert watcher.most_granted <= ALLOWED - 2


async def test_a_lease_without_a_connection_of_its_own_is_refused(server: LocalServer) -> None:
    with pytest.raises(ValueError, match="is beside the pool's"):
        Holder(server.service, "n-1", demand=3, beside=0)


# Replicas.

PATIENT = LeaseSettings(ttl_s=4.0, renew_s=0.5, margin_s=1.2, eager_s=0.1, nodes_max=3)
FEW = {"max_connections": "40"}
SEEN = """
    select application_name, count(*)
    from pg_stat_activity
    where backend_type = 'client backend' and usename = 'seawall' and application_name like 'seawall n-%'
    group by 1
"""


class FleetNode:
    """A node with a lease for each member of a cluster. State: those, and which member it believes takes writes."""

    def __init__(
        self, cluster: Cluster, name: str, *, demand: int, settings: LeaseSettings = PATIENT, optional: bool = True
    ) -> None:
        self.writer = 0
        self.told: list[list[int]] = [[] for _ in cluster.endpoints]
        self.holders = [
            Holder(
                endpoint,
                name,
                demand=demand,
                settings=settings,
                heard=self.told[place].append,
                table=lambda: self.holders[self.writer].lease,
                optional=optional and place > 0,
                within_s=2.0 if place else 10.0,
            )
            for place, endpoint in enumerate(cluster.endpoints)
        ]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "FleetNode":
        for holder in self.holders:
            await self._stack.enter_async_context(holder)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    @property
    def open(self) -> list[int]:
        return [len(holder.open) for holder in self.holders]

    @property
    def held(self) -> list[bool]:
        return [holder.lease.held for holder in self.holders]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small_cluster(open_directory: Callable[[], Path]) -> AsyncIterator[Cluster]:
    """A primary and two replicas with few connections each."""
    async with Cluster(open_directory(), extra=FEW) as cluster:
        await migrate(cluster.primary)
        await ask(cluster.primary_superuser, f"create role {STRANGER} login password '{STRANGER}'")
        await cluster.wait_caught_up()
        yield cluster


@pytest.fixture
async def few(small_cluster: Cluster) -> AsyncIterator[Cluster]:
    """The same; when the test is over, every lease was given back or has ended, and nothing of ours is connected."""
    yield small_cluster
    await small_cluster.heal()
    await nothing_is_left(small_cluster)


async def nothing_is_left(cluster: Cluster, *, places: Sequence[int] = (0, 1, 2)) -> None:
    kept = "select count(*) from connection_leases where expires_at > clock_timestamp()"
    # A node that had no time to give its share back lets it end.
    async with asyncio.timeout(15):
        while await ask(cluster.primary, kept):
            await asyncio.sleep(0.1)
    for place in places:
        async with asyncio.timeout(10):
            while await seen(cluster, place):
                await asyncio.sleep(0.02)


async def seen(cluster: Cluster, place: int) -> dict[str, int]:
    """Return how many connections of nodes a member has, by what they call themselves."""
    async with asyncio.timeout(10):
        raw = await asyncpg.connect(**cluster.superusers[place].connect_arguments())
        try:
            return {row["application_name"]: row["count"] for row in await raw.fetch(SEEN)}
        finally:
            await raw.close()


async def test_leases_for_a_replica_are_decided_through_the_primary_and_count_who_is_on_the_replica(
    few: Cluster,
) -> None:
    stranger = replace(few.replica(0), user=STRANGER, password=STRANGER)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(FleetNode(few, f"n-{n}", demand=50)) for n in (1, 2)]
        half = (ALLOWED - 1) // 2
        await eventually(
            lambda: all(sorted(node.open[place] for node in nodes) == [half - 1, half] for place in range(3))
        )

        for node in nodes:
            node.holders[1].demand = 3
        await eventually(lambda: [node.open[1] for node in nodes] == [3, 3])
        held = [await asyncpg.connect(**stranger.connect_arguments()) for _ in range(USABLE - 12)]
        for connection in held:
            stack.push_async_callback(connection.close)  # once more does no harm
        for node in nodes:
            node.holders[1].demand = 50
        # All that the strangers left: nothing is kept for a node that is not there.
        await eventually(lambda: sum(node.open[1] for node in nodes) + 2 == 12)

        assert [sum(node.open[place] for node in nodes) + 2 for place in (0, 2)] == [ALLOWED - 1] * 2
        assert all(all(node.held) for node in nodes)
        assert [holder.refused for node in nodes for holder in node.holders] == [0] * 6
        for place in (0, 1, 2):
            backends = await seen(few, place)
            for number, node in enumerate(nodes, 1):
                assert backends[f"seawall n-{number} lease"] == 1
                assert backends[f"seawall n-{number}"] == node.open[place]

        for connection in held:
            await connection.close()
        await eventually(lambda: sum(node.open[1] for node in nodes) + 2 == ALLOWED - 1)


async def test_leases_of_many_nodes_for_many_servers_are_held_without_a_break(few: Cluster) -> None:
    chosen = replace(PATIENT, nodes_max=6)
    async with AsyncExitStack() as stack:
        nodes = [FleetNode(few, f"n-{number}", demand=50, settings=chosen) for number in range(6)]
        await asyncio.gather(*(stack.enter_async_context(node) for node in nodes))
        await eventually(lambda: all(all(node.held) for node in nodes))
        for node in nodes:
            node.told = [[]] * 3
        for _ in range(60):
            for node in random.sample(nodes, 2):
                random.choice(node.holders).demand = random.choice([0, 1, 3, 50])
            await asyncio.sleep(0.05)
            assert all(all(node.held) for node in nodes)
        assert [holder.refused for node in nodes for holder in node.holders] == [0] * 18


@pytest.mark.parametrize("hurt", ["pause", "kill"])
async def test_the_lease_for_a_replica_that_does_not_answer_is_given_up_and_comes_back_and_no_other_notices(
    few: Cluster, hurt: str
) -> None:
    # Renewals may take longer than a transaction may be idle: who waits for the replica must not be in one.
    chosen = replace(PATIENT, ttl_s=6.0, renew_s=1.5)
    async with FleetNode(few, "n-1", demand=4, settings=chosen) as node:
        await eventually(lambda: node.open == [4, 4, 4])
        connections = [node.holders[place].lease._raw for place in (0, 2)]

        await (few.pause(0) if hurt == "pause" else few.kill(0))
        hurt_s = monotonic_s()
        while node.holders[1].lease.granted or node.open[1]:
            assert monotonic_s() < hurt_s + chosen.ttl_s + 1.0
            assert [node.held[0], node.held[2]] == [True, True]
            await asyncio.sleep(0.02)
        left = "select count(*) from connection_leases where expires_at > clock_timestamp()"
        async with asyncio.timeout(chosen.ttl_s):
            while await ask(few.primary, left) != 2:
                assert [node.held[0], node.held[2]] == [True, True]
                await asyncio.sleep(0.02)

        await (few.resume(0) if hurt == "pause" else few.restart(0))
        await eventually(lambda: all(node.held) and node.open == [4, 4, 4])
        assert [node.holders[place].lease._raw for place in (0, 2)] == connections
        assert node.told[0] == node.told[2] == [4]


async def test_a_replica_that_commits_wait_for_does_not_end_the_leases_when_it_is_paused(
    synchronous_cluster: Cluster,
) -> None:
    await migrate(synchronous_cluster.primary)
    async with FleetNode(synchronous_cluster, "n-1", demand=4) as node:
        await eventually(lambda: node.open == [4, 4, 4])
        await synchronous_cluster.pause(1)
        paused_s = monotonic_s()
        while monotonic_s() < paused_s + 1.5 * PATIENT.ttl_s:
            assert [node.held[0], node.held[1]] == [True, True]
            await asyncio.sleep(0.05)
        assert not node.held[2]
        await synchronous_cluster.resume(1)
        await eventually(lambda: all(node.held))
    await synchronous_cluster.wait_caught_up()
    await nothing_is_left(synchronous_cluster)


async def test_a_node_starts_without_a_replica_that_is_away_and_takes_its_lease_once_it_is_back(
    few: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    await few.kill(1)
    async with FleetNode(few, "n-1", demand=4) as node:
        assert node.held == [True, True, False]
        assert node.open == [4, 4, 0]
        assert [record.message for record in caplog.records].count("lease.not_taken") == 1

        await few.restart(1)
        await eventually(lambda: all(node.held) and node.open == [4, 4, 4])


async def test_a_server_the_node_cannot_do_without_is_not_optional(few: Cluster) -> None:
    await few.kill(1)
    node = FleetNode(few, "n-1", demand=4, optional=False)
    with pytest.raises(DatabaseDown, match="cannot be reached by n-1"):
        await node.__aenter__()
    await node.__aexit__()


async def test_what_cannot_work_is_told_once_where_the_server_is_optional_and_nothing_is_held(
    server: LocalServer, caplog: pytest.LogCaptureFixture
) -> None:
    holder = Holder(server.service, "n-1", demand=4, settings=replace(QUICK, nodes_max=15), optional=True)
    async with holder:
        await asyncio.sleep(4 * QUICK.renew_s)
        told = [record.__dict__["why"] for record in caplog.records if record.message == "lease.misconfigured"]
        assert (holder.lease.held, holder.lease.granted, holder.open) == (False, 0, [])
        assert len(told) == 1
        assert "run at most 14 nodes" in told[0]
        async with administrator_of(server) as administrator:
            assert await administrator.fetchval("select count(*) from connection_leases") == 0


async def test_the_lease_for_a_replica_waits_for_a_connection_to_where_leases_are_kept(few: Cluster) -> None:
    async with FleetNode(few, "n-1", demand=4) as node:
        replica = node.holders[1].lease
        raw = node.holders[0].lease._raw
        assert raw is not None
        raw.terminate()
        with pytest.raises(ConnectionError, match="no connection now"):
            await replica._ask()

        await eventually(lambda: node.holders[0].lease._raw is not raw)
        for _ in range(40):
            assert all(node.held)
            await asyncio.sleep(0.05)
        assert replica.failure is None


async def test_a_lease_that_is_cancelled_while_it_waits_to_decide_ends_its_transaction_and_nothing_else(
    few: Cluster,
) -> None:
    node = FleetNode(few, "n-1", demand=4)
    for holder in node.holders:
        await holder.lease.__aenter__()
    primary, replica = node.holders[0].lease, node.holders[1].lease
    raw = primary._raw
    assert raw is not None
    for _ in range(3):
        async with decisions_held_up(few, few.replica(0)):
            asking = asyncio.create_task(replica._ask())
            await somebody_waits_to_decide(few)
            asking.cancel()
            await asyncio.wait([asking], timeout=5)
            assert asking.cancelled()
            assert not raw.is_in_transaction()
            async with asyncio.timeout(5):
                await primary._ask()
    assert primary._raw is raw
    assert not raw.is_closed()
    for holder in reversed(node.holders):
        await holder.lease.__aexit__(None, None, None)


async def test_leases_of_one_node_take_turns_on_the_connection_they_share(few: Cluster) -> None:
    node = FleetNode(few, "n-1", demand=4)
    for holder in node.holders:
        await holder.lease.__aenter__()
    async with decisions_held_up(few, few.replica(0)):
        asking = [asyncio.create_task(node.holders[1].lease._ask())]
        await somebody_waits_to_decide(few)
        asking += [asyncio.create_task(node.holders[place].lease._ask()) for place in (0, 2)]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in asking)
    async with asyncio.timeout(5):
        await asyncio.gather(*asking)
    for holder in reversed(node.holders):
        await holder.lease.__aexit__(None, None, None)


async def test_a_replica_that_does_not_answer_is_not_waited_for_by_who_needs_the_primary(few: Cluster) -> None:
    node = FleetNode(few, "n-1", demand=4)
    for holder in node.holders:
        await holder.lease.__aenter__()
    primary, replica = node.holders[0].lease, node.holders[1].lease
    raw = primary._raw
    # It froze in the middle of a decision: only for a moment.
    async with decisions_held_up(few, few.replica(0)):
        asking = asyncio.create_task(replica._ask())
        await somebody_waits_to_decide(few)
        await few.pause(0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asking, 5)
    assert not primary._turn.locked()
    async with asyncio.timeout(5):
        await primary._ask()
    assert primary._raw is raw

    # It froze before: nobody else hears of it.
    await few.resume(0)
    async with asyncio.timeout(5):
        await replica._ask()
    await few.pause(0)
    asking = asyncio.create_task(replica._ask())
    for _ in range(20):
        await asyncio.sleep(0.02)
        assert not primary._turn.locked()
    assert not asking.done()
    asking.cancel()
    await asyncio.wait([asking], timeout=5)
    await few.resume(0)
    for holder in reversed(node.holders):
        await holder.lease.__aexit__(None, None, None)


async def test_cancelled_anywhere_a_lease_leaves_the_others_connection_usable_or_closed(few: Cluster) -> None:
    node = FleetNode(few, "n-1", demand=4)
    for holder in node.holders:
        await holder.lease.__aenter__()
    primary, replica = node.holders[0].lease, node.holders[1].lease
    kept = 0
    for step in range(60):
        asking = asyncio.create_task(replica._ask())
        await asyncio.sleep(step / 5000)
        asking.cancel()
        await asyncio.wait([asking], timeout=5)
        assert asking.done()
        raw = primary._raw
        assert raw is not None
        if not raw.is_closed():
            kept += 1
            assert not raw.is_in_transaction()
        async with asyncio.timeout(5):
            await primary._ask()
            await replica._ask()
    assert kept > 10
    assert await ask(few.primary, "select count(*) from pg_locks where locktype = 'advisory'") == 0
    for holder in reversed(node.holders):
        await holder.lease.__aexit__(None, None, None)


async def test_after_a_failover_leases_go_on_through_the_new_primary(open_directory: Callable[[], Path]) -> None:
    async with Cluster(open_directory(), extra=FEW) as cluster:
        await migrate(cluster.primary)
        await cluster.wait_caught_up()
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(FleetNode(cluster, f"n-{n}", demand=50)) for n in (1, 2)]
            await eventually(lambda: all(min(node.open) > 10 for node in nodes))
            # The last the replica heard of is a while ago.
            await cluster.kill_primary()
            await cluster.promote(0)
            promoted_s = monotonic_s()
            for node in nodes:
                node.writer = 1

            def go_on() -> bool:
                renewed = all(holder.lease.failure is None for node in nodes for holder in node.holders[1:])
                return renewed and all(node.held[1:] == [True, True] and min(node.open[1:]) > 10 for node in nodes)

            await eventually(go_on)
            assert monotonic_s() - promoted_s < 5.0
            kept = "select count(*) >= 4 from connection_leases where expires_at > clock_timestamp()"
            assert await ask(cluster.primary, kept)
            await eventually(lambda: all((node.held[0], node.open[0]) == (False, 0) for node in nodes))
            # Nobody can give back what was for the old primary: it ends.
            gone = "select count(*) = 4 from connection_leases where expires_at > clock_timestamp()"
            async with asyncio.timeout(PATIENT.ttl_s):
                while not await ask(cluster.primary, gone):
                    await asyncio.sleep(0.05)
            for place in (1, 2):
                assert sum((await seen(cluster, place)).values()) <= ALLOWED
        await nothing_is_left(cluster, places=(1, 2))


# Starting.


async def test_a_node_waits_for_a_place_on_a_full_server(server: LocalServer) -> None:
    everything = [await asyncpg.connect(**server.superuser.connect_arguments()) for _ in range(MAX_CONNECTIONS)]
    holder = Holder(server.service, "n-1", demand=3)
    starting = asyncio.create_task(holder.__aenter__())
    await asyncio.sleep(0.5)
    assert not starting.done()
    assert isinstance(holder.lease.failure, asyncpg.TooManyConnectionsError)

    for connection in everything:
        await connection.close()

    await asyncio.wait_for(starting, 5)
    await eventually(lambda: holder.lease.held)
    await holder.__aexit__()


async def test_a_server_that_stays_full_is_reported_in_a_sentence_and_in_time(server: LocalServer) -> None:
    everything = [await asyncpg.connect(**server.superuser.connect_arguments()) for _ in range(MAX_CONNECTIONS)]
    started_s = time.monotonic()

    with pytest.raises(DatabaseDown, match="accepts no more connections, and n-1 needs one"):
        await a_lease(server.service, within_s=0.7).__aenter__()

    assert time.monotonic() - started_s < 2.0
    for connection in everything:
        await connection.close()


async def test_a_database_that_is_away_is_reported_as_such(server: LocalServer) -> None:
    with pytest.raises(DatabaseDown, match="cannot be reached by n-1"):
        await a_lease(replace(server.service, port=1), within_s=0.3).__aenter__()


async def test_attempts_to_start_are_counted(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "CONNECTS_MAX", 3)
    started_s = time.monotonic()

    with pytest.raises(DatabaseDown):
        await a_lease(replace(server.service, port=1), within_s=60.0).__aenter__()

    assert time.monotonic() - started_s < 5.0


async def test_more_nodes_than_fit_are_refused_before_anything_is_leased(server: LocalServer) -> None:
    with pytest.raises(Misconfigured, match="run at most 14 nodes"):
        await a_lease(server.service, settings=replace(QUICK, nodes_max=15)).__aenter__()

    async with administrator_of(server) as administrator:
        assert await administrator.fetchval("select count(*) from connection_leases") == 0


async def test_the_administrator_is_no_role_for_the_service(server: LocalServer) -> None:
    with pytest.raises(Misconfigured, match="is a superuser"):
        await a_lease(server.superuser).__aenter__()


@pytest.mark.parametrize("name", ["", "node 1", "n" * 41, "knoten-ä", "node\n"])
async def test_a_name_that_could_not_be_told_from_others_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="one word"):
        a_lease(Endpoint(host="/nowhere", port=1, user="a", password="b", database="c"), name=name)


@pytest.mark.parametrize(
    "wrong", [{"renew_s": 8.0}, {"margin_s": 10.0}, {"eager_s": 0.0}, {"nodes_max": 0}, {"weight": 0}], ids=str
)
def test_times_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"lease of|there is a node"):
        LeaseSettings(**wrong)


def a_lease(endpoint: Endpoint, *, name: str = "n-1", settings: LeaseSettings = QUICK, within_s: float = 5.0) -> Lease:
    async def resize(size: int) -> None:
        assert size == 0, "nothing was granted"

    return Lease(
        endpoint,
        name=name,
        demand=lambda: 3,
        resize=resize,
        deadline_s=monotonic_s() + within_s,
        settings=settings,
    )


# A node in a process of its own: this file, run as a program. It says what it is told.


class Node:
    """State: the process, and how much of what it said was read."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def hears(self, wanted: int | None = None) -> int:
        """Return the next size it was told, or wait until it was told this one."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while True:
                line = await self.process.stdout.readline()
                assert line, "the node has ended"
                if wanted is None or int(line) == wanted:
                    return int(line)

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def start_node(endpoint: Endpoint, name: str) -> Node:
    return Node(
        await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__)), json.dumps(asdict(endpoint)), name),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    )


async def be_a_node(endpoint: Endpoint, name: str) -> None:
    def say(size: int) -> None:
        sys.stdout.write(f"{size}\n")
        sys.stdout.flush()

    async with Holder(endpoint, name, demand=50, heard=say):
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(be_a_node(Endpoint(**json.loads(sys.argv[1])), sys.argv[2]))
