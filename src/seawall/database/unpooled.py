"""A connection for each request, as many as come: how the service worked whose outage this house answers.

For drills only, beside `Pool`, so that what the pool is for can be seen on the same service. Nobody waits, nobody is
refused, and nothing is bounded but by the server.
"""

from types import TracebackType

import asyncpg

from seawall.database.endpoint import Endpoint
from seawall.database.pool import CLOSE_TIMEOUT_S, SERVER_SETTINGS, Connection, PoolCounts
from seawall.database.queries import Query
from seawall.telemetry.purpose import Purpose

CONNECT_TIMEOUT_S = 60.0
"""The driver's default."""


class Unpooled:
    """Opens a connection for whoever asks, and closes it afterwards. State: none; it counts in the pool's stead."""

    def __init__(self, endpoint: Endpoint, *, application_name: str, counts: PoolCounts) -> None:
        self._endpoint = endpoint
        self._application_name = application_name
        self._counts = counts

    def __repr__(self) -> str:
        return f"<Unpooled to {self._endpoint.name}>"

    def connection(
        self,
        *,
        deadline_s: float,
        query: Query | None = None,
        site: str = "",
        admitted_as: Purpose | None = None,
    ) -> "_Opened":
        """Return a connection of the block's own; what `Lender` says of order and bounds does not hold here."""
        return _Opened(self._endpoint, self._application_name, self._counts)


class _Opened:
    """One connection, for the length of a block. State: it."""

    def __init__(self, endpoint: Endpoint, application_name: str, counts: PoolCounts) -> None:
        self._endpoint = endpoint
        self._counts = counts
        self._settings = {**SERVER_SETTINGS, "application_name": application_name}
        self._raw: asyncpg.Connection[asyncpg.Record] | None = None

    async def __aenter__(self) -> Connection:
        try:
            self._raw = await asyncpg.connect(
                **self._endpoint.connect_arguments(),
                timeout=CONNECT_TIMEOUT_S,
                server_settings=self._settings,
                statement_cache_size=0,
            )
        except BaseException as error:
            self._counts.open_failures += 1
            self._counts.refused_by_server += isinstance(error, asyncpg.TooManyConnectionsError)
            raise
        self._counts.opened += 1
        return Connection(self._raw)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._raw is not None
        if error is None:
            await self._raw.close(timeout=CLOSE_TIMEOUT_S)
        else:
            self._raw.terminate()
