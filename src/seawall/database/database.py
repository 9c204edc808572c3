"""The one door to PostgreSQL for the rest of the house."""

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.balancer import REPLICA_PATIENCE_S, Balancer
from seawall.database.batching import WAITS, Batcher
from seawall.database.endpoint import Endpoint
from seawall.database.pool import CONNECTION_LOST, Connection, Lender, Pool, in_our_words
from seawall.database.queries import Query
from seawall.database.retries import RetryBudget
from seawall.database.servers import Server, expected_s, freshest_of
from seawall.database.unpooled import Unpooled
from seawall.errors import DatabaseDown, DeadlineExceeded, OutcomeUnknown
from seawall.telemetry.purpose import PURPOSE, STALENESS
from seawall.telemetry.segments import STOPWATCH, Segment, timed

DRIVER_ERRORS = (asyncpg.PostgresError, *CONNECTION_LOST)
"""What the driver raises; what may pass is said in the house's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """What an operator chooses about the connections of one process.

    One or two connections for each kind of batch are enough (more split the batches), and a few
    for what cannot be batched. `stale_reads_s` is how old answers may be while no server takes writes; 0: there are
    none then. `pooled` is False in drills only (`unpooled`): then nothing is batched either.
    """

    read_lanes: int = 2
    write_lanes: int = 2
    spare_connections: int = 2
    patience_s: float = 5.0
    stale_reads_s: float = 0.0
    pooled: bool = True

    @property
    def connections(self) -> int:
        """How many connections the process opens at the most."""
        return self.read_lanes + self.write_lanes + self.spare_connections


class Transaction:
    """One transaction on one connection, for the length of a block. Keep it short."""

    def __init__(self, connection: Connection, *, deadline_s: float) -> None:
        self._connection = connection
        self._deadline_s = deadline_s

    async def fetch(self, query: Query, *arguments: object) -> list[Any]:
        """Run one statement and return its rows."""
        return await self._connection.fetch(query, *arguments, timeout_s=self._left_s())

    async def fetch_one(self, query: Query, *arguments: object) -> Any:
        """Run one statement and return its first row, or None."""
        rows = await self.fetch(query, *arguments)
        return rows[0] if rows else None

    async def say(self, words: str) -> None:
        """Run what has no name: begin, commit, a setting."""
        await self._connection.raw.execute(words, timeout=self._left_s())

    def _left_s(self) -> float:
        left_s = self._deadline_s - monotonic_s()
        if left_s <= 0:
            raise DeadlineExceeded
        return left_s


class Database:
    """Runs named queries. State: a pool for each server, and one batcher for each batched query (and replica)."""

    def __init__(
        self,
        endpoints: Endpoint | Sequence[Endpoint],
        settings: DatabaseSettings,
        *,
        application_name: str,
        connections: int | None = None,
        direct: Sequence[Endpoint] = (),
    ) -> None:
        """Open nothing yet.

        Args:
            endpoints: the server, or all of a primary and its replicas, in any order.
            settings: see there.
            application_name: what the servers call our connections.
            connections: how many may be opened at first, on each server; as the settings say when None, 0 until a lease
                allows some.
            direct: the servers themselves in the same order, where `endpoints` are poolers before them.
        """
        self.settings = settings
        places = [endpoints] if isinstance(endpoints, Endpoint) else endpoints
        self.servers = [
            Server(
                endpoint,
                Pool(
                    endpoint,
                    size=settings.connections if connections is None else connections,
                    application_name=application_name,
                    statement_timeout_s=settings.patience_s,
                ),
                itself,
            )
            for endpoint, itself in zip(places, direct or places, strict=True)
        ]
        self.balancer: Balancer | None = None
        """Who knows which server does what; None where there is only one."""

        self._lender: Lender = self.servers[0].pool
        if len(self.servers) > 1:
            self._lender = self.balancer = Balancer(self.servers, application_name=application_name)
        if not settings.pooled:
            first = self.servers[0]
            self._lender = Unpooled(first.endpoint, application_name=application_name, counts=first.pool.counts)
        self.retries = RetryBudget()
        self._batchers: dict[Query, Batcher] = {}
        self._replica_batchers: dict[tuple[Query, Server], Batcher] = {}
        self._stale_batchers: dict[tuple[Query, Server], Batcher] = {}

    def __repr__(self) -> str:
        return f"<Database {self.balancer or self.pool!r} {[*self._batchers.values()]!r}>"

    @property
    def pool(self) -> Pool:
        """The pool of the server that takes writes, as far as that is known."""
        server = self.balancer.primary if self.balancer is not None else None
        return (server or self.servers[0]).pool

    async def __aenter__(self) -> Self:
        if self.balancer is not None:
            await self.balancer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Those first that hand on to others what they cannot answer.
        for batchers in (self._stale_batchers, self._replica_batchers, self._batchers):
            for batcher in [*batchers.values()]:
                await batcher.close()
        for server in self.servers:
            await server.pool.close()
        if self.balancer is not None:
            await self.balancer.__aexit__()

    def batches(self) -> Iterator[tuple[str, str, Batcher]]:
        """Yield each batcher with the name of its query, and of its server: `primary` is whichever takes writes."""
        for query, batcher in self._batchers.items():
            yield query.name, "primary", batcher
        for (query, server), batcher in self._replica_batchers.items():
            yield query.name, server.endpoint.name, batcher
        for (query, server), batcher in self._stale_batchers.items():
            yield query.name, f"{server.endpoint.name} (stale)", batcher

    async def read(self, query: Query, *key: object) -> Any:
        """Answer one point read, merged with those that wait beside it.

        A query that gives the row's `xmin` may be answered by a replica, which nobody can tell from the answer. While
        no server takes writes, the answer to who only reads may be as old as the settings allow; `STALENESS` says so.

        Returns:
            The row, or None where there is none.

        Raises:
            Unavailable: nothing was read.
        """
        if not self.settings.pooled:
            return await self._ask_alone(query, key)
        batcher = self._batchers.get(query)
        if batcher is None:
            batcher = self._batchers[query] = Batcher(
                query, self._lender, lanes=self.settings.read_lanes, retries=self.retries
            )
        if self.balancer is not None:
            if self.settings.stale_reads_s > 0 and self.balancer.is_headless and PURPOSE.get().only_reads:
                stale = freshest_of(self.servers, now_s=monotonic_s(), age_max_s=self.settings.stale_reads_s)
                if stale is not None:
                    return await self._read_stale(query, key, stale)
            if query.gives_xmin:
                batcher = self._chosen(query, batcher, self.balancer.readers)
        # As `Batcher.ask`, without a coroutine of its own: this is done for every request.
        watch = STOPWATCH.get()
        if watch is None:
            return await batcher.submit(key, deadline_s=self._deadline_s())
        now_s = monotonic_s()
        before = watch.switch(WAITS, now_s)
        try:
            return await batcher.submit(key, deadline_s=self._deadline_s(now_s=now_s), watch=watch)
        finally:
            watch.switch(before, monotonic_s())

    def _chosen(self, query: Query, at_primary: Batcher, readers: Sequence[Server]) -> Batcher:
        """Return the better one of two places, chosen at random, where this can be read."""
        if not readers:
            return at_primary
        places = [at_primary]
        for server in readers:
            batcher = self._replica_batchers.get((query, server))
            if batcher is None:
                assert self.balancer is not None
                batcher = self._replica_batchers[query, server] = Batcher(
                    query,
                    server.pool,
                    lanes=self.settings.read_lanes,
                    retries=self.retries,
                    ask=self.balancer.fresh(server),
                    elsewhere=at_primary,
                    patience_s=REPLICA_PATIENCE_S,
                )
            places.append(batcher)
        # Two different ones, without the cost of `random.sample`.
        first = int(random.random() * len(places))  # noqa: S311 - not a secret
        second = (first + 1 + int(random.random() * (len(places) - 1))) % len(places)  # noqa: S311 - not a secret
        now_s = monotonic_s()
        return min(places[first], places[second], key=lambda batcher: _expected_s(batcher, now_s))

    async def _read_stale(self, query: Query, key: Sequence[object], server: Server) -> Any:
        batcher = self._stale_batchers.get((query, server))
        if batcher is None:
            batcher = self._stale_batchers[query, server] = Batcher(
                query,
                server.pool,
                lanes=self.settings.read_lanes,
                retries=self.retries,
                patience_s=REPLICA_PATIENCE_S,
            )
        fresh_s = server.fresh_s
        row = await batcher.ask(key, deadline_s=self._deadline_s())
        STALENESS.set(max(STALENESS.get(), monotonic_s() - fresh_s))
        return row

    async def write(self, query: Query, *row: object, identity_width: int, echo: int | None = None) -> Any:
        """Write one row, merged with those that wait beside it; durable when this returns.

        Args:
            query: the statement; its rows say whom they answer.
            row: the values, the identifying columns first.
            identity_width: how many columns identify the row.
            echo: which column the query gives back as `answers`, where it cannot give `ordinal`.

        Raises:
            OutcomeUnknown: whether it was written is not known.
            Unavailable: nothing was written.
            StorageFull: the database has no room.
        """
        if not self.settings.pooled:
            return await self._ask_alone(query, row)
        batcher = self._batchers.get(query)
        if batcher is None:
            batcher = self._batchers[query] = Batcher(
                query,
                self._lender,
                lanes=self.settings.write_lanes,
                retries=self.retries,
                identity_width=identity_width,
                echo=echo,
            )
        return await batcher.ask(row, deadline_s=self._deadline_s())

    async def _ask_alone(self, query: Query, row: Sequence[object]) -> Any:
        """Send a batch of one."""
        return await self.fetch_one(query, *([value] for value in row))

    async def fetch(self, query: Query, *arguments: object, patience_s: float | None = None) -> list[Any]:
        """Run one statement by itself and return its rows.

        Args:
            query: the statement.
            arguments: its parameters.
            patience_s: how long it may take; more than usual only for work nobody waits for.

        Raises:
            Overloaded, DeadlineExceeded: it was not started, or was cancelled by the server.
            OutcomeUnknown: the database went away; a writing statement may have taken effect.
            Unavailable: it was not begun, or rolled back.
        """
        if patience_s is not None and patience_s > self.settings.patience_s:
            async with self.transaction(patience_s=patience_s) as transaction:
                return await transaction.fetch(query, *arguments)
        deadline_s = self._deadline_s(patience_s)
        try:
            with timed(Segment.DATABASE_WAIT):
                async with self._lender.connection(deadline_s=deadline_s, query=query) as connection:
                    _is_lent()
                    return await connection.fetch(query, *arguments, timeout_s=max(0.001, deadline_s - monotonic_s()))
        except DRIVER_ERRORS as error:
            raise (in_our_words(error) or error) from error

    async def fetch_one(self, query: Query, *arguments: object) -> Any:
        """Run one statement by itself and return its first row, or None; errors as `fetch`."""
        rows = await self.fetch(query, *arguments)
        return rows[0] if rows else None

    @asynccontextmanager
    async def transaction(self, *, patience_s: float | None = None) -> AsyncIterator[Transaction]:
        """Hold one connection and one transaction for the length of the block; errors as `fetch`.

        What the block raises goes out at once; the pool sees to it that the transaction is rolled back. The outcome
        is unknown only when the connection is lost during the commit.
        """
        deadline_s = self._deadline_s(patience_s)
        is_committing = False
        try:
            with timed(Segment.DATABASE_WAIT):
                async with self._lender.connection(deadline_s=deadline_s) as connection:
                    _is_lent()
                    transaction = Transaction(connection, deadline_s=deadline_s)
                    await transaction.say(connection.begin)
                    if patience_s is not None:
                        # The connection's own limit is for statements that somebody waits for.
                        await transaction.say(f"set local statement_timeout = {int(patience_s * 1000)}")
                    yield transaction
                    is_committing = True
                    await transaction.say("commit")
        except DRIVER_ERRORS as error:
            ours = in_our_words(error)
            if isinstance(ours, OutcomeUnknown) and not is_committing:
                ours = DatabaseDown("The connection to the database was lost.")
            raise (ours or error) from error

    def _deadline_s(self, patience_s: float | None = None, *, now_s: float | None = None) -> float:
        """Return when work that begins now must have ended: in so long, or when its request must have."""
        begins_s = monotonic_s() if now_s is None else now_s
        deadline_s = begins_s + (self.settings.patience_s if patience_s is None else patience_s)
        given_s = PURPOSE.get().deadline_s
        return deadline_s if given_s is None else min(deadline_s, given_s)


def _is_lent() -> None:
    """Note on the request's stopwatch that it has its connection: from now on it waits for the server."""
    watch = STOPWATCH.get()
    if watch is not None:
        watch.switch(Segment.DATABASE, monotonic_s())


def _expected_s(batcher: Batcher, now_s: float) -> float:
    rows = batcher.waiting + batcher.under_way
    return expected_s(round_s=batcher.room.round_s, rows=rows, idle_s=max(0.0, now_s - batcher.sent_s))
