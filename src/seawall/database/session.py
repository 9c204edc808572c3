"""A connection by itself: no pool, no lease, no batch, no plan of the service's.

For whoever plays another program, as drills do. The service's own work goes through `Database`.
"""

from collections.abc import Mapping
from typing import Any

import asyncpg

from seawall.database.endpoint import Endpoint
from seawall.database.pool import CONNECTION_LOST, in_our_words

DRIVER_ERRORS = (asyncpg.PostgresError, *CONNECTION_LOST)
CONNECT_PATIENCE_S = 5.0


class Session:
    """One connection. State: the driver's."""

    def __init__(self, raw: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._raw = raw

    def __repr__(self) -> str:
        return f"<Session {self.pid}{', lost' if self.is_lost else ''}>"

    @property
    def pid(self) -> int:
        """The process of the server that answers here."""
        return self._raw.get_server_pid()

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone."""
        return self._raw.is_closed()

    async def value(self, statement: str, *arguments: object, within_s: float) -> Any:
        """Return the first value of a statement's first row.

        Raises:
            SeawallError: it was not done, or nobody knows whether it was.
        """
        try:
            return await self._raw.fetchval(statement, *arguments, timeout=within_s)
        except DRIVER_ERRORS as error:
            raise (in_our_words(error) or error) from error

    async def run(self, statements: str, *, within_s: float | None) -> None:
        """Run statements for what they do; None: for as long as they take, which is until the caller is cancelled.

        Raises:
            SeawallError: they were not done, or nobody knows whether they were.
        """
        try:
            await self._raw.execute(statements, timeout=within_s)
        except DRIVER_ERRORS as error:
            raise (in_our_words(error) or error) from error

    def drop(self) -> None:
        """Close at once and without a word. What the server was doing it may still be doing."""
        self._raw.terminate()


async def open_session(
    endpoint: Endpoint,
    *,
    application_name: str,
    settings: Mapping[str, str] | None = None,
    within_s: float = CONNECT_PATIENCE_S,
) -> Session:
    """Open a connection.

    Args:
        endpoint: where, and as whom.
        application_name: what the server calls it.
        settings: PostgreSQL's settings for this session, by name.
        within_s: how long that may take.

    Raises:
        DatabaseDown: the server cannot be reached, or accepts no more connections.
    """
    try:
        raw = await asyncpg.connect(
            **endpoint.connect_arguments(),
            timeout=within_s,
            server_settings={"application_name": application_name, **(settings or {})},
        )
    except DRIVER_ERRORS as error:
        raise (in_our_words(error) or error) from error
    return Session(raw)
