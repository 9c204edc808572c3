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
from seawall.database.pool import CONNECTION_LOST, Connection, Pool
from seawall.database.queries import Query
from seawall.errors import DatabaseDown, DeadlineExceeded


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
        timeout_s = max(0.001, self._deadline_s - monotonic_s())
        return await self._connection.fetch(query, *arguments, timeout_s=timeout_s)

    async def fetch_one(self, query: Query, *arguments: object) -> Any:
        """Run one statement and return its first row, or None."""
        rows = await self.fetch(query, *arguments)
        return rows[0] if rows else None


class Database:
    """Runs named queries. State: the pool and one batcher for each batched query."""

    def __init__(self, endpoint: Endpoint, settings: DatabaseSettings, *, application_name: str) -> None:
        self.settings = settings
        self.pool = Pool(
            endpoint,
            size=settings.connections,
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
            Overloaded, DeadlineExceeded, DatabaseDown: nothing was read.
        """
        batcher = self._batchers.get(query)
        if batcher is None:
            batcher = self._batchers[query] = Batcher(query, self.pool, lanes=self.settings.read_lanes)
        return await batcher.submit(key, deadline_s=monotonic_s() + self.settings.patience_s)

    async def write(self, query: Query, *row: object, identity_width: int, echo: int | None = None) -> Any:
        """Write one row, merged with those that wait beside it; durable when this returns.

        Args:
            query: the statement; its rows say whom they answer.
            row: the values, the identifying columns first.
            identity_width: how many columns identify the row.
            echo: which column the query gives back as `answers`, where it cannot give `ordinal`.

        Raises:
            Overloaded, DeadlineExceeded: nothing was written.
            DatabaseDown: whether it was written is not known.
        """
        batcher = self._batchers.get(query)
        if batcher is None:
            batcher = self._batchers[query] = Batcher(
                query, self.pool, lanes=self.settings.write_lanes, identity_width=identity_width, echo=echo
            )
        return await batcher.submit(row, deadline_s=monotonic_s() + self.settings.patience_s)

    async def fetch(self, query: Query, *arguments: object, patience_s: float | None = None) -> list[Any]:
        """Run one statement by itself and return its rows.

        Raises:
            Overloaded, DeadlineExceeded: it was not started, or was cancelled by the server.
            DatabaseDown: the database is away; a writing statement may have taken effect.
        """
        deadline_s = monotonic_s() + (self.settings.patience_s if patience_s is None else patience_s)
        async with _driver_errors_named(), self.pool.connection(deadline_s=deadline_s) as connection:
            return await connection.fetch(query, *arguments, timeout_s=max(0.001, deadline_s - monotonic_s()))

    async def fetch_one(self, query: Query, *arguments: object) -> Any:
        """Run one statement by itself and return its first row, or None; errors as `fetch`."""
        rows = await self.fetch(query, *arguments)
        return rows[0] if rows else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Hold one connection and one transaction for the length of the block; errors as `fetch`."""
        deadline_s = monotonic_s() + self.settings.patience_s
        async with (
            _driver_errors_named(),
            self.pool.connection(deadline_s=deadline_s) as connection,
            connection.raw.transaction(),
        ):
            yield Transaction(connection, deadline_s=deadline_s)


@asynccontextmanager
async def _driver_errors_named() -> AsyncIterator[None]:
    """Turn the driver's words for what may pass into the house's."""
    try:
        yield
    except CONNECTION_LOST as error:
        raise DatabaseDown from error
    except asyncpg.exceptions.QueryCanceledError as error:
        raise DeadlineExceeded from error
