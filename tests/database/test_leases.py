import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

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
    ) -> None:
        self.demand = demand
        self.refused = 0
        self.open: list[asyncpg.Connection[asyncpg.Record]] = []
        self._endpoint = endpoint
        self._name = name
        self._heard = heard
        self.closes: Callable[[], Awaitable[None]] | None = None
        self.lease = Lease(
            endpoint,
            name=name,
            demand=lambda: self.demand,
            resize=self._resize,
            deadline_s=monotonic_s() + 10.0,
            settings=settings,
        )
        self.running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Holder":
        await self.lease.__aenter__()
        self.running = asyncio.create_task(self.lease.run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self.running is not None
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running
        await self.lease.__aexit__(None, None, None)
        assert not self.open

    async def _resize(self, size: int) -> None:
        self._heard(size)
        if size < len(self.open) and self.closes is not None:
            await self.closes()
        while len(self.open) > size:
            await self.open.pop().close(timeout=2.0)
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
