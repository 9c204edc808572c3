"""Follow the primary, and let replicas answer what they can answer without anybody noticing.

Servers are found by what they say of themselves, every second. Whoever wants to write borrows a connection to the
server that takes writes now; when that changes, those who wait go over to the new one, and the connections to the
old one are broken, for what is under way there will not end well.

A read on a replica is as fresh as one on the primary (`read_index` says why that takes two conditions). A batch of
reads asks the primary for one read index, waits a moment for the replica to have replayed it, and hands on
to the primary what the replica cannot answer. A replica that is too slow or gone costs a little time and no error.

What remains is a primary that was cut off from us and the others, and does not know it: until a check has seen the
new one, a process may read what the old one shows. Who promotes servers must see to that the old one is stopped.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.batching import ELSEWHERE, Ask, Batcher, by_ordinal
from seawall.database.endpoint import Endpoint
from seawall.database.pool import CONNECTION_LOST, Connection
from seawall.database.queries import Query, load_queries
from seawall.database.read_index import ReadIndex
from seawall.database.servers import Marks, Server, Sighting, follows, primary_of, readers_of
from seawall.errors import DatabaseDown
from seawall.telemetry.purpose import Purpose, Urgency

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

QUERIES: Final = load_queries(__package__, "balancer.sql")
READ_INDEX: Final = QUERIES["read_index"]
REPLAYED: Final = QUERIES["replayed"]

CHECK_EVERY_S: Final = 1.0
CHECK_TIMEOUT_S: Final = 1.0
"""For all of a check, connecting included: a server that is frozen still accepts connections."""

CHECK_SLICES: Final = 10
"""In how many parts that time is counted; see `counting_idle_time`."""

REPLICA_PATIENCE_S: Final = 0.5
"""How long a replica may take to answer before the primary is asked instead."""

CATCH_UP_S: Final = 0.02
"""How long a read waits for a replica to replay what it must show. Replay follows within milliseconds, or lags."""

CATCH_UP_PAUSE_S: Final = 0.001

RETRY_PAUSE_S: Final = 0.05
"""Between two attempts to borrow a connection from a server that sent us away."""

INDEX_PURPOSE: Final = Purpose(route="read index", urgency=Urgency.CRITICAL)


class Balancer:
    """Knows the servers of one database. State: them, which takes writes, which answer reads.

    While the block is open, each server is checked over a connection of its own, `NAME check`.
    """

    def __init__(self, servers: Sequence[Server], *, application_name: str) -> None:
        self.servers = servers
        self.primary: Server | None = None
        self.readers: tuple[Server, ...] = ()
        self.failovers = 0
        self._name = f"{application_name} check"
        self._marks = Marks()
        self._changed = asyncio.Event()
        self._look_now = {server: asyncio.Event() for server in servers}
        self._index = Batcher(READ_INDEX, self, lanes=1, patience_s=REPLICA_PATIENCE_S)
        self._watching: list[asyncio.Task[None]] = []
        for server in servers:
            server.pool.on_failed_connect = lambda server=server: self._fail(server)

    def __repr__(self) -> str:
        return f"<Balancer {[*self.servers]!r}>"

    @property
    def is_headless(self) -> bool:
        """Whether no server is known that takes writes and is well."""
        return self.primary is None or self.primary.is_ill

    async def __aenter__(self) -> "Balancer":
        """Begin to check the servers."""
        for server in self.servers:
            self._watching.append(asyncio.create_task(self._watch(server), name=f"check {server.endpoint.name}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._index.close()
        for task in self._watching:
            task.cancel()
        await asyncio.wait(self._watching)

    # Writing, and whatever else needs the primary.

    @asynccontextmanager
    async def connection(
        self, *, deadline_s: float, query: Query | None = None, site: str = "", admitted_as: Purpose | None = None
    ) -> AsyncIterator[Connection]:
        """Lend a connection to the server that takes writes; see `Pool.connection`.

        Nothing is begun on it before it is lent, so who is sent away by one server can go to the next.

        Raises:
            DatabaseDown: no server was found in time that takes writes.
        """
        async with AsyncExitStack() as stack:
            while True:
                server = await self.wait_for_primary(deadline_s)
                try:
                    connection = await stack.enter_async_context(
                        server.pool.connection(deadline_s=deadline_s, query=query, site=site, admitted_as=admitted_as)
                    )
                    if self.primary is server:
                        break
                    await stack.aclose()  # Another took over while we waited.
                except DatabaseDown:
                    if monotonic_s() + RETRY_PAUSE_S >= deadline_s:
                        raise
                if self.primary is server:
                    await asyncio.sleep(RETRY_PAUSE_S)
            try:
                yield connection
            except asyncpg.exceptions.ReadOnlySQLTransactionError:
                self._demote(server)
                raise

    async def wait_for_primary(self, deadline_s: float) -> Server:
        """Return the server that takes writes, once it was seen.

        Raises:
            DatabaseDown: none was in time.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline_s - monotonic_s())):
                while self.primary is None:
                    self._changed.clear()
                    await self._changed.wait()
        if self.primary is None:
            raise DatabaseDown("No server of the database takes writes.")
        return self.primary

    # Reading on replicas.

    def fresh(self, server: Server) -> Ask:
        """Return how a batch is read on a replica as if it were read on the primary."""

        async def ask(
            connection: Connection, query: Query, columns: Sequence[list[Any]], timeout_s: float
        ) -> list[Any]:
            counts, count = server.counts, len(columns[0])
            deadline_s = monotonic_s() + min(timeout_s, REPLICA_PATIENCE_S)
            primary = self.primary
            if primary is None or not follows(server, primary):
                # Who waited here since another primary led.
                counts.late += count
                return [ELSEWHERE] * count
            try:
                index = await self._read_index(deadline_s)
                if not await self._reaches(server, connection, index.position, deadline_s):
                    counts.late += count
                    return [ELSEWHERE] * count
                rows = await connection.fetch(query, *columns, timeout_s=max(0.001, deadline_s - monotonic_s()))
            except BaseException:
                counts.failed += count
                raise
            if self.primary is not primary:
                counts.late += count
                return [ELSEWHERE] * count
            answers = by_ordinal(rows, count=count)
            for place, row in enumerate(answers):
                if index.covers(row):
                    counts.answered += 1
                else:
                    answers[place] = ELSEWHERE
                    counts.judged += 1
            return answers

        return ask

    async def _read_index(self, deadline_s: float) -> ReadIndex:
        """Ask the primary once for all who ask meanwhile."""
        row = await self._index.submit((0,), deadline_s=deadline_s, purpose=INDEX_PURPOSE)
        assert row is not None
        _, next_xid, in_progress = row["snapshot"]
        return ReadIndex(position=row["position"], next_xid=next_xid, in_progress=frozenset(in_progress))

    async def _reaches(self, server: Server, connection: Connection, position: int, deadline_s: float) -> bool:
        """Wait a moment for a replica to have replayed so much; leave it out when it has not."""
        until_s = min(deadline_s, monotonic_s() + CATCH_UP_S)
        while connection.replayed < position:
            [row] = await connection.fetch(REPLAYED, timeout_s=max(0.001, deadline_s - monotonic_s()))
            connection.replayed = row["position"] or 0
            if connection.replayed >= position:
                break
            if monotonic_s() >= until_s:
                server.replayed = connection.replayed
                server.is_awaited_at = position
                self._decide()
                return False
            await asyncio.sleep(CATCH_UP_PAUSE_S)
        return True

    # What somebody who knows more decides.

    def put_out(self, name: str, *, until_s: float) -> bool:
        """Ask a replica nothing until then, on the monotonic clock; return False where there is no such replica.

        Who writes is none of this: the primary is never put out. In the past, `until_s` lets it in again.
        """
        server = next((one for one in self.servers if one.endpoint.name == name), None)
        if server is None or server is self.primary:
            return False
        was_out, server.out_until_s = server.is_put_out, until_s
        self._decide()
        if server.is_put_out and not was_out:
            log.warning("database.server_put_out", extra={"server": name})
            server.pool.abandon()
        return True

    # Checks.

    async def _watch(self, server: Server) -> None:
        raw: asyncpg.Connection[asyncpg.Record] | None = None
        try:
            while True:
                started_s = monotonic_s()
                self._look_now[server].clear()
                try:
                    raw, sighting = await counting_idle_time(_check(server.direct, self._name, raw))
                except asyncpg.TooManyConnectionsError:
                    pass  # It is there, and busy.
                except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
                    raw = None
                    self._fail(server, error)
                except Exception as error:
                    # A mistake of ours is no illness of the server's, and must not end the checks.
                    log.exception("database.check_failed", extra={"server": server.endpoint.name, "error": repr(error)})
                else:
                    self._see(server, sighting)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(RETRY_PAUSE_S, started_s + CHECK_EVERY_S - monotonic_s())):
                        await self._look_now[server].wait()
                        await asyncio.sleep(RETRY_PAUSE_S)
        finally:
            if raw is not None:
                raw.terminate()

    def _see(self, server: Server, sighting: Sighting) -> None:
        if server.is_ill:
            log.info("database.server_is_back", extra={"server": server.endpoint.name})
        server.see(sighting)
        self._decide()
        now_s = monotonic_s()
        if server is self.primary:
            self._marks.add(now_s, sighting.position)
        elif self.primary is not None and follows(server, self.primary):
            server.fresh_s = max(server.fresh_s, self._marks.when_at(sighting.position))

    def _fail(self, server: Server, error: BaseException | None = None) -> None:
        """Leave a server out, and look who does its work."""
        if not server.is_ill:
            server.fall_ill()
            log.warning("database.server_is_ill", extra={"server": server.endpoint.name, "error": repr(error)})
            if server is self.primary:
                for event in self._look_now.values():
                    event.set()
            else:
                # Reads that wait there for an answer have theirs from the primary.
                server.pool.abandon()
        self._decide()

    def _demote(self, server: Server) -> None:
        """Believe a server that refused to write before the next check hears it say so."""
        if server is self.primary and server.sighting is not None:
            server.sighting = replace(server.sighting, in_recovery=True, timeline=0)
            for event in self._look_now.values():
                event.set()
            self._decide()

    def _decide(self) -> None:
        before, self.primary = self.primary, primary_of(self.servers)
        now_s = monotonic_s()
        for server in self.servers:
            server.is_put_out = server.out_until_s > now_s
        self.readers = readers_of(self.servers, self.primary)
        if self.primary is before:
            return
        if before is not None:
            self.failovers += 1
            before.pool.abandon()
        if self.primary is not None:
            log.info("database.primary", extra={"server": self.primary.endpoint.name})
            self._changed.set()


async def look(raw: "asyncpg.Connection[asyncpg.Record]") -> Sighting:
    """Ask a server what it is."""
    row = await raw.fetchrow(QUERIES["look"].sql)
    assert row is not None
    return Sighting(**row)


async def _check(
    endpoint: Endpoint, name: str, raw: "asyncpg.Connection[asyncpg.Record] | None"
) -> "tuple[asyncpg.Connection[asyncpg.Record], Sighting]":
    """Look at a server, over a new connection if the last one is closed; whatever fails, none is left."""
    if raw is None or raw.is_closed():
        raw = await _connect(endpoint, name)
    try:
        return raw, await look(raw)
    except BaseException:
        raw.terminate()
        raise


async def counting_idle_time(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Do something within `CHECK_TIMEOUT_S`, of which what our own event loop was busy with something else is no part.

    A slice is over only once the loop has looked whether there is an answer: however long it was busy, that counts
    as one. Otherwise, when this process is overloaded, all servers would seem to be ill at once.

    Raises:
        TimeoutError: it was not done in time; it was cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        for _ in range(CHECK_SLICES):
            done, _ = await asyncio.wait({task}, timeout=CHECK_TIMEOUT_S / CHECK_SLICES)
            if done:
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def find_primary(endpoints: Sequence[Endpoint], *, application_name: str, deadline_s: float) -> Endpoint:
    """Return the one server that takes writes, for who needs it once; of a single one nothing is asked.

    Raises:
        DatabaseDown: none was found in time.
    """
    while len(endpoints) > 1:
        servers = []
        for endpoint in endpoints:
            with suppress(*CONNECTION_LOST, asyncpg.PostgresError):
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    raw = await _connect(endpoint, application_name)
                    try:
                        servers.append((await look(raw), endpoint))
                    finally:
                        raw.terminate()
        leaders = [(seen.timeline, place) for place, (seen, _) in enumerate(servers) if not seen.in_recovery]
        if leaders:
            return servers[max(leaders)[1]][1]
        if monotonic_s() + CHECK_EVERY_S >= deadline_s:
            raise DatabaseDown("No server of the database takes writes.")
        await asyncio.sleep(CHECK_EVERY_S)
    return endpoints[0]


async def _connect(endpoint: Endpoint, name: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(
        **endpoint.connect_arguments(),
        statement_cache_size=0,
        server_settings={"application_name": name},
    )
