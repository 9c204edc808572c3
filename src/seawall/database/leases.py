"""Keep one node's share of the connections to one server, and give it back in time.

The nodes know each other only through a table. Every few seconds each says there what it wants, learns
what it may have (`budget` decides, one node at a time), and tells its pool. Nobody closes another
node's connections, so all rests on each node giving up by itself: it counts the end of its lease on its
own monotonic clock from before it asked, and begins to close two seconds earlier than the database's
clock can let others have them. That holds with the database away, the network cut, and the process paused.

Should a node be too late even so (paused, or a statement that cannot be stopped), or should the database's
clock leap, its open connections are still seen in `pg_stat_activity`, and count until they are gone. What is
left is what a paused node was about to open: until it notices, a moment after it goes on, it may open some of
it. For that there is the headroom, and in the end the role's `CONNECTION LIMIT`.

A lease is for a server itself: behind PgBouncer it would count the pooler's clients. A replica has limits
and strangers of its own, but cannot keep a table: leases for it are written down where writes go, over the
connection of the lease the node has there, so that a fleet with many replicas opens nothing more on the
primary. The replica is asked in the middle of that, and must answer at once: who waits for a replica that
does not must not be who needs the primary. When another server takes the writes, its table is used from
then on. It may know less than the one before did; then what is open counts, as for any lease that was lost.
"""

import asyncio
import logging
import random
import uuid
import zlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.budget import FLOOR, Activity, Claim, Decision, Limits, check, decide, useful
from seawall.database.endpoint import Endpoint
from seawall.database.pool import CONNECTION_LOST, REFUSED_BY_POOLER, SESSION_MARK, Pool
from seawall.database.queries import load_queries
from seawall.errors import DatabaseDown, Misconfigured, SeawallError

T = TypeVar("T")

log = logging.getLogger(__name__)

QUERIES: Final = load_queries("seawall.database", "leases.sql")

TTL_S: Final = 10.0
"""Two renewals may fail before a node must give up; a dead node's share is missed for seconds only."""

RENEW_S: Final = 3.0
"""How long others wait, at the most, until a node learns that it should close some of its connections."""

MARGIN_S: Final = 2.0
"""For closing: from when a node gives up by itself until others may have what it had. A pool's statements end
within it, and clocks that run at different speeds (500 ppm at the worst) differ by 5 ms in a lease."""

EAGER_S: Final = 0.5
"""Between two looks of a node that waits for others to close their connections."""

PAUSED_SHARE: Final = 0.5
"""How much of the margin a node may be paused in the middle of a decision, when all others wait for it."""

ANSWER_SHARE: Final = PAUSED_SHARE / 2
"""How much of the margin a server may take to answer when others of the node, or other nodes, wait for it."""

NEEDED_S: Final = 30.0
"""How long a node keeps what it does not need any more."""

NODES_MAX: Final = 8
"""How many nodes there may be when nobody says otherwise."""

CONNECTS_MAX: Final = 30
"""Attempts to open the lease's own connection at first; the deadline usually ends them before."""

CONNECT_TIMEOUT_S: Final = 5.0
CONNECT_PAUSE_S: Final = 0.05
CONNECT_PAUSE_MAX_S: Final = 1.0
"""Pauses double from one to the other, each shortened at random: a crowd that was refused must not come back as one."""

CLOSE_TIMEOUT_S: Final = 2.0

NAME_MAX: Final = 40
"""PostgreSQL cuts an application name at 63 bytes, and the word `seawall` and what a connection is for are in it."""

LOCK_CLASS: Final = 0x5EA1EA5
"""Any number will do, as long as every release uses the same one."""

FAILURES: Final = (*CONNECTION_LOST, asyncpg.PostgresError)
"""What makes a renewal fail. Anything else is a mistake of ours, and ends the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """How a lease is kept. All nodes must agree on the times.

    `nodes_max` is how many nodes may ask for leases at the most: each that is not there has a connection kept
    free for it. `keeper_connections` is what runs beside the nodes without a lease.
    """

    ttl_s: float = TTL_S
    renew_s: float = RENEW_S
    margin_s: float = MARGIN_S
    eager_s: float = EAGER_S
    nodes_max: int = NODES_MAX
    keeper_connections: int = 0
    weight: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.eager_s <= self.renew_s < self.ttl_s - self.margin_s < self.ttl_s:
            raise ValueError(
                f"a lease of {self.ttl_s:g} s that is given up {self.margin_s:g} s early cannot be renewed "
                f"every {self.renew_s:g} s"
            )
        if self.nodes_max < 1 or self.keeper_connections < 0 or self.weight < 1:
            raise ValueError("there is a node at least, and no weight and no number of connections below nothing")

    @property
    def answer_s(self) -> float:
        """How long a server may take to answer in the middle of a decision."""
        return self.margin_s * ANSWER_SHARE


class Lease:
    """What one node may have open on one server. State: its own connection, what is granted, until when.

    It keeps one connection of its own, as `seawall NAME lease`. That one is part of the grant: a pool may open
    one less. The pool starts with no connections and opens only what `resize` allows.

    When the block cannot be entered nothing is held. When it ends, the pool is empty and the share is free for
    others; if the pool cannot be emptied in time, the share is free when the lease ends. Leases whose table is
    elsewhere must be left before the one whose connection they use, or theirs are free only when they end.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        name: str,
        demand: Callable[[], int],
        resize: Callable[[int], Awaitable[None]],
        deadline_s: float,
        settings: LeaseSettings | None = None,
        table: "Callable[[], Lease] | None" = None,
        beside: int = 1,
        optional: bool = False,
    ) -> None:
        """Prepare a lease; nothing is asked for before the block is entered.

        Args:
            endpoint: the server. All nodes must call it by the same host and port.
            name: the node's, one word; its pool's connections call themselves `seawall NAME`.
            demand: how many connections the pool could use now.
            resize: makes the pool have no more connections than so many; returns when the others are closed.
            deadline_s: when to give up entering the block, on the monotonic clock.
            settings: see there.
            table: says which of the node's leases is for the server that takes writes now: all leases are written
                down there. None: this one.
            beside: how many connections the node has on this server beside its pool's, the lease's own among them.
                All nodes must agree.
            optional: the node can do without this server: entering the block never fails because of it.
        """
        if beside < 1:
            raise ValueError("the lease's own connection is beside the pool's")
        if not name.isascii() or not name.isprintable() or " " in name or not 0 < len(name) <= NAME_MAX:
            raise ValueError(f"a node's name is one word of at most {NAME_MAX} plain characters, not {name!r}")
        self.name = name
        self.settings = settings or LeaseSettings()
        self.failure: BaseException | None = None
        """Why the last renewal failed; None when it did not."""

        self._endpoint = endpoint
        self._server = f"{endpoint.host}:{endpoint.port}"
        self._incarnation = uuid.uuid4()
        self._demand = demand
        self._resize = resize
        self._deadline_s = deadline_s
        self._table = table or (lambda: self)
        self._beside = beside
        self._floor = max(FLOOR, beside + 1)
        self._optional = optional
        self._fits = False
        # One lease of the node at a time has a transaction on this one's connection.
        self._turn = asyncio.Lock()
        self._raw: asyncpg.Connection[asyncpg.Record] | None = None
        self._share = 0
        self._aim = 0
        # What the pool was last told, and has obeyed or may have; and what it is being told.
        self._told = 0
        self._telling = 0
        self._obeyed = True
        self._resizing: asyncio.Task[None] | None = None
        self._ends_s = 0.0
        self._gave_up = True
        self._next_s = 0.0
        self._failures = 0
        self._awake = asyncio.Event()

    def __repr__(self) -> str:
        left_s = self._ends_s - monotonic_s()
        state = f"{left_s:.1f} s left" if left_s > 0 else "not held"
        return f"<Lease {self.name} of {self._server}: {self._kept} granted, share {self._share}, {state}>"

    @property
    def held(self) -> bool:
        """Whether the node may work: its lease has not ended, and is for more than itself."""
        return monotonic_s() < self._ends_s and self.granted >= self._floor

    @property
    def granted(self) -> int:
        """How many connections this node may have open now, the lease's own included; 0 when it has no lease."""
        return self._kept if monotonic_s() < self._ends_s else 0

    @property
    def share(self) -> int:
        """How many it should have, as far as it was last told."""
        return self._share

    @property
    def _kept(self) -> int:
        """How many connections may be open, whatever the lease says: what others must count."""
        return self._beside + max(self._told, self._telling)

    async def __aenter__(self) -> Self:
        """Open the connection, ask for a share for the first time, and tell the pool.

        The share may be too small still, because others must make room first: `run` sees to that, and `held`
        says when it is done. Where the server is optional, so is all of it: nothing is raised, nothing is held,
        and `run` goes on asking.

        Raises:
            Misconfigured: the server's limits and the number of nodes do not fit; the message has the numbers.
            DatabaseDown: the server could not be asked in time, or accepts no more connections.
        """
        try:
            await self._ask_first()
        except (DatabaseDown, Misconfigured) as failure:
            if not self._optional:
                await self._leave()
                raise
            self._ends_s = 0.0
            if isinstance(failure, DatabaseDown):
                log.warning("lease.not_taken", extra={"node": self.name, "why": str(failure)})
            self._note_failure(failure.__cause__ or failure)
            await self._empty()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def run(self) -> None:
        """Renew the lease until cancelled; when that fails for too long, empty the pool and go on asking."""
        try:
            while True:
                await self._pause()
                if monotonic_s() >= self._ends_s and not self._gave_up:
                    await self._give_up()
                await self._renew()
        finally:
            await self._stop_resizing()

    # Renewing.

    async def _ask_first(self) -> None:
        for attempt in range(CONNECTS_MAX):
            try:
                async with asyncio.timeout(self._deadline_s - monotonic_s()):
                    await self._ask()
                    self._telling = self._aim
                    await self._resize(self._telling)
                    self._told_is(self._aim)
                    self._gave_up = False
                    return
            except CONNECTION_LOST as failure:
                # That time was up is not what people need to know.
                if self.failure is None or not isinstance(failure, TimeoutError):
                    self.failure = failure
            except asyncpg.PostgresError as failure:
                raise DatabaseDown(f"The database refuses to lease connections to {self.name}: {failure}") from failure
            pause_s = _jittered(min(CONNECT_PAUSE_S * 2**attempt, CONNECT_PAUSE_MAX_S))
            if monotonic_s() + pause_s >= self._deadline_s:
                break
            await asyncio.sleep(pause_s)
        if isinstance(self.failure, asyncpg.TooManyConnectionsError):
            raise DatabaseDown(
                f"The database accepts no more connections, and {self.name} needs one to ask for its share: "
                f"see who holds them, or raise max_connections. It said: {self.failure}"
            ) from self.failure
        raise DatabaseDown(f"The database cannot be reached by {self.name}.") from self.failure

    async def _renew(self) -> None:
        """Ask once, and tell the pool what came of it."""
        now_s = monotonic_s()
        patience_s = self.settings.renew_s
        if now_s < self._ends_s:
            patience_s = min(patience_s, self._ends_s - now_s)
        try:
            async with asyncio.timeout(patience_s):
                await self._ask()
        except (*FAILURES, Misconfigured) as failure:
            self._note_failure(failure)
            return
        if monotonic_s() < self._ends_s:
            self._gave_up = False
            self._tell()

    async def _ask(self) -> None:
        """Say what is wanted, and learn what is granted and until when.

        Raises:
            Misconfigured: at first only, when nothing has been asked for: it cannot work.
        """
        settings, kept, demand = self.settings, self._kept, self._beside + max(0, self._demand())
        # Just after a failover another lease may have come to use our connection: one of us is refused, and comes back.
        own, table = await self._connected(), self._table()
        limits = None
        if table is not self or not self._fits:
            # Before anything is locked: a server that does not answer is to be waited for by nobody else.
            limits = await self._hear(_limits(own))
            self._check(limits)
        asked_s = monotonic_s()
        async with table._transaction() as raw:
            await _fetch(raw, "decide_alone", LOCK_CLASS, _lock_number(self._server))
            await _fetch(raw, "forget_expired", self._server)
            rows = await _fetch(raw, "leases", self._server)
            places = [row["incarnation"] for row in rows]
            known = self._incarnation in places
            if not known:
                places.append(self._incarnation)
            mine = places.index(self._incarnation)
            remembered = rows[mine]["granted"] if known else 0
            claims = [
                Claim(node=row["node"], demand=row["demand"], granted=row["granted"], weight=row["weight"])
                for row in rows
            ]
            claims[mine : mine + 1] = [Claim(node=self.name, demand=demand, granted=kept, weight=settings.weight)]
            if table is self:
                limits, activity = await _limits(raw), await _activity(raw)
            else:
                async with asyncio.timeout(settings.answer_s):
                    activity = await self._hear(_activity(own))
            assert limits is not None
            decision = decide(
                *(limits, activity, claims),
                mine=mine,
                nodes_max=settings.nodes_max,
                floor=self._floor,
                beside=self._beside,
            )
            if kept > max(self._beside, remembered, decision.free):
                # The lease ended unnoticed (the database's clock leapt), or a replica was promoted that had heard of
                # an older one or of none, and others have been granted what the pool still has.
                self._ends_s = self._next_s = 0.0
                return
            await _fetch(
                raw,
                "keep",
                *(self._server, self.name, self._incarnation, settings.weight, demand),
                *(decision.share, decision.granted, settings.ttl_s),
            )
        self._note(decision, asked_s)

    def _check(self, limits: Limits) -> None:
        """Refuse what cannot work, until it could once: what changes later must not end a node that serves."""
        if not self._fits:
            check(
                limits,
                nodes_max=self.settings.nodes_max,
                keeper_connections=self.settings.keeper_connections,
                floor=self._floor,
            )
            self._fits = True

    def _note_failure(self, failure: BaseException) -> None:
        """Write down why it was not renewed, once until it is; say when to ask again."""
        if isinstance(failure, Misconfigured):
            if str(failure) != str(self.failure):
                log.warning("lease.misconfigured", extra={"node": self.name, "why": str(failure)})
            pause_s = self.settings.renew_s
        else:
            if self.failure is None or isinstance(self.failure, Misconfigured):
                log.warning("lease.not_renewed", extra={"node": self.name, "error": repr(failure)})
            pause_s = min(CONNECT_PAUSE_S * 2**self._failures, CONNECT_PAUSE_MAX_S, self.settings.renew_s)
            self._failures = min(self._failures + 1, CONNECTS_MAX)
        self.failure = failure
        self._next_s = monotonic_s() + _jittered(pause_s)

    def _note(self, decision: Decision, asked_s: float) -> None:
        if self.failure is not None:
            log.info("lease.renewed", extra={"node": self.name, "granted": decision.granted})
        self.failure, self._failures = None, 0
        self._share = decision.share
        self._aim = max(0, min(decision.share, decision.granted) - self._beside)
        self._ends_s = asked_s + self.settings.ttl_s - self.settings.margin_s
        waits_for_others = decision.granted < max(decision.share, self._floor)
        self._next_s = asked_s + _jittered(self.settings.eager_s if waits_for_others else self.settings.renew_s)

    # Telling the pool.

    def _tell(self) -> None:
        """Make the pool larger or smaller, beside the renewals: closing waits for those who hold connections."""
        if self._resizing is None and (self._aim != self._told or not self._obeyed):
            self._telling = self._aim
            self._resizing = asyncio.create_task(self._resize_to(self._aim), name=f"resize for {self.name}")

    async def _resize_to(self, size: int) -> None:
        before, obeyed = self._told, False
        try:
            await self._resize(size)
            obeyed = True
        except (*FAILURES, SeawallError) as failure:
            log.warning("lease.pool_not_resized", extra={"node": self.name, "size": size, "error": repr(failure)})
        finally:
            self._told_is(size if obeyed else max(before, size), obeyed=obeyed)
        if obeyed and size < before:
            # Others wait to hear of it.
            self._next_s = 0.0
            self._awake.set()

    def _told_is(self, size: int, *, obeyed: bool = True) -> None:
        self._told, self._telling, self._obeyed, self._resizing = size, 0, obeyed, None

    async def _stop_resizing(self) -> None:
        if self._resizing is not None:
            self._resizing.cancel()
            await asyncio.wait([self._resizing], timeout=self.settings.margin_s)
            # A task that was cancelled before it began has noted nothing. The pool may be either size.
            self._told_is(max(self._told, self._telling), obeyed=False)

    async def _give_up(self) -> None:
        """Empty the pool, because the lease ends: from here on others may count on it."""
        self._gave_up = True
        log.warning("lease.given_up", extra={"node": self.name, "granted": self._kept, "error": repr(self.failure)})
        await self._stop_resizing()
        await self._empty()

    async def _empty(self) -> None:
        """Close what the pool has, within the margin; what could not be closed counts as open."""
        try:
            async with asyncio.timeout(self.settings.margin_s):
                await self._resize(0)
            self._told_is(0)
        except (*FAILURES, SeawallError) as failure:
            self._told_is(max(self._told, self._telling), obeyed=False)
            log.warning("lease.pool_not_emptied", extra={"node": self.name, "error": repr(failure)})

    async def _leave(self) -> None:
        """Give everything back, within the margin."""
        self._ends_s = 0.0
        try:
            await self._stop_resizing()
            async with asyncio.timeout(self.settings.margin_s):
                await self._resize(0)
                table = self._table()
                if table._is_connected:
                    async with table._transaction() as raw:
                        await _fetch(raw, "decide_alone", LOCK_CLASS, _lock_number(self._server))
                        await _fetch(raw, "give_back", self._server, self.name, self._incarnation)
                if self._raw is not None and not self._raw.is_closed():
                    async with self._turn:
                        await self._raw.close(timeout=CLOSE_TIMEOUT_S)
        except (*FAILURES, SeawallError) as failure:
            log.warning("lease.left_to_expire", extra={"node": self.name, "error": repr(failure)})
        finally:
            self._drop()

    # The lease's own connection.

    @property
    def _is_connected(self) -> bool:
        return self._raw is not None and not self._raw.is_closed()

    @asynccontextmanager
    async def _transaction(self) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
        """Lend the connection for one transaction, to one lease of the node at a time.

        Whatever ends the block, the connection is as it was, or closed, and the next one gets another.

        Raises:
            ConnectionError: there is none now.
        """
        async with self._turn:
            raw = self._raw
            if raw is None or raw.is_closed():
                raise ConnectionError("there is no connection now to the server that keeps the leases")
            transaction = raw.transaction()
            try:
                await transaction.start()
                yield raw
                await transaction.commit()
            except BaseException as error:
                clean = False
                try:
                    # One that leads to a replica now is of no use. A broken one may be another server's.
                    if not raw.is_closed() and not isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                        # Nobody else would end this, after a cancellation.
                        async with asyncio.timeout(self.settings.answer_s):
                            await transaction.rollback()
                        clean = True
                except FAILURES:
                    pass  # `clean` says so.
                finally:
                    if not clean:
                        raw.terminate()
                raise

    async def _hear(self, answer: Awaitable[T]) -> T:
        """Return what our own server answers; a connection that does not is dropped."""
        try:
            return await answer
        except BaseException:
            self._drop()
            raise

    async def _pause(self) -> None:
        """Wait until it is time to renew or to give up, or somebody has closed what others wait for."""
        until_s = self._next_s if self._gave_up else min(self._next_s, self._ends_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until_s - monotonic_s())):
                await self._awake.wait()
        self._awake.clear()

    async def _connected(self) -> "asyncpg.Connection[asyncpg.Record]":
        """Return the connection, opened anew if it broke."""
        if self._raw is None or self._raw.is_closed():
            self._raw = None
            settings = self.settings
            self._raw = await asyncpg.connect(
                **self._endpoint.connect_arguments(),
                timeout=CONNECT_TIMEOUT_S,
                statement_cache_size=0,
                server_settings={
                    "application_name": f"seawall {self.name} lease",
                    "default_transaction_isolation": "read committed",
                    "statement_timeout": _milliseconds(settings.renew_s),
                    # A node that is paused while it decides must not keep all others from renewing.
                    "idle_in_transaction_session_timeout": _milliseconds(settings.margin_s * PAUSED_SHARE),
                    "client_connection_check_interval": "1s",
                    # A replica that does not answer must not end the leases: what a new primary has not heard of is
                    # handled, and what is lost with a crash was open on the server that crashed.
                    "synchronous_commit": "local",
                    "timezone": "UTC",
                },
            )
        return self._raw

    def _drop(self) -> None:
        if self._raw is not None:
            self._raw.terminate()
            self._raw = None


class Need:
    """What one pool could use: the most of what it could have used of late. State: those answers, oldest first.

    Call it for the number, once for each renewal. It grows at once, and shrinks only after `NEEDED_S`: to close
    connections and open them again costs more than to keep them between two bursts. A pool that is younger than
    that wants all it may have: nobody knows what will come, and a node often starts because there is much to do.
    """

    def __init__(self, pool: Pool, *, most: int, least: int = FLOOR) -> None:
        self._pool = pool
        self._most = most
        self._least = min(least, most)
        self._turns = 0
        # Only those that no later one exceeds: the first is the greatest.
        self._lately: deque[tuple[float, int]] = deque([(monotonic_s(), most)])

    def __repr__(self) -> str:
        return f"<Need {self._lately[0][1]} of {self._least} to {self._most}>"

    def __call__(self) -> int:
        """Return how many connections the pool could use now or could have used of late."""
        pool, counts = self._pool, self._pool.room.counts
        turns = counts.served + counts.shed + counts.refused
        wanted = useful(
            size=pool.size,
            lent=pool.take_most_lent(),
            waiting=pool.waiting,
            waited=turns > self._turns,
            least=self._least,
            most=self._most,
        )
        self._turns = turns
        return self.at(monotonic_s(), wanted)

    def at(self, now_s: float, wanted: int) -> int:
        """Note that so many are wanted now; return what was wanted at the most since `NEEDED_S` ago."""
        while self._lately and self._lately[-1][1] <= wanted:
            self._lately.pop()
        self._lately.append((now_s, wanted))
        while self._lately[0][0] < now_s - NEEDED_S:
            self._lately.popleft()
        return self._lately[0][1]


async def _fetch(raw: "asyncpg.Connection[asyncpg.Record]", name: str, *arguments: object) -> list[asyncpg.Record]:
    return await raw.fetch(QUERIES[name].sql, *arguments)


async def check_server(endpoint: Endpoint, settings: LeaseSettings, *, beside: int) -> None:
    """Refuse a server that could not serve the fleet, before anything is done with it.

    Raises:
        Misconfigured: its limits and the number of nodes do not fit; the message has the numbers.
        DatabaseDown: it cannot be asked.
    """
    try:
        raw = await asyncpg.connect(
            **endpoint.connect_arguments(),
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=CONNECT_TIMEOUT_S,
            server_settings=SESSION_MARK,
        )
        try:
            limits = await _limits(raw)
        finally:
            raw.terminate()
    except FAILURES as failure:
        if REFUSED_BY_POOLER in str(failure):
            raise Misconfigured(
                f"A PgBouncer answers at {endpoint.name}, and leases need the server itself: set "
                "SEAWALL_DATABASE_DIRECT_URL to its address."
            ) from failure
        raise DatabaseDown(f"The database cannot be asked for its limits: {failure}") from failure
    check(
        limits,
        nodes_max=settings.nodes_max,
        keeper_connections=settings.keeper_connections,
        floor=max(FLOOR, beside + 1),
    )


async def _limits(raw: "asyncpg.Connection[asyncpg.Record]") -> Limits:
    (row,) = await _fetch(raw, "limits")
    return Limits(**row)


async def _activity(raw: "asyncpg.Connection[asyncpg.Record]") -> Activity:
    foreign, foreign_of_role = 0, 0
    working: Counter[str] = Counter()
    asking: Counter[str] = Counter()
    for row in await _fetch(raw, "activity"):
        if row["ours"]:
            (asking if row["asking"] else working)[row["node"]] += row["connections"]
        else:
            foreign += row["connections"]
            foreign_of_role += row["connections"] if row["of_role"] else 0
    return Activity(foreign=foreign, foreign_of_role=foreign_of_role, working=working, asking=asking)


def _lock_number(server: str) -> int:
    """Return the server's number for the lock: two servers may share one, and then wait for each other."""
    return zlib.crc32(server.encode()) - 2**31


def _jittered(pause_s: float) -> float:
    return pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
