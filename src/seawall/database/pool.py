"""A few connections, lent out one at a time, first come first served.

A connection is lent for the length of one statement or one short transaction, never while bytes
flow, and never twice to one task: a bounded pool in which a holder waits for a second connection
stops for good.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.endpoint import Endpoint
from seawall.database.queries import Query
from seawall.errors import DatabaseDown, DeadlineExceeded, Overloaded

# After a database restart every node comes back at once: two connects at a time, and not all of
# them at the same moment.
CONNECTS_AT_ONCE = 2
CONNECT_TIMEOUT_S = 5.0
CONNECT_PAUSE_S = (0.05, 0.5)
CLOSE_TIMEOUT_S = 2.0
WAITERS_MAX = 4096

# Serving statements know their plan beforehand (an index, always): planning them again for each
# set of values, or for statistics that are not there yet, only does harm.
SERVER_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "timezone": "UTC",
}

# What the driver raises when the server, or the way to it, is gone.
CONNECTION_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.exceptions.AdminShutdownError,
    asyncpg.exceptions.CrashShutdownError,
    asyncpg.exceptions.CannotConnectNowError,
    asyncpg.exceptions.TooManyConnectionsError,
    OSError,
    TimeoutError,
)


@dataclass(slots=True, eq=False)
class Connection:
    """One connection and the statements prepared on it. State: the prepared statements."""

    raw: "asyncpg.Connection[asyncpg.Record]"
    prepared: dict[Query, "asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]"] = field(default_factory=dict)

    async def fetch(self, query: Query, *arguments: object, timeout_s: float) -> list[asyncpg.Record]:
        """Run one named statement and return its rows."""
        statement = self.prepared.get(query)
        if statement is None:
            statement = await self.raw.prepare(query.sql, timeout=timeout_s)
            self.prepared[query] = statement
        return await statement.fetch(*arguments, timeout=timeout_s)


class Pool:
    """Lends connections. State: the idle connections, how many are out, and who waits."""

    def __init__(self, endpoint: Endpoint, *, size: int, application_name: str, statement_timeout_s: float) -> None:
        self.size = size
        self._endpoint = endpoint
        self._server_settings = {
            **SERVER_SETTINGS,
            "application_name": application_name,
            "statement_timeout": str(int(statement_timeout_s * 1000)),
        }
        self._idle: list[Connection] = []
        self._lent = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._connecting = asyncio.Semaphore(CONNECTS_AT_ONCE)
        self._closed = False

    def __repr__(self) -> str:
        return f"<Pool {self._lent} lent, {len(self._idle)} idle, {len(self._waiting)} waiting, size {self.size}>"

    @property
    def lent(self) -> int:
        """How many connections are out, those being opened included."""
        return self._lent

    @property
    def idle(self) -> int:
        """How many open connections nobody uses."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """How many tasks wait for a connection."""
        return len(self._waiting)

    @asynccontextmanager
    async def connection(self, *, deadline_s: float) -> AsyncIterator[Connection]:
        """Lend a connection for the length of the block.

        Args:
            deadline_s: when to give up waiting, on the monotonic clock.

        Raises:
            Overloaded: too many wait already.
            DeadlineExceeded: none came back in time.
            DatabaseDown: none could be opened in time.
        """
        await self._enter(deadline_s)
        connection: Connection | None = None
        try:
            connection = self._idle.pop() if self._idle else await self._open(deadline_s)
            yield connection
        finally:
            self._leave(connection)

    async def close(self) -> None:
        """Close every idle connection; those lent are closed when they come back."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            await _close(connection)

    async def _enter(self, deadline_s: float) -> None:
        """Take one of the `size` places, waiting for it in order of arrival."""
        if self._lent < self.size and not self._waiting:
            self._lent += 1
            return
        if len(self._waiting) >= WAITERS_MAX:
            raise Overloaded
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(max(0.0, deadline_s - monotonic_s())):
                await turn
        except TimeoutError:
            if turn.done() and not turn.cancelled():
                self._pass_on()  # The place came in the same moment as the end of patience.
            raise DeadlineExceeded from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    def _leave(self, connection: Connection | None) -> None:
        """Give back the place, and the connection if it can be used again."""
        if connection is not None:
            if self._closed or connection.raw.is_closed() or connection.raw.is_in_transaction():
                connection.raw.terminate()
            else:
                self._idle.append(connection)
        self._pass_on()

    def _pass_on(self) -> None:
        """Hand one place to whoever waits longest, or free it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._lent -= 1

    async def _open(self, deadline_s: float) -> Connection:
        """Connect, again and again until the deadline: a restarting server is worth waiting for."""
        failure: BaseException | None = None
        while (left_s := deadline_s - monotonic_s()) > 0 and not self._closed:
            try:
                async with asyncio.timeout(left_s), self._connecting:
                    raw = await asyncpg.connect(
                        **self._endpoint.connect_arguments(),
                        timeout=min(left_s, CONNECT_TIMEOUT_S),
                        server_settings=self._server_settings,
                        statement_cache_size=0,
                    )
                return Connection(raw)
            except CONNECTION_LOST as error:
                failure = error
            pause_s = random.uniform(*CONNECT_PAUSE_S)  # noqa: S311 - jitter, not a secret
            await asyncio.sleep(min(pause_s, max(0.0, deadline_s - monotonic_s())))
        raise DatabaseDown("The database cannot be reached.") from failure


async def _close(connection: Connection) -> None:
    try:
        await connection.raw.close(timeout=CLOSE_TIMEOUT_S)
    except CONNECTION_LOST:
        connection.raw.terminate()
