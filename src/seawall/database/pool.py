"""A few connections, lent out one at a time, first come first served.

A connection is lent for the length of one statement or one short transaction, never while bytes
flow, and never twice to one task: a bounded pool in which a holder waits for a second connection
stops for good.

What comes back in doubt (its borrower failed, or was cancelled while the server was still at work) is
lent again only after the server has said that it stopped. Until then its place is taken, so that a
crowd of clients that give up cannot make more connections than there are places.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.endpoint import Endpoint
from seawall.database.queries import Query
from seawall.errors import DatabaseDown, DeadlineExceeded, Overloaded, SeawallError, StorageFull, Unavailable

# After a database restart every node comes back at once: two connects at a time, and not all of
# them at the same moment.
CONNECTS_AT_ONCE = 2
CONNECT_TIMEOUT_S = 5.0
CONNECT_PAUSE_S = (0.05, 0.5)
CLOSE_TIMEOUT_S = 2.0
# How long a server may take to say that it stopped what was cancelled.
SETTLE_TIMEOUT_S = 2.0
WAITERS_MAX = 4096
# What has no deadline of its own (begin, commit) ends this long after a statement must have ended.
COMMAND_MARGIN_S = 1.0

# Serving statements know their plan beforehand (an index, always): planning them again for each
# set of values, or for statistics that are not there yet, only does harm.
SERVER_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "timezone": "UTC",
    # Locks are taken and looked at again: that needs to see what others committed meanwhile.
    "default_transaction_isolation": "read committed",
    # A node that is stopped, or gone without a word, must not keep its locks.
    "idle_in_transaction_session_timeout": "10s",
    "client_connection_check_interval": "1s",
}

# What the driver raises when the server, or the way to it, is gone.
CONNECTION_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.exceptions.AdminShutdownError,
    asyncpg.exceptions.CrashShutdownError,
    asyncpg.exceptions.CannotConnectNowError,
    asyncpg.exceptions.DatabaseDroppedError,
    asyncpg.exceptions.IdleSessionTimeoutError,
    asyncpg.exceptions.IdleInTransactionSessionTimeoutError,
    asyncpg.exceptions.TooManyConnectionsError,
    # It was the primary, and is a replica now.
    asyncpg.exceptions.ReadOnlySQLTransactionError,
    OSError,
    TimeoutError,
)


def is_lost(error: BaseException | None) -> bool:
    """Whether the connection is of no use any more.

    The driver calls a value it cannot encode an interface error, too; that one is the statement's fault.
    """
    bad_input = isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)
    return isinstance(error, CONNECTION_LOST) and not isinstance(error, TimeoutError) and not bad_input


def in_our_words(error: BaseException) -> SeawallError | None:
    """Return what a failure of the driver means to the house; None where the statement itself is at fault."""
    match error:
        case SeawallError():
            return error
        case asyncpg.exceptions.QueryCanceledError():
            return DeadlineExceeded()
        case asyncpg.exceptions.DiskFullError():
            return StorageFull()
        case asyncpg.exceptions.TooManyConnectionsError():
            return DatabaseDown("The database accepts no more connections.")
        case asyncpg.exceptions.InsufficientResourcesError():
            return Unavailable("The catalogue is short of resources.")
        case asyncpg.exceptions.TransactionRollbackError() | asyncpg.exceptions.LockNotAvailableError():
            return Unavailable("The catalogue was busy with something that excludes this.")
    if is_lost(error) or isinstance(error, TimeoutError):
        return DatabaseDown("The connection to the database was lost.")
    return None


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
    """Lends connections. State: the idle connections, how many places are taken, and who waits."""

    def __init__(self, endpoint: Endpoint, *, size: int, application_name: str, statement_timeout_s: float) -> None:
        self.size = size
        self._endpoint = endpoint
        self._command_timeout_s = statement_timeout_s + COMMAND_MARGIN_S
        self._server_settings = {
            **SERVER_SETTINGS,
            "application_name": application_name,
            "statement_timeout": str(max(1, int(statement_timeout_s * 1000))),
        }
        self._idle: list[Connection] = []
        self._lent = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._connecting = asyncio.Semaphore(CONNECTS_AT_ONCE)
        self._settling: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Pool {self._lent} lent, {len(self._idle)} idle, {len(self._waiting)} waiting, size {self.size}>"

    @property
    def lent(self) -> int:
        """How many connections are out, those being opened or settled included."""
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
        try:
            connection = self._take_idle() or await self._open(deadline_s)
        except BaseException:
            self._pass_on()
            raise
        try:
            yield connection
        except BaseException as error:
            self._leave(connection, error)
            raise
        self._leave(connection, None)

    async def close(self) -> None:
        """Close every idle connection; those lent are closed when they come back."""
        self._closed = True
        while self._settling:
            await asyncio.wait(self._settling)
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_close(connection) for connection in idle))

    async def _enter(self, deadline_s: float) -> None:
        """Take one of the `size` places, waiting for it in order of arrival."""
        left_s = deadline_s - monotonic_s()
        if left_s <= 0:
            raise DeadlineExceeded
        if self._lent < self.size:
            self._lent += 1
            return
        if len(self._waiting) >= WAITERS_MAX:
            raise Overloaded
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(left_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._pass_on()  # The place came in the same moment as the end of patience.
            else:
                with suppress(ValueError):  # or whoever passed a place on saw that this one is gone
                    self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded from None
            raise

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.raw.is_closed():
                return connection
        return None

    def _leave(self, connection: Connection, error: BaseException | None) -> None:
        """Give back the place, and the connection if it can be used again."""
        if is_lost(error) or self._closed or connection.raw.is_closed():
            connection.raw.terminate()
            self._pass_on()
        elif error is None and not connection.raw.is_in_transaction():
            self._idle.append(connection)
            self._pass_on()
        else:
            task = asyncio.get_running_loop().create_task(self._settle(connection), name="settle a connection")
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _settle(self, connection: Connection) -> None:
        """Wait until the server has stopped what was cancelled, and end the transaction it may be in."""
        raw, certain = connection.raw, False
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                if not raw.is_in_transaction():
                    # As far as the driver knows. It waits for what was cancelled, then it knows more.
                    await raw.execute("select /* pool.settle */")
                if raw.is_in_transaction():
                    await raw.execute("rollback")
            certain = not self._closed
        except (*CONNECTION_LOST, asyncpg.PostgresError):
            pass  # `certain` says so.
        finally:
            if certain:
                self._idle.append(connection)
            else:
                raw.terminate()
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
                        command_timeout=self._command_timeout_s,
                        server_settings=self._server_settings,
                        statement_cache_size=0,
                    )
                return Connection(raw)
            except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
                failure = error
            pause_s = random.uniform(*CONNECT_PAUSE_S)  # noqa: S311 - jitter, not a secret
            await asyncio.sleep(min(pause_s, max(0.0, deadline_s - monotonic_s())))
        raise DatabaseDown("The database cannot be reached.") from failure


async def _close(connection: Connection) -> None:
    with suppress(*CONNECTION_LOST):  # the driver has let go of it then
        await connection.raw.close(timeout=CLOSE_TIMEOUT_S)
