"""A few connections, lent out one at a time to whoever should have one next.

A connection is lent for the length of one statement or one short transaction, never while bytes
flow, and never twice to one task: a bounded pool in which a holder waits for a second connection
stops for good. Who waits, waits by the rules of `waiting`; who holds one is on the books of `holds`.

What comes back in doubt (its borrower failed, or was cancelled while the server was still at work) is
lent again only after the server has said that it stopped. Until then its place is taken, so that a
crowd of clients that give up cannot make more connections than there are places.

A PgBouncer in transaction mode may stand between: it is recognised when a connection is opened, and spoken to in
another `Dialect`. Tested with 1.18, which knows no prepared statements. 1.21 and later may know them; they are spoken
to in the same way, which is untested.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.endpoint import Endpoint
from seawall.database.holds import Hold, Holds, stack_of
from seawall.database.queries import Query
from seawall.database.waiting import TARGET_S, Waiter, WaitingRoom
from seawall.errors import DatabaseDown, DeadlineExceeded, OutcomeUnknown, SeawallError, StorageFull, Unavailable
from seawall.telemetry.metrics import DURATION_BUCKETS_S, Histogram
from seawall.telemetry.purpose import PURPOSE, Purpose

log = logging.getLogger(__name__)

# After a database restart every node comes back at once: two connects at a time, and not all of
# them at the same moment.
CONNECTS_AT_ONCE = 2
CONNECT_TIMEOUT_S = 5.0
CONNECT_PAUSE_S = (0.05, 0.5)
CLOSE_TIMEOUT_S = 2.0
# How long a server may take to say that it stopped what was cancelled.
SETTLE_TIMEOUT_S = 2.0
# How many requests to cancel a statement may be under way: each is a connection of its own, beside the pool's.
CANCELS_AT_ONCE = 2
# A connection is replaced after half an hour or so: what a server process gathered in memory goes with it, and a
# changed address or password is noticed. Not all at the same moment.
LIFETIME_S = 30 * 60.0
LIFETIME_JITTER = 0.1
# One that was idle for this long is tried before somebody needs it: a firewall may have forgotten it.
IDLE_CHECK_S = 30.0
MAINTAIN_EVERY_S = 1.0
# How late those may hear of it whose patience ends while they wait for a connection.
SWEEP_PAUSE_S = 0.005
# Nothing of ours holds a connection for long but migrations, which have their own.
HELD_TOO_LONG_S = 2.0
# What has no deadline of its own (begin, commit) ends this long after a statement must have ended.
COMMAND_MARGIN_S = 1.0
CLOSING = "The connections to the database are being closed."

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
    # A machine that vanished must not count among the connections for the two hours a kernel would wait.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}

# No server minds a setting with a dot in its name, and no PgBouncer accepts it, unless somebody told it to ignore just
# this one. It goes first, so that it is what PgBouncer's log names, and not a setting that it could be told to ignore.
SESSION_MARK = {"seawall.needs_a_session": "on"}
# How PgBouncer, of any version, refuses a setting it cannot keep apart for each of its clients.
REFUSED_BY_POOLER = "unsupported startup parameter"
# What PgBouncer itself sees to, for each of its clients, when it gives them a server's connection.
KEPT_BY_POOLER = frozenset({"application_name", "timezone"})
# What is said otherwise than by a setting: the isolation by `begin`; how long a silent machine is believed to be there
# is between PgBouncer and the server, and is set in its file.
NOT_FOR_TRANSACTIONS = frozenset(
    {"default_transaction_isolation", "tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"}
)

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
    if isinstance(error, asyncpg.exceptions.ReadOnlySQLTransactionError):
        return DatabaseDown("The database takes no writes.")
    if is_lost(error) or isinstance(error, TimeoutError):
        return OutcomeUnknown("The connection to the database was lost.")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How to speak to what answers at the endpoint: a server itself, or a PgBouncer in transaction mode before it."""

    startup: Mapping[str, str]
    """The settings to connect with."""
    begin: str
    """What begins a transaction."""
    has_session: bool
    """Whether one statement finds what an earlier one left: settings, prepared statements."""


def dialects(settings: Mapping[str, str]) -> tuple[Dialect, Dialect]:
    """Return how to have `settings` in force at a server itself, and through a pooler.

    Through a pooler a session is somebody else's after each transaction, so each transaction says again what it needs.
    They all go along with `begin`, in one message, which costs the server some 20 microseconds, and nobody has to
    keep the role's own settings (`alter role ... set`) the same as ours, for which psql and pg_dump would suffer, too.
    """
    direct = Dialect(startup={**SESSION_MARK, **settings}, begin="begin", has_session=True)
    local = [
        f"set local {name} = '{value}'"
        for name, value in settings.items()
        if name not in KEPT_BY_POOLER and name not in NOT_FOR_TRANSACTIONS
    ]
    begin = f"begin isolation level {settings['default_transaction_isolation']}"
    kept = {name: value for name, value in settings.items() if name in KEPT_BY_POOLER}
    return direct, Dialect(startup=kept, begin="; ".join([begin, *local]), has_session=False)


@dataclass(slots=True, eq=False)
class Connection:
    """One connection and the statements prepared on it. State: those statements, and who holds it."""

    raw: "asyncpg.Connection[asyncpg.Record]"
    retires_s: float = float("inf")
    used_s: float = 0.0
    hold: Hold | None = None
    replayed: int = 0
    """A position that the server has certainly replayed: it does not restart without losing this connection."""
    names: int = 0
    """How many names were given to statements."""
    prepared: dict[Query, "asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]"] = field(default_factory=dict)
    begin: str = "begin"
    has_session: bool = True
    durations: dict[str, Histogram] = field(default_factory=dict)
    """How long statements took, by the names of their queries; a pool's connections have one together."""

    def on_behalf_of(self, purposes: Sequence[Purpose]) -> None:
        """Say in whose name it is held, where that is more than one."""
        if self.hold is not None and purposes:
            self.hold.purposes = purposes

    async def fetch(self, query: Query, *arguments: object, timeout_s: float) -> list[asyncpg.Record]:
        """Run one named statement and return its rows."""
        if self.hold is not None:
            self.hold.query = query.name
        started_s = monotonic_s()
        try:
            if not self.has_session:
                return await self._fetch_without_session(query, arguments, deadline_s=started_s + timeout_s)
            statement = self.prepared.get(query)
            if statement is None:
                # By a name of its own: one without a name is parsed anew for each execution, which costs the server
                # more than a point read. Never a name twice: the server may have taken one without our hearing of it.
                name = f"s{self.names}"
                self.names += 1
                statement = await self.raw.prepare(query.sql, timeout=timeout_s, name=name)
                self.prepared[query] = statement
            return await statement.fetch(*arguments, timeout=timeout_s)
        finally:
            durations = self.durations.get(query.name)
            if durations is None:
                durations = self.durations[query.name] = Histogram(DURATION_BUCKETS_S)
            durations.observe(monotonic_s() - started_s)

    async def _fetch_without_session(
        self, query: Query, arguments: Sequence[object], *, deadline_s: float
    ) -> list[asyncpg.Record]:
        """Run a statement in the transaction that is under way, or else in one of its own: three round trips.

        What fails leaves its transaction open; the pool rolls it back when the connection comes back.
        """

        def left_s() -> float:
            return max(0.001, deadline_s - monotonic_s())

        is_alone = not self.raw.is_in_transaction()
        if is_alone:
            await self.raw.execute(self.begin, timeout=left_s())
        statement = self.prepared.get(query)
        if statement is None:
            # Without a name it is parsed anew each time, in one message with its values. What is remembered is what
            # the driver knows: the types of parameters and columns. No server remembers anything.
            statement = await self.raw.prepare(query.sql, name="", timeout=left_s())
            self.prepared[query] = statement
        rows = await statement.fetch(*arguments, timeout=left_s())
        if is_alone:
            # The work is done: to give up now would make it unknown whether it counts.
            await self.raw.execute("commit", timeout=max(COMMAND_MARGIN_S, left_s()))
        return rows


class Lender(Protocol):
    """Lends connections: a pool those to its server, a balancer those to whichever takes writes."""

    def connection(
        self, *, deadline_s: float, query: Query | None = None, site: str = "", admitted_as: Purpose | None = None
    ) -> AbstractAsyncContextManager[Connection]:
        """Lend one for the length of the block; see `Pool.connection`."""
        ...


@dataclass(slots=True)
class PoolCounts:
    """What a pool did so far, besides lending."""

    opened: int = 0
    open_failures: int = 0
    refused_by_server: int = 0
    """Attempts to connect that the server refused because it had no connection left."""
    retired: int = 0
    cancels: int = 0


class Pool:
    """Lends connections. State: the idle connections, how many places are taken, who waits, who holds."""

    def __init__(self, endpoint: Endpoint, *, size: int, application_name: str, statement_timeout_s: float) -> None:
        self.size = size
        self.room = WaitingRoom()
        self.holds = Holds()
        self.counts = PoolCounts()
        self.create_durations = Histogram(DURATION_BUCKETS_S)
        self.wait_durations = Histogram(DURATION_BUCKETS_S)
        self.durations: dict[str, Histogram] = {}
        """How long statements took, by the names of their queries."""
        self.on_failed_connect: Callable[[], None] | None = None
        """Called when the server could not be reached, but not when it is full."""
        self._endpoint = endpoint
        self._times_abandoned = 0
        self._command_timeout_s = statement_timeout_s + COMMAND_MARGIN_S
        self._direct, self._pooled = dialects(
            {
                **SERVER_SETTINGS,
                "application_name": application_name,
                "statement_timeout": str(max(1, int(statement_timeout_s * 1000))),
            }
        )
        # Which it is, as far as connecting has shown since the last connection broke. A server understands both.
        self._dialect = self._direct
        self._idle: list[Connection] = []
        self._lent = 0
        self._holders: set[asyncio.Task[object]] = set()
        self._connecting = asyncio.Semaphore(CONNECTS_AT_ONCE)
        self._attempts: set[asyncio.Timeout] = set()
        self._driver_connection = _bounded_cancels(self.counts)
        self._settling: set[asyncio.Task[None]] = set()
        # Those among the lent that nobody works with: they are new, or came back in doubt.
        self._in_doubt: set[Connection] = set()
        # Those among the lent that are one too many and will be closed.
        self._leaving: set[Connection] = set()
        # Opens what was granted and is not open yet.
        self._filling: asyncio.Task[None] | None = None
        self._is_leased = False
        # Places taken for that: nobody works there.
        self._ahead = 0
        self._is_connecting_ahead = False
        # How many have been given a place, and will take an idle connection as soon as they run.
        self._handed = 0
        self._most_lent = 0
        self._maintaining: asyncio.Task[None] | None = None
        self._fewer = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_s = float("inf")
        self._closed = False

    def __repr__(self) -> str:
        return f"<Pool {self._lent} lent, {len(self._idle)} idle, {self.waiting} waiting, size {self.size}>"

    @property
    def saturated(self) -> bool:
        """Whether somebody waits because everything is lent: the time to ask who holds it."""
        return self._lent >= self.size and self.waiting > 0

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
        return len(self.room)

    def connection(
        self, *, deadline_s: float, query: Query | None = None, site: str = "", admitted_as: Purpose | None = None
    ) -> "Loan":
        """Lend a connection for the length of the block.

        Args:
            deadline_s: when to give up waiting, on the monotonic clock.
            query: what it is for, if that is known: how long that usually takes decides whose turn it is.
            site: where it is asked for; found out when empty.
            admitted_as: in whose name, for those who waited elsewhere by the same rules: they are not refused for
                having to wait here as well. The running task's purpose when None.

        Raises:
            Overloaded: it would take too long, or too many wait already.
            DeadlineExceeded: none came back in time.
            DatabaseDown: none could be opened in time.
            RuntimeError: this task holds one already.
        """
        return Loan(self, deadline_s, query, site, admitted_as)

    async def resize(self, size: int) -> None:
        """Have at most so many connections; returns once no more than that are open.

        What was granted is opened soon, wanted or not: what is not open, somebody else may take.
        """
        self.size = size
        self._is_leased = True
        while self._lent < self.size and self._lend_to_next():
            self._lent += 1
        while (too_many := self._lent + max(0, len(self._idle) - self._handed) - self.size) > 0:
            # At once: a server that does not answer must not make each of them wait.
            surplus = [self._idle.pop() for _ in range(min(len(self._idle), too_many - len(self._leaving)))]
            if surplus:
                try:
                    await asyncio.gather(*(_close(connection) for connection in surplus))
                finally:
                    for connection in surplus:
                        connection.raw.terminate()  # of no effect but when we are cancelled
            else:
                if self._filling is not None and self._is_connecting_ahead:
                    self._filling.cancel()  # Nobody needs it, and it may take long.
                self._fewer.clear()
                await self._fewer.wait()
        self._fill_up()

    def abandon(self) -> None:
        """Break every connection and send away who waits: the server is not what it was."""
        self._times_abandoned += 1
        idle, self._idle = self._idle, []
        for connection in (*idle, *self._in_doubt):
            connection.raw.terminate()
        for hold in self.holds.lent:
            if hold.end is not None:
                hold.end()
        for attempt in self._attempts:
            if not attempt.expired():
                attempt.reschedule(asyncio.get_running_loop().time())
        self.room.dismiss(DatabaseDown("Another server does this one's work."), now_s=monotonic_s())

    def take_most_lent(self) -> int:
        """Return how many connections were out at the most, at one time, since this was asked last."""
        lent = self._lent - self._ahead
        most, self._most_lent = max(self._most_lent, lent), lent
        return most

    async def close(self) -> None:
        """Send away who waits and close every idle connection; those lent are closed when they come back."""
        self._closed = True
        self.room.dismiss(DatabaseDown(CLOSING), now_s=monotonic_s())
        if self._sweep is not None:
            self._sweep.cancel()
        if self._maintaining is not None:
            self._maintaining.cancel()
            await asyncio.wait([self._maintaining])
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait([self._filling])
        while self._settling:
            await asyncio.wait(self._settling)
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_close(connection) for connection in idle))

    # Places.

    async def _lend(
        self, deadline_s: float, query: Query | None, site: str, admitted_as: Purpose | None
    ) -> tuple[Connection, Hold]:
        task = asyncio.current_task()
        assert task is not None
        if task in self._holders:
            raise RuntimeError("a task that holds a connection must not ask for another: a bounded pool would stop")
        if self._closed:
            raise DatabaseDown(CLOSING)
        now_s = monotonic_s()
        if deadline_s <= now_s:
            self.room.counts.expired += 1
            raise DeadlineExceeded
        purpose = admitted_as or PURPOSE.get()
        if not site:
            site = self.holds.call_site(__package__)
        if self._lent < self.size:
            self._lent += 1
            self.wait_durations.observe(0.0)
        else:
            cost = self.holds.relative_cost(query.name) if query is not None else 1.0
            now_s = await self._wait_for_place(deadline_s, purpose, cost, is_admitted=admitted_as is not None)
        connection = self._take_idle()
        if connection is None:
            try:
                connection = await self._open(deadline_s)
            except BaseException:
                self._pass_on()
                raise
            now_s = monotonic_s()
        hold = Hold(now_s, site, (purpose,), task, end=connection.raw.terminate)
        connection.hold = hold
        self._holders.add(task)
        self.holds.begin(hold)
        return connection, hold

    async def _wait_for_place(self, deadline_s: float, purpose: Purpose, cost: float, *, is_admitted: bool) -> float:
        """Wait for one of the `size` places, all of which are taken; return when it came."""
        now_s = monotonic_s()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[None] = loop.create_future()
        waiter = Waiter(answer, deadline_s, purpose, cost=cost)
        if is_admitted:
            # It carries the rows of many, who have waited for it.
            self.room.put_back(waiter, now_s=now_s, is_first=True)
        else:
            self.room.enter(waiter, now_s=now_s)
        if deadline_s < self._sweep_s:
            self._sweep_at(deadline_s)
        try:
            await answer
        except BaseException:
            if answer.cancelled():
                self.room.one_has_gone(now_s=monotonic_s())
            elif answer.done() and answer.exception() is None:
                self._pass_on()  # The place came in the same moment as the cancellation.
            raise
        finally:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self._handed -= 1
            came_s = monotonic_s()
            self.wait_durations.observe(came_s - now_s)
        return came_s

    def _sweep_at(self, when_s: float) -> None:
        """Look then for those whose patience has ended: one timer for all who wait."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep_s = when_s
        delay_s = max(SWEEP_PAUSE_S, when_s - monotonic_s())
        self._sweep = asyncio.get_running_loop().call_later(delay_s, self._dismiss_late)

    def _dismiss_late(self) -> None:
        self._sweep, self._sweep_s = None, float("inf")
        self.room.dismiss(now_s=monotonic_s())
        if self.room:
            self._sweep_at(min(waiter.deadline_s for waiter in self.room))

    def _pass_on(self) -> None:
        """Hand one place to whoever is next, or free it."""
        self._most_lent = max(self._most_lent, self._lent - self._ahead)
        if self._one_is_too_many or not self._lend_to_next():
            self._lent -= 1
        # Whoever is next takes an idle connection, and that makes fewer, too.
        self._fewer.set()

    @property
    def _one_is_too_many(self) -> bool:
        """Whether one more of those lent must be closed to have no more than `size`."""
        return self._lent - len(self._leaving) > self.size

    def _lend_to_next(self) -> bool:
        """Give a place to whoever is next; return False when nobody waits."""
        waiter = self.room.next(monotonic_s(), [])
        if waiter is None:
            return False
        waiter.answer.set_result(None)
        self._handed += 1
        return True

    # Connections.

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.raw.is_closed():
                return connection
            self._dialect = self._direct  # who answers next may be somebody else
        return None

    def _come_back(self, connection: Connection, hold: Hold, error: BaseException | None) -> None:
        """Write down how long it was held; give back the place, and the connection if it can be used again."""
        now_s = monotonic_s()
        connection.hold = None
        connection.used_s = now_s
        if hold.task is not None:
            self._holders.discard(hold.task)
        self.holds.end(hold, now_s=now_s)
        self.room.turn_s = self.holds.mean_s / max(1, self.size)
        self.room.target_s = max(TARGET_S, 2 * self.room.turn_s)
        if is_lost(error) or self._closed or connection.raw.is_closed():
            connection.raw.terminate()
            self._dialect = self._direct
            self._pass_on()
        elif error is None and not connection.raw.is_in_transaction() and not self._one_is_too_many:
            self._idle.append(connection)
            self._pass_on()
        else:
            if self._one_is_too_many:
                self._leaving.add(connection)
            self._in_doubt.add(connection)
            task = asyncio.get_running_loop().create_task(self._settle(connection), name="settle a connection")
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _settle(self, connection: Connection) -> None:
        """Wait until the server has stopped what was cancelled, and end the transaction it may be in.

        One too many is closed in order, so that the server has let go of it before its place is free.
        """
        raw, certain = connection.raw, False
        self._in_doubt.add(connection)
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                if not raw.is_in_transaction():
                    # As far as the driver knows. It waits for what was cancelled, then it knows more.
                    await raw.execute("select /* pool.settle */")
                if raw.is_in_transaction():
                    await raw.execute("rollback")
            # There may be more places, or fewer, than when it came back.
            self._leaving.discard(connection)
            certain = not (self._closed or self._one_is_too_many or raw.is_closed())
            if not certain:
                self._leaving.add(connection)
                await _close(connection)
        except (*CONNECTION_LOST, asyncpg.PostgresError):
            pass  # `certain` says so.
        finally:
            self._in_doubt.discard(connection)
            self._leaving.discard(connection)
            if certain:
                connection.used_s = monotonic_s()
                self._idle.append(connection)
            else:
                raw.terminate()
            self._pass_on()

    def _fill_up(self) -> None:
        """See to it that as many connections are open as were granted."""
        if self._is_leased and self._filling is None and not self._closed and self._is_short:
            self._look_after()
            self._filling = asyncio.get_running_loop().create_task(self._fill(), name="open what was granted")

    @property
    def _is_short(self) -> bool:
        return self._lent + max(0, len(self._idle) - self._handed) < self.size

    async def _fill(self) -> None:
        """Open what is missing, one by one; what cannot be opened now is tried again a second later."""
        try:
            while self._is_short and not self._closed:
                self._lent += 1
                self._ahead = 1
                try:
                    self._is_connecting_ahead = True
                    try:
                        connection = await self._open(monotonic_s() + CONNECT_TIMEOUT_S)
                    except BaseException:
                        self._pass_on()
                        raise
                    finally:
                        self._is_connecting_ahead = False
                    await self._settle(connection)
                finally:
                    self._ahead = 0
        except DatabaseDown:
            pass  # who needs one is told so; `_maintain` tries again
        finally:
            self._filling = None

    async def _open(self, deadline_s: float) -> Connection:
        """Connect, again and again until the deadline: a restarting server is worth waiting for."""
        failure: BaseException | None = None
        times = self._times_abandoned
        while (left_s := deadline_s - monotonic_s()) > 0 and not self._closed and times == self._times_abandoned:
            try:
                async with asyncio.timeout(left_s) as attempt:
                    self._attempts.add(attempt)
                    try:
                        raw, dialect, took_s = await self._connect(min(left_s, CONNECT_TIMEOUT_S))
                    finally:
                        self._attempts.discard(attempt)
            except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
                # Who answers next may be somebody else.
                self._dialect = self._direct
                self.counts.open_failures += 1
                is_full = isinstance(error, asyncpg.exceptions.TooManyConnectionsError)
                self.counts.refused_by_server += is_full
                # That a caller, or the queue before it, was out of time says nothing of the server.
                if self.on_failed_connect is not None and not is_full and not isinstance(error, TimeoutError):
                    self.on_failed_connect()
                failure = error
            else:
                if times != self._times_abandoned:
                    raw.terminate()
                    break
                if not dialect.has_session:
                    # Where it looks up a type, the driver would switch jit off for whoever has the session next.
                    caps = raw._server_caps  # type: ignore[attr-defined]  # its stubs leave it out
                    raw._server_caps = caps._replace(jit=False)  # type: ignore[attr-defined]
                now_s = monotonic_s()
                self.counts.opened += 1
                self.create_durations.observe(took_s)
                self._look_after()
                jitter = random.uniform(1 - LIFETIME_JITTER, 1 + LIFETIME_JITTER)  # noqa: S311 - not a secret
                return Connection(
                    raw,
                    retires_s=now_s + LIFETIME_S * jitter,
                    used_s=now_s,
                    begin=dialect.begin,
                    has_session=dialect.has_session,
                    durations=self.durations,
                )
            pause_s = random.uniform(*CONNECT_PAUSE_S)  # noqa: S311 - jitter, not a secret
            await asyncio.sleep(min(pause_s, max(0.0, deadline_s - monotonic_s())))
        raise DatabaseDown("The database cannot be reached.") from failure

    async def _connect(self, timeout_s: float) -> "tuple[asyncpg.Connection[asyncpg.Record], Dialect, float]":
        """Connect once, when it is our turn; return the connection, how to speak to it, and how long that took."""
        async with self._connecting:
            started_s, dialect = monotonic_s(), self._dialect  # as others have found out meanwhile
            try:
                raw = await self._connect_as(dialect, timeout_s)
            except asyncpg.PostgresError as error:
                if dialect is self._pooled or REFUSED_BY_POOLER not in str(error):
                    raise
                self._dialect = dialect = self._pooled
                raw = await self._connect_as(dialect, timeout_s)
            return raw, dialect, monotonic_s() - started_s

    async def _connect_as(self, dialect: "Dialect", timeout_s: float) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(
            **self._endpoint.connect_arguments(),
            timeout=timeout_s,
            command_timeout=self._command_timeout_s,
            server_settings=dict(dialect.startup),
            statement_cache_size=0,
            connection_class=self._driver_connection,
        )

    # Maintenance.

    def _look_after(self) -> None:
        if self._maintaining is None:
            loop = asyncio.get_running_loop()
            self._maintaining = loop.create_task(self._maintain(), name="look after connections")

    async def _maintain(self) -> None:
        """Replace what is old, try what was idle for long, tell of what is held too long. Runs until cancelled."""
        while True:
            await asyncio.sleep(MAINTAIN_EVERY_S)
            self._tell_of_long_holds(monotonic_s())
            try:
                await self._look_after_idle(monotonic_s())
                self._fill_up()
            except Exception as error:
                log.exception("database.maintenance_failed", extra={"error": repr(error)})

    def _tell_of_long_holds(self, now_s: float) -> None:
        for hold in self.holds.held_too_long(HELD_TOO_LONG_S, now_s=now_s):
            log.warning(
                "database.connection_held_long",
                extra={
                    "held_s": round(now_s - hold.since_s, 1),
                    "query": hold.query,
                    "site": hold.site,
                    "stack": stack_of(hold.task),
                },
            )

    async def _look_after_idle(self, now_s: float) -> None:
        for connection in [*self._idle]:
            if connection not in self._idle or self._lent >= self.size:
                continue  # somebody needs it, or needed it meanwhile
            if connection.retires_s <= now_s:
                self._idle.remove(connection)
                self.counts.retired += 1
                # Its place is taken until the server has let go of it.
                self._lent += 1
                try:
                    await _close(connection)
                finally:
                    self._pass_on()
            elif now_s - connection.used_s > IDLE_CHECK_S:
                self._idle.remove(connection)
                self._lent += 1
                await self._settle(connection)


class Loan:
    """One lending, for the length of a block; no generator, for each statement enters one. State: what is lent."""

    __slots__ = ("_admitted_as", "_connection", "_deadline_s", "_hold", "_pool", "_query", "_site")

    def __init__(
        self, pool: Pool, deadline_s: float, query: Query | None, site: str, admitted_as: Purpose | None
    ) -> None:
        self._pool = pool
        self._deadline_s = deadline_s
        self._query = query
        self._site = site
        self._admitted_as = admitted_as
        self._connection: Connection | None = None
        self._hold: Hold | None = None

    async def __aenter__(self) -> Connection:
        self._connection, self._hold = await self._pool._lend(
            self._deadline_s, self._query, self._site, self._admitted_as
        )
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._connection is not None
        assert self._hold is not None
        self._pool._come_back(self._connection, self._hold, error)


def _bounded_cancels(counts: PoolCounts) -> "type[asyncpg.Connection[asyncpg.Record]]":
    """Return the driver's connection, made to send few requests to cancel at a time.

    Each is a connection to the server, which the driver opens by itself: a crowd that gives up in the same second
    would be a crowd of connections.
    """
    gate = asyncio.Semaphore(CANCELS_AT_ONCE)

    class BoundedConnection(asyncpg.Connection):
        async def _cancel(self, *arguments: object) -> None:
            counts.cancels += 1
            async with gate:
                await super()._cancel(*arguments)  # type: ignore[misc]  # its stubs leave it out

    return BoundedConnection


async def _close(connection: Connection) -> None:
    with suppress(*CONNECTION_LOST):  # the driver has let go of it then
        await connection.raw.close(timeout=CLOSE_TIMEOUT_S)
