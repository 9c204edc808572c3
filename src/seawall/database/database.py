"""The one door to PostgreSQL for the rest of the house."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.batching import Batcher
from seawall.database.endpoint import Endpoint
from seawall.database.pool import CONNECTION_LOST, Connection, Pool, in_our_words
from seawall.database.queries import Query
from seawall.errors import DeadlineExceeded
from seawall.telemetry.purpose import PURPOSE


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """What an operator chooses about the connections of one process.

    One or two connections for each kind of batch are enough (more split the batches), and a few
    for what cannot be batched.
    """

    read_lanes: int = 2
    write_lanes: int = 2
    spare_connections: int = 2
    patience_s: float = 5.0

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
    """Runs named queries. State: the pool and one batcher for each batched query."""

    def __init__(
        self, endpoint: Endpoint, settings: DatabaseSettings, *, application_name: str, connections: int | None = None
    ) -> None:
        """Open nothing yet.

        Args:
            endpoint: the server.
            settings: see there.
            application_name: what the server calls our connections.
            connections: how many may be opened at first; as the settings say when None, 0 until a lease allows some.
        """
        self.settings = settings
        self.pool = Pool(
            endpoint,
            size=settings.connections if connections is None else connections,
            application_name=application_name,
            statement_timeout_s=settings.patience_s,
        )
        self._batchers: dict[Query, Batcher] = {}

    def __repr__(self) -> str:
        return f"<Database {self.pool!r} {[*self._batchers.values()]!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for batcher in self._batchers.values():
            await batcher.close()
        await self.pool.close()

    def batches(self) -> dict[str, Batcher]:
        """Return the batcher of each batched query, by its name."""
        return {query.name: batcher for query, batcher in self._batchers.items()}

    async def read(self, query: Query, *key: object) -> Any:
        """Answer one point read, merged with those that wait beside it.

        Returns:
            The row, or None where there is none.

        Raises:
            Unavailable: nothing was read.
        """
        batcher = self._batchers.get(query)
        if batcher is None:
            batcher = self._batchers[query] = Batcher(query, self.pool, lanes=self.settings.read_lanes)
        return await batcher.submit(key, deadline_s=self._deadline_s())

    async def write(self, query: Query, *row: object, identity_width: int, echo: int | None = None) -> Any:
        """Write one row, merged with those that wait beside it; durable when this returns.

        Args:
            query: the statement; its rows say whom they answer.
            row: the values, the identifying columns first.
            identity_width: how many columns identify the row.
            echo: which column the query gives back as `answers`, where it cannot give `ordinal`.

        Raises:
            DatabaseDown: whether it was written is not known.
            Unavailable: nothing was written.
            StorageFull: the database has no room.
        """
        batcher = self._batchers.get(query)
        if batcher is None:
            batcher = self._batchers[query] = Batcher(
                query, self.pool, lanes=self.settings.write_lanes, identity_width=identity_width, echo=echo
            )
        return await batcher.submit(row, deadline_s=self._deadline_s())

    async def fetch(self, query: Query, *arguments: object, patience_s: float | None = None) -> list[Any]:
        """Run one statement by itself and return its rows.

        Args:
            query: the statement.
            arguments: its parameters.
            patience_s: how long it may take; more than usual only for work nobody waits for.

        Raises:
            Overloaded, DeadlineExceeded: it was not started, or was cancelled by the server.
            DatabaseDown: the database is away; a writing statement may have taken effect.
            Unavailable: it was rolled back.
        """
        if patience_s is not None and patience_s > self.settings.patience_s:
            async with self.transaction(patience_s=patience_s) as transaction:
                return await transaction.fetch(query, *arguments)
        deadline_s = self._deadline_s(patience_s)
        async with _driver_errors_named(), self.pool.connection(deadline_s=deadline_s, query=query) as connection:
            return await connection.fetch(query, *arguments, timeout_s=max(0.001, deadline_s - monotonic_s()))

    async def fetch_one(self, query: Query, *arguments: object) -> Any:
        """Run one statement by itself and return its first row, or None; errors as `fetch`."""
        rows = await self.fetch(query, *arguments)
        return rows[0] if rows else None

    @asynccontextmanager
    async def transaction(self, *, patience_s: float | None = None) -> AsyncIterator[Transaction]:
        """Hold one connection and one transaction for the length of the block; errors as `fetch`.

        What the block raises goes out at once; the pool sees to it that the transaction is rolled back.
        """
        deadline_s = self._deadline_s(patience_s)
        async with _driver_errors_named(), self.pool.connection(deadline_s=deadline_s) as connection:
            transaction = Transaction(connection, deadline_s=deadline_s)
            await transaction.say(connection.begin)
            if patience_s is not None:
                # The connection's own limit is for statements that somebody waits for.
                await transaction.say(f"set local statement_timeout = {int(patience_s * 1000)}")
            yield transaction
            await transaction.say("commit")

    def _deadline_s(self, patience_s: float | None = None) -> float:
        """Return when work that begins now must have ended: in so long, or when its request must have."""
        deadline_s = monotonic_s() + (self.settings.patience_s if patience_s is None else patience_s)
        given_s = PURPOSE.get().deadline_s
        return deadline_s if given_s is None else min(deadline_s, given_s)


@asynccontextmanager
async def _driver_errors_named() -> AsyncIterator[None]:
    """Turn the driver's words for what may pass into the house's."""
    try:
        yield
    except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
        failure = in_our_words(error)
        if failure is None:
            raise
        raise failure from error
